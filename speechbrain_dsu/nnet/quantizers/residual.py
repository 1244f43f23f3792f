"""Residual quantizers: each codebook quantizes what the ones before left over."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Step,
    TrainedQuantizer,
    add_losses,
    mean_square,
)
from speechbrain_dsu.nnet.quantizers.codebook_gradient import residual_through
from speechbrain_dsu.nnet.quantizers.composed import Projected
from speechbrain_dsu.utils.errors import DsuError


class ResidualVQ(TrainedQuantizer):
    """Residual vector quantization (RVQ): a chain of codebooks.

    Zeghidour et al., "SoundStream" (2021), algorithm 1, with its dropout of
    codebooks; Défossez et al., "High Fidelity Neural Audio Compression" (2022). With
    ``codebook_dim`` every codebook searches in a small space of its own between two
    linear layers; with ``update="gradient"`` and ``metric="cosine"`` this is the
    quantizer of DAC (Kumar et al., 2023). Losses are means over the codebooks used.

    Encoding what was decoded may give other codes: the chain is greedy.

    Arguments
    ---------
    n_codebooks : int
        Length of the chain.
    size : int or sequence of int
        Codes of each codebook.
    dim : int
        Size of a frame.
    codebook_dim : int, optional
        Size of the searched space; default: that of the frames, without layers.
    dropout : float
        Share of the items of a training batch that use a random number of
        codebooks (each number equally likely). The later codes of such an item are
        still returned but count in nothing.
    **codebook
        Further settings of ``Codebook``.

    Raises
    ------
    DsuError
        If a setting is out of range.

    Example
    -------
    >>> rvq = ResidualVQ(n_codebooks=4, size=8, dim=3).eval()
    >>> codes = rvq.encode(torch.randn(1, 5, 3), n_codebooks=2)
    >>> codes.shape, rvq.decode(codes).shape
    (torch.Size([1, 5, 2]), torch.Size([1, 5, 3]))
    """

    # Whether `level_input` looks at the sum of the outputs before.
    adds_up = False

    def __init__(
        self,
        n_codebooks: int,
        size: int | Sequence[int],
        dim: int,
        codebook_dim: int | None = None,
        dropout: float = 0.0,
        **codebook: Any,
    ):
        sizes = [size] * n_codebooks if isinstance(size, int) else list(size)
        if n_codebooks < 1 or len(sizes) != n_codebooks:
            raise DsuError(f"{n_codebooks} codebooks asked with sizes {sizes}")
        if not 0 <= dropout <= 1:
            raise DsuError(f"dropout={dropout} must be a share between 0 and 1")
        super().__init__(dim, sizes)
        self.dropout = dropout
        seed = codebook.pop("seed", 0)
        levels = []
        for index, level_size in enumerate(sizes):
            level = Codebook(
                level_size, codebook_dim or dim, seed=seed + index, **codebook
            )
            levels.append(Projected(level, dim) if codebook_dim else level)
        self.levels = nn.ModuleList(levels)
        # Without layers or rotations the gradient of the whole chain is known.
        first = levels[0]
        self._plain = (
            isinstance(first, Codebook)
            and first.estimator == "straight-through"
            and first.metric != "sphere"
        )

    def level_input(
        self, index: int, latents: Tensor, rest: Tensor, total: Tensor | None
    ) -> Tensor:
        """What codebook ``index`` quantizes.

        Arguments
        ---------
        index : int
            Position in the chain.
        latents : Tensor
            Input of the chain.
        rest : Tensor
            Input of the codebook before, less its output.
        total : Tensor or None
            Sum of all outputs before; None before the first. Where ``adds_up`` is
            false, encoding leaves it out.
        """
        return rest

    def level_gradient(self, index: int, gradient: Tensor) -> Tensor:
        """Gradient of the latents, given that of ``level_input``."""
        return gradient

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Start all codebooks one after another, each on what is left for it."""
        rest, total = latents, None
        for index, level in enumerate(self.levels):
            inputs = self.level_input(index, latents, rest, total)
            level.start(inputs, valid)
            chosen = level.lookup(level.search(inputs, valid, 1, exact=False))
            rest = inputs - chosen
            total = chosen if total is None else total + chosen

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Codes of the first ``keep`` codebooks of the chain."""
        codes, rest, total = [], latents, None
        for index, level in enumerate(self.levels[:keep]):
            inputs = self.level_input(index, latents, rest, total)
            codes.append(level.search(inputs, valid, 1, exact))
            if index < keep - 1:
                chosen = level.lookup(codes[-1])
                rest = inputs - chosen
                if self.adds_up:
                    total = chosen if total is None else total.add_(chosen)
        return torch.cat(codes, dim=-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Sum of the chosen vectors, in the order of the chain."""
        total = self.levels[0].lookup(codes[..., :1])
        for index in range(1, codes.shape[-1]):
            total = total + self.levels[index].lookup(codes[..., index : index + 1])
        return total

    def contributions(self, codes: Tensor) -> Tensor:
        """Vectors ``[batch, frames, k, dim]``."""
        parts = [
            self.levels[index].contributions(codes[..., index : index + 1])
            for index in range(codes.shape[-1])
        ]
        return torch.cat(parts, dim=-2)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """Quantize with gradient and losses."""
        depths = self._depths(latents, keep) if drop else None
        masks = [_used(latents, valid, depths, index) for index in range(keep)]
        if self._plain:
            return self._step_plain(latents, valid, masks)
        return self._step_chain(latents, valid, masks)

    def _step_plain(
        self, latents: Tensor, valid: Tensor | None, masks: list[Tensor | None]
    ) -> Step:
        """The chain without a graph; only codebook losses are differentiated."""
        constant = rest = latents.detach()
        codes, losses, seen = [], {}, []
        total, pull = None, torch.zeros_like(constant)
        commitment = constant.new_zeros(())
        for index, mask in enumerate(masks):
            level = self.levels[index]
            inputs = self.level_input(index, constant, rest, total)
            codes.append(level.search(inputs, valid, 1, exact=not self.training))
            chosen = level.lookup(codes[-1])
            own = level.codebook_losses(chosen, inputs, mask)
            add_losses(losses, own, 1 / len(masks))
            chosen = chosen.detach()
            rest = inputs - chosen
            if level.commitment:
                weight = level.commitment / len(masks)
                loss, scale = _weighted_square(rest, mask, weight)
                commitment = commitment + loss
                pull.addcmul_(self.level_gradient(index, rest), scale, value=2)
            seen += level.seen(inputs, codes[-1], mask)
            kept = _masked(chosen, mask, valid)
            total = kept if total is None else total + kept
        quantized, commitment = residual_through(latents, total, [pull], commitment)
        if self.levels[0].commitment:
            losses["commitment"] = commitment
        return Step(torch.cat(codes, dim=-1), quantized, losses, seen)

    def _step_chain(
        self, latents: Tensor, valid: Tensor | None, masks: list[Tensor | None]
    ) -> Step:
        """The chain as autograd sees it, each level with its own way through."""
        rest, total = latents, None
        codes, losses, seen = [], {}, []
        for index, mask in enumerate(masks):
            inputs = self.level_input(index, latents, rest, total)
            step = self.levels[index].step(inputs, mask, 1, False)
            codes.append(step.codes)
            add_losses(losses, step.losses, 1 / len(masks))
            seen += step.seen
            rest = inputs - step.quantized
            kept = _masked(step.quantized, mask, valid)
            total = kept if total is None else total + kept
        return Step(torch.cat(codes, dim=-1), total, losses, seen)

    def _depths(self, latents: Tensor, keep: int) -> Tensor | None:
        """How many codebooks each item uses in this pass; None for all."""
        if not (self.training and self.dropout):
            return None
        items = len(latents)
        depths = torch.randint(1, keep + 1, (items,))
        chosen = torch.rand(items) < self.dropout
        return torch.where(chosen, depths, keep).to(latents.device)


