"""Means of an epoch's losses and the health of its codebooks, in one log line."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch import Tensor

from speechbrain_dsu.evaluation.health import CodebookMonitor

logger = logging.getLogger(__name__)


@register_checkpoint_hooks
class EpochLog:
    """Collects what the steps of an epoch report; survives a stop within it.

    Arguments
    ---------
    loggers : sequence
        SpeechBrain's train loggers, which get the same numbers as the line.

    Example
    -------
    >>> log = EpochLog()
    >>> log.add({"loss": 2.0})
    >>> log.add({"loss": 4.0, "accuracy": 0.5})
    >>> log.finish()
    ({'loss': 3.0, 'accuracy': 0.5}, None)
    """

    def __init__(self, loggers: Sequence[Any] = ()):
        self.loggers = list(loggers)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sums: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        self._usage: list[Tensor] = []
        self._seen: tuple[dict, dict] = ({}, {})

    def add(self, values: Mapping[str, float]) -> None:
        """Note one step's numbers; those that are not finite are left out."""
        for name, value in values.items():
            if abs(value) < float("inf"):
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._steps[name] = self._steps.get(name, 0) + 1

    def note(self, outputs: Any, loss: Tensor) -> None:
        """Note a batch: its loss, loss terms, statistics and codebook usage.

        Arguments
        ---------
        outputs : object
            With ``losses`` and optionally ``stats`` (scalars by name) and ``usage``
            (counts ``[size]`` of each codebook).
        loss : Tensor
            The weighted sum.
        """
        stats = getattr(outputs, "stats", None) or {}
        found = {"loss": loss, **outputs.losses, **stats}
        flat = [torch.as_tensor(v, device=loss.device).detach() for v in found.values()]
        # One transfer from the device for all of them.
        numbers = torch.stack([v.float().reshape(()) for v in flat]).tolist()
        self.add(dict(zip(found, numbers, strict=True)))
        for place, counts in enumerate(getattr(outputs, "usage", None) or ()):
            counts = counts.detach().cpu()
            if place == len(self._usage):
                self._usage.append(torch.zeros_like(counts))
            self._usage[place] = self._usage[place] + counts

    def recent(self) -> dict[str, float]:
        """Means by name over what came since the last call, or the beginning."""
        sums, steps = self._seen
        self._seen = dict(self._sums), dict(self._steps)
        return {
            name: (total - sums.get(name, 0.0))
            / (self._steps[name] - steps.get(name, 0))
            for name, total in self._sums.items()
            if self._steps[name] > steps.get(name, 0)
        }

    def finish(self) -> tuple[dict[str, float], str | None]:
        """Means by name, and the codebooks' line if there are any; then forget.

        Under torch.distributed the codebooks are those of all ranks: every rank has
        to call it.
        """
        means = {name: total / self._steps[name] for name, total in self._sums.items()}
        health = None
        if self._usage:
            monitor = CodebookMonitor([len(counts) for counts in self._usage])
            monitor.count(self._usage)
            monitor.synchronise()
            health = monitor.line()
        self.reset()
        return means, health

    def write(
        self,
        meta: Mapping[str, Any],
        health: str | None = None,
        **stats: Mapping[str, float] | None,
    ) -> None:
        """One line to the log; those of an epoch also to SpeechBrain's loggers.

        Arguments
        ---------
        meta : mapping
            What stands in front (epoch, steps, learning rate).
        health : str, optional
            The codebooks' line.
        **stats
            Means by name for ``train``, ``valid`` and ``test`` (or ``recent``, which is
            for the line alone).
        """
        groups = {"": meta, **{f"{name}: ": values for name, values in stats.items()}}
        parts = [
            head + ", ".join(f"{name} {_short(v)}" for name, v in values.items())
            for head, values in groups.items()
            if values
        ]
        logger.info(" | ".join(parts if health is None else [*parts, health]))
        if "recent" in stats:
            return
        found = {f"{name}_stats": values for name, values in stats.items()}
        for train_logger in self.loggers:
            train_logger.log_stats(dict(meta), **found)

    @mark_as_saver
    def save(self, path: Path) -> None:
        """Write sums and counts."""
        torch.save([self._sums, self._steps, self._usage], path)

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool) -> None:
        """Read them; a new epoch starts from none."""
        self.reset()
        if not end_of_epoch:
            found = torch.load(path, weights_only=True)
            self._sums, self._steps, self._usage = found


def tensorboard_loggers(folder: str | Path) -> list[Any]:
    """SpeechBrain's TensorBoard logger, or none where TensorBoard is not installed.

    Arguments
    ---------
    folder : str or Path
        For the event files.

    Returns
    -------
    list
        For ``loggers``.
    """
    from speechbrain.utils.train_logger import TensorboardLogger

    try:
        return [TensorboardLogger(str(folder))]
    except ImportError:
        logger.warning("no TensorBoard log: pip install tensorboard to have one")
        return []


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
