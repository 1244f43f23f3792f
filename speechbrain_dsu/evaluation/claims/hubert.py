"""Claim 157: units of hidden units say more of phones, iteration by iteration.

Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked
Prediction of Hidden Units" (2021). A small HuBERT predicts k-means units of MFCC
frames behind a mask; units of its own frames are the targets of a second one. Phones
are those of voices nobody trained on, and there are always as many units.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    make_result,
    make_row,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.evaluation.claims.pretraining import (
    Corpus,
    layer_states,
    phone_labels,
    plain_frames,
    pretrain,
    read_corpus,
    system,
)
from speechbrain_dsu.evaluation.units import unit_quality
from speechbrain_dsu.utils.nearest import nearest_centers

CLAIM = (
    "At an equal number of units the first iteration's units say more of phones than "
    "those of MFCC frames, the second's more than the first's, and a loss on masked "
    "frames only is better than one on all frames."
)
_UNITS, _LAYERS, _TAPPED = 50, 3, 2
_HOP = 160  # of the MFCC frames, half of the encoder's
_MFCC, _RANDOM = "MFCC", "untrained"
_FIRST, _ALL, _SECOND = "iteration 1", "iteration 1, all frames", "iteration 2"
_ALIGNED = "each frame has the label nearest in time, at odd lengths too"
_PADDING = "labels behind the end change no loss"
_FLOOR = "units say nothing of shuffled phones beyond the floor"


class _Sizes(NamedTuple):
    seeds: int = 3
    speech: int = 120
    test: int = 40
    steps: int = 150


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With synth/ of recipes/Synth.
    quick : bool
        Two seeds, less speech, fewer steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = _Sizes(2, 12, 4, 3) if quick else _Sizes()
    found: dict[str, list[float]] = {}
    laws = {_ALIGNED: True, _PADDING: True, _FLOOR: True}
    for seed in range(sizes.seeds):
        corpus = read_corpus(data, 157, seed, sizes.speech, sizes.test)
        with seeded(seed) as generator:
            for name, value in _iterate(corpus, sizes.steps, generator, laws).items():
                found.setdefault(name, []).append(value)
    plan = [
        (_MFCC, _FIRST, "higher"),
        (_FIRST, _SECOND, "higher"),
        (_ALL, _FIRST, "higher"),
        (_MFCC, _RANDOM, NOT_STATED),
        (_RANDOM, _FIRST, NOT_STATED),
    ]
    rows = [
        make_row("PNMI over its floor", (a, found[a]), (b, found[b]), expected)
        for a, b, expected in plan
    ]
    return make_result(157, "HuBERT", CLAIM, _setup(sizes), rows, laws)


def _setup(sizes: _Sizes) -> str:
    return (
        f"{_LAYERS} transformer blocks of 64 on log-mel frames of 20 ms, "
        f"{sizes.steps} steps of 8 seconds for each iteration, on {sizes.speech} "
        f"synthetic English utterances. {_UNITS} units by k-means of MFCC frames with "
        f"deltas (10 ms) or of layer {_TAPPED}. Information that units share with the "
        "phone, as a share of its entropy, less what shuffled phones give; frames of "
        f"20 ms of {sizes.test} utterances of voices nobody trained on. {sizes.seeds} "
        f"seeds for draws, initial values, crops, masks and clusters. {RULE}"
    )


def _build(label_hop: int, everywhere: bool = False) -> dict[str, Any]:
    # With HuBERT's masks and dropout, which the shipped encoder was trained without.
    transformer = {"dim": 64, "layers": _LAYERS, "heads": 2, "ffn": 128}
    transformer |= {"positions": 64, "dropout": 0.1, "attention_dropout": 0.1}
    mel = {"f_min": 0.0, "normalize": None}
    front_end = {"features": mel, "center": -9.0, "spread": 4.0}
    encoder = {"front_end": front_end, "feature_dropout": 0.1}
    objective = {"label_hop": label_hop, "unmasked": everywhere, "mask_length": 10}
    if label_hop == _HOP:
        objective["label_offset"] = 0
    parts = system(
        "hubert_units",
        {"n_units": _UNITS},
        encoder=encoder | {"transformer": transformer},
        objective=objective,
    )
    return parts | {"loss_weights": {"masked": 1.0, "unmasked": 1.0}}


def _iterate(
    corpus: Corpus, steps: int, generator: torch.Generator, laws: dict[str, bool]
) -> dict[str, float]:
    """PNMI over its floor, by kind of units."""
    wavs = [spoken.wav for spoken in corpus.train]
    test = [spoken.wav for spoken in corpus.test]
    mfcc = system("mfcc_kmeans", {}, "tokenizers", features={"hop": _HOP})["features"]
    frames = [plain_frames(mfcc, part) for part in (wavs, test)]
    labels, tested = _units(frames[0], frames[1], generator)
    parts = _build(_HOP)
    _keep_laws(laws, parts["objective"], wavs[0])
    encoder = parts["encoder"].eval()
    states = layer_states(encoder, test, _TAPPED)
    phones = phone_labels(corpus.test, states, encoder, corpus.ids)
    # MFCC units at the encoder's frames, by the rule that gives it its labels.
    tested = [
        parts["objective"].frame_labels(units.view(1, -1), len(names))[0, :, 0]
        for units, names in zip(tested, phones, strict=True)
    ]
    found = {_MFCC: _quality(tested, phones)}
    found[_RANDOM] = _quality(_layer_units(encoder, wavs, test, generator)[1], phones)
    rivals = {_FIRST: parts, _ALL: _build(_HOP, everywhere=True)}
    own: dict[str, list[Tensor]] = {}
    for name, built in rivals.items():
        pretrain(built, wavs, steps, generator, labels, _HOP)
        own[name], tested = _layer_units(built["encoder"], wavs, test, generator)
        found[name] = _quality(tested, phones)
    second = _build(2 * _HOP)
    pretrain(second, wavs, steps, generator, own[_FIRST], 2 * _HOP)
    tested = _layer_units(second["encoder"], wavs, test, generator)[1]
    found[_SECOND] = _quality(tested, phones)
    shuffled = [names[torch.randperm(len(names))] for names in phones]
    quality = unit_quality(torch.cat(tested), torch.cat(shuffled), permutations=3)
    laws[_FLOOR] &= quality.pnmi - quality.pnmi_floor < 0.05
    return found


def _layer_units(
    encoder: nn.Module,
    wavs: list[Tensor],
    test: list[Tensor],
    generator: torch.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    states = (layer_states(encoder, part, _TAPPED) for part in (wavs, test))
    return _units(*states, generator)


def _units(
    train: list[Tensor], test: list[Tensor], generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Units ``[frames]`` of each utterance, by k-means of the first part."""
    centers = lloyd(torch.cat(train), _UNITS, generator, iterations=15)
    return tuple(
        [nearest_centers(x, centers)[0] for x in part] for part in (train, test)
    )


