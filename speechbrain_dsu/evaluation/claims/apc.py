"""Claim 229: predicting a frame some steps ahead teaches a recurrent encoder speech.

Chung and Glass, "Generative Pre-Training for Speech with Autoregressive Predictive
Coding" (2020). The shipped APC, made small, is trained without labels; linear probes
then look for phones, digits and speakers in its last layer, in log-mel frames, and in
the same encoder untrained.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.common import (
    RULE,
    Digits,
    Found,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.pretraining import (
    Corpus,
    Signal,
    digit_strings,
    layer_states,
    phone_labels,
    plain_frames,
    pretrain,
    probe_frames,
    probe_pooled,
    read_corpus,
    system,
)

CLAIM = (
    "What the encoder learns by predicting is better than surface features on phones, "
    "digits and speakers, most so with few labels; some steps ahead are better than "
    "the next one or many."
)
_DIM, _LAYERS = 96, 2
_AHEAD = (1, 3, 10)
_MEL, _RANDOM, _APC = "log-mel", "untrained", "APC"
_LABELLED = {"1%": (1, 4), "10%": (10, 2), "all": (100, 1)}
"""Labelled utterances, and of how many disjoint draws the mean is taken."""
_RIVALS = (f"{_APC}, 1 ahead", f"{_APC}, 10 ahead")
"""Compared on phones with all labels only."""
_EVERY = 5
_CAUSAL = "what comes later changes no frame"
_LENGTHS = "padding changes no loss"


class _Sizes(NamedTuple):
    seeds: int = 3
    speech: int = 160
    test: int = 40
    takes: int = 6
    steps: int = 120


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/, and synth/ of recipes/Synth.
    quick : bool
        Two seeds, less speech, fewer steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = _Sizes(2, 12, 4, 2, 3) if quick else _Sizes()
    found = Found()
    laws = {_CAUSAL: True, _LENGTHS: True}
    for seed in range(sizes.seeds):
        corpus = read_corpus(data, 229, seed, sizes.speech, sizes.test)
        digits = read_digits(data, Signal(), 229, seed, sizes.takes)
        for name, ahead in [(_RANDOM, 3), *((_name(n), n) for n in _AHEAD)]:
            with seeded(seed) as generator:
                parts = _build(ahead)
                if name != _RANDOM:
                    wavs = [spoken.wav for spoken in corpus.train]
                    wavs += digit_strings(digits.train, generator)
                    pretrain(parts, wavs, sizes.steps, generator, label_hop=160)
            _note(found, name, parts["encoder"], corpus, digits)
        _note(found, _MEL, parts["encoder"].front_end, corpus, digits)
        _keep_laws(laws, parts, corpus.test[0].wav)
    return make_result(229, "APC", CLAIM, _setup(sizes), _rows(found), laws)


def _name(ahead: int) -> str:
    return _APC if ahead == 3 else f"{_APC}, {ahead} ahead"


def _build(ahead: int) -> dict[str, Any]:
    body = {"dim": _DIM, "n_layers": _LAYERS}
    return system("apc", {}, encoder={"body": body}, objective={"ahead": ahead})


def _setup(sizes: _Sizes) -> str:
    return (
        f"{_LAYERS} GRU layers of {_DIM}, {sizes.steps} steps of 8 seconds on "
        f"{sizes.speech} synthetic English utterances and the training speakers' "
        f"digits (FSDD, {sizes.takes} takes), 3 frames of 10 ms ahead unless said "
        "otherwise. Accuracy of linear probes of the last layer. Phones: frames of "
        "voices nobody trained on, fitted on 1, 10 or 100 labelled utterances. "
        "Digits: of a new speaker. Speakers: held-out takes. Gain: over log-mel, "
        f"phones. {sizes.seeds} seeds for draws, initial values and crops. {RULE}"
    )


def _note(
    found: Found,
    name: str,
    model: nn.Module,
    corpus: Corpus,
    digits: Digits,
) -> None:
    def frames(wavs: list[Tensor]) -> list[Tensor]:
        if name == _MEL:
            return plain_frames(model, wavs)
        return layer_states(model, wavs, _LAYERS)

    parts = []
    most = max(count for count, _ in _LABELLED.values())
    for speech in (corpus.train[:most], corpus.test):
        states = frames([spoken.wav for spoken in speech])
        parts.append((states, phone_labels(speech, states, model, corpus.ids)))
    (states, labels), test = parts
    for share, (count, draws) in _LABELLED.items():
        if name in _RIVALS and share != "all":
            continue
        starts = range(0, min(draws * count, len(states)), count)
        values = [
            probe_frames(
                (states[k : k + count], labels[k : k + count]),
                test,
                len(corpus.ids),
                _EVERY,
            )
            for k in starts
        ]
        found.note(f"phones, {share}", name, sum(values) / len(values))
    if name in _RIVALS:
        return
    train, new = (frames([digit.frames for digit in part]) for part in digits)
    value = probe_pooled(
        (train, [d.digit for d in digits.train]), (new, [d.digit for d in digits.test])
    )
    found.note("digits", name, value)
    speakers = [digit.speaker for digit in digits.train]
    value = probe_pooled(
        (train[::2], speakers[::2]),
        (train[1::2], speakers[1::2]),
    )
    found.note("speakers", name, value)


def _rows(found: Found) -> list[dict[str, Any]]:
    rows = [
        found.row(measure, rival, _APC, "higher")
        for rival in (_MEL, _RANDOM)
        for measure in (*(f"phones, {x}" for x in _LABELLED), "digits", "speakers")
    ]

    def gain(share: str) -> tuple[str, list[float]]:
        pairs = zip(
            found[f"phones, {share}", _APC],
            found[f"phones, {share}", _MEL],
            strict=True,
        )
        return f"at {share}", [system - mel for system, mel in pairs]

    rows += [make_row("gain", gain(x), gain("10%"), "higher") for x in ("1%", "all")]
    rows += [
        found.row("phones, all", _name(ahead), _APC, "higher")
        for ahead in _AHEAD
        if ahead != 3
    ]
    return rows


@torch.no_grad()
def _keep_laws(laws: dict[str, bool], parts: dict[str, Any], wav: Tensor) -> None:
    encoder, objective = parts["encoder"], parts["objective"]
    short = wav[: len(wav) // 2]
    whole, half = layer_states(encoder, [wav, short], _LAYERS)
    # The last frames of the short one have heard zeros instead of what follows.
    blind = len(half) - 1 - encoder.receptive_field[1] // encoder.hop
    laws[_CAUSAL] &= torch.allclose(whole[:blind], half[:blind], atol=1e-5)
    alone = objective(short.unsqueeze(0)).losses["prediction"]
    padded = torch.cat([short, torch.zeros_like(short)]).unsqueeze(0)
    lens = torch.tensor([0.5], dtype=torch.float64)
    beside = objective(padded, lens).losses["prediction"]
    laws[_LENGTHS] &= torch.allclose(alone, beside, rtol=1e-4)
