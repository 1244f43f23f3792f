"""Streams: a signal that arrives in pieces goes through the very same modules.

What a layer must remember from one piece to the next lies in the ``Stream``, not in
the layer and not in its arguments. So ``forward`` is written once, several streams
run over one model at a time, and nothing has to be reset. The law that every layer
keeps: the outputs of the pieces, joined, are the output of the whole, for any cut.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError

_ACTIVE: ContextVar["Stream | None"] = ContextVar("dsu_stream", default=None)


class Stream:
    """The state of one signal on its way through one model.

    Example
    -------
    >>> from speechbrain_dsu.nnet.streaming_conv import StreamConv1d
    >>> layer, signal = StreamConv1d(1, 2, kernel=5, stride=2), torch.randn(1, 1, 11)
    >>> whole = layer(signal)
    >>> stream, pieces = Stream(), []
    >>> for piece, last in [(signal[..., :4], False), (signal[..., 4:], True)]:
    ...     with stream.active(last):
    ...         pieces.append(layer(piece))
    >>> torch.allclose(torch.cat(pieces, -1), whole, atol=1e-6)
    True
    """

    def __init__(self):
        self.last = False
        """Whether this piece ends the signal: then every layer gives all it holds."""
        self.finished = False
        self._states: dict[tuple[nn.Module, int], Any] = {}
        self._calls: dict[nn.Module, int] = {}

    @contextmanager
    def active(self, last: bool = False) -> Iterator["Stream"]:
        """Let the modules called inside take their input as the next piece.

        Every layer must be called in every piece, with an empty time axis if there is
        nothing for it. Gradients are not recorded.

        Arguments
        ---------
        last : bool
            This piece, which may be empty, ends the signal.

        Raises
        ------
        DsuError
            If the signal has ended before, or another stream is active.
        """
        if self.finished:
            raise DsuError("this stream has ended: make a new Stream for a new signal")
        if _ACTIVE.get() is not None:
            raise DsuError("a stream is active already: end its 'with' block first")
        self.last = last
        self._calls = {}
        token = _ACTIVE.set(self)
        try:
            with torch.no_grad():
                yield self
        except BaseException:
            self.finished = True  # some layers took the piece, others did not
            raise
        finally:
            _ACTIVE.reset(token)
        if last:
            self.finished = True
            self._states.clear()

    def state(self, layer: nn.Module, make: Callable[[], Any]) -> Any:
        """What ``layer`` remembers; made by ``make`` when it is first asked for.

        A layer that a model runs several times per piece has one state for each of
        these times, told apart by their order.

        Arguments
        ---------
        layer : nn.Module
            Ask once per forward pass.
        make : callable
            Without arguments, gives an object that the layer then changes.
        """
        call = self._calls.get(layer, 0)
        self._calls[layer] = call + 1
        key = layer, call
        if key not in self._states:
            self._states[key] = make()
        return self._states[key]

    def select(self, items: Tensor) -> None:
        """Keep (or repeat) the batch's items of these indices, as beam search does.

        Arguments
        ---------
        items : Tensor
            int64, one index per item that goes on.

        Raises
        ------
        DsuError
            If a layer remembers something that it can't select from.
        """
        for (layer, _), state in self._states.items():
            if not hasattr(state, "select"):
                raise DsuError(
                    f"{type(layer).__name__} can't change a batch within a stream"
                )
            state.select(items)


def current_stream() -> Stream | None:
    """The active stream; None when the input is a whole signal.

    Example
    -------
    >>> stream = Stream()
    >>> with stream.active():
    ...     current_stream() is stream
    True
    >>> current_stream() is None
    True
    """
    return _ACTIVE.get()


@contextmanager
def offline() -> Iterator[None]:
    """Let the modules called inside take their input as whole signals.

    For parts of a streamed model that work on something complete, for instance a
    reference recording that comes in at once.

    Example
    -------
    >>> with Stream().active(), offline():
    ...     current_stream() is None
    True
    """
    token = _ACTIVE.set(None)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def join(kept: Tensor | None, piece: Tensor, dim: int) -> Tensor:
    """A piece behind what was kept of the ones before it.

    Arguments
    ---------
    kept : Tensor or None
        None when there is nothing.
    piece : Tensor
        The new piece.
    dim : int
        The time axis.

    Raises
    ------
    DsuError
        If the pieces of one stream differ in their batch.

    Example
    -------
    >>> join(torch.zeros(1, 2), torch.ones(1, 1), dim=1)
    tensor([[0., 0., 1.]])
    """
    if kept is None:
        return piece
    if len(kept) != len(piece):
        raise DsuError(
            f"a stream began with {len(kept)} items and goes on with {len(piece)}: "
            "use one Stream per batch"
        )
    if piece.ndim == 3 and dim in (-1, 2):
        # Convolutions give channels that lie side by side in memory: keep it so.
        parts = kept.transpose(1, 2), piece.transpose(1, 2)
        return torch.cat(parts, 1).transpose(1, 2)
    return torch.cat([kept, piece], dim)


class Aligned(nn.Module):
    """Paths of one signal brought in step, for sums over paths of unlike delay.

    A path that looks ahead gives its outputs later. In a stream, what is ahead is
    kept until the others have caught up; offline nothing happens.

    Arguments
    ---------
    dim : int
        The time axis.

    Example
    -------
    >>> aligned, stream = Aligned(dim=1), Stream()
    >>> with stream.active():
    ...     [part.shape[1] for part in aligned(torch.ones(1, 5), torch.ones(1, 3))]
    [3, 3]
    >>> with stream.active(last=True):
    ...     [part.shape[1] for part in aligned(torch.ones(1, 1), torch.ones(1, 3))]
    [3, 3]
    """

    def __init__(self, dim: int = 1):
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """The time axis."""
        return f"dim={self.dim}"

    def forward(self, *paths: Tensor) -> tuple[Tensor, ...]:
        """The paths up to where all of them are known."""
        stream = current_stream()
        if stream is None:
            return paths
        kept = stream.state(self, lambda: [None] * len(paths))
        joined = [join(k, p, self.dim) for k, p in zip(kept, paths, strict=True)]
        ready = min(path.shape[self.dim] for path in joined)
        for index, path in enumerate(joined):
            kept[index] = path.narrow(self.dim, ready, path.shape[self.dim] - ready)
        return tuple(path.narrow(self.dim, 0, ready) for path in joined)
