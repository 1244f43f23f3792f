"""What stands in front of an encoder: a source to vectors, often fewer of them."""

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
        for conv, stride in zip(self.convs, self.strides, strict=True):
            x = x * length_mask(counts, x.shape[2])[:, None]
            x = F.glu(conv(x), 1)
            counts = (counts + stride - 1).div(stride, rounding_mode="floor")
        x = self.dropout(self.norm(x.transpose(1, 2)))
        return x, relative_lengths(counts, x.shape[1])


class UnitReader(nn.Module):
    """Codes of a source to vectors: for translation from units to units.

    Arguments
    ---------
    sizes : sequence of int
        Ids of each codebook.
    dim : int
        Size of a vector.
    strides, kernel, dropout
        Of the `ConvReader` behind the sum of the codebooks' vectors; no strides: none.

    Example
    -------
    >>> reader = UnitReader([50], 16, strides=[2])
    >>> reader(torch.randint(50, (2, 9, 1)))[0].shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        strides: Sequence[int] = (2,),
        kernel: int = 5,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.sizes = tuple(sizes)
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in self.sizes)
        self.reader = ConvReader(dim, dim, strides, kernel, dropout)

    def num_frames(self, frames: int) -> int:
        """Vectors of so many frames."""
        return self.reader.num_frames(frames)

    def forward(
        self, source: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors ``[batch, length, dim]`` of codes ``[batch, frames, codebooks]``, and
        their relative lengths."""
        books = zip(self.tables, source.unbind(-1), strict=True)
        vectors = torch.stack([table(codes) for table, codes in books]).sum(0)
        return self.reader(vectors, lens)
