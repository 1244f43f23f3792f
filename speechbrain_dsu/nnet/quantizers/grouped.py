"""Quantizers side by side, each on its own channels."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Step,
    TrainedQuantizer,
    add_losses,
)
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.utils.errors import DsuError


class Product(TrainedQuantizer):
    """A product of quantizers: consecutive channels of a frame, codes side by side.

    Jégou et al., "Product Quantization for Nearest Neighbor Search" (2011), with any
    quantizer in the parts. The codebooks come level by level: the first of each
    part, then the second of each, so that the first codebooks serve all channels.
    Parts without a codebook left decode to zeros.

    Arguments
    ---------
    quantizers : sequence of TrainedQuantizer
        The parts, in the order of their channels.

    Raises
    ------
    DsuError
        If there is no part.

    Example
    -------
    >>> product = Product([ResidualVQ(2, size=8, dim=3), Codebook(size=4, dim=5)])
    >>> product.dim, product.codebook_sizes
    (8, (8, 4, 8))
    """

    def __init__(self, quantizers: Sequence[TrainedQuantizer]):
        if not quantizers:
            raise DsuError("a product needs at least one quantizer")
        order = sorted(
            (level, part)
            for part, quantizer in enumerate(quantizers)
            for level in range(len(quantizer.codebook_sizes))
        )
        sizes = [quantizers[part].codebook_sizes[level] for level, part in order]
        super().__init__(sum(quantizer.dim for quantizer in quantizers), sizes)
        self.parts = nn.ModuleList(quantizers)
        self._owners = [part for _, part in order]
        self._widths = [quantizer.dim for quantizer in quantizers]

    def columns(self, part: int, keep: int | None = None) -> list[int]:
        """Which codebooks of the product belong to a part.

        Arguments
        ---------
        part : int
            Number of the part.
        keep : int, optional
            Look at the first ``keep`` codebooks only.
        """
        owners = self._owners[:keep]
        return [column for column, owner in enumerate(owners) if owner == part]

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Start every part on its channels."""
        slices = latents.split(self._widths, dim=-1)
        for part, inputs in zip(self.parts, slices, strict=True):
            part.start(inputs, valid)

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Codes of all parts, level by level."""
        codes = []
        slices = latents.split(self._widths, dim=-1)
        for index, (part, inputs) in enumerate(zip(self.parts, slices, strict=True)):
            columns = self.columns(index, keep)
            if columns:
                codes.append(part.search(inputs, valid, len(columns), exact))
        return self._interleave(codes, keep)

    def lookup(self, codes: Tensor) -> Tensor:
        """Decoded channels side by side."""
        outputs = []
        for index, part in enumerate(self.parts):
            columns = self.columns(index, codes.shape[-1])
            outputs.append(
                part.lookup(codes[..., columns])
                if columns
                else self._nothing(codes, index)
            )
        return torch.cat(outputs, dim=-1)

    def contributions(self, codes: Tensor) -> Tensor:
        """Vectors of the whole frame, zero outside the channels of their part."""
        keep, first, vectors = codes.shape[-1], 0, []
        for index, part in enumerate(self.parts):
            columns = self.columns(index, keep)
            if columns:
                inner = part.contributions(codes[..., columns])
                last = self.dim - first - part.dim
                vectors.append(F.pad(inner, (first, last)))
            first += part.dim
        # Columns are the last axis for the interleaving.
        rows = [inner.transpose(-1, -2) for inner in vectors]
        return self._interleave(rows, keep).transpose(-1, -2)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """A step of every part; losses are means over the parts."""
        codes, outputs, losses, seen = [], [], {}, []
        slices = latents.split(self._widths, dim=-1)
        for index, (part, inputs) in enumerate(zip(self.parts, slices, strict=True)):
            columns = self.columns(index, keep)
            if not columns:
                outputs.append(self._nothing(latents, index))
                continue
            step = part.step(inputs, valid, len(columns), drop)
            codes.append(step.codes)
            outputs.append(step.quantized)
            add_losses(losses, step.losses, 1 / len(self.parts))
            seen += step.seen
        codes = self._interleave(codes, keep)
        return Step(codes, torch.cat(outputs, dim=-1), losses, seen)

    def _interleave(self, parts: list[Tensor], keep: int) -> Tensor:
        """From part by part to level by level, along the last axis."""
        columns = [
            column
            for index in range(len(self.parts))
            for column in self.columns(index, keep)
        ]
        order = sorted(range(keep), key=columns.__getitem__)
        return torch.cat(parts, dim=-1)[..., order]

    def _nothing(self, like: Tensor, part: int) -> Tensor:
        shape = (*like.shape[:2], self._widths[part])
        return torch.zeros(shape, device=like.device)


class GroupedVQ(Product):
    """Equal groups of channels, a codebook for each.

    Arguments
    ---------
    groups : int
        Number of groups, which is that of the codebooks.
    size : int
        Codes of each.
    dim : int
        Size of a whole frame, a multiple of ``groups``.
    **codebook
        Further settings of ``Codebook``.

    Raises
    ------
    DsuError
        If the channels can't be divided so.

    Example
    -------
    >>> grouped = GroupedVQ(groups=2, size=16, dim=8)
    >>> grouped.encode(torch.randn(1, 3, 8)).shape
    torch.Size([1, 3, 2])
    """

    def __init__(self, groups: int, size: int, dim: int, **codebook: Any):
        width, seed = _width(dim, groups), codebook.pop("seed", 0)
        super().__init__(
            [
                Codebook(size, width, seed=seed + 1000 * group, **codebook)
                for group in range(groups)
            ]
        )


class GroupedResidualVQ(Product):
    """Equal groups of channels, a residual chain for each.

    Yang et al., "HiFi-Codec: Group-residual Vector Quantization for High Fidelity
    Audio Codec" (2023), section 3.2.

    Arguments
    ---------
    groups : int
        Number of groups.
    n_codebooks : int
        Codebooks of each group.
    size : int
        Codes of each codebook.
    dim : int
        Size of a whole frame, a multiple of ``groups``.
    **residual
        Further settings of ``ResidualVQ`` and ``Codebook``.

    Raises
    ------
    DsuError
        If the channels can't be divided so.

    Example
    -------
    >>> quantizer = GroupedResidualVQ(groups=2, n_codebooks=3, size=16, dim=8)
    >>> quantizer.encode(torch.randn(1, 3, 8), n_codebooks=2).shape
    torch.Size([1, 3, 2])
    """

    def __init__(
        self, groups: int, n_codebooks: int, size: int, dim: int, **residual: Any
    ):
        width, seed = _width(dim, groups), residual.pop("seed", 0)
        super().__init__(
            [
                ResidualVQ(
                    n_codebooks, size, width, seed=seed + 1000 * group, **residual
                )
                for group in range(groups)
            ]
        )


def _width(dim: int, groups: int) -> int:
    if groups < 1 or dim % groups:
        raise DsuError(f"dim={dim} can't be divided into {groups} equal groups")
    return dim // groups
