"""Small parts of a training step: weighted losses, clipped gradients."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError


def weigh_losses(
    losses: Mapping[str, Tensor], weights: Mapping[str, float] | None
) -> Tensor:
    """Sum of loss terms times their weights.

    Arguments
    ---------
    losses : mapping
        Scalars by name.
    weights : mapping, optional
        By the same names; None weighs each with one.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    DsuError
        If a term has no weight or a weight no term: nothing is dropped unseen.

    Example
    -------
    >>> terms = {"l1": torch.tensor(2.0), "l2": torch.tensor(1.0)}
    >>> weigh_losses(terms, {"l1": 1.0, "l2": 10.0})
    tensor(12.)
    >>> weigh_losses(terms, {"l1": 1.0, "L2": 10.0})
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: loss_weights: no weight for l2; no term L2...
    """
    if weights is None:
        weights = dict.fromkeys(losses, 1.0)
    faults = [f"no weight for {name}" for name in losses if name not in weights]
    faults += [f"no term {name}" for name in weights if name not in losses]
    if faults:
        raise DsuError(
            f"loss_weights: {'; '.join(faults)}; the terms are {', '.join(losses)}"
        )
    return sum(weights[name] * losses[name] for name in losses)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Scale the gradients of all parameter groups to a joint norm; the norm before.

    SpeechBrain clips the first group only, which leaves the matrices as they are
    where vectors have a group of their own.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, max_norm)


def has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether any parameter of an optimiser has a gradient."""
    groups = optimizer.param_groups
    return any(p.grad is not None for group in groups for p in group["params"])
