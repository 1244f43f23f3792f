"""What a synthetic corpus says: chapters of ten utterances, in an order without end.

Every chapter follows from the options and its own number alone. A corpus of ten hours
is therefore the beginning of one of twenty, and chapters can be made in any order.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice

from speechbrain_dsu.dataio.corpora.synth_text import (
    DIGIT_COUNTS,
    DIGIT_SHARE,
    draw_content,
    draw_line,
    read_texts,
    realise,
)
from speechbrain_dsu.dataio.corpora.synth_voices import (
    FLITE,
    Speaker,
    check_bases,
    plain_speaker,
    speakers_of,
)
from speechbrain_dsu.utils.errors import DsuError

FOLDERS = {
    "train": "train-clean-100",
    "valid": "dev-clean",
    "test": "test-clean",
    "parallel": "parallel",
}
"""Folder of each manifest; LibriSpeech's names, so that its readers find them."""

CHAPTER = 10
"""Utterances of a chapter."""

_FIRST = {"train": 100000, "valid": 200000, "test": 300000, "parallel": 400000}
# Of English chapters, the share of flite, whose few voices sound more natural.
_FLITE_SHARE = 1 / 3
_PARALLEL_DIGITS = 0.5


@dataclass(frozen=True)
class Line:
    """One utterance to make: what it means, its words, and the speed (1: usual)."""

    content: str
    text: str
    speed: float


@dataclass(frozen=True)
class Chapter:
    """Up to ten lines of one speaker, a folder of the corpus."""

    part: str
    number: int
    speaker: Speaker
    lines: tuple[Line, ...]

    @property
    def name(self) -> str:
        """``speaker-number``, the beginning of every file's name."""
        return f"{self.speaker.id}-{self.number}"

    @property
    def path(self) -> str:
        """Folder relative to the corpus's root."""
        return f"{FOLDERS[self.part]}/{self.speaker.id}/{self.number}"


