"""Losses and gradients that are not finite: named, left out, and soon an error."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError

logger = logging.getLogger(__name__)
_SHOWN = 8


class NonFiniteGuard:
    """Lets a step pass only if all its numbers are finite.

    A step that does not pass must not touch the weights. The first ``patience`` of
    them are warnings; one more is an error. Under torch.distributed all ranks decide
    the same: one bad rank is enough.

    Arguments
    ---------
    patience : int
        Steps that may be left out in an epoch.

    Example
    -------
    >>> guard = NonFiniteGuard(patience=0)
    >>> guard.passes({"l1": torch.tensor(1.0)}, ["a"], "loss", step=1)
    True
    >>> guard.passes({"l1": torch.tensor(float("nan"))}, ["a"], "loss", step=2)
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: step 2: loss 'l1' is nan for a: ...
    """

    def __init__(self, patience: int = 3):
        self.patience, self.left_out = patience, 0

    def reset(self) -> None:
        """Begin an epoch."""
        self.left_out = 0

    def passes(
        self, values: Mapping[str, Tensor], ids: Sequence[str], what: str, step: int
    ) -> bool:
        """Whether all values are finite; a collective call.

        Arguments
        ---------
        values : mapping
            Scalars by name.
        ids : sequence of str
            Utterances of the batch.
        what : str
            What the values are, for the message.
        step : int
            For the message.

        Returns
        -------
        bool
            False: leave the step out.

        Raises
        ------
        DsuError
            If the patience is used up.
        """
        stacked = torch.stack([v.detach().float().reshape(()) for v in values.values()])
        here = ~torch.isfinite(stacked)
        bad = here.any().to(torch.int32)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        if not bool(bad):
            return True
        self.left_out += 1
        message = f"step {step}: {_describe(values, here, ids, what)}"
        if self.left_out > self.patience:
            raise DsuError(
                f"{message}: {self.left_out} steps of this epoch were not finite, "
                f"{self.patience} are allowed (nonfinite_patience); lower the learning "
                "rate or look at these recordings"
            )
        logger.warning("%s: the step is left out", message)
        return False


def _describe(
    values: Mapping[str, Tensor], bad: Tensor, ids: Sequence[str], what: str
) -> str:
    names = [
        f"{what} '{name}' is {float(value.detach())}"
        for (name, value), one in zip(values.items(), bad.tolist(), strict=True)
        if one
    ]
    if not names:
        return f"a {what} of another rank"
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"{', '.join(names)} for {', '.join(ids[:_SHOWN])}{more}"


def batch_ids(batch: Any) -> list[str]:
    """Ids of a batch's utterances, for messages; none if it carries none.

    Example
    -------
    >>> batch_ids((torch.zeros(1),))
    ['a batch without ids']
    """
    ids = getattr(batch, "id", None)
    return ["a batch without ids"] if ids is None else [str(item) for item in ids]
