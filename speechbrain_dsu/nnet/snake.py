"""The periodic non-linearity of DAC and its residual unit."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.streaming import Aligned
from speechbrain_dsu.nnet.streaming_conv import StreamConv1d
from speechbrain_dsu.nnet.stretches import Residual


class Snake(nn.Module):
    """``x + sin²(a x) / a`` with a learned rate for each channel; channel-first.

    Ziyin et al., "Neural Networks Fail to Learn Periodic Functions and How to Fix
    It", 2020; in DAC (Kumar et al., 2023, section 3.1).

    Arguments
    ---------
    channels : int
        Channels.

    Example
    -------
    >>> round(Snake(1)(torch.full((1, 1, 1), torch.pi / 2)).item(), 4)
    2.5708
    """

    pointwise = True

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, signal: Tensor) -> Tensor:
        """Map ``[batch, channels, time]`` to the same shape."""
        wave = self.alpha * signal
        if torch.is_grad_enabled():
            return signal + wave.sin().square() / (self.alpha + 1e-9)
        # The sines fill the cache: nothing else is written that need not be.
        wave = wave.sin_().square_()
        return torch.addcmul(signal, wave, (self.alpha + 1e-9).reciprocal(), out=wave)


class SnakeUnit(Residual):
    """Two Snakes, a dilated and a pointwise convolution, and a shortcut.

    Arguments
    ---------
    channels : int
        Channels of input and output.
    dilation : int
        Of the first convolution.
    kernel : int
        Its taps.
    causal : bool
        Whether it pads on the left only.

    Example
    -------
    >>> SnakeUnit(4, dilation=3)(torch.zeros(1, 4, 50)).shape
    torch.Size([1, 4, 50])
    """

    def __init__(
        self, channels: int, dilation: int, kernel: int = 7, causal: bool = False
    ):
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            StreamConv1d(channels, channels, kernel, dilation=dilation, causal=causal),
            Snake(channels),
            StreamConv1d(channels, channels, 1),
        )
        self.shortcut = nn.Identity()
        self.aligned = Aligned(dim=-1)

    def forward(self, signal: Tensor) -> Tensor:
        """Map ``[batch, channels, time]`` to the same shape."""
        past, change = self.aligned(signal, self.block(signal))
        if torch.is_grad_enabled():
            return past + change
        return change.add_(past)