class MaskedChannelVQ(ResidualVQ):
    """Residual quantization whose first codebooks see separate channels.

    Ji et al., "Language-Codec: Reducing the Gaps Between Discrete Codec
    Representation and Speech Language Models" (2024), section 3.2 (masked channel
    residual vector quantization): each of the first codebooks quantizes its own
    slice of the channels, the others set to zero, so that no codebook takes nearly
    everything; the next one quantizes the latents less all their outputs, and so on.

    Arguments
    ---------
    n_codebooks : int
        Length of the chain.
    size : int or sequence of int
        Codes of each codebook.
    dim : int
        Size of a frame, a multiple of ``masked``.
    masked : int
        How many codebooks see a slice of their own.
    **residual
        Further settings of ``ResidualVQ`` and ``Codebook``.

    Raises
    ------
    DsuError
        If the channels can't be divided so.

    Example
    -------
    >>> quantizer = MaskedChannelVQ(n_codebooks=4, size=8, dim=6, masked=3)
    >>> quantizer.level_input(1, torch.ones(1, 1, 6), None, None).tolist()
    [[[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]]
    """

    adds_up = True

    def __init__(
        self,
        n_codebooks: int,
        size: int | Sequence[int],
        dim: int,
        masked: int = 3,
        **residual: Any,
    ):
        if not 1 <= masked <= n_codebooks or dim % masked:
            raise DsuError(
                f"masked={masked} must divide dim={dim} and be at most "
                f"n_codebooks={n_codebooks}"
            )
        super().__init__(n_codebooks, size, dim, **residual)
        slices = torch.eye(masked).repeat_interleave(dim // masked, dim=1)
        self.register_buffer("slices", slices, persistent=False)

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"{super().extra_repr()}, masked={len(self.slices)}"

    def level_input(
        self, index: int, latents: Tensor, rest: Tensor, total: Tensor | None
    ) -> Tensor:
        """A slice of the channels, or the latents less all outputs before."""
        if index < len(self.slices):
            return latents * self.slices[index]
        return latents - total

    def level_gradient(self, index: int, gradient: Tensor) -> Tensor:
        """The slice's part of it for the first codebooks."""
        return gradient * self.slices[index] if index < len(self.slices) else gradient


def _used(
    latents: Tensor, valid: Tensor | None, depths: Tensor | None, index: int
) -> Tensor | None:
    """Mask of the frames that codebook ``index`` counts; None for all."""
    if depths is None:
        return valid
    mask = (depths > index)[:, None].expand(latents.shape[:2])
    return mask if valid is None else mask & valid


def _masked(chosen: Tensor, mask: Tensor | None, valid: Tensor | None) -> Tensor:
    """Zero where dropout switched the codebook off; padding keeps its vectors."""
    if mask is valid:
        return chosen
    used = mask if valid is None else mask | ~valid
    return chosen * used.unsqueeze(-1)


def _weighted_square(
    rest: Tensor, mask: Tensor | None, weight: float
) -> tuple[Tensor, Tensor]:
    """Weighted mean square, and half its derivative per unit of ``rest``."""
    if mask is None:
        flat = rest.reshape(-1)
        scale = rest.new_tensor(weight / max(flat.numel(), 1))
        return torch.dot(flat, flat) * scale, scale
    frames = mask.sum().clamp(min=1) * rest.shape[-1]
    scale = mask.unsqueeze(-1) * (weight / frames)
    return mean_square(rest, mask) * weight, scale
