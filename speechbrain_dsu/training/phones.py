"""An encoder that learns phones: from generated speech, and from words alone.

Generated speech knows its phones and when they sound; real recordings know their words
at best. So the encoder learns from the first, then says where the phones of the second
are, and learns from both: supervised units of speech, as those of CosyVoice's tokenizer
(Du et al. 2024) or PAST (Har-Tuv et al. 2025), at the size of a laptop.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_dsu.dataio.audio_cache import AudioCache
from speechbrain_dsu.dataio.frame_labels import FrameLabels
from speechbrain_dsu.dataio.phone_labels import phone_inventory, phone_labels
from speechbrain_dsu.dataio.training_data import (
    SpeechSegments,
    batches_by_seconds,
    mixed_items,
)
from speechbrain_dsu.training.phone_alignment import align_phones
from speechbrain_dsu.training.ssl import SSLBrain, collate
from speechbrain_dsu.training.systems import Flatten, build_system
from speechbrain_dsu.utils.audio import read_audio

logger = logging.getLogger(__name__)

SILENCE = "sil"
_HOP_SECONDS = 0.01

Manifest = Mapping[str, Mapping[str, Any]]


def train_phones(
    hparams: Mapping[str, Any],
    aligned: Manifest,
    words: Manifest,
    pronounce: Callable[[str], Sequence[Sequence[str]]],
    flatten: Flatten,
    start: torch.nn.Module | None = None,
) -> torch.nn.Module | None:
    """Train an encoder to tell phones, in stages.

    The first stage learns from aligned speech. Before each later one the words are
    aligned by what was learned so far.

    Arguments
    ---------
    hparams : mapping
        ``system_file`` with an ``encoder`` and an ``objective`` that takes labels of
        frames; ``stages``, each with ``steps``, ``hours`` (of ``aligned`` and ``words``
        in an epoch), ``mask_probability`` and ``training``, arguments of ``SSLBrain``;
        ``schedule``, an optimiser and ``total_steps`` to a scheduler; ``data``,
        arguments of ``SpeechSegments``; ``batch_seconds``, ``megabytes``, ``seed``,
        ``run_opts``, ``max_minutes``, ``output_folder``.
    aligned : mapping
        Manifest with ``phones`` and ``phone_ends``.
    words : mapping
        Manifest with ``text``, a word each.
    pronounce : callable
        A word to the ways it may be said, each a list of phones.
    flatten : callable
        ``inference.flatten.flatten_yaml``.
    start : nn.Module, optional
        An encoder to begin with: the weights of the layers that it has.

    Returns
    -------
    nn.Module or None
        The encoder; None when ``max_minutes`` ended it.
    """
    phones = phone_inventory(aligned.values())
    torch.manual_seed(hparams["seed"])
    system = build_system(flatten, hparams["system_file"], {"n_units": len(phones)})
    encoder, objective = system["encoder"], system["objective"]
    if start is not None:
        encoder.load_state_dict(start.state_dict(), strict=False)
    rate = encoder.sample_rate
    known = phone_labels(aligned, phones, rate, round(_HOP_SECONDS * rate))
    labels = {f"aligned/{name}": codes for name, codes in known.codes.items()}
    cache = AudioCache(rate, hparams["megabytes"])
    for number, stage in enumerate(hparams["stages"], start=1):
        corpora = {"aligned": aligned}
        if number > 1:
            corpora["words"] = words
            found = align_corpus(objective, words, phones, pronounce)
            # One grid for both: the finer one.
            labels |= {f"words/{n}": _regrid(c, encoder) for n, c in found.items()}
        objective.mask_probability = stage["mask_probability"]
        hours = {name: stage["hours"][name] for name in corpora}
        heard = SpeechSegments(
            mixed_items(corpora, hours, hparams["seed"]),
            rate,
            seed=hparams["seed"],
            labels=FrameLabels(labels, known.hop, known.offset),
            frames=encoder,
            cache=cache,
            **hparams["data"],
        )
        brain = SSLBrain(
            system["modules"],
            run_opts=hparams["run_opts"],
            checkpointer=Checkpointer(
                Path(hparams["output_folder"]) / f"stage{number}" / "save"
            ),
            max_minutes=hparams["max_minutes"],
            scheduler=partial(hparams["schedule"], total_steps=stage["steps"]),
            **stage["training"],
        )
        brain.optimizer_step_limit = stage["steps"]
        loading = batches_by_seconds(heard, hparams["batch_seconds"], hparams["seed"])
        loading["collate_fn"] = collate
        brain.fit(10**6, heard, train_loader_kwargs=loading)
        if brain.stopped:
            return None
        if brain.ema is not None:
            brain.ema.swap()
        objective.eval()
    return encoder


@torch.no_grad()
def align_corpus(
    objective: Any,
    words: Manifest,
    phones: Sequence[str],
    pronounce: Callable[[str], Sequence[Sequence[str]]],
) -> dict[str, torch.Tensor]:
    """Labels int32 ``[frames]`` of the encoder's frames for recordings of words.

    Arguments
    ---------
    objective : nn.Module
        With ``encoder`` and ``heads``, in evaluation mode.
    words : mapping
        Manifest with ``wav`` and ``text``.
    phones : sequence of str
        In the order of the labels, ``sil`` among them.
    pronounce : callable
        A word to the ways it may be said; those with unknown phones are left out.
    """
    places = {phone: place for place, phone in enumerate(phones)}
    ways = {
        word: [
            [places[phone] for phone in way]
            for way in pronounce(word)
            if set(way) <= set(places)
        ]
        for word in {entry["text"] for entry in words.values()}
    }
    encoder, head, found = objective.encoder, objective.heads[0], {}
    objective.eval()
    for name, entry in words.items():
        wav = read_audio(entry["wav"], encoder.sample_rate)[0]
        logits = head(encoder(wav.unsqueeze(0)))[0]
        chosen = ways[entry["text"]]
        found[name] = align_phones(logits.log_softmax(-1), chosen, places[SILENCE])
    logger.info("%d words aligned", len(found))
    return found


def _regrid(codes: torch.Tensor, encoder: Any) -> torch.Tensor:
    """Labels of the encoder's frames as labels of 10 ms."""
    hop = round(_HOP_SECONDS * encoder.sample_rate)
    count = max(1, len(codes) * encoder.hop // hop)
    source = FrameLabels({"": codes}, encoder.hop, encoder.frame_offset)
    return source.at("", (torch.arange(count) + 0.5) * hop).to(torch.int32)
