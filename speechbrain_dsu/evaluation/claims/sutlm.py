"""Claim 199: mixing speech and text in a sequence makes a model connect them.

Chou et al., "Toward Joint Language Modeling for Speech Units and Text" (2023): a model
trained on sequences that change between units and text transfers from one to the
other. Here: strings that count ("three four five six") as units, as words, behind one
another, or changing word by word. After spoken words the model must prefer their
continuation in writing: context retrieval among ten.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.common import (
    RULE,
    Cepstra,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.spoken_units import Spoken, unit_digits
from speechbrain_dsu.evaluation.claims.unit_prior import Prior, train_prior
from speechbrain_dsu.tokens.interleave import Interleave
from speechbrain_dsu.tokens.vocabulary import Vocabulary

CLAIM = (
    "After speech, a joint model finds the continuation in text if it was trained on "
    "sequences that alternate, less well if it was trained on concatenated ones, and "
    "by chance if each sequence was of one kind."
)
_UNITS, _WORDS = 50, 4
_APART, _JOINED, _TURNS = "unmixed", "concatenated", "alternating"
_SPLIT = "text and units of a mixed sequence come apart exactly"
_RANGES = "ids of text, specials, tags and units are disjoint"


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
    takes, count, steps = (3, 60, 20) if quick else (15, 600, 300)
    tags = ("<text>", "<speech>")
    layout = Interleave(Vocabulary(sizes=(_UNITS,), text=10, tags=tags), tags=tags)
    found: dict[str, list[float]] = {"chance": [0.1] * len(seeds)}
    laws = {_SPLIT: True, _RANGES: _disjoint(layout.vocabulary)}
    for seed in seeds:
        digits = read_digits(data, Cepstra(), 199, seed, takes)
        with seeded(seed) as generator:
            train, test = unit_digits(digits, _UNITS, generator)
            strings = [_count(train, generator, _WORDS) for _ in range(count)]
            prompts = [_count(test, generator, 2) for _ in range(100)]
            for mix in (_APART, _JOINED, _TURNS):
                rows = _write(layout, strings, mix, generator, laws)
                prior = Prior(layout.vocabulary.size)
                train_prior(prior, _packed(rows, generator), steps, generator)
                value = _retrieve(prior, layout, prompts)
                found.setdefault(mix, []).append(value)
    setup = (
        f"{_UNITS} k-means units of spoken digits (FSDD), repetitions joined; "
        f"{count} strings of {_WORDS} digits that count upwards (0 after 9), each by "
        "one speaker. Every mix has each string as speech and as text; concatenated: "
        "also both behind one another, in either order; alternating: also twice with "
        "each word either spoken or written, drawn anew. The same recurrent model and "
        "as many steps for all. Retrieval: after two spoken digits of a speaker nobody "
        "trained on, the next two in writing, among the ten pairs that count. "
        f"{len(seeds)} seeds. {RULE}"
    )
    plan = (
        ("chance", _TURNS, "higher"),
        (_JOINED, _TURNS, "higher"),
        (_APART, _JOINED, "higher"),
        ("chance", _APART, "within 0.1"),
    )
    rows = [
        make_row("context retrieval", (old, found[old]), (new, found[new]), expected)
        for old, new, expected in plan
    ]
    return make_result(199, "SUTLM", CLAIM, setup, rows, laws)


def _disjoint(vocabulary: Vocabulary) -> bool:
    names = ("text", 0, *vocabulary.specials, *vocabulary.tags)
    masks = torch.stack([vocabulary.allowed(name) for name in names])
    return bool((masks.sum(0) == 1).all())


def _count(
    spoken: Sequence[Spoken], generator: torch.Generator, words: int
) -> list[Spoken]:
    """A speaker counts from a digit on."""
    names = sorted({item.speaker for item in spoken})
    who = names[int(torch.randint(len(names), (), generator=generator))]
    first = int(torch.randint(10, (), generator=generator))
    out = []
    for place in range(words):
        digit = (first + place) % 10
        takes = [x for x in spoken if x.speaker == who and x.digit == digit]
        out.append(takes[int(torch.randint(len(takes), (), generator=generator))])
    return out


def _sequence(layout: Interleave, items: Sequence[tuple[Spoken, bool]]) -> Tensor:
    """Ids ``[steps]`` of digits, each written (True) or spoken."""
    units = [item.units for item, written in items if not written]
    text, starts, frames = [], [], 0
    for item, written in items:
        if written:
            text.append(item.digit)
            starts.append(frames)
        else:
            frames += len(item.units)
    codes = torch.cat(units) if units else torch.zeros(0, dtype=torch.int64)
    pieces = torch.tensor([text], dtype=torch.int64)
    places = torch.tensor([starts], dtype=torch.int64)
    return layout.apply(pieces, codes[None, :, None], starts=places)[0][0, :, 0]


def _write(
    layout: Interleave,
    strings: Sequence[list[Spoken]],
    mix: str,
    generator: torch.Generator,
    laws: dict[str, bool],
) -> list[Tensor]:
    rows = []
    for string in strings:
        spoken, written = ([(item, way) for item in string] for way in (False, True))
        kinds = [spoken, written]
        if mix == _JOINED:
            kinds += [spoken + written, written + spoken]
        elif mix == _TURNS:
            for _ in range(2):
                ways = torch.randint(2, (len(string),), generator=generator).tolist()
                pairs = zip(string, ways, strict=True)
                kinds.append([(item, bool(way)) for item, way in pairs])
        rows += [_sequence(layout, kind) for kind in kinds]
    for kind, row in zip(kinds, rows[-len(kinds) :], strict=True):
        both = layout.undo(row[None, :, None])
        units = [item.units for item, way in kind if not way]
        laws[_SPLIT] &= both.text[0].tolist() == [x.digit for x, way in kind if way]
        laws[_SPLIT] &= both.codes[0, :, 0].equal(
            torch.cat(units) if units else both.codes[0, :0, 0]
        )
    return rows


def _packed(rows: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Sequences one behind another, in a random order, as ten long texts."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    return list(torch.cat([rows[place] for place in order]).chunk(10))


@torch.no_grad()
def _retrieve(
    prior: Prior, layout: Interleave, prompts: Sequence[list[Spoken]]
) -> float:
    """How often the right one of ten written continuations is the likeliest."""
    right = 0
    for prompt in prompts:
        spoken, rows = [(item, False) for item in prompt], []
        for digit in range(10):
            more = [Spoken((digit + k) % 10, "", prompt[0].units) for k in range(2)]
            rows.append(_sequence(layout, spoken + [(item, True) for item in more]))
        batch = torch.stack(rows)
        hidden = prior.net(prior.embed(batch[:, :-1]))[0]
        nats = nn.functional.cross_entropy(
            prior.out(hidden).transpose(1, 2), batch[:, 1:], reduction="none"
        )
        # The prompt is the same in all ten.
        guess = int(nats[:, -3:].sum(1).argmin())
        right += guess == (prompt[-1].digit + 1) % 10
    return right / len(prompts)
