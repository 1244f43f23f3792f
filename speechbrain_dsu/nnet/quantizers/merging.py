"""Many centres merged into fewer units: agglomeration on top of k-means."""

import numpy as np
import torch
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


class MergedClusters(Quantizer):
    """Nearest of many fine centres, then the unit which that centre belongs to.

    The two-step units of S5-HuBERT (Komatsu and Shinozaki, "Self-Supervised Syllable
    Discovery Based on Speaker-Disentangled HuBERT", 2024, section 2.3): k-means with
    many centres, merged by Ward's criterion. A unit may so have any shape. Decoding
    returns that centre of a unit which is nearest to the unit's mean; it has the
    same code again.

    Arguments
    ---------
    size : int
        Number of units.
    fine : int
        Number of centres.
    dim : int
        Size of a frame.

    Raises
    ------
    DsuError
        If the sizes do not fit or codes are asked for before ``fit``.

    Example
    -------
    >>> units = MergedClusters(size=2, fine=3, dim=1)
    >>> units.fit(torch.tensor([[0.0], [1.0], [9.0]]))
    >>> units.encode(torch.tensor([[[0.9], [0.1], [7.0]]])).flatten().tolist()
    [0, 0, 1]
    """

    def __init__(self, size: int, fine: int, dim: int):
        if not 1 <= size <= fine or dim < 1:
            raise DsuError(f"size={size}, fine={fine}, dim={dim}: 1 <= size <= fine")
        super().__init__(dim, (size,))
        self.size = size
        # NaN marks centres that were never set: using them is an error, not noise.
        self.register_buffer("centers", torch.full((fine, dim), torch.nan))
        self.register_buffer("units", torch.zeros(fine, dtype=torch.int64))
        self.register_buffer("medoids", torch.zeros(size, dtype=torch.int64))

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"dim={self.dim}, size={self.size}, fine={len(self.centers)}"

    @property
    def is_fitted(self) -> bool:
        """Whether every centre has been set."""
        return bool(self.centers.isfinite().all())

    def fit(self, centers: Tensor, weights: Tensor | None = None) -> None:
        """Merge fitted centres into units.

        Arguments
        ---------
        centers : Tensor
            ``[fine, dim]``, e.g. of k-means.
        weights : Tensor, optional
            Frames of each centre ``[fine]``, to merge as if the frames themselves
            were merged; default: every centre counts the same.

        Raises
        ------
        DsuError
            If the shape is another or a value is not finite.
        """
        if centers.shape != self.centers.shape or not bool(centers.isfinite().all()):
            raise DsuError(
                f"centres must be finite and {list(self.centers.shape)}, got "
                f"{list(centers.shape)}"
            )
        units = ward_labels(centers, self.size, weights)
        mass = torch.ones(len(centers)) if weights is None else weights.cpu()
        mass = mass.double()[:, None]
        total = torch.zeros(self.size, 1).double().index_add_(0, units, mass)
        sums = torch.zeros(self.size, self.dim).double()
        sums.index_add_(0, units, centers.cpu().double() * mass)
        means = sums / total.clamp(min=1e-12)
        off = (centers.cpu().double() - means[units]).square().sum(1)
        order = off.argsort(descending=True)
        self.centers.copy_(centers)
        self.units.copy_(units)
        # Written from far to near: the last one to stay is the nearest.
        medoids = torch.zeros(self.size, dtype=torch.int64)
        for place in order.tolist():
            medoids[units[place]] = place
        self.medoids.copy_(medoids)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Units of the nearest centres ``[batch, frames, 1]``."""
        self.check_dim(latents)
        self.keep(n_codebooks)
        if self.centers.device.type == "cpu" and not self.centers[0, 0].isfinite():
            raise DsuError("these centres were not fitted or loaded yet")
        ids, _ = nearest_centers(latents.reshape(-1, self.dim), self.centers)
        return self.units[ids].view(*latents.shape[:2], 1)

    def decode(self, codes: Tensor) -> Tensor:
        """The middle centre of each unit ``[batch, frames, dim]``."""
        return self.centers[self.medoids[codes[..., 0]]]

    def embed(self, codes: Tensor) -> Tensor:
        """The middle centres ``[batch, frames, 1, dim]``."""
        return self.centers[self.medoids[codes]]


def ward_labels(centers: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """Merge points into ``size`` clusters by Ward's criterion.

    Each merge is the one that adds least to the summed squared distance from the
    means (Ward, 1963), found along chains of nearest neighbours (Murtagh, 1983):
    memory grows with the number of points, time with its square.

    Arguments
    ---------
    centers : Tensor
        ``[n, dim]``.
    size : int
        Clusters to keep.
    weights : Tensor, optional
        Mass of each point ``[n]``, positive or zero.

    Returns
    -------
    Tensor
        int64 ``[n]`` on the CPU; clusters are numbered by their first point.

    Example
    -------
    >>> ward_labels(torch.tensor([[0.0], [9.0], [1.0], [8.5]]), 2).tolist()
    [0, 1, 0, 1]
    """
    points = centers.detach().cpu().double().numpy().copy()
    mass = np.ones(len(points)) if weights is None else weights.cpu().double().numpy()
    if (mass < 0).any() or len(mass) != len(points):
        raise DsuError("weights must be one number >= 0 per centre")
    merges = sorted(_ward_chain(points, np.maximum(mass, 1e-9)), key=lambda m: m[0])
    parent = list(range(len(points)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for _, one, other in merges[: len(points) - size]:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    roots = torch.tensor([root(place) for place in range(len(points))])
    return torch.unique(roots, return_inverse=True)[1]


def _ward_chain(points: np.ndarray, mass: np.ndarray) -> list[tuple[float, int, int]]:
    """All merges as (height, point, point of the other cluster); uses up points."""
    mass = mass.copy()
    squares = np.einsum("nd,nd->n", points, points)
    active = np.ones(len(points), dtype=bool)
    chain: list[int] = []
    merges = []
    while len(merges) < len(points) - 1:
        if not chain:
            chain.append(int(active.argmax()))
        last = chain[-1]
        gaps = squares + squares[last] - 2 * (points @ points[last])
        heights = np.maximum(gaps, 0) * mass * (mass[last] / (mass + mass[last]))
        heights[~active] = np.inf
        heights[last] = np.inf
        nearest = int(heights.argmin())
        if len(chain) > 1 and heights[chain[-2]] <= heights[nearest]:
            nearest = chain[-2]
        else:
            chain.append(nearest)
            continue
        merges.append((float(heights[nearest]), last, nearest))
        del chain[-2:]
        total = mass[last] + mass[nearest]
        points[last] = (
            mass[last] * points[last] + mass[nearest] * points[nearest]
        ) / total
        squares[last] = points[last] @ points[last]
        mass[last] = total
        active[nearest] = False
    return merges
