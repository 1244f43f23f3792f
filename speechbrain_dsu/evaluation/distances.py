"""Distances between sequences, many pairs at a time: edits and time warping.

A dynamic programme runs along one axis; here that axis is the only Python loop, and
each of its steps covers all pairs and the whole other axis.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError


class Warped(NamedTuple):
    """The best warping path of each pair.

    Arguments
    ---------
    cost : Tensor
        Sum of the costs along the path, float ``[pairs]``.
    steps : Tensor
        Cells on the path, int64 ``[pairs]``.
    """

    cost: Tensor
    steps: Tensor

    @property
    def mean(self) -> Tensor:
        """Cost per cell of the path ``[pairs]``: the distance that ABX tests use."""
        return self.cost / self.steps.clamp(min=1)


def edit_distances(
    first: Tensor, first_counts: Tensor, second: Tensor, second_counts: Tensor
) -> Tensor:
    """Levenshtein distances: fewest insertions, deletions and substitutions.

    Row by row; what depends on the cell to the left is a running minimum.

    Arguments
    ---------
    first, second : Tensor
        Integers ``[pairs, n]`` and ``[pairs, m]``.
    first_counts, second_counts : Tensor
        int64 ``[pairs]``: lengths; what lies behind them is not read.

    Returns
    -------
    Tensor
        int64 ``[pairs]``.

    Raises
    ------
    DsuError
        If the shapes disagree.

    Example
    -------
    >>> one, two = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 3, 0]])
    >>> edit_distances(one, torch.tensor([3]), two, torch.tensor([2]))
    tensor([1])
    """
    _check(first, first_counts, second, second_counts)
    pairs, size = second.shape
    column = torch.arange(size + 1, device=second.device)
    row = column.expand(pairs, -1)
    found = row.gather(1, second_counts.unsqueeze(1)).squeeze(1)
    for i in range(first.shape[1]):
        swap = row[:, :-1] + (first[:, i : i + 1] != second)
        best = torch.minimum(row[:, 1:] + 1, swap)
        edge = row[:, :1] + 1
        # An insertion adds one per column: take it off, run the minimum, put it back.
        row = (torch.cat([edge, best], 1) - column).cummin(1).values + column
        now = row.gather(1, second_counts.unsqueeze(1)).squeeze(1)
        found = torch.where(first_counts == i + 1, now, found)
    return found


def warp(costs: Tensor, first_counts: Tensor, second_counts: Tensor) -> Warped:
    """Dynamic time warping with steps down, right and diagonal.

    The path runs from the first cell to ``(n - 1, m - 1)`` and counts every cell
    once. Of equal ways the diagonal is taken, then right, then down, so that the
    number of steps is defined.

    Arguments
    ---------
    costs : Tensor
        Floating point ``[pairs, n, m]``: cost of laying frame i beside frame j.
    first_counts, second_counts : Tensor
        int64 ``[pairs]``, at least 1.

    Returns
    -------
    Warped
        Cost and steps of each pair.

    Raises
    ------
    DsuError
        If the shapes disagree or a length is below 1 or beyond the costs.

    Example
    -------
    >>> costs = torch.tensor([[[0.0, 1.0, 1.0], [1.0, 0.0, 0.5]]])
    >>> warp(costs, torch.tensor([2]), torch.tensor([3])).mean
    tensor([0.1667])
    """
    _check_costs(costs, first_counts, second_counts)
    pairs, rows, columns = costs.shape
    place = torch.arange(rows, device=costs.device)
    wall = costs.new_full((pairs, rows), torch.inf)
    none = torch.zeros(pairs, rows, dtype=torch.int64, device=costs.device)
    # One and two diagonals back, indexed by row; before the first cell lies a free
    # one, which only row 0 of diagonal 0 sees.
    before, before_steps = wall, none
    last, last_steps = wall, none
    cost, steps = wall[:, 0], none[:, 0]
    for d in range(rows + columns - 1):
        j = (d - place).clamp(0, columns - 1)
        here = costs[:, place, j]
        here = here.masked_fill((place > d) | (d - place >= columns), torch.inf)
        down, diagonal = _shift(last, torch.inf), _shift(before, torch.inf)
        ways = torch.stack([diagonal, last, down])
        walked = torch.stack([_shift(before_steps, 0), last_steps, _shift(last_steps)])
        # On ties the first: diagonal, right, down.
        chosen = _first_minimum(ways)
        best = ways.gather(0, chosen).squeeze(0)
        count = walked.gather(0, chosen).squeeze(0) + 1
        if d == 0:
            best = torch.where(place == 0, torch.zeros_like(best), best)
        before, before_steps = last, last_steps
        last, last_steps = best + here, count
        ends = first_counts + second_counts - 2 == d
        row = (first_counts - 1).unsqueeze(1)
        cost = torch.where(ends, last.gather(1, row).squeeze(1), cost)
        steps = torch.where(ends, last_steps.gather(1, row).squeeze(1), steps)
    return Warped(cost, steps)


def frame_costs(first: Tensor, second: Tensor, distance: str = "angular") -> Tensor:
    """Distance of every frame of one sequence to every frame of the other.

    Arguments
    ---------
    first, second : Tensor
        ``[pairs, n, dim]`` and ``[pairs, m, dim]``: vectors, or ids for
        ``identity``.
    distance : str
        ``angular``: angle over pi, between 0 and 1; ``cosine``: one minus the
        cosine; ``identity``: share of the last axis that differs.

    Returns
    -------
    Tensor
        Floating point ``[pairs, n, m]``.

    Raises
    ------
    DsuError
        If the distance is unknown.

    Example
    -------
    >>> right = frame_costs(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]]))
    >>> round(right.item(), 6)
    0.5
    """
    if distance == "identity":
        # Counts what differs; ids below 2^24 are exact in float32.
        return torch.cdist(first.float(), second.float(), p=0) / first.shape[-1]
    if distance not in ("angular", "cosine"):
        raise DsuError(f"distance={distance!r}: take angular, cosine or identity")
    first = torch.nn.functional.normalize(first.float(), dim=-1)
    second = torch.nn.functional.normalize(second.float(), dim=-1)
    # From the chord, term by term: equal vectors are exactly 0 apart, so that ties
    # of units stay ties. The arc cosine of a product would be off by 1e-4.
    chord = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    if distance == "cosine":
        return chord.square() / 2
    return (chord / 2).clamp(max=1).asin() * (2 / torch.pi)


def _shift(values: Tensor, fill: float = 0) -> Tensor:
    """The row above: index i holds what i - 1 held."""
    return torch.nn.functional.pad(values[:, :-1], (1, 0), value=fill)


def _first_minimum(ways: Tensor) -> Tensor:
    # By hand: argmin does not promise which of equal ones it takes.
    diagonal, right, down = ways
    is_diagonal = (diagonal <= right) & (diagonal <= down)
    other = torch.where(right <= down, 1, 2)
    return torch.where(is_diagonal, 0, other).unsqueeze(0)


def _check(first: Tensor, n: Tensor, second: Tensor, m: Tensor) -> None:
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise DsuError(
            "sequences must be [pairs, n] and [pairs, m], got "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    if n.shape != first.shape[:1] or m.shape != first.shape[:1]:
        raise DsuError(
            f"{len(first)} pairs with lengths {list(n.shape)} and {list(m.shape)}"
        )


def _check_costs(costs: Tensor, n: Tensor, m: Tensor) -> None:
    if costs.ndim != 3 or n.shape != costs.shape[:1] or m.shape != costs.shape[:1]:
        raise DsuError(
            "warp takes costs [pairs, n, m] and two lengths [pairs], got "
            f"{list(costs.shape)}, {list(n.shape)} and {list(m.shape)}"
        )
    for counts, size in ((n, costs.shape[1]), (m, costs.shape[2])):
        if len(counts) and not 1 <= int(counts.min()) <= int(counts.max()) <= size:
            raise DsuError(f"lengths must be 1 to {size} frames, got {counts.tolist()}")
