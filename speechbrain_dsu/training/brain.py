"""What every training here shares, on top of SpeechBrain's ``Brain``."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch import Tensor, nn

from speechbrain_dsu.training.averaging import WeightAverage
from speechbrain_dsu.training.checkpoints import RandomState
from speechbrain_dsu.training.epoch_log import EpochLog
from speechbrain_dsu.training.guard import NonFiniteGuard, batch_ids
from speechbrain_dsu.training.steps import clip_gradients, has_gradients, weigh_losses

logger = logging.getLogger(__name__)


class UnitBrain(sb.Brain):
    """SpeechBrain's training loop, made resumable bit for bit and hard to break.

    - A run that is stopped (between or within epochs) and started again gives, on a
      CPU, the very weights of a run that was not: everything that decides the next
      step is in the checkpoint, modules included, whether or not they were named.
    - Gradients are clipped by their norm over *all* parameter groups.
    - A loss or gradient that is not finite never reaches the weights; loss term and
      utterances are named (``nonfinite_patience`` steps an epoch, then an error).
    - ``set_step(step)`` of every module that has it is called before each batch with
      the number of optimiser steps done (temperatures and other schedules).
    - One log line per epoch: means of all loss terms and statistics, codebook health.

    A subclass gives ``compute_forward(batch, stage)``, which returns an object with
    ``losses`` (scalars by name) and optionally ``stats`` (scalars by name) and
    ``usage`` (counts ``[size]`` of each codebook). Other procedures override
    ``fit_batch`` and call ``backward`` and ``optimizers_step``, and ``init_optimizers``
    and call ``add_optimizer``.

    Arguments
    ---------
    modules : mapping
        Name to module.
    opt_class : callable, optional
        Parameters to optimiser.
    hparams : dict, optional
        As in SpeechBrain; run options may stand in it.
    run_opts : dict, optional
        SpeechBrain's run options (``precision``, ``grad_accumulation_factor``,
        ``max_grad_norm``, ``nonfinite_patience``, ``ckpt_interval_steps``, ...).
    checkpointer : Checkpointer, optional
        Without recoverables: they are added here.
    loss_weights : mapping, optional
        Weight of each loss term, by its name; None: their sum. A term without a
        weight and a weight without a term raise.
    scheduler : callable, optional
        Optimiser to a scheduler of torch, which moves after every optimiser step.
    ema_decay : float, optional
        Evaluate and export a moving average of the weights.
    ema_modules : sequence of str, optional
        Modules that are averaged; all by default.
    max_minutes : float, optional
        Stop at a checkpoint after this time; the same command then goes on.
    report_steps : int, optional
        A line in the log every so many optimiser steps: for long epochs.
    loggers : sequence
        SpeechBrain's train loggers, fed at the end of each epoch.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> class Regression(UnitBrain):
    ...     def compute_forward(self, batch, stage):
    ...         error = self.modules.model(batch[0]) - batch[1]
    ...         return SimpleNamespace(losses={"square": error.square().mean()})
    >>> inputs = torch.rand(64, 3)
    >>> data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
    >>> brain = Regression(
    ...     {"model": nn.Linear(3, 1)},
    ...     lambda parameters: torch.optim.Adam(parameters, lr=0.05),
    ...     run_opts={"device": "cpu"},
    ...     loss_weights={"square": 1.0},
    ... )
    >>> brain.fit(40, data, train_loader_kwargs={"batch_size": 8})
    >>> brain.stats["train"]["square"] < 0.01
    True
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        opt_class: Callable[[Iterable], torch.optim.Optimizer] | None = None,
        hparams: Mapping[str, Any] | None = None,
        run_opts: Mapping[str, Any] | None = None,
        checkpointer: Any = None,
        *,
        loss_weights: Mapping[str, float] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        ema_decay: float | None = None,
        ema_modules: Sequence[str] | None = None,
        max_minutes: float | None = None,
        report_steps: int | None = None,
        loggers: Sequence[Any] = (),
    ):
        super().__init__(
            modules, opt_class, dict(hparams or {}), run_opts, checkpointer
        )
        self.loss_weights = None if loss_weights is None else dict(loss_weights)
        self.scheduler, self.schedulers_dict = scheduler, {}
        self.max_minutes, self.report_steps = max_minutes, report_steps
        self.log = EpochLog(loggers)
        self.guard = NonFiniteGuard(self.nonfinite_patience)
        self.stats: dict[str, dict[str, float]] = {}
        self.stopped, self._begin = False, time.monotonic()
        # Before wrapping for several ranks, so that names and state have one form.
        averaged = {k: m for k, m in self.modules.items() if k in (ema_modules or [k])}
        self.ema = None if ema_decay is None else WeightAverage(averaged, ema_decay)
        self._stepped = [m for m in self.modules.modules() if hasattr(m, "set_step")]
        self._recoverable("random", RandomState())
        self._recoverable("log", self.log)
        for name, module in self.modules.items():
            if module.state_dict():
                self._recoverable(f"module-{name}", module)
        if self.ema is not None:
            self._recoverable("ema", self.ema.to(self.device))

    def _recoverable(self, name: str, thing: Any) -> None:
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable(name, thing)

    # Optimisers.

    def on_fit_start(self) -> None:
        """Begin averages at the first rank's weights, which all ranks begin at."""
        super().on_fit_start()
        if self.ema is not None and self.optimizer_step == 0:
            self.ema.restart()

    def init_optimizers(self) -> None:
        """One optimiser for everything that is trained."""
        if self.opt_class is None:
            return
        trained = [p for p in self.modules.parameters() if p.requires_grad]
        if self.remove_vector_weight_decay:
            trained = sb.core.rm_vector_weight_decay(self.modules)
        self.add_optimizer("optimizer", self.opt_class(trained), self.scheduler)

    def add_optimizer(
        self,
        name: str,
        optimizer: torch.optim.Optimizer,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    ) -> None:
        """Take in an optimiser, with a scheduler that moves whenever it does."""
        self.optimizers_dict = {**(self.optimizers_dict or {}), name: optimizer}
        self._recoverable(name, optimizer)
        if scheduler is not None:
            self.schedulers_dict[name] = scheduler(optimizer)
            self._recoverable(f"scheduler-{name}", self.schedulers_dict[name])

    def optimizers_step(self) -> None:
        """Clip and step the active optimisers, unless a gradient is not finite."""
        active = self.freeze_optimizers(self.optimizers_dict or {})
        # Those without gradients have nothing to do: their batches were left out.
        active = {k: o for k, o in active.items() if has_gradients(o)}
        norms = {}
        for name, optimizer in active.items():
            self.scaler.unscale_(optimizer)
            norms[name] = clip_gradients(optimizer, self.max_grad_norm)
        # With a scaler (fp16) such steps are left out by it, and its scale falls.
        scaled = self.scaler.is_enabled()
        if active and (scaled or self._passes(norms, "gradient norm of")):
            for name, optimizer in active.items():
                self.scaler.step(optimizer)
                if name in self.schedulers_dict:
                    self.schedulers_dict[name].step()
            self.optimizer_step += 1
            if self.ema is not None:
                self.ema.update()
            self.log.add({f"norm {k}": float(norm) for k, norm in norms.items()})
        if active:
            self.scaler.update()
        for optimizer in active.values():
            optimizer.zero_grad(set_to_none=True)

    # One batch.

    def compute_objectives(self, outputs: Any, batch: Any, stage: sb.Stage) -> Tensor:
        """The weighted sum of the loss terms; they are noted for the log."""
        loss = weigh_losses(outputs.losses, self.loss_weights)
        self.log.note(outputs, loss)
        return loss

    def fit_batch(self, batch: Any) -> Tensor:
        """Forward, backward and, when enough batches are gathered, a step."""
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.backward({**outputs.losses, "sum": loss}, loss)
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach().cpu()

    def backward(self, terms: Mapping[str, Tensor], loss: Tensor) -> bool:
        """Gradients of a loss, unless one of its terms is not finite.

        Arguments
        ---------
        terms : mapping
            What is looked at and named.
        loss : Tensor
            Scalar.

        Returns
        -------
        bool
            False when the batch was left out.
        """
        if not self._passes(terms, "loss"):
            return False
        self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        return True

    def _passes(self, values: Mapping[str, Tensor], what: str) -> bool:
        return self.guard.passes(values, self._ids, what, self.optimizer_step + 1)

    def on_fit_batch_start(self, batch: Any, should_step: bool) -> None:
        """Tell the modules the step; keep the batch's ids for messages."""
        self._ids = batch_ids(batch)
        for module in self._stepped:
            module.set_step(self.optimizer_step)

    def on_fit_batch_end(
        self, batch: Any, outputs: Any, loss: Tensor, should_step: bool
    ) -> None:
        """Report every ``report_steps`` steps."""
        every = self.report_steps
        if every and should_step and self.optimizer_step % every == 0:
            self.log.write(self._meta(), recent=self.log.recent())

    def _meta(self) -> dict[str, float]:
        meta: dict[str, float] = {"steps": self.optimizer_step}
        for name, optimizer in (self.optimizers_dict or {}).items():
            meta[f"lr {name}"] = optimizer.param_groups[0]["lr"]
        meta["minutes"] = (time.monotonic() - self._begin) / 60
        return meta

    # Epochs.

    def make_dataloader(
        self,
        dataset: Any,
        stage: sb.Stage,
        ckpt_prefix: str | None = "dataloader-",
        **loader_kwargs: Any,
    ) -> Any:
        """SpeechBrain's loader, which draws nothing from torch's generator.

        It would draw a seed for its workers at the start of each epoch, and once more
        when a run goes on within an epoch: all later random numbers would differ.
        """
        loader_kwargs.setdefault("generator", torch.Generator())
        loader = super().make_dataloader(dataset, stage, ckpt_prefix, **loader_kwargs)
        if stage == sb.Stage.TRAIN and self.train_sampler is None:
            # SpeechBrain tells a batch sampler its epoch only on several ranks.
            self.train_sampler = loader_kwargs.get("batch_sampler")
        return loader

    def fit(
        self,
        epoch_counter: int | EpochCounter,
        train_set: Any,
        valid_set: Any = None,
        progressbar: bool | None = None,
        train_loader_kwargs: Mapping[str, Any] | None = None,
        valid_loader_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Train up to a number of epochs, from the last checkpoint if there is one.

        ``stopped`` is True afterwards if ``max_minutes`` ended it before that.
        """
        if isinstance(epoch_counter, int):
            epoch_counter = EpochCounter(epoch_counter)
        self._recoverable("epochs", epoch_counter)
        if progressbar is None:
            progressbar = not self.noprogressbar and sys.stderr.isatty()
        self.stopped = False
        try:
            super().fit(
                epoch_counter,
                train_set,
                valid_set,
                progressbar,
                dict(train_loader_kwargs or {}),
                dict(valid_loader_kwargs or {}),
            )
        except _CompleteError:
            logger.info("all %d steps are done", self.optimizer_step)
        except _TimeIsUpError:
            self.stopped = True
            place = self.checkpointer.checkpoints_dir if self.checkpointer else None
            logger.info(
                "max_minutes=%g are used up after %d steps; the same command goes on "
                "from %s",
                self.max_minutes,
                self.optimizer_step,
                place or "the start (there is no checkpointer)",
            )

    def _fit_train(self, train_set: Any, epoch: int, enable: bool) -> None:
        dataset = getattr(train_set, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        self.guard.reset()
        if self._optimizer_step_limit_exceeded:
            # A run that was complete is started again.
            raise _CompleteError
        super()._fit_train(train_set, epoch, enable)

    def _fit_valid(self, valid_set: Any, epoch: int, enable: bool) -> None:
        self.validate(valid_set, epoch, enable)
        self.end_epoch(epoch)

    def validate(self, valid_set: Any, epoch: int, enable: bool = False) -> None:
        """Take the losses of a loader, by the averaged weights: ``stats["valid"]``."""
        # The same random masks in every epoch, and none taken from the training's.
        devices = [self.device] if self.device_type == "cuda" else []
        with torch.random.fork_rng(devices), self.averaged():
            torch.manual_seed(0)
            super()._fit_valid(valid_set, epoch, enable)

    def _should_save_intra_epoch_ckpt(
        self, last_ckpt_time: float, steps_since_ckpt: int
    ) -> bool:
        # Gradients that were gathered but not used are in no checkpoint.
        if self.step % self.grad_accumulation_factor != 0:
            return False
        if self._time_is_up():
            if self.checkpointer is not None:
                self._save_intra_epoch_ckpt()
            raise _TimeIsUpError
        return super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)

    def _time_is_up(self) -> bool:
        if self.max_minutes is None:
            return False
        decision = [time.monotonic() - self._begin > 60 * self.max_minutes]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(decision, src=0)
        return decision[0]

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Begin the stage's means, unless a stop within the epoch left some."""
        if stage != sb.Stage.TRAIN or self.step == 0:
            self.log.reset()

    def on_stage_end(
        self, stage: sb.Stage, stage_loss: float, epoch: int | None = None
    ) -> None:
        """Take the stage's means."""
        self.stats[stage.name.lower()], health = self.log.finish()
        if stage == sb.Stage.TRAIN:
            self._health = health
        elif stage == sb.Stage.TEST:
            self.log.write({"epoch": "test"}, test=self.stats["test"])

    def end_epoch(self, epoch: int) -> None:
        """Log the epoch in a line and save a checkpoint."""
        meta = {"epoch": epoch, **self._meta()}
        train, valid = self.stats["train"], self.stats.get("valid")
        self.log.write(meta, self._health, train=train, valid=valid)
        if self.checkpointer is None:
            return
        loss = (valid or train).get("loss", float("inf"))
        self.checkpointer.save_and_keep_only(
            meta={"loss": loss, "epoch": epoch},
            min_keys=["loss"],
            # SpeechBrain appends to its default list, call after call.
            importance_keys=[],
        )

    def averaged(self) -> AbstractContextManager:
        """Within it the modules have their averaged weights, if there are any."""
        return nullcontext() if self.ema is None else self.ema.swapped()


class _TimeIsUpError(Exception):
    pass


class _CompleteError(Exception):
    pass
