"""How recognisers read: units or frames to vectors, some of them hidden in training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.embeddings import Combine, UnitEmbedding
from speechbrain_dsu.nnet.masking import span_mask
from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.tokens.patterns import Parallel
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)


class UnitReader(nn.Module):
    """Vectors of units, or of continuous frames where there are no codebooks.

    Units are looked up (`UnitEmbedding`, all codebooks of a frame in one step);
    frames are standardised by statistics of the training data and mapped. Everything
    behind that is the same, so that a recogniser of units and one of features differ
    in one line of a recipe.

    In training, spans of steps are replaced by a learned vector, and single units by
    the padding's (frames: single values by their mean), which keeps a recogniser of
    discrete tokens from learning utterances by heart (Yang et al., "Towards Universal
    Speech Discrete Tokens", 2024, mask tokens in time for the same reason).
    SpeechBrain's ``SpectrogramDrop`` is not used: it hides the same steps of all items
    of a batch, padding counted as speech.

    Arguments
    ---------
    sizes : sequence of int
        Ids of each codebook; empty: frames.
    dim : int
        Size of the vectors that come out.
    frame_dim : int
        Size of a frame, where there are no codebooks.
    width, combine
        See ``UnitEmbedding``.
    stride : int
        Steps that become one, by a convolution over ``2 * stride - 1`` of them.
    time_mask : float
        In training: share of steps at which a hidden span begins.
    mask_steps : int
        Length of a span.
    unit_dropout : float
        In training: share of single units (values) that are hidden.
    per_item : bool
        Standardise each item's vectors over its own steps: what a voice, a level or a
        channel adds to all of them is gone. Not for streams.

    Raises
    ------
    DsuError
        If there are neither codebooks nor a size of frames.

    Example
    -------
    >>> reader = UnitReader((50,), dim=8, stride=2).eval()
    >>> vectors, lens = reader(torch.zeros(2, 5, 1, dtype=int), torch.tensor([1, 0.4]))
    >>> vectors.shape, absolute_lengths(lens, 3).tolist()
    (torch.Size([2, 3, 8]), [3, 1])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        frame_dim: int = 0,
        width: int | None = None,
        combine: Combine = "sum",
        stride: int = 1,
        time_mask: float = 0.0,
        mask_steps: int = 10,
        unit_dropout: float = 0.0,
        per_item: bool = False,
    ):
        super().__init__()
        if not sizes and frame_dim < 1:
            raise DsuError("a reader needs codebook sizes, or frame_dim for frames")
        self.dim, self.frame_dim, self.stride = dim, frame_dim, stride
        self.time_mask, self.mask_steps = time_mask, mask_steps
        self.unit_dropout, self.per_item = unit_dropout, per_item
        self.discrete = bool(sizes)
        if self.discrete:
            layout = Parallel(Vocabulary(sizes=tuple(sizes), shared=True))
            self.embedding = UnitEmbedding(layout, dim, width, combine)
        else:
            self.embedding = nn.Linear(frame_dim, dim)
            self.register_buffer("mean", torch.zeros(frame_dim))
            self.register_buffer("std", torch.ones(frame_dim))
        # Encoders that normalise first would drown small vectors in their own sums.
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Parameter(torch.zeros(dim))
        self.join = None
        if stride > 1:
            kernel = 2 * stride - 1
            self.join = nn.Conv1d(dim, dim, kernel, stride, padding=stride - 1)
            self.joined_norm = nn.LayerNorm(dim)

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        # Bundles that are older than a setting keep their fingerprints.
        more = ", per_item=True" if self.per_item else ""
        return f"stride={self.stride}, discrete={self.discrete}{more}"

    @torch.no_grad()
    def standardise(self, frames: Tensor) -> "UnitReader":
        """Take mean and deviation of training frames ``[n, frame_dim]``, in place."""
        self.mean.copy_(frames.double().mean(0))
        self.std.copy_(frames.double().std(0).clamp(min=1e-5))
        return self

    def start_from(self, quantizer: Quantizer) -> "UnitReader":
        """Begin with a tokenizer's own vectors instead of noise, in place.

        Units that sound alike are alike from the first step on. The tables' ``width``
        must be that of the vectors, see ``UnitEmbedding.load_codebooks``.
        """
        self.embedding.load_codebooks(quantizer)
        return self

    def forward(
        self, source: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors of a batch.

        Arguments
        ---------
        source : Tensor
            Codes int64 ``[batch, steps, codebooks]`` or frames ``[batch, steps,
            frame_dim]``; what lies behind an item's end is not read.
        lens : Tensor, optional
            Relative lengths.

        Returns
        -------
        vectors : Tensor
            ``[batch, ceil(steps / stride), dim]``, zero behind an item's end.
        lens : Tensor
            Relative lengths.

        Raises
        ------
        DsuError
            If frames are given for units, or the other way round.
        """
        if source.is_floating_point() == self.discrete:
            what = "units" if self.discrete else "frames"
            raise DsuError(f"this model reads {what}, got {source.dtype}")
        steps = source.shape[1]
        counts = absolute_lengths(lens, steps, len(source)).to(source.device)
        mask = length_mask(counts, steps)
        vectors = self._vectors(source, mask)
        if self.per_item:
            vectors = _standardised(vectors, mask)
        vectors = self.norm(vectors)
        if self.training and self.time_mask and steps:
            spans = span_mask(counts, steps, self.time_mask, self.mask_steps)
            hidden = self.hidden.to(vectors.dtype)
            vectors = torch.where(spans.unsqueeze(-1), hidden, vectors)
        vectors = vectors * mask.unsqueeze(-1)
        if self.join is not None:
            joined = torch.relu(self.join(vectors.transpose(1, 2)).transpose(1, 2))
            vectors = self.joined_norm(joined)
            counts, steps = -(-counts // self.stride), vectors.shape[1]
            vectors = vectors * length_mask(counts, steps).unsqueeze(-1)
        return vectors, relative_lengths(counts, steps)

    def _vectors(self, source: Tensor, mask: Tensor) -> Tensor:
        if not self.discrete:
            values = (source - self.mean) / self.std
            return self.embedding(values * self._kept(values, values.dtype))
        ids = self.embedding.vocabulary.to_ids(source, mask=mask)
        if self.training and self.unit_dropout:
            kept = self._kept(ids, torch.bool)
            ids = torch.where(kept, ids, self.embedding.vocabulary.pad)
        return self.embedding(ids)

    def _kept(self, like: Tensor, dtype: torch.dtype) -> Tensor | float:
        if not self.training or not self.unit_dropout:
            return 1.0
        draws = torch.rand(like.shape, device=like.device)
        return (draws >= self.unit_dropout).to(dtype)


def _standardised(vectors: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of each value over an item's steps, in float32."""
    values, mask = vectors.float(), mask.unsqueeze(-1)
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    values = (values - (values * mask).sum(1, keepdim=True) / counts) * mask
    spread = values.square().sum(1, keepdim=True) / counts
    return (values * (spread + 1e-5).rsqrt()).to(vectors.dtype)
