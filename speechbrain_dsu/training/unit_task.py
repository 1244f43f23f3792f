"""Training models over units: one Brain for every task, and what its recipes share."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import speechbrain as sb
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn

from speechbrain_dsu.dataio.unit_data import UnitDataset, batch_columns
from speechbrain_dsu.training.brain import UnitBrain


class Judge(Protocol):
    """What looks at a model's outputs in validation and test.

    It lets the model write and compares: error rates, the share of distinct outputs.
    """

    def reset(self) -> None:
        """Forget everything, before a stage."""

    def add(self, model: nn.Module, columns: Mapping[str, Any], ids: list[str]) -> None:
        """Judge a batch."""

    def summary(self) -> dict[str, float]:
        """Numbers of the stage by name."""


class UnitTaskBrain(UnitBrain):
    """Trains ``modules["model"]``, which takes the columns of a batch by name.

    ``model(**columns)`` gives scalars by name; ``loss`` is what training lowers, the
    others are logged. Columns of several lengths come with ``<name>_lens``, see
    ``dataio.unit_data``.

    Arguments
    ---------
    *args, **brain
        As for ``UnitBrain``.
    judge : Judge, optional
        Looks at outputs in validation and test; its numbers go to the log.

    Example
    -------
    >>> import torch
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.guess = nn.Parameter(torch.zeros(()))
    ...
    ...     def forward(self, x, x_lens):
    ...         return {"loss": (x - self.guess).square().mean()}
    >>> values = {"a": torch.ones(3), "b": torch.ones(2)}
    >>> data = UnitDataset(values, {"x": values.get}, lambda name: len(values[name]))
    >>> brain = UnitTaskBrain(
    ...     {"model": Model()},
    ...     lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    ...     run_opts={"device": "cpu"},
    ... )
    >>> brain.fit(5, data, train_loader_kwargs=data.loading(6))
    >>> brain.stats["train"]["loss"] < 1
    True
    """

    def __init__(self, *args: Any, judge: Judge | None = None, **brain: Any):
        super().__init__(*args, **brain)
        self.judge = judge

    def compute_forward(self, batch: Any, stage: sb.Stage) -> SimpleNamespace:
        """Losses of a batch; outside training the judge looks at it, too."""
        batch = batch.to(self.device)
        columns = batch_columns(batch)
        found = self.modules.model(**columns)
        if stage != sb.Stage.TRAIN and self.judge is not None:
            self.judge.add(self.modules.model, columns, batch.id)
        stats = {k: v.detach() for k, v in found.items() if k != "loss"}
        return SimpleNamespace(losses={"loss": found["loss"]}, stats=stats)

    def compute_objectives(self, outputs: Any, batch: Any, stage: sb.Stage) -> Any:
        """The loss; everything is noted for the log."""
        loss = outputs.losses["loss"]
        self.log.note(outputs, loss)
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Begin the stage's means and judgement."""
        super().on_stage_start(stage, epoch)
        if stage != sb.Stage.TRAIN and self.judge is not None:
            self.judge.reset()

    def on_stage_end(
        self, stage: sb.Stage, stage_loss: float, epoch: int | None = None
    ) -> None:
        """Take the stage's means and the judge's numbers."""
        if stage != sb.Stage.TRAIN and self.judge is not None:
            self.log.add(self.judge.summary())
        super().on_stage_end(stage, stage_loss, epoch)


def train_task(
    hparams: Mapping[str, Any],
    model: nn.Module,
    train: UnitDataset,
    valid: UnitDataset | None = None,
    judge: Judge | None = None,
    brain_class: type[UnitTaskBrain] = UnitTaskBrain,
) -> UnitTaskBrain | None:
    """Train a task's model as its recipe says.

    Arguments
    ---------
    hparams : mapping
        ``output_folder``, ``seed``, ``run_opts``, ``steps`` (of the optimiser, in all),
        ``batch_frames`` (padded cost of a batch), ``max_minutes``; ``training``:
        arguments of the Brain.
    model : nn.Module
        See ``UnitTaskBrain``.
    train, valid : UnitDataset
        The data.
    judge : Judge, optional
        For validation.
    brain_class : type
        Another procedure.

    Returns
    -------
    UnitTaskBrain or None
        With the trained (averaged) weights in place and the model in evaluation mode;
        None when ``max_minutes`` ended it.
    """
    seed, budget = hparams["seed"], hparams["batch_frames"]
    brain = brain_class(
        {"model": model},
        run_opts=hparams["run_opts"],
        checkpointer=Checkpointer(Path(hparams["output_folder"]) / "save"),
        max_minutes=hparams["max_minutes"],
        judge=judge,
        **hparams["training"],
    )
    brain.optimizer_step_limit = hparams["steps"]
    brain.fit(
        hparams.get("epochs", 10**6),
        train,
        valid,
        train_loader_kwargs=train.loading(budget, seed),
        valid_loader_kwargs={} if valid is None else valid.loading(budget, seed, False),
    )
    if brain.stopped:
        return None
    if brain.ema is not None:
        brain.ema.swap()
    model.eval()
    return brain
