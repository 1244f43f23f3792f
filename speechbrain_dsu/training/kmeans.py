"""K-means over a stream of frames: memory that does not grow with the corpus.

One pass draws a sample, greedy k-means++ and a few iterations on that sample give
the start, and every further pass moves the centres while it streams. The same
centres come out on one rank or many, and from a run that was interrupted.
"""

import json
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from speechbrain_dsu import __version__
from speechbrain_dsu.training.kmeans_state import (
    check_same_run,
    load_state,
    same_everywhere,
    save_state,
    write_atomic,
)
from speechbrain_dsu.training.kmeans_stream import (
    FrameSample,
    rank,
    valid_frames,
    walk,
    world,
)
from speechbrain_dsu.training.kmeans_trainer import KMeansTrainer
from speechbrain_dsu.utils.errors import DsuError

__all__ = ["KMeansTrainer", "fit_kmeans", "valid_frames"]

Batches = Callable[[int], Iterable[Tensor]]


def fit_kmeans(
    batches: Batches,
    size: int,
    dim: int,
    groups: int = 1,
    seed: int = 0,
    epochs: int = 1,
    full_epochs: int = 0,
    sample: int | None = None,
    scan: int | None = None,
    update_frames: int = 10_000,
    start: Tensor | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 50,
    data_hash: str | None = None,
    progress: bool = True,
) -> tuple[Tensor, dict[str, Any]]:
    """Fit centres to frames that are streamed, batch by batch.

    Under torch.distributed every rank passes its own share of the batches, and all
    get the same centres: those of one rank over the joined batches (batch 0 of rank
    0, of rank 1, ..., then batch 1), up to the order of float32 sums.

    Arguments
    ---------
    batches : callable
        Called with the number of the pass (0 is the one that draws the sample, then
        1 to epochs + full_epochs), gives frames [n, groups * dim] without padding
        (see `valid_frames`). A run that is to be resumed must get the same batches
        for the same number again.
    size : int
        Centres per group.
    dim : int
        Size of a slice.
    groups : int
        Slices of a frame, clustered on their own (layers of an SSL model).
    seed : int
        Seed of the sample and of the start.
    epochs : int
        Passes in which centres move every `update_frames` frames.
    full_epochs : int
        Passes after these in which they move once, at the end (Lloyd).
    sample : int | None
        Frames kept in memory for the start, by default the larger of 10,000 and
        10 * size.
    scan : int | None
        Frames that pass 0 looks at before it stops, None for all. Set it where
        computing the features is what takes time and the batches are shuffled.
    update_frames : int
        Frames of all ranks between two moves.
    start : torch.Tensor | None
        Centres to begin from [groups, size, dim] instead of k-means++.
    checkpoint : pathlib.Path | None
        Folder (one that all ranks see) for state and record; a run whose state is
        found there goes on where it stopped.
    checkpoint_every : int
        Moves between two checkpoints.
    data_hash : str | None
        What identifies the data; goes to the record, and a checkpoint of other data
        is refused.
    progress : bool
        Show a bar on rank 0.

    Returns
    -------
    centers : torch.Tensor
        [groups, size, dim] float32, on the device of the frames.
    record : dict
        "config", "data_hash", "frames" (of one pass), "epochs" (inertia per frame
        and revived centres of each pass), "inertia" (of the last), "versions",
        "ranks".

    Raises
    ------
    DsuError
        If an argument, a batch or a checkpoint does not fit; the message says
        which.

    Example
    -------
    >>> frames = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> centers, record = fit_kmeans(
    ...     lambda epoch: [frames[:3], frames[3:]], size=2, dim=1, progress=False
    ... )
    >>> centers.sort(1).values.tolist(), record["frames"]
    ([[[0.5], [10.5]]], 4)
    """
    config = {
        "size": size,
        "dim": dim,
        "groups": groups,
        "seed": seed,
        "epochs": epochs,
        "full_epochs": full_epochs,
        "sample": sample or max(10_000, 10 * size),
        "scan": scan,
        "update_frames": update_frames,
        "given_start": start is not None,
        "data_hash": data_hash,
    }
    _check_config(config, start)
    run = _Run(batches, config, start, checkpoint, checkpoint_every, progress)
    for epoch in range(run.epoch, epochs + full_epochs + 1):
        run.one_epoch(epoch)
    record = run.record()
    if checkpoint is not None and rank() == 0:
        text = json.dumps(record, indent=2, sort_keys=True) + "\n"
        write_atomic(Path(checkpoint) / "record.json", text.encode())
    return run.trainer.centers.clone(), record


