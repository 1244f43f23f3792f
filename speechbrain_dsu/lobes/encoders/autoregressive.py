"""Encoders that read frames from left to right, to be tapped at any layer."""

from collections.abc import Sequence

from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.ssl import twin
from speechbrain_dsu.lobes.ssl import Taps
from speechbrain_dsu.utils.errors import DsuError


class RecurrentLayer(nn.Module):
    """A one-directional GRU, with a shortcut around it where sizes allow.

    Arguments
    ---------
    input_dim, dim : int
        Sizes of a frame, before and behind.

    Example
    -------
    >>> import torch
    >>> RecurrentLayer(4, 4)(torch.randn(1, 5, 4)).shape
    torch.Size([1, 5, 4])
    """

    def __init__(self, input_dim: int, dim: int):
        super().__init__()
        self.gru = nn.GRU(input_dim, dim, batch_first=True)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``[batch, frames, dim]`` of ``[batch, frames, input_dim]``."""
        found, _ = self.gru(frames)
        return found + frames if found.shape == frames.shape else found


class RecurrentStack(nn.Module):
    """Recurrent layers one upon the other.

    Arguments
    ---------
    dim : int
        Size of a frame, before and behind.
    n_layers : int
        Number of layers.
    dropout : float
        Between layers.

    Example
    -------
    >>> import torch
    >>> RecurrentStack(dim=4, n_layers=2)(torch.randn(1, 5, 4)).shape
    torch.Size([1, 5, 4])
    """

    def __init__(self, dim: int = 512, n_layers: int = 3, dropout: float = 0.0):
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(RecurrentLayer(dim, dim) for _ in range(n_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``[batch, frames, dim]``, each out of those up to it."""
        for layer in self.layers:
            frames = layer(self.dropout(frames))
        return frames


class AutoregressiveEncoder(nn.Module):
    """A front end and a body that sees no frame before its time.

    The contract of ``lobes.ssl``: layer ``k`` leaves layer ``k`` of the body, layer 0
    enters the first one. Frames behind an item's end are never seen.

    Arguments
    ---------
    front_end : nn.Module
        Of ``lobes.encoders.front_ends``.
    body : nn.Module
        ``RecurrentStack``, or a causal ``nnet.transformer.Transformer``: with ``dim``
        and ``layers``, called one after another.

    Raises
    ------
    DsuError
        If the body is a transformer that looks ahead.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.encoders.front_ends import StackedFeatures
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> encoder = AutoregressiveEncoder(
    ...     StackedFeatures(LogMel(n_mels=8), stack=1), RecurrentStack(dim=4)
    ... )
    >>> encoder.hidden_states(torch.randn(1, 1600), None, [1])[0].shape
    torch.Size([1, 9, 4])
    """

    normalize = False

    def __init__(self, front_end: nn.Module, body: nn.Module):
        super().__init__()
        if not getattr(body, "causal", True):
            raise DsuError("an autoregressive encoder needs a causal transformer")
        self.front_end, self.body = front_end, body
        self.projection = nn.Linear(front_end.dim, body.dim)
        self.sample_rate, self.hop = front_end.sample_rate, front_end.hop
        self.min_samples = front_end.min_samples
        self.frame_offset = front_end.frame_offset
        self.masks_padding = front_end.masks_padding
        self.dim, self.n_layers = body.dim, len(body.layers)

    @property
    def receptive_field(self) -> tuple[None, int | None]:
        """Everything before; as far ahead as the front end looks."""
        return None, self.front_end.receptive_field[1]

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.front_end.num_frames(n_samples)

    def up_to(self, layer: int) -> "AutoregressiveEncoder":
        """The same encoder without the layers above ``layer``; weights are shared."""
        if not 0 <= layer <= len(self.body.layers):
            raise DsuError(f"layer {layer} of {len(self.body.layers)} layers")
        short, short.body = twin(self), twin(self.body)
        short.body.layers = self.body.layers[:layer]
        return short

    def forward(self, frames: Tensor) -> Tensor:
        """Context ``[batch, frames, dim]`` of the front end's frames."""
        return self.body(self.projection(frames))

    def hidden_states(
        self, wavs: Tensor, counts: Tensor | None, layers: Sequence[int]
    ) -> list[Tensor]:
        """States ``[batch, frames, dim]`` of some layers, in their order.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``, zero behind each item's end.
        counts : Tensor, optional
            Valid samples of each item, int64 ``[batch]``; None if all are valid.
        layers : sequence of int
            As they are wanted.
        """
        hidden = self.projection(self.front_end(wavs, counts))
        with Taps(self.body.layers) as taps:
            self.body(hidden)
        return [taps.states.get(layer, hidden) for layer in layers]
