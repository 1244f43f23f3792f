"""ConvNeXt blocks over frames: wide context, and most of the work in two matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.nnet.streaming import Aligned
from speechbrain_dsu.nnet.streaming_conv import StreamConv1d
from speechbrain_dsu.utils.errors import DsuError

_FEW_FRAMES = 32


class FrameConv(StreamConv1d):
    """A convolution along frames: ``[batch, frames, dim]`` in and out.

    Arguments
    ---------
    *args, **kwargs
        As for ``StreamConv1d``; with a bias.

    Example
    -------
    >>> FrameConv(4, 8, kernel=7)(torch.zeros(2, 10, 4)).shape
    torch.Size([2, 10, 8])
    """

    def forward(self, frames: Tensor) -> Tensor:
        """Convolve along the second axis."""
        padded = self.windows(frames.transpose(1, 2))
        if padded.shape[-1] < self.lengths.span:
            return padded.new_zeros(len(padded), 0, self.out_channels)
        if self.kernel_size[0] == self.stride[0] == 1:
            return F.linear(padded.transpose(1, 2), self.weight[..., 0], self.bias)
        if self._by_taps(padded):
            return self._sum_of_taps(padded.transpose(1, 2))
        found = F.conv1d(
            padded,
            self.weight,
            self.bias,
            self.stride,
            dilation=self.dilation,
            groups=self.groups,
        )
        return found.transpose(1, 2)

    def _by_taps(self, padded: Tensor) -> bool:
        """Whether torch's own kernel is the slower one: on a CPU, for float64 or a
        few frames, it sets up a product per channel."""
        if self.groups != self.in_channels or self.in_channels != self.out_channels:
            return False
        few = padded.shape[-1] < _FEW_FRAMES or padded.dtype == torch.float64
        return few and padded.device.type == "cpu" and self.stride[0] == 1

    def _sum_of_taps(self, padded: Tensor) -> Tensor:
        count = padded.shape[1] - self.lengths.span + 1
        found = self.bias.expand(len(padded), count, -1)
        for tap, weight in enumerate(self.weight[:, 0].unbind(1)):
            first = tap * self.dilation[0]
            found = torch.addcmul(found, padded[:, first : first + count], weight)
        return found


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, then two layers on each frame, all residual.

    Liu et al., "A ConvNet for the 2020s" (2022), figure 4, in the one-dimensional
    form of Siuzdak, "Vocos" (2023), section 3.2.

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
        self.mix = FrameConv(dim, dim, kernel, groups=dim, causal=causal)
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), float(scale)))
        self.aligned = Aligned(dim=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``[batch, frames, dim]`` of frames of the same shape."""
        added = self.narrow(F.gelu(self.widen(self.norm(self.mix(frames)))))
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

    Raises
    ------
    DsuError
        If there is no block, or a kernel without a centre where one is needed.

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
        if layers < 1:
            raise DsuError(f"ConvNext needs at least one block, got layers={layers}")
        if not causal and (kernel % 2 == 0 or embed_kernel % 2 == 0):
            raise DsuError(
                f"kernel={kernel} and embed_kernel={embed_kernel} must be odd to be "
                "centred; or set causal to true"
            )
        self.embed = FrameConv(dim, channels, embed_kernel, causal=causal)
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
        return self.last_norm(self.blocks(self.norm(self.embed(frames))))
