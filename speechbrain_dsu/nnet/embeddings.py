"""What a sequence model reads: ids or frames to vectors of its size."""

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError

Combine = Literal["sum", "attention", "concat"]


class Sequences(Protocol):
    """What models know of a layout: `tokens.patterns` and `tokens.interleave`."""

    vocabulary: Vocabulary

    @property
    def streams(self) -> int:
        """Ids per step."""


class UnitEmbedding(nn.Module):
    """Vectors of the ids of any layout, one vector per step.

    A layout of several streams has a table for each of them, looked up at once. The
    streams of a step are added (MusicGen, Copet et al. 2023, section 2.2), or weighed
    by attention: a score for each vector, softmax over the streams, as DASB (Mousavi
    et al. 2024) weighs codebooks, and SSL layers where a codebook is a layer. Or they
    are put one behind the other and mapped together, as dMel (Bai et al. 2024) reads
    its 80 channels: with many streams a small ``width`` does.

    Arguments
    ---------
    layout : Sequences
        Says how many streams and ids there are.
    dim : int
        Size of the vectors that come out.
    width : int, optional
        Size of the vectors in the tables; if it is not ``dim``, a product without
        bias maps one to the other.
    combine : str
        "sum", "attention" or "concat"; matters with several streams only.

    Raises
    ------
    DsuError
        If there is no such way to combine.

    Example
    -------
    >>> from speechbrain_dsu.tokens.patterns import Delay
    >>> layout = Delay(Vocabulary(sizes=(4, 4), shared=True))
    >>> ids, lens = layout.apply(torch.tensor([[[0, 1], [2, 3]]]))
    >>> UnitEmbedding(layout, dim=8)(ids).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        layout: Sequences,
        dim: int,
        width: int | None = None,
        combine: Combine = "sum",
    ):
        super().__init__()
        if combine not in get_args(Combine):
            known = ", ".join(f"'{name}'" for name in get_args(Combine))
            raise DsuError(f"combine must be one of {known}, got '{combine}'")
        self.layout = layout
        self.vocabulary, self.streams = layout.vocabulary, layout.streams
        self.dim, self.combine = dim, combine
        width = dim if width is None else width
        size = self.vocabulary.size
        self.table = nn.Embedding(self.streams * size, width)
        # Sums of some streams then have the size of the vectors of others.
        nn.init.normal_(self.table.weight, std=width**-0.5)
        read = width * (self.streams if combine == "concat" else 1)
        self.map = nn.Identity() if read == dim else nn.Linear(read, dim, bias=False)
        self.score = None
        if combine == "attention" and self.streams > 1:
            self.score = nn.Sequential(
                nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False)
            )
        first = torch.arange(self.streams) * size
        self.register_buffer("first", first, persistent=False)

    def extra_repr(self) -> str:
        """Settings that no weight shows: where each code stands is one of them."""
        shown = {k: v for k, v in vars(self.layout).items() if k[0] != "_"}
        return f"combine={self.combine}, {type(self.layout).__name__}({shown})"

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors ``[batch, steps, dim]`` of ids ``[batch, steps, streams]``.

        Raises
        ------
        DsuError
            If the number of streams is another.
        """
        if ids.ndim != 3 or ids.shape[2] != self.streams:
            raise DsuError(
                f"ids {list(ids.shape)} aren't [batch, steps, {self.streams} streams]"
            )
        if self.streams == 1:
            return self.map(self.table(ids[..., 0]))
        vectors = self.table(ids + self.first)
        if self.combine == "concat":
            return self.map(vectors.flatten(2))
        if self.score is None:
            return self.map(vectors.sum(2))
        weights = self.score(vectors).softmax(2)
        return self.map((weights * vectors).sum(2))

    @torch.no_grad()
    def load_codebooks(self, quantizer: Quantizer) -> "UnitEmbedding":
        """Start from the vectors of a quantizer instead of noise, in place.

        Every stream's table gets the vectors of every codebook (where codebooks share
        their ids: of its own); specials, tags and text pieces keep what they have.
        Vectors are centred and scaled together, so that codebooks keep their
        proportions and the table its size.

        Arguments
        ---------
        quantizer : Quantizer
            With the codebooks of the vocabulary, in its order.

        Returns
        -------
        UnitEmbedding
            This one.

        Raises
        ------
        DsuError
            If sizes differ.
        """
        sizes, width = self.vocabulary.sizes, self.table.embedding_dim
        shared = self.vocabulary.shared
        # Codebooks that share their ids need a table each.
        fits = not shared or self.streams == len(sizes)
        if tuple(quantizer.codebook_sizes) != sizes or not fits:
            raise DsuError(
                f"codebooks of {tuple(quantizer.codebook_sizes)} ids for {self.streams}"
                f" tables of {sizes}{' shared' if shared else ''} ids"
            )
        limits = torch.tensor(sizes)
        codes = torch.arange(max(sizes))[:, None].minimum(limits - 1)
        codes = codes.to(self.table.weight.device)
        found = quantizer.embed(codes[None])[0].float()
        if found.shape[-1] != width:
            raise DsuError(
                f"vectors of the quantizer have {found.shape[-1]} values, those of the "
                f"table {width}: build it with width={found.shape[-1]}"
            )
        books = [found[:size, book] for book, size in enumerate(sizes)]
        joined = torch.cat(books)
        middle = joined.mean(0)
        scale = (joined - middle).square().mean().sqrt() * width**0.5
        tables = self.table.weight.view(self.streams, self.vocabulary.size, width)
        for book, vectors in enumerate(books):
            target = tables[book : book + 1] if shared else tables
            begin = self.vocabulary.offsets[book]
            target[:, begin : begin + len(vectors)] = (vectors - middle) / scale
        return self


class FrameEmbedding(nn.Module):
    """Vectors of continuous frames, for models that emit frames instead of ids.

    Two products with a bottleneck and dropout between, as the "prenet" of Tacotron
    (Wang et al. 2017): what is fed back in training is never predicted, and dropout
    keeps the model from copying it. Here dropout acts in training only.

    Arguments
    ---------
    frame_dim : int
        Size of a frame.
    dim : int
        Size of the vectors that come out.
    hidden : int, optional
        Of the bottleneck; ``dim // 2`` if not given.
    dropout : float
        In training.

    Example
    -------
    >>> FrameEmbedding(frame_dim=5, dim=8)(torch.zeros(1, 3, 5)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(
        self, frame_dim: int, dim: int, hidden: int | None = None, dropout: float = 0.0
    ):
        super().__init__()
        hidden = dim // 2 if hidden is None else hidden
        self.frame_dim, self.dim = frame_dim, dim
        self.layers = nn.Sequential(
            nn.Linear(frame_dim, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Vectors ``[batch, steps, dim]`` of frames ``[batch, steps, frame_dim]``."""
        return self.layers(frames)
