"""Loops, and how varied results are."""

from collections.abc import Iterable

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError


class LoopDetector:
    """Says when an item repeats itself: F7 of a generator that would never stop.

    An item loops when its last ``span`` steps repeat with one period of at most
    ``period`` steps. Long silence is a run of one unit, so give ``span`` the length
    of the longest pause that is allowed. Works step by step, in ``period``
    comparisons.

    Arguments
    ---------
    span : int
        Steps, more than twice the period.
    period : int
        Longest loop that is looked for.

    Raises
    ------
    DsuError
        If the span holds no two periods.

    Example
    -------
    >>> detector, ids = LoopDetector(span=6, period=2), [9, 1, 2, 1, 2, 1, 2, 1]
    >>> found = [bool(detector(torch.tensor([[i]]))) for i in ids]
    >>> found.index(True)
    6
    """

    def __init__(self, span: int = 200, period: int = 50):
        if period < 1 or span < 2 * period:
            raise DsuError(f"span={span} must hold two periods of {period} steps")
        self.span, self.period = span, period
        self.reset()

    def reset(self) -> None:
        """Forget everything: before a new batch."""
        self._past: Tensor | None = None
        self._runs: Tensor | None = None

    def __call__(self, step: Tensor) -> Tensor:
        """Which items loop, bool ``[batch]``, after one more step ``[batch, ...]``."""
        step = step.flatten(1)
        if self._past is None:
            self._past = step.new_zeros(len(step), 0, step.shape[1])
            self._runs = step.new_zeros(len(step), self.period, dtype=torch.int64)
        # Nearest first: column p - 1 is the step p before this one.
        same = (self._past == step[:, None]).all(2)
        runs = self._runs[:, : same.shape[1]]
        self._runs[:, : same.shape[1]] = (runs + 1) * same
        self._past = torch.cat([step[:, None], self._past], 1)[:, : self.period]
        periods = torch.arange(1, self.period + 1, device=step.device)
        return (self._runs + periods >= self.span).any(1)

    def select(self, items: Tensor) -> None:
        """Go on with these items."""
        if self._past is not None:
            self._past, self._runs = self._past[items], self._runs[items]


def distinct_ratio(sequences: Iterable[Tensor]) -> float:
    """How many of some sequences are different: 1 all, 1/n all the same.

    Arguments
    ---------
    sequences : iterable of Tensor
        At least one; any shapes.

    Returns
    -------
    float
        Different ones divided by all.

    Raises
    ------
    DsuError
        If there are none.

    Example
    -------
    >>> distinct_ratio([torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([1])])
    0.6666666666666666
    """
    keys = [(tuple(item.shape), tuple(item.flatten().tolist())) for item in sequences]
    if not keys:
        raise DsuError("no sequences to compare")
    return len(set(keys)) / len(keys)


def distinct_ngrams(sequence: Tensor, n: int) -> float:
    """How many runs of ``n`` steps of one sequence ``[steps, ...]`` are different.

    Distinct-n of Li et al. (2016), counted within a sequence; 1 for sequences
    shorter than ``n``.

    Example
    -------
    >>> distinct_ngrams(torch.tensor([1, 2, 1, 2, 1]), 2)
    0.5
    """
    rows = [tuple(row.flatten().tolist()) for row in sequence]
    grams = [tuple(rows[i : i + n]) for i in range(len(rows) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
