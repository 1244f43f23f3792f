"""Quantizers whose codebooks are cluster centres, fitted rather than trained."""

import torch
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


class KMeans(Quantizer):
    """Nearest of a set of centres, by squared Euclidean distance.

    The centres are a buffer: they move with ``.to()``, are saved in the state dict
    and need no scikit-learn. Several groups quantize consecutive slices of a frame,
    each with centres of its own: with the layers of an SSL model side by side this
    is the multi-layer tokenizer of Mousavi et al., "How Should We Extract Discrete
    Audio Tokens from Self-Supervised Models?" (2024).

    Arguments
    ---------
    size : int
        Centres per group.
    dim : int
        Size of a slice.
    groups : int
        Number of slices; the quantizer takes frames of ``groups * dim``.

    Raises
    ------
    DsuError
        If a size is not positive.

    Example
    -------
    >>> kmeans = KMeans(size=2, dim=1)
    >>> kmeans.set_centers(torch.tensor([[[0.0], [10.0]]]))
    >>> kmeans.encode(torch.tensor([[[1.0], [9.0]]])).tolist()
    [[[0], [1]]]
    """

    def __init__(self, size: int, dim: int, groups: int = 1):
        if min(size, dim, groups) < 1:
            raise DsuError(
                f"k-means sizes must be positive, got size={size}, dim={dim}, "
                f"groups={groups}"
            )
        super().__init__(groups * dim, (size,) * groups)
        # NaN marks centres that were never set: using them is an error, not noise.
        self.register_buffer("centers", torch.full((groups, size, dim), torch.nan))

    @property
    def is_fitted(self) -> bool:
        """Whether every centre has been set."""
        return bool(self.centers.isfinite().all())

    def set_centers(self, centers: Tensor) -> None:
        """Take over fitted centres.

        Arguments
        ---------
        centers : Tensor
            ``[groups, size, dim]``.

        Raises
        ------
        DsuError
            If the shape is another or a value is not finite.
        """
        if centers.shape != self.centers.shape:
            raise DsuError(
                f"centres {list(centers.shape)} don't fit "
                f"[groups, size, dim] = {list(self.centers.shape)}"
            )
        if not bool(centers.isfinite().all()):
            raise DsuError("centres must be finite numbers")
        self.centers.copy_(centers)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Index of the nearest centre of each slice: ``[batch, frames, groups]``."""
        self.check_dim(latents)
        # Reading one number is cheap on a CPU; on a GPU it would stall every call.
        if self.centers.device.type == "cpu" and not self.centers[0, 0, 0].isfinite():
            raise DsuError("these k-means centres were not fitted or loaded yet")
        keep = self.keep(n_codebooks)
        batch, frames, _ = latents.shape
        slices = latents.reshape(batch * frames, *self.centers.shape[::2])
        codes = [
            nearest_centers(slices[:, group].contiguous(), self.centers[group])[0]
            for group in range(keep)
        ]
        return torch.stack(codes, dim=1).view(batch, frames, keep)

    def decode(self, codes: Tensor) -> Tensor:
        """The chosen centres side by side; groups without codes are zero."""
        chosen = self.embed(codes).flatten(2)
        return torch.nn.functional.pad(chosen, (0, self.dim - chosen.shape[2]))

    def embed(self, codes: Tensor) -> Tensor:
        """The chosen centres ``[batch, frames, k, dim of a slice]``."""
        groups = torch.arange(codes.shape[-1], device=codes.device)
        return self.centers[groups, codes]
