"""Clusters that follow a moving teacher: one codebook per layer, by averages."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.codebook_base import Step, TrainedQuantizer
from speechbrain_dsu.utils.errors import DsuError


class OnlineClusters(TrainedQuantizer):
    """Online clustering of several layers, without gradient and without k-means.

    Liu et al., "DinoSR: Self-Distillation and Online Clustering for Self-supervised
    Speech Representation Learning" (2023), equations 3 to 6: every layer has a
    codebook whose vectors are moving averages of the frames nearest to them. The
    codes of a teacher's layers are the student's targets, one prediction head per
    layer. Layers come side by side in a frame, as for ``KMeans`` with groups.

    The losses are empty. Dead vectors are moved to frames of the batch as in
    ``Codebook``; all layers of all ranks share one collective per step.

    Arguments
    ---------
    layers : int
        Number of layers, each a codebook.
    size : int
        Vectors of a codebook.
    dim : int
        Size of one layer's frame; the quantizer takes ``layers * dim``.
    decay : float
        Of the moving averages.
    kmeans_start : bool
        Start from k-means on the first batch; the paper starts at random.
    revive_below : float
        See ``Codebook``; 0 leaves dead vectors dead, as in the paper.

    Raises
    ------
    DsuError
        If a number is out of range.

    Example
    -------
    >>> clusters = OnlineClusters(layers=2, size=4, dim=3)
    >>> clusters(torch.randn(1, 20, 6)).codes.shape
    torch.Size([1, 20, 2])
    """

    def __init__(
        self,
        layers: int,
        size: int,
        dim: int,
        decay: float = 0.9,
        kmeans_start: bool = False,
        revive_below: float = 0.01,
    ):
        if layers < 1:
            raise DsuError(f"layers={layers} must be positive")
        super().__init__(layers * dim, (size,) * layers)
        self.layers = nn.ModuleList(
            Codebook(
                size,
                dim,
                decay=decay,
                commitment=0.0,
                kmeans_start=kmeans_start,
                revive_below=revive_below,
                seed=layer,
            )
            for layer in range(layers)
        )

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Each layer from its own frames."""
        for layer, part in zip(self.layers, self._split(latents), strict=True):
            layer.start(part, valid)

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Nearest vectors of each layer: ``[batch, frames, layers]``."""
        pairs = zip(self.layers[:keep], self._split(latents), strict=False)
        codes = [layer.search(part, valid, 1, exact) for layer, part in pairs]
        return torch.cat(codes, dim=-1)

    def contributions(self, codes: Tensor) -> Tensor:
        """Each layer's vector at its place ``[batch, frames, k, layers * dim]``."""
        width = self.dim // len(self.layers)
        out = codes.new_zeros((*codes.shape, self.dim), dtype=torch.float32)
        for place, layer in enumerate(self.layers[: codes.shape[-1]]):
            part = layer.lookup(codes[..., place : place + 1])
            out[..., place, place * width : (place + 1) * width] = part
        return out

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors side by side; layers without codes are zero."""
        parts = [
            layer.lookup(codes[..., place : place + 1])
            for place, layer in enumerate(self.layers[: codes.shape[-1]])
        ]
        return self._join(parts)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """All layers; a straight-through gradient where someone wants it."""
        pairs = zip(self.layers[:keep], self._split(latents), strict=False)
        steps = [layer.step(part, valid, 1, drop) for layer, part in pairs]
        return Step(
            codes=torch.cat([step.codes for step in steps], dim=-1),
            quantized=self._join([step.quantized for step in steps]),
            seen=[seen for step in steps for seen in step.seen],
        )

    def _split(self, latents: Tensor) -> list[Tensor]:
        parts = latents.chunk(len(self.layers), dim=-1)
        return [part.contiguous() for part in parts]

    def _join(self, parts: list[Tensor]) -> Tensor:
        joined = torch.cat(parts, dim=-1)
        return nn.functional.pad(joined, (0, self.dim - joined.shape[-1]))
