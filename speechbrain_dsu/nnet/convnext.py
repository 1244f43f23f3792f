"""ConvNeXt blocks over frames: wide context, and most of the work in two matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.nnet.streaming import Aligned
from speechbrain_dsu.nnet.streaming_conv import StreamConv1d


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, then two layers on each frame, all residual.

    Liu et al., "A ConvNet for the 2020s" (2022), in the one-dimensional form of
    Siuzdak, "Vocos" (2023).

    Arguments
    ---------
    dim : int
        Size of a frame.
    hidden : int
        Size between the two layers.
    kernel : int
        Taps of the convolution.
    causal : bool
        Whether a frame sees earlier ones only.
    scale : float
        Start of the factor on what the block adds, learnt per channel.

    Example
    -------
    >>> ConvNextBlock(dim=8, hidden=16)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        kernel: int = 7,
        causal: bool = True,
        scale: float = 0.2,
    ):
        super().__init__()
        self.mix = StreamConv1d(dim, dim, kernel, groups=dim, causal=causal)
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), float(scale)))
        self.aligned = Aligned(dim=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``[batch, frames, dim]`` of frames of the same shape."""
        mixed = self.mix(frames.transpose(1, 2)).transpose(1, 2)
        added = self.narrow(F.gelu(self.widen(self.norm(mixed))))
        frames, added = self.aligned(frames, added)
        return frames + self.scale * added


class ConvNext(nn.Module):
    """A convolution to the blocks' width, blocks, and normalisation at either end.

    Arguments
    ---------
    dim : int
        Size of a frame that comes in.
    channels : int
        Size of a frame inside and behind.
    hidden : int
        Size between a block's linear layers.
    layers : int
        Blocks; together they start by adding about as much as goes in.
    kernel : int
        Taps of the blocks' convolutions.
    causal : bool
        Whether a frame sees earlier ones only.
    embed_kernel : int
        Taps of the first convolution.

    Example
    -------
    >>> stack = ConvNext(dim=4, channels=8, hidden=16, layers=2, causal=False)
    >>> stack(torch.randn(1, 5, 4)).shape, stack.context
    (torch.Size([1, 5, 8]), (6, 6))
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        hidden: int,
        layers: int,
        kernel: int = 7,
        causal: bool = True,
        embed_kernel: int = 1,
    ):
        super().__init__()
        self.embed = StreamConv1d(dim, channels, embed_kernel, causal=causal)
        self.norm = nn.LayerNorm(channels)
        blocks = [
            ConvNextBlock(channels, hidden, kernel, causal, 1 / layers)
            for _ in range(layers)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.last_norm = nn.LayerNorm(channels)

    @property
    def lengths(self) -> list[Conv]:
        """Length arithmetic of the convolutions, for ``ConvStack``."""
        return [self.embed.lengths, *(block.mix.lengths for block in self.blocks)]

    @property
    def context(self) -> tuple[int, int]:
        """Frames before and behind its own that a frame sees."""
        left, right = ConvStack(self.lengths).receptive_field
        return left, right - 1

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames, channels]`` of ``[batch, frames, dim]``."""
        hidden = self.embed(frames.transpose(1, 2)).transpose(1, 2)
        return self.last_norm(self.blocks(self.norm(hidden)))
