"""Claim 153: contrast behind a mask, learned without labels, saves labels.

Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
Representations" (2020). The shipped system, made small, hears digits of some speakers
without labels; a linear probe then learns the digits of two others from few labels,
in a layer of the trained encoder and in that of an untrained one.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Digit,
    log_mel_8k,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.pretraining import (
    Signal,
    digit_strings,
    layer_states,
    plain_frames,
    pretrain,
    probe_pooled,
    system,
)
from speechbrain_dsu.utils.audio import resample

CLAIM = (
    "An encoder that learned without labels to tell quantized latents behind a mask "
    "recognises more from few labels than an untrained one."
)
_LAYERS, _TAPPED, _NEGATIVES = 3, 2, 20
_RANDOM, _TRAINED, _MEL = "untrained", "pre-trained", "log-mel"
_LABELS = (1, 5, 20)
_DRAWS = 3
_START = "the first loss is within a tenth of log(1 + negatives)"
_UNIFORM = "the diversity loss is 0 when all entries are as likely"
_MASKED = "only masked frames get gradients from the contrast"


class _Sizes(NamedTuple):
    seeds: int = 3
    takes: int = 25
    steps: int = 200


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, less speech, fewer steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = _Sizes(2, 4, 3) if quick else _Sizes()
    found: dict[tuple[int, str], list[float]] = {}
    laws = {_START: True, _UNIFORM: True, _MASKED: True}
    for seed in range(sizes.seeds):
        heard, other = _split(read_digits(data, Signal(), 153, seed, sizes.takes))
        wavs = [digit.frames for digit in other]
        with seeded(seed) as generator:
            parts = _build()
            strings = digit_strings(heard, generator)
            _keep_laws(laws, parts, strings)
            untrained = layer_states(parts["encoder"].eval(), wavs, _TAPPED)
            pretrain(parts, strings, sizes.steps, generator)
            trained = layer_states(parts["encoder"], wavs, _TAPPED)
            slow = [resample(wav, 16000, 8000) for wav in wavs]
            states = {_RANDOM: untrained, _TRAINED: trained}
            states[_MEL] = plain_frames(log_mel_8k(), slow)
            draws = [_shuffled(other, generator) for _ in range(_DRAWS)]
        for name, frames in states.items():
            for labels in _LABELS:
                value = _accuracy(frames, other, draws, min(labels, sizes.takes - 1))
                found.setdefault((labels, name), []).append(value)
    rows = [
        make_row(
            f"digits, {labels} a class",
            (rival, found[labels, rival]),
            (_TRAINED, found[labels, _TRAINED]),
            expected,
        )
        for rival, expected in ((_RANDOM, "higher"), (_MEL, NOT_STATED))
        for labels in _LABELS
    ]
    return make_result(153, "wav2vec 2.0", CLAIM, _setup(sizes), rows, laws)


def _setup(sizes: _Sizes) -> str:
    return (
        f"Seven convolutions of 32 and {_LAYERS} transformer blocks of 64, "
        f"{_NEGATIVES} negatives, 2 codebooks of 32; {sizes.steps} steps of 8 seconds "
        "on digits (FSDD) of all speakers but two, without labels. Accuracy of a "
        f"linear probe of layer {_TAPPED}, pooled over thirds of a digit, on those "
        f"two, fitted on 1, 5 or 20 labelled takes of each digit; means over {_DRAWS} "
        f"draws of these. {sizes.seeds} seeds for speakers, takes, initial values, "
        f"crops and masks. {RULE}"
    )


def _build() -> dict[str, Any]:
    transformer = {"dim": 64, "layers": _LAYERS, "heads": 2, "ffn": 128}
    return system(
        "wav2vec2_base",
        {},
        encoder={
            "front_end": {"channels": [32] * 7},
            "transformer": {**transformer, "positions": 32, "position_groups": 8},
        },
        quantizer={
            "dim": 32,
            "size": 32,
            "out_dim": 32,
            "temperature": [2.0, 0.5, 0.99],
        },
        objective={"dim": 32, "negatives": _NEGATIVES},
    )


def _split(digits: Any) -> tuple[list[Digit], list[Digit]]:
    """Digits of the speakers to hear, and of the held-out one and one more."""
    speakers = sorted({digit.speaker for digit in digits.train})
    more = speakers[0]
    heard = [digit for digit in digits.train if digit.speaker != more]
    if not heard:
        # Two speakers are all there are, as in a quick run on toy data.
        heard = digits.train
    return heard, digits.test + [d for d in digits.train if d.speaker == more]


def _shuffled(digits: list[Digit], generator: torch.Generator) -> list[int]:
    return torch.randperm(len(digits), generator=generator).tolist()


def _accuracy(
    frames: list[Tensor], digits: list[Digit], draws: list[list[int]], labels: int
) -> float:
    """Mean over draws: the first ``labels`` of each digit train, all others test."""
    values = []
    for order in draws:
        train, test = [], []
        for digit in range(10):
            places = [place for place in order if digits[place].digit == digit]
            train += places[:labels]
            test += places[labels:]
        values.append(
            probe_pooled(
                *(
                    ([frames[k] for k in part], [digits[k].digit for k in part])
                    for part in (train, test)
                )
            )
        )
    return sum(values) / len(values)


def _keep_laws(
    laws: dict[str, bool], parts: dict[str, Any], wavs: list[Tensor]
) -> None:
    objective, encoder = parts["objective"], parts["encoder"]
    batch = torch.stack([wav[:12000] for wav in wavs if len(wav) >= 12000][:8])
    objective.train()
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: tuple, states: Tensor) -> None:
        states.retain_grad()
        kept.append(states)

    hook = encoder.transformer.register_forward_hook(keep)
    found = objective(batch)
    hook.remove()
    contrast = found.losses["contrastive"]
    contrast.backward()
    reached = kept[0].grad.abs().sum(-1) > 0
    share = float(reached.double().mean())
    laws[_MASKED] &= math.isclose(
        share, float(found.stats["masked_share"]), abs_tol=1e-6
    )
    objective.zero_grad()
    ratio = float(contrast.detach()) / math.log(1 + _NEGATIVES)
    laws[_START] &= 0.9 < ratio < 1.1
    laws[_UNIFORM] &= _uniform_diversity(parts["quantizer"]) < 1e-5


def _uniform_diversity(quantizer: nn.Module) -> float:
    """The loss of a quantizer whose logits are all alike; it is left as it was."""
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for value in quantizer.logits.parameters():
            value.zero_()
        loss = quantizer(torch.randn(2, 9, quantizer.dim)).losses["diversity"]
    quantizer.load_state_dict(before)
    return float(loss.abs())
