"""What a checkpoint needs beside weights so that a resumed run goes on bit for bit."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from speechbrain_dsu.utils.errors import DsuError


def _register_for_all_ranks(cls: type) -> type:
    return register_checkpoint_hooks(cls, save_on_main_only=False)


@_register_for_all_ranks
class RandomState:
    """The random generators of Python, NumPy and torch, of every rank.

    Add it to a SpeechBrain ``Checkpointer``; it has no state of its own.

    Example
    -------
    >>> from speechbrain.utils.checkpoints import Checkpointer
    >>> folder = getfixture("tmp_path")
    >>> saver = Checkpointer(folder, {"random": RandomState()})
    >>> _ = saver.save_checkpoint()
    >>> drawn = torch.rand(3), random.random()
    >>> _ = saver.recover_if_possible()
    >>> torch.equal(drawn[0], torch.rand(3)), drawn[1] == random.random()
    (True, True)
    """

    @mark_as_saver
    def save(self, path: Path) -> None:
        """Write the states of all ranks; a collective call."""
        states = [_capture()]
        if torch.distributed.is_initialized():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, _capture())
            if torch.distributed.get_rank() != 0:
                return
        torch.save(states, path)

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool) -> None:
        """Put this rank's generators where they were.

        Raises
        ------
        DsuError
            If the run had another number of ranks.
        """
        states = torch.load(path, weights_only=True)
        world, rank = 1, 0
        if torch.distributed.is_initialized():
            world = torch.distributed.get_world_size()
            rank = torch.distributed.get_rank()
        if len(states) != world:
            raise DsuError(
                f"{path.parent}: a checkpoint of {len(states)} ranks can't go on with "
                f"{world}: start as many, or give another output_folder"
            )
        _restore(states[rank])


def _capture() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), place],
        "numpy_gauss": [has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        # The device of this rank: others belong to other ranks.
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore(state: Mapping[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, place = state["numpy"]
    np.random.set_state(
        (name, keys.numpy().astype(np.uint32), place, *state["numpy_gauss"])
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
