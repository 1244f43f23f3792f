"""Learning rates over the steps of a training."""

import math
from collections.abc import Callable
from typing import Any

import torch


def warmup_cosine(
    total_steps: int, warmup_steps: int = 0, floor: float = 0.0
) -> Callable[[torch.optim.Optimizer], Any]:
    """A linear rise, then half a cosine down to a share of the peak.

    Arguments
    ---------
    total_steps : int
        Steps until the floor is reached; it is kept from there on.
    warmup_steps : int
        Steps of the rise.
    floor : float
        Share of the optimiser's own learning rate at the end.

    Returns
    -------
    callable
        Optimiser to scheduler, as ``UnitBrain`` takes it.

    Example
    -------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler, rates = warmup_cosine(4, warmup_steps=2)(optimizer), []
    >>> for _ in range(5):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        span = max(1, total_steps - warmup_steps)
        done = min(1.0, (step - warmup_steps) / span)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, share)
