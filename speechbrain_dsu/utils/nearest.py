"""Nearest centre by squared Euclidean distance: the one place that decides a code.

Clustering, its training and everything that assigns frames to centroids goes
through `nearest_centers`, so that a frame has one id whatever the batch around it.
"""

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError

# Frames are taken in blocks, scores within them in smaller ones, which stay in the
# caches of a CPU where writing them is most of the work (4 MB of float32) and are
# larger where the product is (16 MB); an accelerator wants few and large ones.
_CPU_ROWS = 2048
_CPU_SCORES = 2**20
_CPU_SCORES_WIDE = 2**22
_DEVICE_SCORES = 2**26
_WIDE = 256

# Maxima over this many neighbouring scores come first: they are vectorised, which a
# maximum with its place is not. It is then looked for in one group.
_GROUP = 64

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
        radius = (
            (2 * half_norms.max()).sqrt() * _rounding(frames.device) if exact else None
        )
        search = _Search(centers, half_norms, len(frames))
        for start in range(0, len(frames), search.rows):
            block = frames[start : start + search.rows].detach().float()
            here = slice(start, start + len(block))
            norms = torch.linalg.vector_norm(block, dim=1)
            ids[here], best, second = search(block, runner_up=exact)
            if exact:
                close[here] = best - second <= radius * norms
            distances[here] = norms.square_().sub_(best, alpha=2).clamp_(min=0)
        _settle(frames, centers, close, ids)
    return ids, distances


def _check(frames: Tensor, centers: Tensor) -> None:
    if frames.ndim != 2 or centers.ndim != 2 or frames.shape[1] != centers.shape[1]:
        raise DsuError(
            "nearest_centers takes frames [n, dim] and centers [size, dim] of one "
            f"dim, got {list(frames.shape)} and {list(centers.shape)}"
        )
    if len(centers) == 0:
        raise DsuError("nearest_centers needs at least one centre, got none")


def _rounding(device: torch.device) -> float:
    """How far a product may be off: a CPU has settings of its own."""
    kernels = torch.backends.mkldnn
    if device.type == "cpu" and hasattr(kernels.conv, "fp32_precision"):
        allowed = {kernels.matmul.fp32_precision, kernels.conv.fp32_precision}
        full = allowed <= {"none", "ieee"}
    else:
        full = torch.get_float32_matmul_precision() == "highest"
    return _ROUNDING_FULL if full else _ROUNDING_REDUCED


class _Search:
    """Best and second best scores of blocks of frames, in memory that is reused.

    A score is the product minus half the centre's squared norm: the larger, the
    nearer (the frame's norm drops out).
    """

    def __init__(self, centers: Tensor, half_norms: Tensor, frames: int):
        size, dim = centers.shape
        on_cpu = centers.device.type == "cpu"
        self.width = min(_GROUP, size)
        # Whole groups: filled up with centres that never win.
        missing = -size % self.width
        pad = torch.nn.functional.pad
        self.centers = pad(centers, (0, 0, 0, missing)) if missing else centers
        self.bias = pad(-half_norms, (0, missing), value=-torch.inf)
        self.groups = len(self.centers) // self.width
        scores = _CPU_SCORES if dim < _WIDE else _CPU_SCORES_WIDE
        self.part = max(64, (scores if on_cpu else _DEVICE_SCORES) // size)
        self.part = max(1, min(self.part, frames, _CPU_ROWS if on_cpu else frames))
        self.rows = max(self.part, _CPU_ROWS // self.part * self.part)
        self.convolve = on_cpu and dim >= _WIDE and torch.backends.mkldnn.is_available()
        self.scores = centers.new_empty(self.part, len(self.centers))
        rows = min(self.rows, frames)
        self.tops = centers.new_empty(rows, self.groups)
        self.inside = centers.new_empty(rows, self.width)
        first = torch.arange(self.part, device=centers.device)
        self.first = first * self.groups

    def __call__(
        self, block: Tensor, runner_up: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Index and value of the best of each frame, and the value of the next."""
        tops, inside = self.tops[: len(block)], self.inside[: len(block)]
        best, chosen = block.new_empty(len(block)), self.first.new_empty(len(block))
        for start in range(0, len(block), self.part):
            part = block[start : start + self.part]
            here = slice(start, start + len(part))
            groups = self._score(part).view(-1, self.width)
            torch.amax(groups, 1, out=tops[here].view(-1))
            torch.max(tops[here], 1, out=(best[here], chosen[here]))
            rows = self.first[: len(part)] + chosen[here]
            torch.index_select(groups, 0, rows, out=inside[here])
        place = inside.max(1).indices
        ids = place.add(chosen, alpha=self.width)
        if not runner_up:
            return ids, best, None
        tops.scatter_(1, chosen[:, None], -torch.inf)
        inside.scatter_(1, place[:, None], -torch.inf)
        return ids, best, torch.maximum(tops.amax(1), inside.amax(1))

    def _score(self, part: Tensor) -> Tensor:
        """Scores against all centres.

        On a CPU full parts of wide frames go through a 1x1 convolution, whose oneDNN
        kernel is 5 to 20 % faster than the matrix product of the same sizes. It is
        compiled once per shape, hence not for the ragged last part.
        """
        rows, dim = part.shape
        if not self.convolve or rows < self.part:
            scores = self.scores[:rows]
            return torch.addmm(self.bias, part, self.centers.t(), out=scores)
        image = part.contiguous().view(1, rows, 1, dim).permute(0, 3, 1, 2)
        weight = self.centers.view(*self.centers.shape, 1, 1)
        scores = torch.nn.functional.conv2d(image, weight, self.bias)
        return scores.permute(0, 2, 3, 1).reshape(rows, -1)


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
