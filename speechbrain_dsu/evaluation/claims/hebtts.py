"""Claim 31: word pieces read a spelling without vowels better than letters do.

Roth et al., "A Language Modeling Approach to Diacritic-Free Hebrew TTS" (2024): a
language model behind word pieces needs no marks for the vowels that Hebrew leaves out.
The same problem in English: texts lose their vowels, as "the bird" becomes "th brd",
and small models write the phones of what was said. Phones come from speech with exact
alignments and are taken as units of a perfect tokenizer, so that errors are those of
reading. The same texts with their vowels bound them from below.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.aligned_speech import english_entries
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Found,
    make_result,
    seeded,
)
from speechbrain_dsu.evaluation.claims.small_training import train
from speechbrain_dsu.evaluation.error_rates import error_rates
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths
from speechbrain_dsu.utils.paths import hparams_dir

CLAIM = (
    "Behind a text without vowels, a language model of units makes fewer phone errors "
    "when it reads word pieces than when it reads letters, most of all where words "
    "are told apart by their vowels alone."
)
BATCH, PIECES = 16, 250
_LETTERS, _PIECES = "letters, no vowels", "word pieces, no vowels"
FULL_LETTERS, _FULL_PIECES = "letters", "word pieces"
_ERRORS, _AMBIGUOUS = "phone errors, %", "phone errors, %, ambiguous"
_ALONE = "what a text becomes doesn't depend on its company"
_READS = "word pieces give the text back"
_SIZES = {"dim": 96, "n_heads": 4, "n_layers": 3, "dropout": 0.1}
TOOLS = """
say: !name:speechbrain_dsu.decoders.speech.say
learn: !name:speechbrain_dsu.tokens.word_pieces.WordPieces.learn
"""


class Line(NamedTuple):
    """What was said, without its vowels, and the phones ``[n, 1]`` that said it."""

    text: str
    bare: str
    phones: Tensor
    ambiguous: bool


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With synth/, as recipes/Synth/synth_prepare.py leaves it.
    quick : bool
        Two seeds, few steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    seeds, steps, count = (2, 4, 8) if quick else (3, 900, 100)
    lines, names = read_lines(data, 31)
    found, laws, tools = Found(), {_ALONE: True, _READS: True}, load_hyperpyyaml(TOOLS)
    for seed in range(seeds):
        with seeded(seed) as generator:
            texts = sorted({line.text for line in lines})
            order = torch.randperm(len(texts), generator=generator).tolist()
            held = {texts[place] for place in order[:count]}
            known = [line for line in lines if line.text not in held]
            asked = list(
                {line.text: line for line in lines if line.text in held}.values()
            )
            for name in (_LETTERS, _PIECES, FULL_LETTERS, _FULL_PIECES):
                torch.manual_seed(seed)
                model = build_model(name, known, len(names), tools, laws)
                fit(model, name, known, steps, generator)
                said = write(model, name, asked, tools, laws)
                found.note_all(name, _measures(said, asked, names))
    rows = [
        found.row(_ERRORS, _LETTERS, _PIECES, "lower"),
        found.row(_AMBIGUOUS, _LETTERS, _PIECES, "lower"),
        found.row(_ERRORS, FULL_LETTERS, _FULL_PIECES, NOT_STATED),
        found.row(_ERRORS, FULL_LETTERS, _LETTERS, NOT_STATED),
        found.row(_ERRORS, _FULL_PIECES, _PIECES, NOT_STATED),
    ]
    return make_result(31, "HebTTS", CLAIM, _setup(seeds, steps, count), rows, laws)


def _setup(seeds: int, steps: int, count: int) -> str:
    return (
        "Generated English sentences (flite) with their phones, pauses left out. "
        f"{count} texts are held out; the others train systems/tts/uslm.yaml behind "
        f"letters and systems/tts/hebtts.yaml behind {PIECES} word pieces of the same "
        f"spelling, of equal size, {steps} steps of {BATCH}. The vowels a, e, i, o, u "
        "are taken out of words that have other letters. Ambiguous: texts with a "
        "word that is another word's spelling, too. Errors: edits over phones. "
        f"{seeds} seeds for held-out texts and starts. {RULE}"
    )


def strip_vowels(text: str) -> str:
    """A text as Hebrew would spell it.

    Example
    -------
    >>> strip_vowels("a young bird sees us")
    'a yng brd ss s'
    """
    bare = (re.sub("[aeiou]", "", word) or word for word in text.split())
    return " ".join(bare)


def read_lines(data: Path, claim: int) -> tuple[list[Line], list[str]]:
    """Utterances of flite and the names of their phones."""
    entries = english_entries(data, "train", claim).values()
    entries = [entry for entry in entries if entry["engine"] == "flite"]
    words = {word for entry in entries for word in entry["text"].split()}
    spelt = Counter(strip_vowels(word) for word in words)
    found = []
    for entry in entries:
        found.append([p for p in entry["alignment"].phones if p != "sil"])
    names = sorted({phone for phones in found for phone in phones})
    places = {name: place for place, name in enumerate(names)}
    lines = []
    for entry, phones in zip(entries, found, strict=True):
        bare = strip_vowels(entry["text"])
        ids = torch.tensor([[places[phone]] for phone in phones])
        ambiguous = any(spelt[word] > 1 for word in bare.split())
        lines.append(Line(entry["text"], bare, ids, ambiguous))
    return lines, names


def _spelling(name: str, line: Line) -> str:
    return line.bare if name in (_LETTERS, _PIECES) else line.text


def build_model(
    name: str,
    lines: Sequence[Line],
    phones: int,
    tools: dict[str, Any],
    laws: dict[str, bool],
) -> nn.Module:
    """A model that writes so many kinds of phones behind spellings of a kind."""
    texts = [_spelling(name, line) for line in lines]
    pieces, options = b"", {**_SIZES, "sizes": [phones], "condition_dropout": 0.0}
    if name in (_PIECES, _FULL_PIECES):
        pieces = tools["learn"](texts, PIECES)
        options |= {"pieces": PIECES, "model_bytes": len(pieces)}
    system = "hebtts" if pieces else "uslm"
    with open(hparams_dir() / "systems" / "tts" / f"{system}.yaml") as file:
        model = load_hyperpyyaml(file, options)["model"]
    if pieces:
        model.reader.text.load(pieces)
        reads = model.reader.text
        laws[_READS] &= all(reads.decode(reads.encode(text)) == text for text in texts)
    # One codebook: the model of the others has nothing to learn.
    coarse = model.coarse
    symbols = sum(len(coarse.reader.text.encode(text)) for text in texts)
    coarse.set_pace(sum(len(line.phones) for line in lines), symbols)
    return coarse


def fit(
    model: nn.Module,
    name: str,
    lines: Sequence[Line],
    steps: int,
    generator: torch.Generator,
) -> None:
    """Train it on lines, some steps of ``BATCH``."""
    texts = [
        torch.tensor(model.reader.text.encode(_spelling(name, line))) for line in lines
    ]
    voice = torch.zeros(BATCH, dtype=torch.int64)

    def loss() -> Tensor:
        drawn = torch.randint(len(lines), (BATCH,), generator=generator).tolist()
        text, text_lens = _padded([texts[n] for n in drawn])
        codes, lens = _padded([lines[n].phones for n in drawn])
        return model(text, text_lens, codes, lens, voice)["loss"]

    train(model, loss, steps, 2e-3)


def write(
    model: nn.Module,
    name: str,
    lines: Sequence[Line],
    tools: dict[str, Any],
    laws: dict[str, bool],
) -> list[Tensor]:
    """What it writes behind each line: ``[phones]``."""
    texts = [_spelling(name, line) for line in lines]
    found = tools["say"](model, texts)
    counts = absolute_lengths(found.lens, found.codes.shape[1]).tolist()
    rows = [row[:n, 0] for row, n in zip(found.codes, counts, strict=True)]
    alone = tools["say"](model, texts[:1]).codes[0, :, 0]
    laws[_ALONE] &= torch.equal(alone, rows[0])
    return rows


def _measures(
    said: Sequence[Tensor], lines: Sequence[Line], names: Sequence[str]
) -> dict[str, float]:
    found = [" ".join(names[place] for place in row.tolist()) for row in said]
    wanted = [" ".join(names[place] for place in line.phones[:, 0]) for line in lines]
    unsure = [place for place, line in enumerate(lines) if line.ambiguous]
    unsure = unsure or list(range(len(lines)))
    chosen = [[texts[place] for place in unsure] for texts in (wanted, found)]
    return {
        _ERRORS: error_rates(wanted, found)["WER"],
        _AMBIGUOUS: error_rates(*chosen)["WER"],
    }


def _padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    padded, counts = pad_stack(items)
    return padded, relative_lengths(counts, padded.shape[1])