@dataclass(frozen=True)
class Plan:
    """The options that decide what a corpus contains, apart from its size.

    Arguments
    ---------
    seed : int
        Another seed is another corpus.
    languages : mapping
        ``{language: share of the training chapters}``; the test set speaks the first.
    voices : sequence of str, optional
        Flite voices and espeak-ng variants to use; all if not given.
    held_out : sequence of str
        Those that only the test set has, in all their variations.
    texts : mapping, optional
        ``{language: file}`` of own sentences.
    digits : float, optional
        Share of digit strings; None: ``DIGIT_SHARE`` (half of the parallel part).
    digit_counts : (int, int), optional
        Fewest and most digits of a string; None: ``DIGIT_COUNTS``.

    Raises
    ------
    DsuError
        If an option names something unknown, or leaves a language without speakers.

    Example
    -------
    >>> chapter = Plan(seed=1).part("valid", 20)[1]
    >>> chapter.name, len(chapter.lines), chapter.lines[0].text
    ('...-200001', 10, '...')
    """

    seed: int = 1234
    languages: Mapping[str, float] = field(default_factory=lambda: {"en": 1.0})
    voices: tuple[str, ...] | None = None
    held_out: tuple[str, ...] = ("slt", "m3")
    texts: Mapping[str, str] | None = None
    digits: float | None = None
    digit_counts: tuple[int, int] | None = None

    def __post_init__(self):
        check_bases(self.held_out)
        bases = [b for b in check_bases(self.voices) if b not in self.held_out]
        if not self.languages or min(self.languages.values()) <= 0:
            raise DsuError(
                f"languages={dict(self.languages)}: give languages and shares above 0"
            )
        share = DIGIT_SHARE if self.digits is None else self.digits
        least, most = self._counts
        if not 0 <= share <= 1 or not 1 <= least <= most:
            raise DsuError(
                f"digits={share}, digit_counts={(least, most)}: give a share of 0 to "
                "1, and the fewest (from 1) and the most digits"
            )
        known = {*self.languages, "en", "es"}
        speakers = {name: speakers_of(name, bases) for name in known}
        for name in self.languages:
            if not speakers[name]:
                raise DsuError(
                    f"language {name!r}: no speaker is left among voices={bases}"
                )
        unread = set(self.texts or ()) - set(self.languages)
        if unread:
            raise DsuError(
                f"texts for {sorted(unread)}, which languages={list(self.languages)} "
                "doesn't have"
            )
        object.__setattr__(self, "_speakers", speakers)
        object.__setattr__(self, "_texts", read_texts(self.texts))

    def train(self) -> Iterator[Chapter]:
        """Training chapters without end."""
        return (self._random_chapter("train", k) for k in count())

    def part(self, part: str, utterances: int) -> list[Chapter]:
        """Chapters of valid (voices of train), test or parallel.

        ``utterances`` counts the whole for valid, each held-out voice for test and
        pairs for parallel.
        """
        if part == "valid":
            whole = map(self._random_chapter, ["valid"] * utterances, count())
            return _cut(list(islice(whole, -(-utterances // CHAPTER))), utterances)
        if part == "test":
            return self._test(utterances)
        return self._parallel(utterances)

    def engines(self) -> set[str]:
        """Synthesisers that the plan can call for."""
        bases = {*check_bases(self.voices), *self.held_out}
        return {"flite" if base in FLITE else "espeak-ng" for base in bases}

    @property
    def _counts(self) -> tuple[int, int]:
        return self.digit_counts or DIGIT_COUNTS

    def _rng(self, part: str, number: int) -> random.Random:
        return random.Random(f"{self.seed}:{part}:{number}")

    def _random_chapter(self, part: str, k: int) -> Chapter:
        rng = self._rng(part, k)
        language = rng.choices(list(self.languages), list(self.languages.values()))[0]
        flite = rng.random() < _FLITE_SHARE
        speakers = self._speakers[language]
        alike = [s for s in speakers if (s.engine == "flite") == flite] or speakers
        return self._chapter(part, k, rng.choice(alike), rng)

    def _chapter(
        self, part: str, k: int, speaker: Speaker, rng: random.Random
    ) -> Chapter:
        texts = self._texts.get(speaker.language, {}).get(part)
        share = DIGIT_SHARE if self.digits is None else self.digits
        lines = []
        for _ in range(CHAPTER):
            content, text = draw_line(
                rng, texts, speaker.language, part, share, self._counts
            )
            lines.append(Line(content, text, _speed(rng)))
        return Chapter(part, _FIRST[part] + k, speaker, tuple(lines))

    def _test(self, utterances: int) -> list[Chapter]:
        language = next(iter(self.languages))
        speakers = [plain_speaker(language, base) for base in self.held_out]
        chapters, number = [], count()
        for speaker in filter(None, speakers):
            own = []
            for _ in range(-(-utterances // CHAPTER)):
                k = next(number)
                own.append(self._chapter("test", k, speaker, self._rng("test", k)))
            chapters += _cut(own, utterances)
        return chapters

    def _parallel(self, pairs: int) -> list[Chapter]:
        """Spanish of many speakers beside the English of one."""
        spanish, english = self._speakers["es"], self._speakers["en"]
        if pairs and not (spanish and english):
            raise DsuError("parallel pairs need speakers of English and of Spanish")
        plain = [s for s in english if s.tract == 100]
        target = next((s for s in plain if s.base == "rms"), (plain or [None])[0])
        share = _PARALLEL_DIGITS if self.digits is None else self.digits
        chapters = []
        for k in range(-(-pairs // CHAPTER)):
            rng = self._rng("parallel", k)
            contents = [
                draw_content(rng, None, share, self._counts) for _ in range(CHAPTER)
            ]
            contents = contents[: pairs - k * CHAPTER]
            for offset, speaker in ((0, rng.choice(spanish)), (1, target)):
                lines = tuple(
                    Line(content, realise(content, speaker.language), _speed(rng))
                    for content in contents
                )
                number = _FIRST["parallel"] + 2 * k + offset
                chapters.append(Chapter("parallel", number, speaker, lines))
        return chapters


def _speed(rng: random.Random) -> float:
    return round(rng.uniform(0.9, 1.1), 3)


def _cut(chapters: list[Chapter], utterances: int) -> list[Chapter]:
    """The same chapters, the last one shortened to ``utterances`` in all."""
    if not chapters:
        return []
    *whole, last = chapters
    left = last.lines[: utterances - CHAPTER * len(whole)]
    return [*whole, Chapter(last.part, last.number, last.speaker, left)]
