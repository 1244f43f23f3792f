"""Additive quantization: the chosen vectors add up, and are chosen together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Step,
    add_losses,
    mean_square,
)
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers

_BEAM_SCORES = 2**24


class AdditiveVQ(ResidualVQ):
    """Sum of one vector per codebook, the codes chosen jointly.

    Babenko and Lempitsky, "Additive Quantization for Extreme Vector Compression"
    (2014): a beam search over the codebooks. With ``beam=1`` and refinement this is
    the multi-codebook (direct-sum) quantizer of SPEAR (Yang et al., 2025; Guo et
    al., "Predicting Multi-Codebook Vector Quantization Indexes for Knowledge
    Distillation", 2022): greedy codes, then each code in turn is chosen again given
    all others. Refinement never raises the error. The vectors learn by gradient from
    the error of the sum; they start as a residual chain.

    Codes with fewer codebooks are chosen for these alone: they are in general not
    the first ones of the full set.

    Arguments
    ---------
    n_codebooks : int
        Number of codebooks.
    size : int
        Codes of each.
    dim : int
        Size of a frame.
    beam : int
        Partial sums kept per frame; 1 is greedy.
    refinements : int
        Rounds of choosing each code again.
    commitment : float
        Weight of the commitment loss.
    revive_below : float
        As in ``Codebook``.
    seed : int
        As in ``Codebook``.

    Raises
    ------
    DsuError
        If a setting is out of range.

    Example
    -------
    >>> quantizer = AdditiveVQ(n_codebooks=4, size=16, dim=8, refinements=2)
    >>> quantizer.encode(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        n_codebooks: int,
        size: int | Sequence[int],
        dim: int,
        beam: int = 1,
        refinements: int = 2,
        commitment: float = 0.25,
        revive_below: float = 0.1,
        seed: int = 0,
    ):
        if beam < 1 or refinements < 0:
            raise DsuError(
                f"beam={beam} must be positive and refinements={refinements} not "
                "negative"
            )
        settings: dict[str, Any] = {"update": "gradient", "commitment": commitment}
        super().__init__(
            n_codebooks, size, dim, revive_below=revive_below, seed=seed, **settings
        )
        self.beam, self.refinements = beam, refinements

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"{super().extra_repr()}, beam={self.beam}, rounds={self.refinements}"

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Codes of the first ``keep`` codebooks, chosen together."""
        if self.beam == 1:
            codes = super().search(latents, valid, keep, exact)
        else:
            rows = latents.reshape(-1, self.dim)
            block = max(1, _BEAM_SCORES // (self.beam * max(self.codebook_sizes)))
            codes = torch.cat([self._beam(part, keep) for part in rows.split(block)])
            codes = codes.view(*latents.shape[:-1], keep)
        return self._refine(latents, codes, exact)

    def _beam(self, rows: Tensor, keep: int) -> Tensor:
        """Codes ``[n, keep]`` of the best of ``beam`` partial sums."""
        rests, codes = rows.unsqueeze(1), rows.new_zeros(len(rows), 1, 0).long()
        errors = rows.square().sum(-1, keepdim=True)
        for level in self.levels[:keep]:
            vectors = level.vectors.detach()
            # |rest - v|^2 = |rest|^2 - 2 rest v + |v|^2, for all sums and vectors.
            grown = torch.matmul(rests, vectors.t()).mul_(-2)
            grown += errors.unsqueeze(-1) + vectors.square().sum(-1)
            kept = min(self.beam, grown[0].numel()) if len(rows) else 1
            errors, picks = grown.flatten(1).topk(kept, largest=False)
            parents = picks // len(vectors)
            ids = picks % len(vectors)
            every = torch.arange(len(rows), device=rows.device)[:, None]
            rests = rests[every, parents] - vectors[ids]
            codes = torch.cat([codes[every, parents], ids.unsqueeze(-1)], dim=-1)
        return codes[:, 0]

    def _refine(self, latents: Tensor, codes: Tensor, exact: bool) -> Tensor:
        """Choose each code again, given the others; keep what is not worse."""
        if codes.shape[-1] == 1 or not self.refinements or codes.numel() == 0:
            return codes
        rows, ids = latents.reshape(-1, self.dim), codes.flatten(0, 1).clone()
        total = self.lookup(ids)
        for _ in range(self.refinements):
            for index, level in enumerate(self.levels[: ids.shape[1]]):
                vectors = level.vectors.detach()
                own = vectors[ids[:, index]]
                rest = rows - (total - own)
                found, _ = nearest_centers(rest, vectors, exact=exact)
                new = vectors[found]
                better = _error(rest, new) < _error(rest, own)
                ids[:, index] = torch.where(better, found, ids[:, index])
                total = torch.where(better[:, None], total - own + new, total)
        return ids.view_as(codes)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """Quantize with the gradient and the losses of the sum."""
        inputs = latents.detach()
        with torch.no_grad():
            codes = self.search(inputs, valid, keep, exact=not self.training)
        total = self.lookup(codes)
        losses: dict[str, Tensor] = {"codebook": mean_square(total - inputs, valid)}
        commitment = self.levels[0].commitment
        if commitment:
            loss = mean_square(latents - total.detach(), valid)
            add_losses(losses, {"commitment": loss}, commitment)
        seen = []
        for index, level in enumerate(self.levels[:keep]):
            column = codes[..., index : index + 1]
            own = inputs - total.detach() + level.lookup(column).detach()
            seen += level.seen(own, column, valid)
        quantized = straight_through(latents, total.detach())
        return Step(codes, quantized, losses, seen)


def _error(rows: Tensor, vectors: Tensor) -> Tensor:
    return (rows - vectors).square().sum(-1)
