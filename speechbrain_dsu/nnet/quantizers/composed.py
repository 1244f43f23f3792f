"""Quantizers around quantizers: between layers, side by side, at a lower rate."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantized, Quantizer
from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Step,
    TrainedQuantizer,
    add_losses,
)
from speechbrain_dsu.utils.errors import DsuError


class Identity(Quantizer):
    """No quantization: continuous latents with the result record of a quantizer.

    For systems that keep continuous latents, so that the two kinds can be compared
    by changing one line. There are no codebooks: codes are ``[batch, frames, 0]``
    and can't be decoded.

    Arguments
    ---------
    dim : int
        Size of a latent frame.

    Example
    -------
    >>> result = Identity(dim=2)(torch.ones(1, 3, 2))
    >>> result.codes.shape, result.losses, result.usage
    (torch.Size([1, 3, 0]), {}, ())
    """

    def __init__(self, dim: int):
        super().__init__(dim, ())

    def forward(
        self,
        latents: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
    ) -> Quantized:
        """The latents as they are."""
        codes = self.encode(latents, n_codebooks)
        return Quantized(codes, latents, {}, ())

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes without codebooks: ``[batch, frames, 0]``."""
        self.check_dim(latents)
        self.keep(n_codebooks)
        return torch.zeros(
            *latents.shape[:2], 0, dtype=torch.int64, device=latents.device
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Raise DsuError: continuous latents have no codes."""
        raise DsuError(
            "continuous latents (Identity) have no codes to decode; keep "
            "Quantized.quantized, or choose a quantizer with codebooks"
        )

    embed = decode


class Projected(TrainedQuantizer):
    """A quantizer in a space of its own, between two linear layers.

    Around one small codebook these are factorised codes (Yu et al.,
    "Vector-quantized Image Modeling with Improved VQGAN", 2021, section 3.2); around
    a residual chain, Mimi's quantizers (Défossez et al., "Moshi", 2024).

    Arguments
    ---------
    quantizer : TrainedQuantizer
        Works in the projected space.
    dim : int
        Size of a frame outside.
    bias : bool
        Whether the layers have one.

    Example
    -------
    >>> from speechbrain_dsu.nnet.quantizers.codebook import Codebook
    >>> quantizer = Projected(Codebook(size=16, dim=4), dim=32)
    >>> quantizer(torch.randn(2, 10, 32)).quantized.shape
    torch.Size([2, 10, 32])
    """

    def __init__(self, quantizer: TrainedQuantizer, dim: int, bias: bool = True):
        super().__init__(dim, quantizer.codebook_sizes)
        self.project_in = nn.Linear(dim, quantizer.dim, bias=bias)
        self.quantizer = quantizer
        self.project_out = nn.Linear(quantizer.dim, dim, bias=bias)

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Start the inner quantizer on projected frames."""
        self.quantizer.start(self.project_in(latents), valid)

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Codes of the projected frames."""
        return self.quantizer.search(self.project_in(latents), valid, keep, exact)

    def lookup(self, codes: Tensor) -> Tensor:
        """Decoded latents, back outside."""
        return self.project_out(self.quantizer.lookup(codes))

    def contributions(self, codes: Tensor) -> Tensor:
        """Vectors outside; the first carries the bias."""
        inner = self.quantizer.contributions(codes)
        outer = F.linear(inner, self.project_out.weight)
        if self.project_out.bias is None:
            return outer
        is_first = torch.arange(codes.shape[-1], device=codes.device) == 0
        return outer + is_first[:, None] * self.project_out.bias

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """A step of the inner quantizer between the layers."""
        step = self.quantizer.step(self.project_in(latents), valid, keep, drop)
        quantized = self.project_out(step.quantized)
        return Step(step.codes, quantized, step.losses, step.seen)


class Split(TrainedQuantizer):
    """Semantic and acoustic quantizers of the same latents, side by side.

    Défossez et al., "Moshi" (2024), section 3.3.3: the semantic codes are not the
    first step of a residual chain, hence need not serve reconstruction. The semantic
    codebooks come first; with ``n_codebooks`` of just these, decoding is the
    semantic-only path of LM-SPT. Quantized latents and losses add up.

    Arguments
    ---------
    semantic : TrainedQuantizer
        Its codes are where a semantic teacher's loss goes (``embed``).
    acoustic : TrainedQuantizer
        Takes the same frames.

    Raises
    ------
    DsuError
        If the two take frames of different sizes.

    Example
    -------
    >>> from speechbrain_dsu.nnet.quantizers.codebook import Codebook
    >>> from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
    >>> split = Split(Codebook(size=8, dim=4), ResidualVQ(3, size=16, dim=4))
    >>> split.codebook_sizes
    (8, 16, 16, 16)
    """

    def __init__(self, semantic: TrainedQuantizer, acoustic: TrainedQuantizer):
        if semantic.dim != acoustic.dim:
            raise DsuError(
                f"semantic and acoustic quantizers must take the same frames, got "
                f"dim={semantic.dim} and {acoustic.dim}"
            )
        sizes = semantic.codebook_sizes + acoustic.codebook_sizes
        super().__init__(semantic.dim, sizes)
        self.semantic = semantic
        self.acoustic = acoustic
        self.n_semantic = len(semantic.codebook_sizes)

    def _parts(self, keep: int) -> list[tuple[TrainedQuantizer, int]]:
        first = (self.semantic, min(keep, self.n_semantic))
        second = (self.acoustic, keep - self.n_semantic)
        return [first, second] if second[1] > 0 else [first]

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Start both."""
        self.semantic.start(latents, valid)
        self.acoustic.start(latents, valid)

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Semantic codes, then acoustic ones."""
        codes = [q.search(latents, valid, n, exact) for q, n in self._parts(keep)]
        return torch.cat(codes, dim=-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Sum of both."""
        total = self.semantic.lookup(codes[..., : self.n_semantic])
        if codes.shape[-1] > self.n_semantic:
            total = total + self.acoustic.lookup(codes[..., self.n_semantic :])
        return total

    def contributions(self, codes: Tensor) -> Tensor:
        """Vectors of both."""
        parts = [self.semantic.contributions(codes[..., : self.n_semantic])]
        if codes.shape[-1] > self.n_semantic:
            parts.append(self.acoustic.contributions(codes[..., self.n_semantic :]))
        return torch.cat(parts, dim=-2)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """A step of both; dropout leaves the semantic codebooks alone."""
        steps, losses = [], {}
        for quantizer, n in self._parts(keep):
            allow = drop and quantizer is self.acoustic
            steps.append(quantizer.step(latents, valid, n, allow))
            add_losses(losses, steps[-1].losses)
        return Step(
            torch.cat([step.codes for step in steps], dim=-1),
            sum((step.quantized for step in steps[1:]), steps[0].quantized),
            losses,
            [entry for step in steps for entry in step.seen],
        )
