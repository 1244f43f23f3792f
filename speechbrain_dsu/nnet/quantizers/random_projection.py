"""Codes of a fixed random projection and a fixed random codebook."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


class RandomProjection(Quantizer):
    """BEST-RQ's quantizer: nothing is learned, neither projection nor codebook.

    Chiu et al., "Self-supervised Learning with Random-projection Quantizer for
    Speech Recognition" (2022), equation 1 and section 3.1: a frame is projected
    (Xavier initialisation) and takes the code whose unit vector is nearest to its
    direction. The codes are targets for masked prediction; no gradient passes.

    Frames should have zero mean and unit variance over the corpus, else most of them
    share a few codes. ``center`` removes the mean over the channels of every frame
    instead (the scale does not matter to a direction).

    Several codebooks look at the same frame, each with a projection of its own.
    Decoding gives the shortest frame that is projected onto the chosen unit vectors;
    where their number of channels is at most ``dim`` it has these codes again.

    Arguments
    ---------
    dim : int
        Size of a frame.
    size : int
        Codes of a codebook.
    code_dim : int
        Size of a code vector.
    codebooks : int
        Number of codebooks.
    center : bool
        Remove the mean over the channels of a frame.
    seed : int
        The tables are drawn from it and from nothing else; they are stored, too.

    Raises
    ------
    DsuError
        If a size is not positive.

    Example
    -------
    >>> targets = RandomProjection(dim=80, size=8192, code_dim=16)
    >>> again = RandomProjection(dim=80, size=8192, code_dim=16)
    >>> frames = torch.randn(1, 5, 80)
    >>> bool((targets.encode(frames) == again.encode(3 * frames)).all())
    True
    """

    def __init__(
        self,
        dim: int,
        size: int = 8192,
        code_dim: int = 16,
        codebooks: int = 1,
        center: bool = False,
        seed: int = 0,
    ):
        if min(dim, size, code_dim, codebooks) < 1:
            raise DsuError(
                f"sizes must be positive, got dim={dim}, size={size}, "
                f"code_dim={code_dim}, codebooks={codebooks}"
            )
        super().__init__(dim, (size,) * codebooks)
        self.center = center
        generator = torch.Generator().manual_seed(seed)
        bound = (6 / (dim + code_dim)) ** 0.5
        uniform = torch.rand(codebooks, dim, code_dim, generator=generator)
        vectors = torch.randn(codebooks, size, code_dim, generator=generator)
        self.register_buffer("projection", (2 * uniform - 1) * bound)
        self.register_buffer("vectors", F.normalize(vectors, dim=-1))

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"dim={self.dim}, sizes={self.codebook_sizes}, center={self.center}"

    def set_tables(self, projection: Tensor, vectors: Tensor) -> None:
        """Take over tables, e.g. of another implementation.

        Arguments
        ---------
        projection : Tensor
            ``[codebooks, dim, code_dim]``.
        vectors : Tensor
            ``[codebooks, size, code_dim]``; scaled to length one.

        Raises
        ------
        DsuError
            If a shape is another.
        """
        for name, table in (("projection", projection), ("vectors", vectors)):
            own = getattr(self, name)
            if table.shape != own.shape:
                raise DsuError(f"{name} {list(table.shape)}, wanted {list(own.shape)}")
        self.projection.copy_(projection)
        self.vectors.copy_(F.normalize(vectors, dim=-1))

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Nearest directions ``[batch, frames, codebooks]``."""
        self.check_dim(latents)
        keep = self.keep(n_codebooks)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            # float64: the rounding of a float32 product depends on the batch.
            matrix = self._matrix(keep)
            projected = latents.double().flatten(0, 1) @ matrix.flatten(1)
            parts = F.normalize(projected.unflatten(1, (keep, -1)), dim=-1).float()
            codes = [
                nearest_centers(part.contiguous(), self.vectors[book])[0]
                for book, part in enumerate(parts.unbind(1))
            ]
        return torch.stack(codes, dim=1).view(*latents.shape[:2], keep)

    def decode(self, codes: Tensor) -> Tensor:
        """The shortest frames projected onto the codes: ``[batch, frames, dim]``."""
        with torch.autocast(codes.device.type, enabled=False):
            matrix = self._matrix(codes.shape[2]).flatten(1)
            inverse = torch.linalg.pinv(matrix)
            return (self.embed(codes).flatten(2).double() @ inverse).float()

    def embed(self, codes: Tensor) -> Tensor:
        """Unit vectors ``[batch, frames, k, code_dim]``."""
        return self.vectors[torch.arange(codes.shape[2], device=codes.device), codes]

    def _matrix(self, keep: int) -> Tensor:
        """Projections in float64, without the mean: ``[dim, keep, code_dim]``."""
        matrix = self.projection[:keep].double().transpose(0, 1)
        return matrix - matrix.mean(0) if self.center else matrix
