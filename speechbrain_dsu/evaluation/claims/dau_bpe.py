"""Claim 101: subwords of units make sequences short, even, and easier to model.

Dekel & Fernandez, "Exploring the Benefits of Tokenization of Discrete Acoustic Units"
(2024): byte-pair encoding of units improves quality and speed in three tasks. Here, of
two: language models of spoken digits as units and as subwords, and phones of generated
sentences written behind their letters.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor

from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Cepstra,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.hebtts import (
    BATCH,
    FULL_LETTERS,
    TOOLS,
    build_model,
    fit,
    read_lines,
    write,
)
from speechbrain_dsu.evaluation.claims.spoken_units import draw_strings, unit_digits
from speechbrain_dsu.evaluation.claims.unit_prior import Prior, train_prior
from speechbrain_dsu.evaluation.error_rates import error_rates
from speechbrain_dsu.evaluation.language import normalized_entropy
from speechbrain_dsu.tokens.subwords import UnitBPE

CLAIM = (
    "Byte-pair encoding of units gives fewer steps, a more even use of the "
    "vocabulary, a language model that needs fewer bits, and phones behind letters "
    "with no more errors."
)
_UNITS, _PIECES = 50, 200
_PHONE_PIECES = 160
_INVERSE = "decode(encode(units)) = units"
_ALONE = "what a text becomes doesn't depend on its company"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/, and synth/ of recipes/Synth.
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
    laws = {_INVERSE: True, _ALONE: True}
    spelling = (4, 8) if quick else (600, 100)
    for seed in seeds:
        for name, values in _spell(data, seed, laws, *spelling).items():
            for measure, value in values.items():
                found.setdefault((measure, name), []).append(value)
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
    plan = (
        ("steps per unit", "lower"),
        ("normalised entropy", "higher"),
        ("bits per unit, new speaker", "lower"),
        ("bits per unit, seen text", NOT_STATED),
        ("steps per phone, written", "lower"),
        ("phone errors, %", "not higher"),
        ("texts with errors, %", "not higher"),
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
    return make_result(
        101, "DAU-BPE", CLAIM, _setup(len(seeds), count, *spelling), rows, laws
    )


def _setup(seeds: int, count: int, steps: int, held_out: int) -> str:
    return (
        "Mel cepstra of spoken digits (FSDD, 10 ms), 50 k-means units, repetitions "
        f"joined, strings of eight digits; {_PIECES} subwords learned on {count} "
        "training strings. The same recurrent language model with as many steps of "
        "training on each; bits are divided by base units, so both measure the same "
        "text. Strings of a speaker nobody trained on. Phones: generated English "
        f"sentences (flite), {held_out} texts held out; systems/tts/uslm.yaml behind "
        f"letters, {steps} steps of {BATCH}, writes phones or {_PHONE_PIECES} subwords "
        f"of them. {seeds} seeds. {RULE}"
    )


def _spell(
    data: Path, seed: int, laws: dict[str, bool], steps: int, count: int
) -> dict[str, dict[str, float]]:
    """Phones behind letters, as they are and as subwords."""
    lines, names = read_lines(data, 101)
    tools = load_hyperpyyaml(TOOLS)
    with seeded(seed) as generator:
        texts = sorted({line.text for line in lines})
        order = torch.randperm(len(texts), generator=generator).tolist()
        held = {texts[place] for place in order[:count]}
        known = [line for line in lines if line.text not in held]
        asked = list({line.text: line for line in lines if line.text in held}.values())
        wanted = [line.phones[:, 0] for line in asked]
        spoken = [line.phones[:, 0] for line in known]
        bpe = UnitBPE.train(spoken, len(names), _PHONE_PIECES)
        written = [
            line._replace(phones=torch.from_numpy(row).unsqueeze(1))
            for line, row in zip(known, bpe.encode(spoken), strict=True)
        ]
        found = {}
        sides = (("units", len(names), known), ("subwords", _PHONE_PIECES, written))
        for name, size, seen in sides:
            torch.manual_seed(seed)
            model = build_model(FULL_LETTERS, seen, size, tools, laws)
            state = generator.get_state()
            fit(model, FULL_LETTERS, seen, steps, generator)
            generator.set_state(state)  # the same batches for both
            rows = write(model, FULL_LETTERS, asked, tools, laws)
            taken = sum(map(len, rows))
            if name == "subwords":
                rows = [torch.from_numpy(row) for row in bpe.decode(rows)]
            rates = error_rates(_named(wanted, names), _named(rows, names))
            found[name] = {
                "steps per phone, written": taken / max(sum(map(len, rows)), 1),
                "phone errors, %": rates["WER"],
                "texts with errors, %": rates["sentence errors"],
            }
    return found


def _named(rows: Sequence[Tensor], names: Sequence[str]) -> list[str]:
    return [" ".join(names[place] for place in row.tolist()) for row in rows]
