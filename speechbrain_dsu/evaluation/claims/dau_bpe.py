"""Claim 101: subwords of units make sequences short, even, and easier to model.

Dekel & Fernandez, "Exploring the Benefits of Tokenization of Discrete Acoustic Units"
(2024): byte-pair encoding of units improves quality and speed in three tasks. Here,
of unit language modelling alone: strings of spoken digits as units and as subwords.
"""

import math
from pathlib import Path
from typing import Any

import torch

from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Cepstra,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.spoken_units import draw_strings, unit_digits
from speechbrain_dsu.evaluation.claims.unit_prior import Prior, train_prior
from speechbrain_dsu.evaluation.language import normalized_entropy
from speechbrain_dsu.tokens.subwords import UnitBPE

CLAIM = (
    "Byte-pair encoding of units gives fewer steps, a more even use of the "
    "vocabulary, and a language model that needs fewer bits."
)
_UNITS, _PIECES = 50, 200
_INVERSE = "decode(encode(units)) = units"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, less speech and training.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    seeds = range(2 if quick else 3)
    takes, count, steps = (4, 60, 20) if quick else (15, 400, 200)
    found: dict[tuple[str, str], list[float]] = {}
    laws = {_INVERSE: True}
    for seed in seeds:
        digits = read_digits(data, Cepstra(), 101, seed, takes)
        with seeded(seed) as generator:
            train, test = unit_digits(digits, _UNITS, generator)
            texts = [
                [
                    torch.cat([digit.units for digit in string])
                    for string in draw_strings(part, number, 8, generator)
                ]
                for part, number in ((train, count), (test, 60))
            ]
            bpe = UnitBPE.train(texts[0], _UNITS, _PIECES)
            written = [
                [torch.from_numpy(row) for row in bpe.encode(part)] for part in texts
            ]
            back = bpe.decode(written[1])
            laws[_INVERSE] &= all(
                torch.from_numpy(row).equal(text)
                for row, text in zip(back, texts[1], strict=True)
            )
            base = sum(map(len, texts[1]))
            sides = (("units", _UNITS, texts), ("subwords", _PIECES, written))
            for name, size, (seen, new) in sides:
                state = generator.get_state()
                prior = Prior(size)
                train_prior(prior, seen, steps, generator)
                generator.set_state(state)  # the same stretches for both
                length = sum(map(len, new))
                bits = prior.nats(new) * length / math.log(2)
                values = {
                    "steps per unit": length / base,
                    "normalised entropy": normalized_entropy(seen, size),
                    "bits per unit, new speaker": bits / base,
                    "bits per unit, seen text": prior.nats(seen[:60])
                    * sum(map(len, seen[:60]))
                    / sum(map(len, texts[0][:60]))
                    / math.log(2),
                }
                for measure, value in values.items():
                    found.setdefault((measure, name), []).append(value)
    setup = (
        "Mel cepstra of spoken digits (FSDD, 10 ms), 50 k-means units, repetitions "
        f"joined, strings of eight digits; {_PIECES} subwords learned on {count} "
        "training strings. The same recurrent language model with as many steps of "
        "training on each; bits are divided by base units, so both measure the same "
        f"text. Strings of a speaker nobody trained on. {len(seeds)} seeds. {RULE}"
    )
    plan = (
        ("steps per unit", "lower"),
        ("normalised entropy", "higher"),
        ("bits per unit, new speaker", "lower"),
        ("bits per unit, seen text", NOT_STATED),
    )
    rows = [
        make_row(
            measure,
            ("units", found[measure, "units"]),
            ("subwords", found[measure, "subwords"]),
            expected,
        )
        for measure, expected in plan
    ]
    return make_result(101, "DAU-BPE", CLAIM, setup, rows, laws)
