"""Positions for transformers over speech: by convolution, by gated relative bias."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from speechbrain_dsu.utils.errors import DsuError


class ConvPositions(nn.Module):
    """Positions read off a wide grouped convolution over the frames.

    Baevski et al., "wav2vec 2.0" (2020), section 2. The kernel is weight-normalised
    along its taps; outside training it is computed once and kept until the parameters
    change.

    Arguments
    ---------
    dim : int
        Size of a frame.
    taps : int
        Width of the kernel in frames.
    groups : int
        Groups of channels; divides ``dim``.

    Example
    -------
    >>> ConvPositions(dim=8, taps=4, groups=2)(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, taps: int, groups: int):
        super().__init__()
        if dim % groups:
            raise DsuError(f"dim={dim} is no multiple of position groups {groups}")
        conv = nn.Conv1d(dim, dim, taps, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (taps * dim)))
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, dim=2)
        # An even kernel looks one frame further to the left than to the right.
        self.padding = (taps // 2, taps - 1 - taps // 2)
        self._folded: tuple[tuple, Tensor] | None = None

    def extra_repr(self) -> str:
        """Settings that weights don't show."""
        return f"groups={self.conv.groups}, padding={self.padding}"

    def forward(self, frames: Tensor) -> Tensor:
        """What to add to frames ``[batch, frames, dim]``; those behind an end zero."""
        padded = F.pad(frames.transpose(1, 2), self.padding)
        if self._narrow and frames.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self._convolve(padded.to(self.conv.bias.dtype))
        return self._convolve(padded)

    def _convolve(self, padded: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            found = self.conv(padded)
        else:
            weight, bias = self._weight(), self.conv.bias
            found = F.conv1d(padded, weight, bias, groups=self.conv.groups)
        return F.gelu(found).transpose(1, 2)

    @property
    def _narrow(self) -> bool:
        """Whether groups are too narrow for bfloat16: with less than 16 channels each,
        torch 2.11 gives wrong sums on CPUs with AMX."""
        return self.conv.in_channels // self.conv.groups < 16

    def _weight(self) -> Tensor:
        """The normalised kernel, as long as its parameters are what they were."""
        norm = self.conv.parametrizations.weight
        parts = (norm.original0, norm.original1)
        key = tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in parts)
        if self._folded is None or self._folded[0] != key:
            self._folded = key, self.conv.weight.detach()
        return self._folded[1]


class RelativeBias(nn.Module):
    """A learned attention bias per head and distance, distant ones in wide buckets.

    Chen et al., "WavLM" (2022), section III-B, after T5: half the buckets are for
    keys behind the query; of each half, the first half are single distances, the rest
    grow logarithmically up to ``reach``.

    Arguments
    ---------
    heads : int
        Number of heads.
    buckets : int
        Number of buckets, a multiple of 4.
    reach : int
        Distance in frames from which on the last bucket counts.

    Example
    -------
    >>> RelativeBias(heads=2, buckets=8, reach=10)(5).shape
    torch.Size([2, 5, 5])
    """

    def __init__(self, heads: int, buckets: int = 320, reach: int = 800):
        super().__init__()
        if buckets % 4 or reach <= buckets // 4:
            raise DsuError(
                "a relative bias needs buckets in multiples of 4 and reach > buckets "
                f"/ 4, got buckets={buckets}, reach={reach}"
            )
        self.buckets, self.reach = buckets, reach
        self.table = nn.Embedding(buckets, heads)

    def extra_repr(self) -> str:
        """Settings that weights don't show."""
        return f"reach={self.reach}"

    def bucket(self, distances: Tensor) -> Tensor:
        """Buckets of distances (key minus query), int64 like them."""
        half, exact = self.buckets // 2, self.buckets // 4
        size = distances.abs()
        scale = (half - exact) / math.log(self.reach / exact)
        far = torch.log(size.clamp(min=1).float() / exact) * scale
        far = (exact + far).long().clamp(max=half - 1)
        return torch.where(size < exact, size, far) + half * (distances > 0)

    def forward(self, frames: int) -> Tensor:
        """Bias ``[heads, queries, keys]`` for a number of frames."""
        distances = torch.arange(1 - frames, frames, device=self.table.weight.device)
        line = self.table(self.bucket(distances)).t()
        # Row q of the bias is the line from distance -q on.
        return line.unfold(1, frames, 1).flip(1)


class GatedBias(nn.Module):
    """How much of the relative bias a query takes, decided by the query itself.

    Chen et al., "WavLM" (2022), equations 5 to 9.

    Arguments
    ---------
    head_dim : int
        Channels of a head.
    heads : int
        Number of heads.

    Example
    -------
    >>> gate = GatedBias(head_dim=4, heads=2)
    >>> gate(torch.randn(1, 5, 8), torch.zeros(2, 5, 5)).shape
    torch.Size([1, 2, 5, 5])
    """

    def __init__(self, head_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(head_dim, 8)
        self.scale = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Bias of each item: ``[batch, heads, queries, keys]``.

        Arguments
        ---------
        hidden : Tensor
            What the attention sees ``[batch, frames, heads * head_dim]``.
        bias : Tensor
            ``[heads, queries, keys]``.
        """
        by_head = hidden.unflatten(2, (self.heads, -1)).transpose(1, 2)
        sums = self.linear(by_head).unflatten(-1, (2, 4)).sum(-1)
        update, reset = sums.sigmoid().unsqueeze(-1).unbind(-2)
        return (update * (reset * self.scale - 1) + 2) * bias