def _quality(units: list[Tensor], phones: list[Tensor]) -> float:
    units, phones = torch.cat(units), torch.cat(phones)
    # The last frame may have no label of its own.
    known = units >= 0
    quality = unit_quality(units[known], phones[known], permutations=3)
    return quality.pnmi - quality.pnmi_floor


@torch.no_grad()
def _keep_laws(laws: dict[str, bool], objective: nn.Module, wav: Tensor) -> None:
    for n_labels in (100, 101):
        # Frame k lies half a label behind label 2 k: halves go up.
        expected = torch.arange(n_labels // 2) * 2 + 1
        labels = torch.arange(n_labels).view(1, -1)
        given = objective.frame_labels(labels, n_labels // 2)[0, :, 0]
        laws[_ALIGNED] &= torch.equal(given[:-1], expected[:-1])
    objective.eval()
    padded = torch.cat([wav, torch.zeros_like(wav)]).unsqueeze(0)
    lens = torch.tensor([0.5], dtype=torch.float64)
    own = torch.zeros(len(wav) // _HOP, dtype=torch.int64)
    losses = []
    for behind in (3, 7):
        labels = torch.cat([own, torch.full_like(own, behind)]).unsqueeze(0)
        with seeded(0):
            losses.append(float(objective(padded, lens, labels).losses["masked"]))
    laws[_PADDING] &= losses[0] == losses[1]
