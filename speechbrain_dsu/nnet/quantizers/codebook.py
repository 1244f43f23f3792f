"""Vector quantization: one codebook, the nearest vector."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Seen,
    Step,
    TrainedQuantizer,
    mean_square,
    valid_rows,
)
from speechbrain_dsu.nnet.quantizers.codebook_gradient import rotate_through
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.nnet.quantizers.statistics import (
    broadcast_first,
    cluster,
    sample_over_ranks,
    sums_by_code,
)
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers

_SMOOTHING = 1e-5
_START_ROUNDS = 10
_START_FRAMES = 64  # per code, at most


class Codebook(TrainedQuantizer):
    """Nearest vector of a codebook that is trained by averages or by gradient.

    Van den Oord et al., "Neural Discrete Representation Learning" (2017): equation 3
    (losses), appendix A.1 (``update="ema"``: the vectors are moving averages of the
    frames they won). The first training batch starts the vectors by k-means, and a
    code whose share falls below a fraction of the mean share is moved to a random
    frame of the batch, together with its moving averages (Dhariwal et al.,
    "Jukebox", 2020, section 3.1; the fraction makes it independent of the sizes). A
    code that nothing chooses is moved within ``steps_to_revive`` training steps.

    Losses: "commitment"; with ``update="gradient"`` also "codebook" and
    "orthogonal". They are weighted: add them up.

    Arguments
    ---------
    size : int
        Number of codes.
    dim : int
        Size of a frame and of a vector.
    update : "ema" or "gradient"
        How the vectors learn.
    metric : "euclidean", "cosine" or "sphere"
        "cosine" searches by direction and returns the vector as it is (Kumar et al.,
        "High-Fidelity Audio Compression with Improved RVQGAN", 2023, appendix A);
        "sphere" puts frames and vectors on the unit sphere first (Yu et al.,
        "Vector-quantized Image Modeling with Improved VQGAN", 2021, section 3.2).
    estimator : "straight-through" or "rotation"
        How the gradient reaches the frames.
    decay : float
        Of the moving averages, per training step.
    commitment : float
        Weight of the commitment loss; 0 switches it off.
    kmeans_start : bool
        Otherwise the random vectors stay, equal on all ranks.
    revive_below : float
        Fraction of the mean share; 0 switches revival off.
    orthogonal : float
        Weight of the mean squared cosine between different vectors (Shin et al.,
        "Translation-equivariant Image Quantizer", 2021, equation 2).
    seed : int
        For the draws of start and revival; they don't touch the global generator.

    Raises
    ------
    DsuError
        If a setting is out of range or unknown.

    Example
    -------
    >>> codebook = Codebook(size=2, dim=1)
    >>> codebook.set_vectors(torch.tensor([[0.0], [10.0]]))
    >>> codes = codebook.eval().encode(torch.tensor([[[1.0], [9.0]]]))
    >>> codes.tolist(), codebook.decode(codes).tolist()
    ([[[0], [1]]], [[[0.0], [10.0]]])
    """

    def __init__(
        self,
        size: int,
        dim: int,
        update: str = "ema",
        metric: str = "euclidean",
        estimator: str = "straight-through",
        decay: float = 0.99,
        commitment: float = 0.25,
        kmeans_start: bool = True,
        revive_below: float = 0.1,
        orthogonal: float = 0.0,
        seed: int = 0,
    ):
        _check_choice("update", update, ("ema", "gradient"))
        _check_choice("metric", metric, ("euclidean", "cosine", "sphere"))
        _check_choice("estimator", estimator, ("straight-through", "rotation"))
        if min(size, dim) < 1:
            raise DsuError(
                f"a codebook needs size >= 1 and dim >= 1, got {size}, {dim}"
            )
        if not (0 < decay < 1 and 0 <= revive_below < 1 and commitment >= 0):
            raise DsuError(
                f"decay={decay} must be in (0, 1), revive_below={revive_below} in "
                f"[0, 1), commitment={commitment} not negative"
            )
        if orthogonal and update == "ema":
            raise DsuError("the orthogonality loss needs update='gradient'")
        super().__init__(dim, (size,))
        self.size, self.update_by, self.metric = size, update, metric
        self.estimator, self.decay, self.commitment = estimator, decay, commitment
        self.kmeans_start, self.revive_below = kmeans_start, revive_below
        self.orthogonal, self.seed = orthogonal, seed
        vectors = self._on_sphere(torch.randn(size, dim) / dim**0.5)
        if update == "gradient":
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
            self.register_buffer("sums", vectors.clone())
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("draws", torch.tensor(0))
        # The buffer's value once it is true: reading it at every step stalls a GPU.
        self._started = False

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"size={self.size}, dim={self.dim}, metric={self.metric}"

    @property
    def steps_to_revive(self) -> int:
        """Steps until a code of mean share that wins nothing more is moved.

        Once the averages have settled, with batches of about one size.
        """
        if not self.revive_below:
            raise DsuError("revive_below=0: dead codes of this codebook stay dead")
        share, steps = 1.0, 0
        while share >= self.revive_below:
            share, steps = share * self.decay, steps + 1
        return steps + 1

    def set_vectors(self, vectors: Tensor) -> None:
        """Take over vectors ``[size, dim]``; they count as started.

        Raises
        ------
        DsuError
            If the shape is another or a value is not finite.
        """
        if vectors.shape != self.vectors.shape or not bool(vectors.isfinite().all()):
            raise DsuError(
                f"vectors must be finite and {list(self.vectors.shape)}, got "
                f"{list(vectors.shape)}"
            )
        with torch.no_grad():
            self._set_state(self._on_sphere(vectors), torch.ones_like(self.counts))
            self.initialised.fill_(True)

    @property
    def is_started(self) -> bool:
        """Whether the vectors come from data."""
        if not self._started:
            self._started = bool(self.initialised)
        return self._started

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """K-means on the frames of all ranks; once, and never after loading."""
        if self.is_started:
            return
        if self.kmeans_start:
            rows = self._on_sphere(valid_rows(latents, valid))
            limit = _START_FRAMES * self.size
            rows = sample_over_ranks(rows, limit, self._next_seed())
            if len(rows) == 0:
                return
            vectors = self._on_sphere(
                cluster(rows, self.size, _START_ROUNDS, self.seed)
            )
            ids, _ = nearest_centers(rows, vectors, exact=False)
            counts = torch.bincount(ids, minlength=self.size)
            self._set_state(vectors, counts.float())
        self.initialised.fill_(True)
        broadcast_first([self.vectors.data, *self.buffers()])

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Nearest vectors: ``[batch, frames, 1]``."""
        frames, vectors = latents.reshape(-1, self.dim), self.vectors.detach()
        if self.metric != "euclidean":
            frames = F.normalize(frames, dim=-1)
        if self.metric == "cosine":
            vectors = F.normalize(vectors, dim=-1)
        ids, _ = nearest_centers(frames, vectors, exact=exact)
        return ids.view(*latents.shape[:-1], 1)

    def lookup(self, codes: Tensor) -> Tensor:
        """The chosen vectors."""
        rows = self.vectors.float().index_select(0, codes.reshape(-1))
        return rows.view(*codes.shape[:-1], self.dim)

    def contributions(self, codes: Tensor) -> Tensor:
        """The chosen vectors ``[batch, frames, 1, dim]``."""
        return self.lookup(codes).unsqueeze(-2)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """Quantize with gradient, losses and what the averages need."""
        latents = self._on_sphere(latents)
        with torch.no_grad():
            inputs = latents.detach()
            codes = self.search(inputs, valid, 1, exact=not self.training)
        chosen = self.lookup(codes)
        values = chosen.detach()
        losses = self.codebook_losses(chosen, inputs, valid)
        if self.commitment:
            loss = mean_square(latents - values, valid)
            losses["commitment"] = self.commitment * loss
        through = rotate_through if self.estimator == "rotation" else straight_through
        quantized = through(latents, values)
        return Step(codes, quantized, losses, self.seen(inputs, codes, valid))

    def codebook_losses(
        self, chosen: Tensor, inputs: Tensor, valid: Tensor | None
    ) -> dict[str, Tensor]:
        """Losses that train the vectors; none when averages do."""
        losses = {}
        if self.update_by == "gradient":
            losses["codebook"] = mean_square(chosen - inputs, valid)
        if self.orthogonal:
            unit = F.normalize(self.vectors.float(), dim=-1)
            cosines = (unit @ unit.t()).square().mean() - 1 / self.size
            losses["orthogonal"] = self.orthogonal * cosines
        return losses

    def seen(self, inputs: Tensor, codes: Tensor, valid: Tensor | None) -> list[Seen]:
        """The record for statistics; empty where none are kept."""
        if not self.learning or (self.update_by != "ema" and not self.revive_below):
            return []
        ids = codes.reshape(-1) if valid is None else codes[valid].reshape(-1)
        return [Seen(self, valid_rows(inputs, valid), ids)]

    def statistics(self, frames: Tensor, ids: Tensor) -> list[Tensor]:
        """What the ranks add up: counts, and sums of frames where they are used."""
        if self.update_by == "ema":
            return list(sums_by_code(frames, ids, self.size))
        return [torch.bincount(ids, minlength=self.size).float()]

    def update(self, counts: Tensor, sums: Tensor | None = None) -> None:
        """Move the averages, and the vectors with them."""
        self.counts.lerp_(counts, 1 - self.decay)
        if sums is None:
            return
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.counts.sum()
        share = (self.counts + _SMOOTHING) / (total + self.size * _SMOOTHING)
        self.vectors.copy_(self._on_sphere(self.sums / (share * total)[:, None]))

    def revive(self, frames: Tensor) -> None:
        """Move dead codes, averages included, to frames of all ranks."""
        if not self.revive_below:
            return
        mean = self.counts.mean()
        dead = (self.counts < self.revive_below * mean).nonzero().squeeze(1)
        if len(dead) == 0:
            return
        rows = sample_over_ranks(frames, len(dead), self._next_seed())
        places = dead[: len(rows)]
        vectors, counts = self.vectors.detach().clone(), self.counts.clone()
        vectors[places], counts[places] = rows, mean
        if self.update_by == "ema":
            self.sums[places] = rows * mean
        self.vectors.data.copy_(vectors)
        self.counts.copy_(counts)

    def _set_state(self, vectors: Tensor, counts: Tensor) -> None:
        self.vectors.data.copy_(vectors)
        self.counts.copy_(counts)
        if self.update_by == "ema":
            self.sums.copy_(vectors * counts[:, None])

    def _on_sphere(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1) if self.metric == "sphere" else rows

    def _next_seed(self) -> int:
        self.draws.add_(1)
        return self.seed * 1_000_003 + int(self.draws)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._started = False


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DsuError(f"{name}={value!r}: take one of {', '.join(choices)}")
