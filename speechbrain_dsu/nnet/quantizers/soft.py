"""Soft assignment: a distribution over the codes, its mean, and its best code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Step,
    TrainedQuantizer,
    valid_frames,
)
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


class SoftCodebook(TrainedQuantizer):
    """A codebook that assigns each frame to all codes, more or less.

    Two uses. Soft units (van Niekerk et al., "A Comparison of Discrete and Soft
    Speech Units for Improved Voice Conversion", 2022, section 2.2): cosine logits
    over unit embeddings, trained by ``cross_entropy`` against hard units; the
    quantized latents are the means under the distribution. A codebook of phonemes
    (Liu et al., "Towards Unsupervised Speech Recognition and Synthesis with
    Quantized Speech Representation Learning", 2020, section 2.2): ``hard=True``
    takes the best code's vector, with the gradient of the mean; ``cross_entropy``
    takes the few labels there are.

    With ``hard=False`` decoding the codes gives the hard vectors, which the soft
    ones approach as the temperature goes to zero. The vectors learn by gradient.

    Arguments
    ---------
    size : int
        Number of codes.
    dim : int
        Size of a frame.
    temperature : float
        Of the softmax; small is hard.
    metric : "cosine" or "euclidean"
        Logits are cosines or negative squared distances, over the temperature.
    hard : bool
        Whether the quantized latents are vectors of the codebook or means.

    Raises
    ------
    DsuError
        If a setting is out of range or unknown.

    Example
    -------
    >>> soft = SoftCodebook(size=10, dim=4)
    >>> soft.distribution(torch.randn(1, 3, 4)).sum(-1).round(decimals=4).tolist()
    [[1.0, 1.0, 1.0]]
    """

    is_started = True

    def __init__(
        self,
        size: int,
        dim: int,
        temperature: float = 0.1,
        metric: str = "cosine",
        hard: bool = False,
    ):
        if min(size, dim) < 1 or temperature <= 0:
            raise DsuError(
                f"a soft codebook needs size, dim >= 1 and temperature > 0, got "
                f"{size}, {dim}, {temperature}"
            )
        if metric not in ("cosine", "euclidean"):
            raise DsuError(f"metric={metric!r}: take one of cosine, euclidean")
        super().__init__(dim, (size,))
        self.size, self.temperature = size, temperature
        self.metric, self.hard = metric, hard
        self.vectors = nn.Parameter(torch.randn(size, dim) / dim**0.5)

    def extra_repr(self) -> str:
        """Settings that decide the codes and the soft latents."""
        return (
            f"size={self.size}, dim={self.dim}, temperature={self.temperature}, "
            f"metric={self.metric}, hard={self.hard}"
        )

    def logits(self, latents: Tensor) -> Tensor:
        """Logits ``[batch, frames, size]``; their argmax is the code."""
        with torch.autocast(latents.device.type, enabled=False):
            latents, vectors = latents.float(), self.vectors.float()
            if self.metric == "cosine":
                latents, vectors = F.normalize(latents, dim=-1), F.normalize(vectors)
                scores = latents @ vectors.t()
            else:
                # The frame's own norm adds the same to all logits.
                scores = 2 * latents @ vectors.t() - vectors.square().sum(-1)
            return scores / self.temperature

    def distribution(self, latents: Tensor) -> Tensor:
        """Probability of every code: ``[batch, frames, size]``."""
        return self.logits(latents).softmax(dim=-1)

    def cross_entropy(
        self, latents: Tensor, targets: Tensor, lens: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy against hard codes.

        Arguments
        ---------
        latents : Tensor
            ``[batch, frames, dim]``.
        targets : Tensor
            int64 ``[batch, frames]``; -1 where there is no label.
        lens : Tensor, optional
            Relative lengths ``[batch]``.

        Returns
        -------
        Tensor
            Scalar, over labelled valid frames; 0 when there is none.
        """
        valid = valid_frames(latents, lens)
        if valid is not None:
            targets = targets.masked_fill(~valid, -1)
        logits, labels = self.logits(latents).flatten(0, 1), targets.flatten()
        total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        return total / (labels != -1).sum().clamp(min=1)

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Nothing: the vectors learn by gradient from where they are."""

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Most probable codes ``[batch, frames, 1]``."""
        frames, vectors = latents.reshape(-1, self.dim), self.vectors.detach()
        if self.metric == "cosine":
            frames, vectors = F.normalize(frames, dim=-1), F.normalize(vectors, dim=-1)
        ids, _ = nearest_centers(frames, vectors, exact=exact)
        return ids.view(*latents.shape[:-1], 1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors of hard codes."""
        return F.embedding(codes[..., 0], self.vectors.float())

    def contributions(self, codes: Tensor) -> Tensor:
        """Vectors of hard codes ``[batch, frames, 1, dim]``."""
        return self.lookup(codes).unsqueeze(-2)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """Mean vectors, or hard ones with their gradient."""
        codes = self.search(latents.detach(), valid, 1, exact=not self.training)
        mean = self.distribution(latents) @ self.vectors.float()
        if self.hard:
            mean = straight_through(mean, self.lookup(codes).detach())
        return Step(codes, mean)
