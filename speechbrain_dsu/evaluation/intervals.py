"""How sure a mean is: bootstrap intervals."""

from collections.abc import Sequence

import torch


def bootstrap_interval(
    values: Sequence[float],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean (Efron, 1979).

    Items are drawn with replacement, which holds for items that are independent:
    utterances, not frames. With many files of one speaker it speaks of that speaker.

    Arguments
    ---------
    values : sequence of float
        One per item.
    level : float
        Between 0 and 1.
    resamples : int
        How many.
    seed : int
        Same seed, same interval.

    Returns
    -------
    (float, float) or None
        None below two items.

    Example
    -------
    >>> low, high = bootstrap_interval([0.0, 1.0] * 50)
    >>> round(low, 1), round(high, 1)
    (0.4, 0.6)
    """
    if len(values) < 2:
        return None
    data = torch.tensor(list(values), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    draws = (
        torch.randint(len(data), (len(data),), generator=generator)
        for _ in range(resamples)
    )
    means = torch.stack([data[drawn].mean() for drawn in draws])
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(ends).tolist()
    return low, high
