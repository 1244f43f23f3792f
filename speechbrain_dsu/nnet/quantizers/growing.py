"""A codebook that gains an entry where no entry is near."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Step,
    TrainedQuantizer,
    mean_square,
    valid_rows,
)
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.nnet.quantizers.statistics import (
    is_paused,
    sum_over_ranks,
    world,
)
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


class GrowingCodebook(TrainedQuantizer):
    """Nearest entry; a frame farther than a threshold from all becomes a new one.

    The dynamic codebook of Wang et al., "DQR-TTS: Semi-supervised Text-to-speech
    Synthesis with Dynamic Quantized Representation" (2023): entries tied to known
    phonemes first (``set_entries``), more as unpaired speech brings sounds that none
    of them covers. In each training pass the farthest frame is added first, then the
    farthest from what there is by then, until all are near or ``max_new`` were
    added. Old entries keep their ids. With several ranks the frames of all of them
    are searched as if they were one batch.

    Losses, weighted: "codebook" and "commitment" (van den Oord et al., 2017).

    Arguments
    ---------
    size : int
        Most entries there may be; the ids of a sequence model have to be known
        beforehand.
    dim : int
        Size of a frame and of an entry.
    threshold : float
        Euclidean distance beyond which a frame is not covered.
    max_new : int
        Most entries added by one pass.
    codebook_weight, commitment_weight : float
        Weights of the losses.

    Raises
    ------
    DsuError
        If a number is out of range, or codes are asked for before any entry exists.

    Example
    -------
    >>> growing = GrowingCodebook(size=4, dim=1, threshold=1.0)
    >>> frames = torch.tensor([[[0.0], [0.5], [9.0]]])
    >>> growing(frames).codes.flatten().tolist(), int(growing.entries)
    ([0, 0, 1], 2)
    """

    def __init__(
        self,
        size: int,
        dim: int,
        threshold: float,
        max_new: int = 8,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
    ):
        if min(size, dim, max_new) < 1 or threshold <= 0:
            raise DsuError(
                f"size={size}, dim={dim}, max_new={max_new} and "
                f"threshold={threshold} must be positive"
            )
        super().__init__(dim, (size,))
        self.size, self.threshold, self.max_new = size, float(threshold), max_new
        self.codebook_weight = codebook_weight
        self.commitment_weight = commitment_weight
        self.vectors = nn.Parameter(torch.zeros(size, dim))
        self.register_buffer("entries", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"size={self.size}, dim={self.dim}"

    def set_entries(self, vectors: Tensor) -> None:
        """Take over first entries ``[n, dim]``, with ids 0 to n - 1.

        Raises
        ------
        DsuError
            If there are more than ``size`` or their shape is another.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise DsuError(f"entries are [n, {self.dim}], got {list(vectors.shape)}")
        if not 1 <= len(vectors) <= self.size:
            raise DsuError(f"{len(vectors)} entries for a codebook of {self.size}")
        with torch.no_grad():
            self.vectors[: len(vectors)] = vectors
            self.entries.fill_(len(vectors))

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Nothing: growth is the start."""

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Nearest entries: ``[batch, frames, 1]``."""
        count = int(self.entries)
        if count == 0 and not self.learning:
            raise DsuError("this growing codebook has no entry yet: train or load it")
        known = self.vectors.detach()[: max(count, 1)]
        ids, _ = nearest_centers(latents.reshape(-1, self.dim), known, exact=exact)
        return ids.view(*latents.shape[:-1], 1)

    def contributions(self, codes: Tensor) -> Tensor:
        """The chosen entries ``[batch, frames, 1, dim]``."""
        return self.vectors.float()[codes]

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """Grow if need be, then quantize with gradient and losses."""
        inputs = latents.detach()
        if self.learning and not is_paused():
            self.grow(valid_rows(inputs, valid))
        codes = self.search(inputs, valid, keep, exact=not self.training)
        chosen = self.lookup(codes)
        losses = {}
        if self.codebook_weight:
            loss = mean_square(chosen - inputs, valid)
            losses["codebook"] = self.codebook_weight * loss
        if self.commitment_weight:
            loss = mean_square(latents - chosen.detach(), valid)
            losses["commitment"] = self.commitment_weight * loss
        return Step(codes, straight_through(latents, chosen.detach()), losses)

    @torch.no_grad()
    def grow(self, frames: Tensor) -> int:
        """Add entries for frames ``[n, dim]`` that are far from all; how many."""
        count = first = int(self.entries)
        limit = min(first + self.max_new, self.size)
        distances = frames.new_full((len(frames),), torch.inf)
        if count and len(frames):
            _, distances = nearest_centers(frames, self.vectors[:count])
        while count < limit:
            distance, frame = _farthest(frames, distances)
            if not distance > self.threshold**2:
                break
            self.vectors[count] = frame
            distances = distances.minimum((frames - frame).square().sum(1))
            count += 1
        self.entries.fill_(count)
        return count - first


def _farthest(frames: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """The frame with the largest distance among those of all ranks."""
    rank, ranks = world()
    table = frames.new_zeros(ranks, frames.shape[1] + 1)
    table[rank, 0] = -1
    if len(frames):
        place = distances.argmax()
        table[rank, 0] = distances[place]
        table[rank, 1:] = frames[place]
    (table,) = sum_over_ranks([table])
    winner = table[table[:, 0].argmax()]
    return winner[0], winner[1:]
