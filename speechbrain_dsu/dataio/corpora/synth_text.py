"""Seeded sentences and digit strings whose meaning has a name in every language.

A *content* names what is said, not how: ``d.3.1.4`` are the digits three one four,
``s.0.12.3.7.1`` is frame 0 of the lexicon with rows 12, 3, 7 and 1 in its gaps. The
same content read in two languages is a pair of translations. A content belongs to one
of train, valid and test for good, by a hash of its name.
"""

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from string import Formatter

from speechbrain_dsu.dataio.corpora.synth_lexicon import (
    DIGITS,
    FRAMES,
    LANGUAGES,
    SLOTS,
)
from speechbrain_dsu.utils.errors import DsuError

PARTS = ("train", "valid", "test")
DIGIT_SHARE, DIGIT_COUNTS = 0.15, (3, 8)
"""Share of digit strings among the contents, and their fewest and most digits."""

_WRITTEN_DIGITS = (2, 4)


def part_of(content: str) -> str:
    """The part a content belongs to: one in ten is for valid, one for test.

    Example
    -------
    >>> [part_of(f"d.{digit}") for digit in range(6)]
    ['valid', 'train', 'train', 'test', 'train', 'train']
    """
    place = int(sha256(content.encode()).hexdigest()[:8], 16) % 10
    return {0: "valid", 1: "test"}.get(place, "train")


def draw_content(
    rng: random.Random,
    part: str | None = None,
    digits: float = DIGIT_SHARE,
    counts: tuple[int, int] = DIGIT_COUNTS,
) -> str:
    """Draw what to say.

    Arguments
    ---------
    rng : random.Random
        Where the choice comes from.
    part : "train", "valid" or "test", optional
        Only contents of this part.
    digits : float
        The share of digit strings; the rest are sentences.
    counts : (int, int)
        Fewest and most digits of a string.

    Returns
    -------
    str
        A content.

    Example
    -------
    >>> rng = random.Random(1)
    >>> contents = [draw_content(rng, "train") for _ in range(9)]
    >>> {part_of(content) for content in contents}
    {'train'}
    """
    spoken = rng.random() < digits
    while True:
        content = _digits(rng, *counts) if spoken else _sentence(rng)
        if part is None or part_of(content) == part:
            return content


def _digits(rng: random.Random, least: int, most: int) -> str:
    count = rng.randint(least, most)
    return ".".join(["d", *(str(rng.randrange(10)) for _ in range(count))])


def _gaps(frame: int) -> list[str]:
    """Letters of a frame's gaps, in the English order."""
    return [name for _, name, _, _ in Formatter().parse(FRAMES[frame][0]) if name]


def _sentence(rng: random.Random) -> str:
    frame = rng.randrange(len(FRAMES))
    rows: list[int] = []
    for gap in _gaps(frame):
        if gap == "n":
            rows += [rng.randrange(10) for _ in range(rng.randint(*_WRITTEN_DIGITS))]
        else:
            rows.append(rng.randrange(len(SLOTS[gap])))
    return ".".join(map(str, ["s", frame, *rows]))


def realise(content: str, language: str) -> str:
    """Write a content in a language.

    Arguments
    ---------
    content : str
        As ``draw_content`` gives it.
    language : str
        One of en, es, fr, de.

    Returns
    -------
    str
        With capital and full stop.

    Raises
    ------
    DsuError
        If the language is none of the four.

    Example
    -------
    >>> for language in ("en", "es", "fr", "de"):
    ...     print(realise("s.1.0.1.3.1", language))
    The teacher buys an orange cup on Monday.
    La maestra compra una taza naranja el lunes.
    La maîtresse achète une tasse orange le lundi.
    Die Lehrerin kauft am Montag eine orange Tasse.
    >>> realise("d.3.1.4", "es")
    'Tres uno cuatro.'
    """
    if language not in LANGUAGES:
        raise DsuError(f"language={language!r}: take one of {', '.join(LANGUAGES)}")
    column = LANGUAGES.index(language)
    kind, *numbers = content.split(".")
    rows = [int(number) for number in numbers]
    if kind == "d":
        text = " ".join(DIGITS[row][column] for row in rows)
    else:
        frame, *rows = rows
        filled = {}
        for gap in _gaps(frame):
            if gap == "n":
                filled[gap] = " ".join(DIGITS[row][column] for row in rows)
            else:
                filled[gap] = SLOTS[gap][rows.pop(0)][column]
        text = FRAMES[frame][column].format(**filled)
    return f"{text[0].upper()}{text[1:]}."


def transcript(text: str) -> str:
    """Lower-case words alone: letters, digits and apostrophes.

    Example
    -------
    >>> transcript("Après le repas, l'infirmière - ÉCRIT!")
    "après le repas l'infirmière écrit"
    """
    text = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*'?", text))


def read_texts(
    texts: Mapping[str, str | Path] | None,
) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Read the user's own sentences, one a line.

    Arguments
    ---------
    texts : mapping, optional
        ``{language: file}``; UTF-8.

    Returns
    -------
    dict
        ``{language: {part: [(content, line), ...]}}``, the part by a hash of the line.

    Raises
    ------
    DsuError
        If a file is missing, or too short to give every part a line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "en.txt"
    >>> _ = path.write_text("".join(f"Line {word}.\\n" for word in "abcdefghijklm"))
    >>> {part: len(lines) for part, lines in read_texts({"en": path})["en"].items()}
    {'train': 11, 'valid': 1, 'test': 1}
    """
    found = {}
    for language, path in (texts or {}).items():
        if not Path(path).is_file():
            raise DsuError(f"texts[{language!r}]: there is no file {str(path)!r}")
        lines = [line.strip() for line in Path(path).read_text("utf-8").split("\n")]
        parts: dict[str, list[tuple[str, str]]] = {part: [] for part in PARTS}
        for line in dict.fromkeys(line for line in lines if transcript(line)):
            content = "t." + sha256(line.encode()).hexdigest()[:16]
            parts[part_of(content)].append((content, line))
        empty = [part for part, chosen in parts.items() if not chosen]
        if empty:
            raise DsuError(
                f"texts[{language!r}]={str(path)!r}: no line fell to {empty[0]}; give "
                "more lines (some 50 are always enough)"
            )
        found[language] = parts
    return found


def draw_line(
    rng: random.Random,
    lines: Sequence[tuple[str, str]] | None,
    language: str,
    part: str,
    digits: float = DIGIT_SHARE,
    counts: tuple[int, int] = DIGIT_COUNTS,
) -> tuple[str, str]:
    """Draw ``(content, text)``: of the user's lines if given, else of the lexicon."""
    if lines:
        return rng.choice(lines)
    content = draw_content(rng, part, digits, counts)
    return content, realise(content, language)
