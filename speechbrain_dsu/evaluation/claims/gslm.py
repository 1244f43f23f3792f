"""Claim 99: how many units a language model of speech has, matters.

Lakhotia et al., "On Generative Spoken Language Modeling from Raw Audio" (2021): units
of speech, a language model over them, judged by pairs. Here: k-means units of spoken
digits without repetitions. More units tell more of what was said and of who said it;
a language model tells real digits from spliced ones.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Cepstra,
    guess_accuracy,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.spoken_units import (
    Spoken,
    draw_strings,
    unit_digits,
)
from speechbrain_dsu.evaluation.claims.unit_prior import Prior, train_prior
from speechbrain_dsu.evaluation.language import pair_accuracy
from speechbrain_dsu.tokens.runs import deduplicate, expand

CLAIM = (
    "The number of units matters: more units tell more of the sounds and more of the "
    "speaker. A language model over units prefers real words to spliced ones."
)
_SIZES = (25, 50, 100)
_INVERSE = "expanding what was joined gives the units back"
_SUMS = "the log probability of a whole is the sum over its units"


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
    takes, steps = (3, 20) if quick else (12, 150)
    found: dict[tuple[str, int | str], list[float]] = {}
    laws = {_INVERSE: True, _SUMS: True}

    def note(measure: str, name: int | str, value: float) -> None:
        found.setdefault((measure, name), []).append(value)

    for seed in seeds:
        digits = read_digits(data, Cepstra(), 99, seed, takes)
        for size in _SIZES:
            with seeded(seed) as generator:
                train, test = unit_digits(digits, size, generator)
                for measure, value in _told(train).items():
                    note(measure, size, value)
                prior = Prior(size, hidden=96)
                strings = draw_strings(train, 10 * takes, 6, generator)
                text = [torch.cat([item.units for item in row]) for row in strings]
                train_prior(prior, text, steps, generator)
                pairs, units = _pairs(test, generator)
            score = pair_accuracy(pairs, lambda n, u=units, p=prior: _score(p, u[n]))
            note("real preferred", size, score.normalised)
            note("real preferred", "chance", 0.5)
            note("real preferred, summed", size, score.summed)
            _keep_laws(laws, prior, test)
    # Chance was noted once for each size.
    found["real preferred", "chance"] = [0.5] * len(seeds)
    setup = (
        "Mel cepstra of spoken digits (FSDD, 10 ms), k-means units, repetitions "
        "joined. Told: how often a unit's commonest digit (speaker) in one half of "
        "the training takes is right in the other half. Preferred: share of pairs of a "
        "real digit and a splice (its first half, the second half of another digit of "
        "the same speaker) in which a recurrent language model gives the real one more "
        "per unit; a speaker nobody trained on. Summed log probabilities prefer "
        f"shorter ones. {len(seeds)} seeds for split, units and training. {RULE}"
    )
    few, many = _SIZES[0], _SIZES[-1]

    def row(measure: str, old: int | str, new: int, expected: str) -> dict[str, Any]:
        sides = [(str(name), found[measure, name]) for name in (old, new)]
        return make_row(measure, *sides, expected)

    rows = [
        row("digit told", few, many, "higher"),
        row("speaker told", few, many, "higher"),
        *(row("real preferred", "chance", size, "higher") for size in _SIZES),
        row("real preferred", few, many, NOT_STATED),
        row("real preferred, summed", few, many, NOT_STATED),
    ]
    return make_result(99, "GSLM", CLAIM, setup, rows, laws)


def _told(spoken: list[Spoken]) -> dict[str, float]:
    names = {name: k for k, name in enumerate(sorted({x.speaker for x in spoken}))}
    out = {}
    for measure, label in (
        ("digit told", lambda item: item.digit),
        ("speaker told", lambda item: names[item.speaker]),
    ):
        halves = []
        for part in (spoken[::2], spoken[1::2]):
            units = torch.cat([item.units for item in part])
            answers = [torch.full_like(item.units, label(item)) for item in part]
            halves.append((units, torch.cat(answers)))
        out[measure] = guess_accuracy(*halves)
    return out


def _pairs(
    spoken: list[Spoken], generator: torch.Generator
) -> tuple[list[tuple[str, str]], dict[str, Tensor]]:
    """Names of real and spliced digits, and their units."""
    pairs, units = [], {}
    order = torch.randperm(len(spoken), generator=generator).tolist()
    for number, item in enumerate(spoken):
        others = (spoken[place] for place in order[number:] + order[:number])
        other = next(x for x in others if x.digit != item.digit)
        half = len(item.units) // 2, len(other.units) // 2
        fake = torch.cat([item.units[: half[0]], other.units[half[1] :]])
        # Not even the seam repeats a unit: the model has never seen that.
        units[f"{number} real"] = item.units
        units[f"{number} fake"] = torch.unique_consecutive(fake)
        pairs.append((f"{number} real", f"{number} fake"))
    return pairs, units


@torch.no_grad()
def _score(prior: Prior, units: Tensor) -> tuple[float, int]:
    return -float(prior(units.unsqueeze(0)).double()) * len(units), len(units)


@torch.no_grad()
def _keep_laws(laws: dict[str, bool], prior: Prior, test: list[Spoken]) -> None:
    units = test[0].units.repeat_interleave(torch.arange(len(test[0].units)) % 3 + 1)
    laws[_INVERSE] &= expand(*deduplicate(units[None]))[0][0].equal(units)
    whole, parts = test[0].units, 0.0
    for end in range(1, len(whole) + 1):
        before = float(prior(whole[None, : end - 1])) * (end - 1) if end > 1 else 0.0
        parts += float(prior(whole[None, :end])) * end - before
    laws[_SUMS] &= abs(parts + _score(prior, whole)[0]) < 1e-3
