"""Going on from the weights of another run."""

import logging
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_dsu.utils.errors import DsuError

logger = logging.getLogger(__name__)


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
        The other run's checkpoints (``save``).

    Raises
    ------
    DsuError
        If there is none, or it was made by other modules.
    """
    if not Path(folder).is_dir():
        raise DsuError(f"{folder}: no such folder to fine-tune from")
    wanted = {
        f"module-{name}": module
        for name, module in brain.modules.items()
        if module.state_dict()
    }
    wanted |= brain.optimizers_dict or {}
    if brain.ema is not None:
        wanted["ema"] = brain.ema
    source = Checkpointer(folder, wanted)
    found = source.find_checkpoint(min_key="loss") or source.find_checkpoint()
    if found is None:
        raise DsuError(f"{folder}: holds no checkpoint to fine-tune from")
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
