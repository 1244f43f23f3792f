"""Self-supervised training: recordings in, an encoder out, over one iteration or more.

HuBERT trains on units of MFCC frames, makes units of what it has learned and trains on
those; the others train once. Both are one procedure here, ``pretrain``, which goes on
where it was stopped: in a k-means, in the labelling, within an epoch.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn

from speechbrain_dsu.dataio.audio_cache import AudioCache
from speechbrain_dsu.dataio.frame_labels import FrameLabels
from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.token_store import TokenStore
from speechbrain_dsu.dataio.tokenize import tokenize_corpus
from speechbrain_dsu.dataio.training_data import (
    SpeechSegments,
    batches_by_seconds,
    recording_id,
)
from speechbrain_dsu.training.brain import UnitBrain
from speechbrain_dsu.training.fit_tokenizer import fit_tokenizer
from speechbrain_dsu.training.kmeans_stream import rank, world
from speechbrain_dsu.utils.errors import DsuError

logger = logging.getLogger(__name__)

collate = partial(PaddedBatch, per_key_padding_kwargs={"labels": {"value": -1}})
"""Frames behind an item's end have no label."""


class SSLBrain(UnitBrain):
    """Trains ``modules.objective(wavs, lens, labels)``, whatever it is.

    Arguments
    ---------
    *args, **kwargs
        As for ``UnitBrain``.
    perturb : nn.Module, optional
        ``perturb(wavs, lens)`` makes the inputs of training, not of validation, from
        the signals ``[batch, time]``; labels stay those of the clean ones.
    """

    def __init__(self, *args: Any, perturb: nn.Module | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.perturb = perturb

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> Any:
        """Losses of a batch with ``wav`` and perhaps ``labels``."""
        batch = batch.to(self.device)
        wavs, lens = batch.wav
        if self.perturb is not None and stage == sb.Stage.TRAIN:
            wavs = self.perturb(wavs, lens)
        if not hasattr(batch, "labels"):
            return self.modules.objective(wavs, lens)
        return self.modules.objective(wavs, lens, batch.labels.data)


def pretrain(
    build: Callable[..., dict[str, Any]],
    train: Sequence[AudioItem],
    valid: Sequence[AudioItem],
    folder: str | Path,
    iterations: Sequence[Mapping[str, Any]],
    *,
    run_opts: Any = None,
    device: torch.device | str = "cpu",
    data: Mapping[str, Any] | None = None,
    batch_seconds: float = 60.0,
    megabytes: float = 1024.0,
    seed: int = 0,
    max_minutes: float | None = None,
    **common_options: Any,
) -> dict[str, Any] | None:
    """Train a self-supervised system.

    Arguments
    ---------
    build : callable
        Overrides and an iteration's ``system_file``, or None, to what the YAML gives:
        a mapping with ``encoder`` (or ``front_end`` where there is none), ``modules``
        (with ``objective``) and ``loss_weights``.
    train, valid : sequence of AudioItem
        What to train on and to watch the losses on.
    folder : str or Path
        Gets ``iteration1`` and so on, each with labels and checkpoints.
    iterations : sequence of mapping
        Options of each: ``epochs``, ``steps`` (optimiser steps, at most),
        ``overrides`` of the system, or another ``system_file``; ``labels``, a tokenizer
        or a function from the encoder of the iteration before to one, with ``fit``,
        further arguments of ``fit_tokenizer``, and ``fit_items``, how many recordings
        it is fitted to; ``warm_start``, whether the encoder goes on from the last
        one's weights; ``schedule``, as ``scheduler`` but also given ``total_steps``.
        All others are arguments of ``SSLBrain`` (``opt_class``, ``ema_decay``, ...).
    run_opts : RunOptions or dict, optional
        SpeechBrain's.
    device : torch.device
        Where labels are made; training is where ``run_opts`` say.
    data : mapping, optional
        Arguments of ``SpeechSegments`` for training; validation hears the same
        lengths at normal speed.
    batch_seconds : float
        As in ``batches_by_seconds``.
    megabytes : float
        Of audio in memory.
    seed : int
        Of weights, crops and order.
    max_minutes : float, optional
        Stop at a checkpoint after that; the next call goes on.
    **common_options
        Options that hold for every iteration which does not have its own.

    Returns
    -------
    dict or None
        The last iteration's system with trained (averaged) weights; None when
        ``max_minutes`` ended it before that.
    """
    begin, folder, system, cache = time.monotonic(), Path(folder), None, None
    for number, options in enumerate(iterations, start=1):
        options = {**common_options, **options}
        place, before, labels = folder / f"iteration{number}", system, None
        source, fit = options.pop("labels", None), options.pop("fit", {})
        fit_items, steps = options.pop("fit_items", None), options.pop("steps", None)
        if source is not None:
            tokenizer = _label_tokenizer(source, before).to(device)
            given = train, [*train, *valid], place
            labels = label_corpus(tokenizer, *given, fit, fit_items, seed)
        torch.manual_seed(seed + number)
        overrides = options.pop("overrides", {})
        system = build(overrides, options.pop("system_file", None))
        encoder = system.get("encoder") or system["front_end"]
        if options.pop("warm_start", False):
            encoder.load_state_dict(before["encoder"].state_dict())
        if cache is None:
            cache = AudioCache(encoder.sample_rate, megabytes)
        common = {"seed": seed, "labels": labels, "frames": encoder, "cache": cache}
        heard, watched = (
            SpeechSegments(items, encoder.sample_rate, **common, **how)
            for items, how in (
                (train, data or {}),
                (valid, {**(data or {}), "speeds": (1.0,)}),
            )
        )
        epochs = options.pop("epochs", 10**6)
        brain = SSLBrain(
            system["modules"],
            run_opts=run_opts,
            checkpointer=Checkpointer(place / "save"),
            loss_weights=system["loss_weights"],
            max_minutes=_left(max_minutes, begin),
            **_brain_options(options, steps),
        )
        brain.optimizer_step_limit = steps or brain.optimizer_step_limit
        logger.info("iteration %d: %d recordings", number, len(heard))
        brain.fit(
            epochs,
            heard,
            watched,
            train_loader_kwargs=_loading(heard, batch_seconds, seed),
            valid_loader_kwargs=_loading(watched, batch_seconds, seed, shuffle=False),
        )
        if brain.stopped:
            return None
        if brain.ema is not None:
            brain.ema.swap()
    return system


def _loading(
    dataset: SpeechSegments, seconds: float, seed: int, **options: Any
) -> dict:
    batches = batches_by_seconds(dataset, seconds, seed, **options)
    return {**batches, "collate_fn": collate}


def _brain_options(options: dict[str, Any], steps: int | None) -> dict[str, Any]:
    """``schedule`` is a scheduler that has to know the number of steps."""
    if "schedule" in options:
        options["scheduler"] = partial(options.pop("schedule"), total_steps=steps)
    return options


def _left(max_minutes: float | None, begin: float) -> float | None:
    if max_minutes is None:
        return None
    return max_minutes - (time.monotonic() - begin) / 60


def _label_tokenizer(source: Any, before: Mapping[str, Any] | None) -> nn.Module:
    if isinstance(source, nn.Module):
        return source
    if before is None:
        raise DsuError(
            "the labels of the first iteration must be a tokenizer: there is no "
            "encoder yet to take units from"
        )
    return source(before["encoder"])


def label_corpus(
    tokenizer: Any,
    train: Sequence[AudioItem],
    items: Sequence[AudioItem],
    folder: str | Path,
    fit: Mapping[str, Any] | None = None,
    fit_items: int | None = None,
    seed: int = 0,
) -> FrameLabels:
    """Fit a tokenizer if it is not, label every recording once, keep it in memory.

    Arguments
    ---------
    tokenizer : FeatureTokenizer
        Whose units are the labels.
    train : sequence of AudioItem
        What k-means sees.
    items : sequence of AudioItem
        What gets labels; turns of one recording share them.
    folder : str or Path
        Gets ``kmeans`` and ``labels``, a token store; both go on after a stop.
    fit : mapping, optional
        Arguments of ``fit_tokenizer``.
    fit_items : int, optional
        Fit to that many recordings, evenly spread over the list.
    seed : int
        Of k-means.

    Returns
    -------
    FrameLabels
        By the ids of recordings.
    """
    folder = Path(folder)
    quantizer = tokenizer.quantizer
    if hasattr(quantizer, "is_fitted") and not quantizer.is_fitted:
        some = some_recordings(train, fit_items)
        options = {"seed": seed, "checkpoint": folder / "kmeans", "progress": False}
        record = fit_tokenizer(tokenizer, some, **{**options, **(fit or {})})
        logger.info(
            "units of %d frames: inertia %.4g a frame",
            record["frames"],
            record["inertia"],
        )
    tokenizer.eval()
    share = {"shard": (rank(), world()), "progress": False}
    tokenize_corpus(_once(items), tokenizer, folder / "labels", **share)
    if world() > 1:
        torch.distributed.barrier()
    store = TokenStore(folder / "labels")
    # In memory: a crop's labels must not cost a look into a file.
    codes = {name: store.codes(name).to(torch.int32) for name in store}
    return FrameLabels.of(tokenizer, codes)


def some_recordings(
    items: Sequence[AudioItem], number: int | None = None
) -> list[AudioItem]:
    """Recordings, each once, evenly picked from a list."""
    found = _once(items)
    return found[:: max(1, len(found) // (number or len(found)))]


def _once(items: Sequence[AudioItem]) -> list[AudioItem]:
    """Each recording once, under its own id."""
    found = {}
    for item in items:
        name = recording_id(item.id)
        found.setdefault(name, AudioItem(name, item.path, item.start, item.stop))
    return list(found.values())
