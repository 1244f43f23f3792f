"""Claim 217: a codebook that grows covers sounds that the labelled speech lacks.

Wang et al., "DQR-TTS: Semi-supervised Text-to-speech Synthesis with Dynamic Quantized
Representation" (2023): entries come from a little paired speech, and unpaired speech
adds entries where no entry is near. Here: the paired speech lacks three of ten spoken
digits, and with them the sounds s, k, e and ei. The growing codebook is compared with
a fixed one of the same first entries, and with a fixed one that was given as many
entries as the growing one ends with, all from the paired speech. All three are then
trained on the same unpaired speech.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Cepstra,
    Digit,
    guess_accuracy,
    joined,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.utils.nearest import nearest_centers

CLAIM = (
    "On sounds that only unpaired speech has, a growing codebook distorts less and its "
    "codes tell more than a fixed one; it grows fast at first, then hardly."
)
_HIDDEN = (6, 7, 8)
_FIRST, _MOST = 32, 512
# A frame farther from all entries than 99 of 100 paired frames is not covered.
_COVERED = 0.99
_GROWING, _FIXED, _EQUAL = "growing", "fixed", "fixed, as many"
_STILL = "no entry is added when all frames are near one"
_IDS = "old entries keep their ids while new ones are added"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, less speech.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    features = Cepstra()
    seeds = range(2 if quick else 3)
    found: dict[tuple[str, str], list[float]] = {}
    laws = {_STILL: True, _IDS: True}
    entries = []
    for seed in seeds:
        digits = read_digits(data, features, 217, seed, 2 if quick else 40)
        paired = joined([d for d in digits.train if d.digit not in _HIDDEN])
        with seeded(seed) as generator:
            order = torch.randperm(len(digits.train), generator=generator).tolist()
            unpaired = [digits.train[place] for place in order]
            books, growth = _train_all(paired, unpaired, generator)
            _keep_laws(laws, paired, joined(unpaired), generator)
        entries.append(int(books[_GROWING].entries))
        half = len(growth) // 2
        for name, part in (("first", growth[:half]), ("second", growth[half:])):
            found.setdefault((f"{name} half", "new entries"), []).append(sum(part))
        for name, book in books.items():
            for measure, value in _measures(book, features, digits).items():
                found.setdefault((name, measure), []).append(value)
    setup = _setup(len(seeds), fmean(entries))
    return make_result(217, "DQR-TTS", CLAIM, setup, _rows(found), laws)


def _setup(seeds: int, entries: float) -> str:
    return (
        "Mel cepstra of spoken digits (FSDD, 10 ms). Paired speech lacks the digits "
        f"{', '.join(map(str, _HIDDEN))}; unpaired speech has all. Fixed: {_FIRST} "
        "entries by k-means on paired frames; growing: from the same, to "
        f"{entries:.0f} on average (at most {_MOST}); fixed, as many: that number by "
        "k-means on paired frames. dB: mean difference of smoothed spectra. Told: "
        "accuracy of the digit that a code had most often in training, frame by "
        f"frame. Both on a speaker nobody trained on. {seeds} seeds for split, start "
        f"and order. {RULE}"
    )


def _rows(found: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    plan = [
        (measure, rival, _GROWING, expected)
        for rival in (_FIXED, _EQUAL)
        for measure, expected in (
            ("dB, hidden digits", "lower"),
            ("told, hidden digits", "higher"),
            ("dB, known digits", NOT_STATED),
        )
    ]
    plan.append(("new entries", "first half", "second half", "lower"))
    return [
        make_row(
            measure,
            (baseline, found[baseline, measure]),
            (system, found[system, measure]),
            expected,
        )
        for measure, baseline, system, expected in plan
    ]


def _start(
    paired: Tensor, size: int, most: int, generator: torch.Generator
) -> nn.Module:
    """A growing codebook, or a fixed one where ``most`` is ``size``."""
    centers = lloyd(paired, size, generator, iterations=25)
    gaps = nearest_centers(paired, centers)[1].sqrt()
    book = block(
        "quantizer_growing",
        size=most,
        dim=paired.shape[1],
        threshold=float(gaps.quantile(_COVERED)),
    )
    book.set_entries(centers)
    return book


def _train_all(
    paired: Tensor, unpaired: Sequence[Digit], generator: torch.Generator
) -> tuple[dict[str, nn.Module], list[int]]:
    state = generator.get_state()
    growing = _start(paired, _FIRST, _MOST, generator)
    generator.set_state(state)  # the same first entries
    fixed = _start(paired, _FIRST, _FIRST, generator)
    growth = train(growing, unpaired)
    count = int(growing.entries)
    equal = _start(paired, count, count, generator)
    train(fixed, unpaired)
    train(equal, unpaired)
    return {_GROWING: growing, _FIXED: fixed, _EQUAL: equal}, growth


def train(
    book: nn.Module, speech: Sequence[Digit], batch: int = 8, rate: float = 1e-2
) -> list[int]:
    """Pass over recordings once, by Adam; how many entries each step added."""
    optimizer = torch.optim.Adam(book.parameters(), lr=rate)
    book.train()
    growth = []
    for first in range(0, len(speech), batch):
        before = int(book.entries)
        optimizer.zero_grad()
        frames = joined(speech[first : first + batch]).unsqueeze(0)
        sum(book(frames).losses.values()).backward()
        optimizer.step()
        growth.append(int(book.entries) - before)
    book.eval()
    return growth


def _measures(book: nn.Module, features: Cepstra, digits: Any) -> dict[str, float]:
    seen = _codes_and_digits(book, digits.train)
    hidden = [d for d in digits.test if d.digit in _HIDDEN]
    known = [d for d in digits.test if d.digit not in _HIDDEN]
    out = {"told, hidden digits": guess_accuracy(seen, _codes_and_digits(book, hidden))}
    for name, part in (("hidden", hidden), ("known", known)):
        frames = joined(part).unsqueeze(0)
        with torch.no_grad():
            decoded = book.decode(book.encode(frames))
        out[f"dB, {name} digits"] = features.decibels(frames, decoded)
    return out


def _codes_and_digits(book: nn.Module, part: Sequence[Digit]) -> tuple[Tensor, Tensor]:
    codes = book.encode(joined(part).unsqueeze(0))[0, :, 0]
    lengths = torch.tensor([len(d.frames) for d in part])
    return codes, torch.tensor([d.digit for d in part]).repeat_interleave(lengths)


def _keep_laws(
    laws: dict[str, bool], paired: Tensor, frames: Tensor, generator: torch.Generator
) -> None:
    book = _start(paired, _FIRST, _MOST, generator)
    distances = nearest_centers(paired, book.vectors.detach()[:_FIRST])[1]
    # A margin for the rounding of distances.
    near = paired[distances.sqrt() < 0.999 * book.threshold]
    laws[_STILL] &= book.grow(near) == 0 and int(book.entries) == _FIRST
    before = book.vectors.detach()[:_FIRST].clone()
    added = book.grow(frames)
    laws[_IDS] &= added > 0 and torch.equal(book.vectors.detach()[:_FIRST], before)
