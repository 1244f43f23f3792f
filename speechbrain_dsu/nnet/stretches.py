"""Long signals through stacks of convolutions, in stretches that stay in the cache.

On a CPU the products of a codec wait for memory: ten seconds at the audio's rate in 32
channels are 30 MB, and every padding, non-linearity and product asks for as much, fills
and reads it. Here the layers near the audio's rate take a few thousand samples at a
time, and only what the last of them gives is kept. The outputs are those of one pass,
up to rounding: a stretch begins with all the steps that its windows see.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolve import spread, unrecorded
from speechbrain_dsu.nnet.streaming import current_stream
from speechbrain_dsu.nnet.streaming_conv import (
    StreamConv1d,
    StreamConvTranspose1d,
    pad_signal,
)

_BLOCK = 2**17  # values of a stretch: two or three such tensors fill a core's cache
_NARROW = 4  # stretches end where the signal is so many times smaller than its largest
_SPANS = 4  # windows that a stretch holds at the least: it overlaps with its neighbour


class Elu(nn.ELU):
    """``max(x, exp(min(x, 0)) - 1)``: torch's ELU (Clevert et al., 2015), by ``exp``.

    torch's kernel takes its time for ``expm1``: 2.3 nanoseconds per value on one core,
    here 0.6. The two differ by rounding.

    Arguments
    ---------
    inplace : bool
        Whether torch's own, which gradients need, writes over its input.

    Example
    -------
    >>> x = torch.linspace(-5, 5, 11)
    >>> with torch.no_grad():
    ...     torch.allclose(Elu()(x), nn.functional.elu(x), atol=1e-6)
    True
    """

    def __init__(self, inplace: bool = False):
        super().__init__(inplace=inplace)

    def forward(self, signal: Tensor) -> Tensor:
        """Map a tensor to one of the same shape."""
        if signal.device.type != "cpu" or not unrecorded():
            return F.elu(signal, 1.0, self.inplace)
        low = signal.clamp(max=0).exp_().sub_(1)
        return torch.maximum(signal, low, out=low)


class Residual(nn.Module):
    """A branch beside a shortcut; base of the blocks of codecs.

    ``block`` is a non-linearity, a convolution, and more of both with kernels of 1.
    """

    block: nn.Sequential
    shortcut: nn.Module

    @property
    def windows(self) -> nn.Module:
        """Padding of the one convolution that has some."""
        return self.block[1].windows

    def on_windows(self, padded: Tensor) -> Tensor:
        """Output of a signal that is padded already; see ``Windows``."""
        change = padded
        for layer in self.block:
            change = (
                layer.on_windows(change)
                if hasattr(layer, "on_windows")
                else layer(change)
            )
        past = padded.narrow(-1, self.windows.lengths.left, change.shape[-1])
        return change.add_(self.shortcut(past))


class Chain(nn.Sequential):
    """Layers one after another over ``[batch, channels, time]``; long ones in parts.

    On a CPU without gradients, items of a batch run one after another, too, except
    through layers with ``together``. Non-linearities must map 0 to 0.

    Arguments
    ---------
    *layers : nn.Module
        In the order of their use.

    Example
    -------
    >>> chain = Chain(StreamConv1d(1, 32, 7), Elu(), StreamConv1d(32, 8, 4, stride=2))
    >>> signal = torch.randn(1, 1, 30000)
    >>> with torch.no_grad():
    ...     torch.allclose(chain(signal), nn.Sequential(*chain)(signal), atol=1e-5)
    True
    """

    def forward(self, signal: Tensor) -> Tensor:
        """Run the layers."""
        plain = signal.device.type != "cpu" or not unrecorded()
        if plain or current_stream() is not None or signal.shape[-1] == 0:
            return super().forward(signal)
        for layers, together in self._runs():
            if together:
                signal = layers[0](signal)
                continue
            items = [_run(layers, item) for item in signal.split(1)]
            # Channels lie side by side in memory: it stays so.
            signal = items[0]
            if len(items) > 1:
                signal = torch.cat([item.transpose(1, 2) for item in items])
                signal = signal.transpose(1, 2)
        return signal

    def _runs(self) -> Iterator[tuple[list[nn.Module], bool]]:
        layers: list[nn.Module] = []
        for layer in self:
            if getattr(layer, "together", False):
                yield layers, False
                yield [layer], True
                layers = []
            else:
                layers.append(layer)
        yield layers, False


class _Step:
    """A layer that can give any stretch of its output."""

    def __init__(self, layer: nn.Module, channels: int, time: int):
        self.layer, self.time = layer, time
        self.spreads = isinstance(layer, StreamConvTranspose1d)
        self.lengths = None
        self.channels, self.count = channels, time
        if self.spreads:
            self.channels, self.count = layer.out_channels, time * layer.stride[0]
        elif isinstance(layer, StreamConv1d | Residual):
            self.lengths = layer.windows.lengths
            self.count = self.lengths.num_frames(time)
            self.channels = getattr(layer, "out_channels", channels)

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Whether there is a rule for the layer."""
        kinds = StreamConv1d | StreamConvTranspose1d | Residual | nn.ELU | nn.Tanh
        return isinstance(layer, kinds) or getattr(layer, "pointwise", False)

    @property
    def size(self) -> int:
        """Values of the output."""
        return self.channels * self.count

    @property
    def span(self) -> int:
        """Steps of the input that a step of the output sees."""
        return 1 if self.lengths is None else self.lengths.span

    def sees(self, first: int, last: int) -> tuple[int, int]:
        """The inputs behind outputs ``first`` to before ``last``, beyond the ends."""
        if self.spreads:
            stride, delay = self.layer.stride[0], self.layer.delay
            begin = -((self.layer.kernel_size[0] - 1 - first - delay) // stride)
            return begin, (last - 1 + delay) // stride + 1
        if self.lengths is None:
            return first, last
        stride, left = self.lengths.stride, self.lengths.left
        return first * stride - left, (last - 1) * stride + self.lengths.span - left

    def inside(self, first: int, last: int) -> tuple[int, int]:
        """The same, as far as there are any."""
        begin, end = self.sees(first, last)
        return max(begin, 0), min(end, self.time)

    def give(self, piece: Tensor, first: int, last: int) -> Tensor:
        """The outputs ``first`` to before ``last`` of the inputs inside."""
        if self.spreads:
            layer = self.layer
            full = spread(piece, layer.weight, layer.stride[0], layer.groups)
            skip = first + layer.delay - self.inside(first, last)[0] * layer.stride[0]
            found = full.narrow(-1, skip, last - first)
            return found if layer.bias is None else found.add_(layer.bias[:, None])
        if self.lengths is None:
            return self.layer(piece)
        begin, end = self.sees(first, last)
        left, right = max(-begin, 0), max(end - self.time, 0)
        piece = pad_signal(piece, left, right, self.layer.windows.pad_mode)
        return self.layer.on_windows(piece)


def _run(layers: Sequence[nn.Module], signal: Tensor) -> Tensor:
    """One item through the layers."""
    steps: list[_Step | nn.Module] = []
    channels, time = signal.shape[1:]
    for layer in layers:
        if not _Step.takes(layer):
            return _run_rest(layers, steps, signal)
        steps.append(_Step(layer, channels, time))
        channels, time = steps[-1].channels, steps[-1].count
    return _run_steps(steps, signal)


def _run_rest(
    layers: Sequence[nn.Module], steps: Sequence[_Step], signal: Tensor
) -> Tensor:
    """Up to a layer without a rule, through it, and on."""
    signal = layers[len(steps)](_run_steps(steps, signal))
    return _run(layers[len(steps) + 1 :], signal)


def _run_steps(steps: Sequence[_Step], signal: Tensor) -> Tensor:
    largest = max((step.size for step in steps), default=0)
    group: list[_Step] = []
    for step in steps:
        group.append(step)
        if step is steps[-1] or step.size * _NARROW <= largest:
            signal, group = _run_group(group, signal), []
    return signal


def _run_group(steps: Sequence[_Step], signal: Tensor) -> Tensor:
    span = _SPANS * max(step.span for step in steps)
    parts = min(
        max(step.size for step in steps) // _BLOCK,
        min(min(step.time, step.count) for step in steps) // span,
    )
    if parts < 2:
        for step in steps:
            signal = step.layer(signal)
        return signal
    last, channels = steps[-1].count, steps[-1].channels
    found = signal.new_empty(1, last, channels).transpose(1, 2)
    bounds = [last * part // parts for part in range(parts + 1)]
    for cut in zip(bounds[:-1], bounds[1:], strict=True):
        cuts = [cut]
        for step in reversed(steps):
            cuts.append(step.inside(*cuts[-1]))
        piece = signal[..., slice(*cuts.pop())]
        for step in steps:
            piece = step.give(piece, *cuts.pop())
        found[..., slice(*cut)] = piece
    return found
