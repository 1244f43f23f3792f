"""Going on from the weights of another run, or of a released system."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import Checkpoint, Checkpointer
from torch import nn

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import module_fingerprint

logger = logging.getLogger(__name__)

STATE_SUFFIX = "-training"
"""A bundle's training state lies beside it, in a folder of its name with this end."""

# What belongs to the run that made a checkpoint, not to its model.
_OF_THE_RUN = ("random", "log", "epochs", "brain", "module-teacher")
_OF_THE_RUN_BEGIN = ("dataloader-", "scheduler-")


def load_run(brain: Any, folder: str | Path) -> None:
    """Put the best checkpoint of another run into a Brain: weights and optimisers.

    Modules (discriminators included) and the optimisers' moments are taken over,
    averaged weights in place of the raw ones, since those were evaluated and
    released. Counters, schedules, random state and data order start afresh.

    Arguments
    ---------
    brain : UnitBrain
        With its optimisers made: call it from ``on_fit_start``.
    folder : str or Path
        The other run's checkpoints (``save``), or what ``export_state`` made of them.

    Raises
    ------
    DsuError
        If there is none, or it was made by other modules.
    """
    wanted = {
        f"module-{name}": module
        for name, module in brain.modules.items()
        if module.state_dict() and name != "teacher"
    }
    wanted |= brain.optimizers_dict or {}
    if brain.ema is not None:
        wanted["ema"] = brain.ema
    source, found = _best_checkpoint(folder, wanted)
    missing = sorted(set(wanted) - set(found.paramfiles) - {"ema"})
    if missing:
        raise DsuError(f"{found.path}: has no {', '.join(missing)}")
    rates = {
        name: [group["lr"] for group in optimizer.param_groups]
        for name, optimizer in (brain.optimizers_dict or {}).items()
    }
    source.load_checkpoint(found)
    for name, optimizer in (brain.optimizers_dict or {}).items():
        for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
            group["lr"] = rate
    if brain.ema is not None and "ema" in found.paramfiles:
        brain.ema.swap()
        brain.ema.restart()
    logger.info("fine-tuning from %s", found.path)


def load_released(brain: Any, released: Mapping[str, nn.Module]) -> None:
    """Put released modules' weights into a Brain's; averages begin at them.

    Arguments
    ---------
    brain : UnitBrain
        Whose modules of the same names are of the same systems.
    released : mapping
        Name to module, as a bundle gives it.

    Raises
    ------
    DsuError
        If a module does not exist, or is another system: by weights or settings.
    """
    for name, source in released.items():
        if name not in brain.modules:
            there = ", ".join(brain.modules)
            raise DsuError(f"a released {name}, and the modules are {there}")
        module = brain.modules[name]
        module = getattr(module, "module", module)
        try:
            module.load_state_dict(source.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise DsuError(f"the released {name} does not fit: {reason}") from None
        if module_fingerprint(module) != module_fingerprint(source):
            raise DsuError(
                f"the released {name} has these weights and other settings: take the "
                "system file and the overrides that it was exported with"
            )
    if brain.ema is not None:
        brain.ema.restart()
    logger.info("fine-tuning from the released %s", ", ".join(released))


def export_state(
    folder: str | Path, out: str | Path, overwrite: bool = False
) -> Checkpoint:
    """Copy what others need to go on with a training: ``finetune_from`` takes it.

    Weights of all trained modules (discriminators included), their averages and the
    optimisers' moments of the best checkpoint; not the run's counters, schedules and
    random state, nor a teacher. Beside a bundle ``name`` it is found by itself when
    it is called ``name-training``.

    Arguments
    ---------
    folder : str or Path
        A run's checkpoints (``save``).
    out : str or Path
        The folder to make.
    overwrite : bool
        Replace an older one.

    Returns
    -------
    Checkpoint
        That was copied; ``paramfiles`` has more than the copy.

    Raises
    ------
    DsuError
        If there is no checkpoint, or ``out`` is in the way.
    """
    _, found = _best_checkpoint(folder, {})
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise DsuError(f"{out} exists; overwrite it or give another folder")
        if not list(out.glob("CKPT+*")):
            raise DsuError(f"{out} exists and holds no checkpoint: it is not replaced")
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    target = part / found.path.name
    shutil.rmtree(part, ignore_errors=True)
    target.mkdir(parents=True)
    for file in sorted(found.path.iterdir()):
        own = file.stem in _OF_THE_RUN or file.stem.startswith(_OF_THE_RUN_BEGIN)
        if not own:
            shutil.copyfile(file, target / file.name)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return found


def _best_checkpoint(
    folder: str | Path, wanted: Mapping[str, Any]
) -> tuple[Checkpointer, Checkpoint]:
    if not Path(folder).is_dir():
        raise DsuError(f"{folder}: no such folder to fine-tune from")
    source = Checkpointer(folder, dict(wanted))
    found = source.find_checkpoint(min_key="loss") or source.find_checkpoint()
    if found is None:
        raise DsuError(f"{folder}: holds no checkpoint to fine-tune from")
    return source, found
