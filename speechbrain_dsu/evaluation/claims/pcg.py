"""Claim 169: groups of like-sounding units let more drafted units stay.

"Principled Coarse-Grained Acceptance for Speculative Decoding in Speech": a drafted
unit stays when its group of similar units is one that the target wants; over groups
the result is exact. Here: a recurrent target and pair counts as the draft, over units
of spoken digits. What stays is computed from both distributions, not drawn. Whether
the speech stays intelligible isn't measured.
"""

from pathlib import Path
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.common import (
    RULE,
    Cepstra,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.spoken_units import draw_strings, unit_digits
from speechbrain_dsu.evaluation.claims.unit_prior import Prior, train_prior

CLAIM = (
    "Acceptance of drafted units by groups of similar units is higher than exact "
    "acceptance, and grows as groups do; over groups the law is the target's."
)
_UNITS = 50
_SIZES = (2, 4, 8)
_EXACT = "exact"
_GROUPS = "kept and redrawn groups together have the target's law"
_SINGLE = "groups of one unit each are exact acceptance"
_PARTS = """
coarse: !name:speechbrain_dsu.decoders.acceptance.Coarse
exact: !new:speechbrain_dsu.decoders.acceptance.Exact
groups: !name:speechbrain_dsu.decoders.acceptance.similarity_groups
"""


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
    takes, count, steps = (3, 40, 20) if quick else (12, 300, 200)
    parts = load_hyperpyyaml(_PARTS)
    found: dict[str, list[float]] = {}
    cosines: dict[int, list[float]] = {}
    laws = {_GROUPS: True, _SINGLE: True}
    for seed in seeds:
        digits = read_digits(data, Cepstra(), 169, seed, takes)
        with seeded(seed) as generator:
            train, test = unit_digits(digits, _UNITS, generator)
            seen, new = (
                [
                    torch.cat([digit.units for digit in string])
                    for string in draw_strings(part, number, 6, generator)
                ]
                for part, number in ((train, count), (test, 40))
            )
            target = train_prior(Prior(_UNITS), seen, steps, generator)
        wanted, guessed = _chances(target, seen, new)
        alone = torch.eye(_UNITS, dtype=torch.bool)
        stays = float(torch.minimum(wanted, guessed).sum(1).mean())
        found.setdefault(_EXACT, []).append(stays)
        judge = parts["coarse"](alone)
        same = _stays(judge.kernel, wanted, guessed)
        laws[_SINGLE] &= abs(same - stays) < 1e-9
        vectors = target.embed.weight.detach()[:_UNITS].double()
        for size in _SIZES:
            cosine = _cosine(vectors, size)
            members = parts["groups"](vectors, cosine)
            judge = parts["coarse"](members)
            value = _stays(judge.kernel, wanted, guessed)
            found.setdefault(_name(size), []).append(value)
            cosines.setdefault(size, []).append(cosine)
            laws[_GROUPS] &= _keeps_groups(
                parts["exact"], judge.kernel, wanted, guessed
            )
    means = ", ".join(
        f"{sum(v) / len(v):.2f} for {size}" for size, v in cosines.items()
    )
    setup = (
        f"{_UNITS} k-means units of spoken digits (FSDD), strings of six. Target: a "
        "recurrent language model; draft: counts of pairs. A group has the units whose "
        "vectors in the target's table have at least a cosine, set so that groups have "
        f"2, 4, 8 units on average ({means}). Share of drafted units that stay, at "
        "every place of strings by a speaker nobody trained on. "
        f"{len(seeds)} seeds. {RULE}"
    )
    names = [_EXACT, *map(_name, _SIZES)]
    rows = [
        make_row("share that stays", (old, found[old]), (new, found[new]), "higher")
        for old, new in zip(names, names[1:], strict=False)
    ]
    return make_result(169, "PCG", CLAIM, setup, rows, laws)


def _name(size: int) -> str:
    return f"groups of {size}"


def _cosine(vectors: Tensor, size: int) -> float:
    """The least cosine at which groups have so many units on average."""
    unit = nn.functional.normalize(vectors, dim=-1)
    found = (unit @ unit.T).flatten().sort(descending=True).values
    return float(found[size * len(vectors) - 1])


@torch.no_grad()
def _chances(
    target: Prior, seen: list[Tensor], new: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """What target and draft say at every place of new strings: ``[n, units]``."""
    cells = torch.cat([row[:-1] * _UNITS + row[1:] for row in seen])
    table = torch.bincount(cells, minlength=_UNITS**2).view(_UNITS, -1) + 0.1
    table = table.double() / table.sum(1, keepdim=True)
    wanted, guessed = [], []
    for row in new:
        hidden = target.net(target.embed(row[None, :-1]))[0]
        wanted.append(target.out(hidden)[0].double().softmax(-1))
        guessed.append(table[row[:-1]])
    return torch.cat(wanted), torch.cat(guessed)


def _stays(kernel: Tensor, wanted: Tensor, guessed: Tensor) -> float:
    return float(torch.minimum(wanted @ kernel, guessed @ kernel).sum(1).mean())


def _keeps_groups(exact: Any, kernel: Tensor, wanted: Tensor, guessed: Tensor) -> bool:
    want, guess = wanted @ kernel, guessed @ kernel
    kept = guess * exact.stay_probability(want, guess)
    redrawn = exact.remainder(want, guess) * (1 - kept.sum(1, keepdim=True))
    return bool(torch.allclose(kept + redrawn, want, atol=1e-9))
