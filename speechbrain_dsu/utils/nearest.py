"""Nearest centre by squared Euclidean distance: the one place that decides a code.

Clustering, its training and everything that assigns frames to centroids goes
through `nearest_centers`, so that a frame has one id whatever the batch around it.
"""

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError

# Scores of one block stay near the last-level cache of a CPU (16 MB of float32);
# an accelerator wants fewer, larger products.
_CPU_SCORES = 2**22
_DEVICE_SCORES = 2**26
_CPU_ROWS = 2048

# Two scores closer than this, in units of |frame| * |centre|, may be ordered by the
# rounding of the product alone. float32 sums of a thousand terms stay within a few
# eps (1.2e-7); reduced products (TF32, bfloat16) keep 8 to 11 bits.
_ROUNDING_FULL = 4e-6
_ROUNDING_REDUCED = 2.0**-6
_ROUNDING_DOUBLE = 1e-13


def nearest_centers(
    frames: Tensor,
    centers: Tensor,
    half_norms: Tensor | None = None,
    exact: bool = True,
) -> tuple[Tensor, Tensor]:
    """Index of the nearest centre of every frame, and the squared distance to it.

    The products run in float32 block by block, also under autocast. With `exact`
    the frames whose two best centres differ by less than the rounding of such a
    product are decided again in float64: the ids then do not depend on how many
    frames are passed together, on the device or on the library that multiplies.

    Arguments
    ---------
    frames : torch.Tensor
        Frames [n, dim]; other types than float32 are converted.
    centers : torch.Tensor
        Centres [size, dim].
    half_norms : torch.Tensor | None
        Half the squared norm of every centre [size], if it is at hand.
    exact : bool
        Decide near ties in float64. Training may do without.

    Returns
    -------
    ids : torch.Tensor
        Index of the nearest centre, int64 [n]; the lowest index when two are equal.
    distances : torch.Tensor
        Squared distance to it, float32 [n].

    Raises
    ------
    DsuError
        If the shapes of frames and centres do not fit together.

    Example
    -------
    >>> centers = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    >>> ids, distances = nearest_centers(
    ...     torch.tensor([[1.0, 0.0], [4.0, 2.0]]), centers
    ... )
    >>> ids.tolist(), distances.tolist()
    ([0, 1], [1.0, 4.0])
    """
    _check(frames, centers)
    ids = torch.empty(len(frames), dtype=torch.int64, device=frames.device)
    distances = torch.empty(len(frames), dtype=torch.float32, device=frames.device)
    close = torch.zeros(len(frames), dtype=torch.bool, device=frames.device)
    with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
        centers = centers.detach().to(frames.device, torch.float32).contiguous()
        if half_norms is None:
            half_norms = centers.square().sum(1).mul_(0.5)
        rows = block_rows(len(centers), frames.device)
        radius = (2 * half_norms.max()).sqrt() * _rounding() if exact else None
        for start in range(0, len(frames), rows):
            block = frames[start : start + rows].detach().float()
            norms = torch.linalg.vector_norm(block, dim=1)
            scores = _scores(block, centers, half_norms, full=len(block) == rows)
            best, order = scores.max(dim=1)
            if exact and len(centers) > 1:
                scores.scatter_(1, order[:, None], -torch.inf)
                gap = best - scores.amax(1)
                close[start : start + rows] = gap <= radius * norms
            ids[start : start + rows] = order
            squared = norms.square_().sub_(best, alpha=2).clamp_(min=0)
            distances[start : start + rows] = squared
        _settle(frames, centers, close, ids)
    return ids, distances


def block_rows(size: int, device: torch.device) -> int:
    """Frames per block such that its scores against all centres stay small.

    Arguments
    ---------
    size : int
        Number of centres.
    device : torch.device
        Where the product runs.

    Returns
    -------
    int
        Rows of one block.

    Example
    -------
    >>> block_rows(500, torch.device("cpu"))
    2048
    """
    if device.type == "cpu":
        return max(64, min(_CPU_ROWS, _CPU_SCORES // size))
    return max(256, _DEVICE_SCORES // size)


def _check(frames: Tensor, centers: Tensor) -> None:
    if frames.ndim != 2 or centers.ndim != 2 or frames.shape[1] != centers.shape[1]:
        raise DsuError(
            "nearest_centers takes frames [n, dim] and centers [size, dim] of one "
            f"dim, got {list(frames.shape)} and {list(centers.shape)}"
        )
    if len(centers) == 0:
        raise DsuError("nearest_centers needs at least one centre, got none")


def _rounding() -> float:
    full = torch.get_float32_matmul_precision() == "highest"
    return _ROUNDING_FULL if full else _ROUNDING_REDUCED


def _scores(block: Tensor, centers: Tensor, half_norms: Tensor, full: bool) -> Tensor:
    """Product minus half norm: the larger, the nearer (the frame's norm drops out).

    On a CPU full blocks go through a 1x1 convolution, whose oneDNN kernel is 5 to
    20 % faster than the matrix product of the same sizes. It is compiled once per
    shape, hence not for the ragged last block.
    """
    if full and block.device.type == "cpu" and torch.backends.mkldnn.is_available():
        rows, dim = block.shape
        image = block.contiguous().view(1, rows, 1, dim).permute(0, 3, 1, 2)
        weight = centers.view(*centers.shape, 1, 1)
        scores = torch.nn.functional.conv2d(image, weight, -half_norms)
        return scores.permute(0, 2, 3, 1).reshape(rows, len(centers))
    return torch.addmm(-half_norms, block, centers.t())


def _settle(frames: Tensor, centers: Tensor, close: Tensor, ids: Tensor) -> None:
    """Overwrite the ids where `close`, from products in float64."""
    rows = close.nonzero().squeeze(1)
    if len(rows) == 0:
        return
    precise = centers.double()
    half = precise.square().sum(1).mul_(0.5)
    for part in rows.split(512):
        scores = torch.addmm(-half, frames[part].double(), precise.t())
        # Equal centres may still differ in the last bits: the first of them counts.
        top = scores.amax(1, keepdim=True)
        slack = _ROUNDING_DOUBLE * (top.abs() + half.max())
        ids[part] = (scores >= top - slack).to(torch.uint8).argmax(1)
