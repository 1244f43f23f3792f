"""Frames of a source to fewer vectors, in front of an encoder."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)


class ConvReader(nn.Module):
    """Frames to fewer vectors by strided convolutions with gates.

    As the subsampler of fairseq's speech-to-text transformer, which S2UT uses (Lee et
    al., "Direct Speech-to-Speech Translation with Discrete Units", 2022, section
    3.2). SpeechBrain's ``ConvolutionFrontEnd`` takes no lengths, so what it makes of
    the end of an utterance depends on its company; here each item ends in zeros.

    Arguments
    ---------
    in_dim : int
        Size of a frame.
    dim : int
        Size of a vector.
    strides : sequence of int
        One convolution each; their product is how many frames become one vector.
    kernel : int
        Odd number of taps.
    dropout : float
        In training, of the vectors.
    band_masks, band_width : int
        In training: bands of neighbouring channels that are silenced in each item, and
        their largest width (SpecAugment, Park et al. 2019; SpeechBrain's
        ``SpectrogramDrop`` silences the same ones in all items of a batch).

    Raises
    ------
    DsuError
        If the kernel is even, or a stride is not positive.

    Example
    -------
    >>> reader = ConvReader(80, 16)
    >>> vectors, lens = reader(torch.randn(2, 10, 80), torch.tensor([1.0, 0.5]))
    >>> vectors.shape, (lens * 3).tolist(), reader.num_frames(10)
    (torch.Size([2, 3, 16]), [3.0, 2.0], 3)
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        strides: Sequence[int] = (2, 2),
        kernel: int = 5,
        dropout: float = 0.0,
        band_masks: int = 0,
        band_width: int = 20,
    ):
        super().__init__()
        if kernel % 2 == 0 or min(strides, default=1) < 1:
            raise DsuError(
                f"kernel={kernel}, strides={list(strides)}: take an odd kernel and "
                "strides of at least 1"
            )
        self.in_dim, self.dim, self.strides = in_dim, dim, tuple(strides)
        sizes = [in_dim, *(dim for _ in strides)]
        self.convs = nn.ModuleList(
            nn.Conv1d(one, 2 * two, kernel, stride, kernel // 2)
            for one, two, stride in zip(sizes, sizes[1:], strides, strict=False)
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.band_masks, self.band_width = band_masks, band_width

    def num_frames(self, frames: int) -> int:
        """Vectors of so many frames."""
        for stride in self.strides:
            frames = -(-frames // stride)
        return frames

    def forward(
        self, source: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors ``[batch, length, dim]`` of frames ``[batch, frames, in_dim]``, and
        their relative lengths."""
        counts = absolute_lengths(lens, source.shape[1], len(source)).to(source.device)
        x = source.transpose(1, 2)
        if self.training and self.band_masks:
            x = x * self._bands(len(x), x.device)
        for conv, stride in zip(self.convs, self.strides, strict=True):
            x = x * length_mask(counts, x.shape[2])[:, None]
            x = F.glu(conv(x), 1)
            counts = (counts + stride - 1).div(stride, rounding_mode="floor")
        x = self.dropout(self.norm(x.transpose(1, 2)))
        return x, relative_lengths(counts, x.shape[1])

    def _bands(self, batch: int, device: torch.device) -> Tensor:
        """0 in the silenced channels, 1 elsewhere: ``[batch, in_dim, 1]``."""
        shape = (batch, self.band_masks, 1)
        width = torch.randint(self.band_width + 1, shape, device=device)
        first = torch.randint(self.in_dim, shape, device=device)
        channel = torch.arange(self.in_dim, device=device)
        inside = (channel >= first) & (channel < first + width)
        return (~inside.any(1)).float().unsqueeze(2)


def with_positions(vectors: Tensor) -> Tensor:
    """Vectors ``[batch, length, dim]`` with sines of their positions added (Vaswani et
    al., "Attention Is All You Need", 2017, section 3.5).

    A decoder that attends to a memory has to know what comes after what; rotary and
    relative positions of the encoder say that to the encoder alone.

    Example
    -------
    >>> found = with_positions(torch.zeros(1, 3, 4))
    >>> torch.allclose(found[0, :, 0], torch.arange(3.0).sin())
    True
    """
    length, dim = vectors.shape[1:]
    half = (dim + 1) // 2
    steps = torch.arange(length, device=vectors.device, dtype=torch.float32)
    rates = torch.exp(
        torch.arange(half, device=vectors.device) * (-math.log(10000.0) / half)
    )
    angles = steps[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)[:, :dim]
    return vectors + waves.to(vectors.dtype)