class _Run:
    """One fit: where it stands, and how it gets from there to the next pass."""

    def __init__(
        self,
        batches: Batches,
        config: dict[str, Any],
        start: Tensor | None,
        checkpoint: Path | None,
        checkpoint_every: int,
        progress: bool,
    ):
        self.batches, self.config = batches, config
        self.checkpoint_every, self.progress = checkpoint_every, progress
        self.folder = None if checkpoint is None else Path(checkpoint)
        self.trainer = KMeansTrainer(config["size"], config["dim"], config["groups"])
        self.width = config["groups"] * config["dim"]
        self.epoch, self.steps_done, self.pending = 1, 0, 0
        self.history: list[dict[str, float]] = []
        if not self._resume():
            self.sample = self._draw_sample()
            self.trainer.to(self.sample.device)
            self.trainer.start(self.sample, self._generator(0), start)
            self._save(with_sample=True)

    def one_epoch(self, epoch: int) -> None:
        """One pass over the stream, from the step at which the state stands."""
        full = epoch > self.config["epochs"]
        every = float("inf") if full else self.config["update_frames"]
        if self.steps_done == 0:
            # The start weighs no more than the sample it was fitted to.
            self.trainer.begin_epoch(memory=0 if full else len(self.sample))
        moves = 0
        with self._bar(f"k-means pass {epoch}") as bar:
            for step in walk(self.batches(epoch), self.width, self.steps_done):
                if step.frames is not None:
                    self.trainer.add(step.frames.to(self.sample.device))
                self.pending += step.total
                bar.update(step.total)
                if self.pending < every:
                    continue
                self.trainer.update()
                self.pending, moves = 0, moves + 1
                if moves % self.checkpoint_every == 0:
                    self._save_at(epoch, step.index + 1)
        self.trainer.update()
        inertia, frames, revived = self.trainer.end_epoch(
            self.sample, self._generator(epoch), last=epoch == self._passes()
        )
        self.pending = 0
        facts = {"inertia": inertia, "frames": frames, "revived": revived}
        self.history.append(facts)
        self._save_at(epoch + 1, 0)

    def record(self) -> dict[str, Any]:
        """What the fit was and how well it went."""
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "speechbrain_dsu": __version__,
        }
        last = self.history[-1]
        return {
            "config": self.config,
            "data_hash": self.config["data_hash"],
            "frames": last["frames"],
            "epochs": self.history,
            "inertia": last["inertia"],
            "ranks": world(),
            "versions": versions,
        }

    def _passes(self) -> int:
        return self.config["epochs"] + self.config["full_epochs"]

    def _draw_sample(self) -> Tensor:
        sample = FrameSample(self.config["sample"], self.config["seed"])
        scan, device = self.config["scan"], None
        with self._bar("k-means sample") as bar:
            for step in walk(self.batches(0), self.width):
                if step.frames is not None:
                    device = step.frames.device
                    sample.add(step.frames, step.offset)
                bar.update(step.total)
                # Counts of all ranks: every rank stops at the same step.
                if scan is not None and bar.n >= scan:
                    break
        return sample.gather(self.width, device)

    def _generator(self, epoch: int) -> torch.Generator:
        """Fresh for every pass, so that a resumed run draws the same numbers."""
        generator = torch.Generator(self.sample.device)
        return generator.manual_seed((self.config["seed"] * 1_000_003 + epoch) % 2**63)

    def _bar(self, title: str) -> tqdm:
        shown = self.progress and rank() == 0 and sys.stderr.isatty()
        # A disabled bar would not count, and the counts are needed.
        return tqdm(desc=title, unit=" frames", leave=False) if shown else _Counter()

    def _resume(self) -> bool:
        path = None if self.folder is None else self.folder / "state.safetensors"
        found = path is not None and path.is_file()
        tensors, facts = load_state(path) if found else ({}, {})
        place = [int(found), facts.get("epoch", 0), facts.get("steps_done", 0)]
        if not same_everywhere(place):
            raise DsuError(
                f"the ranks see different checkpoints in {self.folder}: it must be a "
                "folder that all of them share"
            )
        if not found:
            return False
        check_same_run(path, facts, self.config)
        self.sample = load_state(self.folder / "sample.safetensors")[0]["sample"]
        if facts["device"] != "cpu" and torch.cuda.is_available():
            self.sample = self.sample.to("cuda")
        self.trainer.load_state_dict(tensors)
        self.trainer.to(self.sample.device)
        # Frames and distances so far belong to all ranks: rank 0 carries them on.
        if rank() != 0:
            self.trainer.distance.zero_()
            self.trainer.frames.zero_()
        self.epoch, self.steps_done = facts["epoch"], facts["steps_done"]
        self.history = facts["history"]
        return True

    def _save_at(self, epoch: int, steps_done: int) -> None:
        self.epoch, self.steps_done = epoch, steps_done
        self._save()

    def _save(self, with_sample: bool = False) -> None:
        if self.folder is None:
            return
        state = self._joined_state()
        if rank() != 0:
            return
        if with_sample:
            save_state(self.folder / "sample.safetensors", {"sample": self.sample}, {})
        facts = {
            "config": self.config,
            "epoch": self.epoch,
            "steps_done": self.steps_done,
            "history": self.history,
            "device": self.sample.device.type,
        }
        save_state(self.folder / "state.safetensors", state, facts)

    def _joined_state(self) -> dict[str, Tensor]:
        """State with what the ranks count apart added up."""
        state = dict(self.trainer.state_dict())
        if world() > 1:
            for name in ("distance", "frames"):
                state[name] = state[name].clone()
                torch.distributed.all_reduce(state[name])
        return state


class _Counter:
    """Counts like a progress bar and shows nothing."""

    def __init__(self):
        self.n = 0

    def __enter__(self) -> "_Counter":
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, count: int) -> None:
        self.n += count


def _check_config(config: dict[str, Any], start: Tensor | None) -> None:
    for name in ("size", "dim", "groups", "sample", "update_frames"):
        if config[name] < 1:
            raise DsuError(f"k-means: {name} must be positive, got {config[name]}")
    if config["epochs"] < 0 or config["full_epochs"] < 0:
        raise DsuError("k-means: epochs and full_epochs must not be negative")
    if config["epochs"] + config["full_epochs"] == 0:
        raise DsuError("k-means: at least one of epochs and full_epochs is needed")
    if config["sample"] < config["size"]:
        raise DsuError(
            f"k-means: a sample of {config['sample']} frames can't start "
            f"{config['size']} centres"
        )
    shape = (config["groups"], config["size"], config["dim"])
    if start is not None and tuple(start.shape) != shape:
        raise DsuError(
            f"k-means: start {list(start.shape)} isn't [groups, size, dim] = "
            f"{list(shape)}"
        )
