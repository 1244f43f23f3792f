"""ConvNeXt blocks over frames: wide context and most of the work in two matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.streaming_conv import StreamConv1d


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then two layers on each frame, all residual.

    Liu et al., "A ConvNet for the 2020s" (2022), in the one-dimensional form of
    Siuzdak, "Vocos" (2023). Causal: no frame sees a later one.

    Arguments
    ---------
    dim : int
        Size of a frame.
    hidden : int
        Width between the two layers.
    kernel : int
        Frames that one sees, itself included.
    scale : float
        Start of the factor on what the block adds, learnt per channel.

    Example
    -------
    >>> ConvNeXtBlock(dim=8, hidden=16)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, hidden: int, kernel: int = 7, scale: float = 0.2):
        super().__init__()
        self.mix = StreamConv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), float(scale)))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``[batch, frames, dim]`` of frames of the same shape."""
        mixed = self.mix(frames.transpose(1, 2)).transpose(1, 2)
        added = self.narrow(F.gelu(self.widen(self.norm(mixed))))
        return frames + self.scale * added


def convnext_stack(
    dim: int, hidden: int, layers: int, kernel: int = 7
) -> nn.Sequential:
    """Blocks one after another; together they add about as much as goes in.

    Arguments
    ---------
    dim, hidden, kernel : int
        Of each block.
    layers : int
        Number of blocks.

    Example
    -------
    >>> len(convnext_stack(dim=8, hidden=16, layers=3))
    3
    """
    blocks = [ConvNeXtBlock(dim, hidden, kernel, 1 / layers) for _ in range(layers)]
    return nn.Sequential(*blocks)
