"""The synthetic speakers: voices of flite and espeak-ng and their variations."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from speechbrain_dsu.dataio.corpora.synth_lexicon import LANGUAGES
from speechbrain_dsu.utils.errors import DsuError

FLITE = {"awb": "M", "kal16": "M", "rms": "M", "slt": "F"}
"""Wide-band American (awb: Scottish) voices of flite, and their sex."""

_TRACTS = (88, 94, 100, 106, 112)

_MALE = (
    "m1 m2 m3 m4 m5 m6 m7 m8 adam Alex Andy benjamin boris caleb david Denis "
    "Diogo ed edward Gene Henrique Hugo john Lee marcelo Mario max "
    "Michael michel miguel Mike pablo paul pedro quincy rob robert sandro shelby "
    "travis victor zac"
)
_FEMALE = "f1 f2 f3 f4 f5 Alicia Andrea Annie anika aunty belinda linda steph"
ESPEAK = {**dict.fromkeys(_MALE.split(), "M"), **dict.fromkeys(_FEMALE.split(), "F")}
"""Variants of espeak-ng and their sex: no robots, no whisper, none that clips."""

# By the names of espeak-ng's files: some variants don't go with the other names.
_ACCENTS = {
    "en": {"en_us": "gmw/en-US", "en_gb": "gmw/en"},
    "es": {"es": "roa/es", "es_419": "roa/es-419"},
    "fr": {"fr": "roa/fr"},
    "de": {"de": "gmw/de"},
}


@dataclass(frozen=True)
class Speaker:
    """One synthetic speaker in one language.

    Arguments
    ---------
    id : str
        Unique; letters, digits and ``_``.
    engine : "flite" or "espeak-ng"
        The synthesiser.
    language : str
        en, es, fr or de.
    base : str
        The voice that all relatives share: a flite voice or an espeak-ng variant. A
        base is held out as a whole.
    voice : str
        The synthesiser's own name for the voice.
    sex : "M" or "F"
    tract : int
        Percent by which the frequencies of the voice are raised (100: as they are).
    rate, pitch, pitch_range : int
        espeak-ng's words a minute, pitch and pitch range (0 to 99).
    """

    id: str
    engine: Literal["flite", "espeak-ng"]
    language: str
    base: str
    voice: str
    sex: str
    tract: int = 100
    rate: int = 160
    pitch: int = 50
    pitch_range: int = 50


def speakers_of(language: str, bases: Sequence[str] | None = None) -> list[Speaker]:
    """All speakers of a language.

    flite's voices are English; each gives five speakers, their frequencies moved by
    -12 to 12 % as vocal tracts of other lengths do, at the same speed. An espeak-ng
    variant is one speaker per accent, with a pitch, pitch range and speed of its own
    that depend on its name alone.

    Arguments
    ---------
    language : str
        en, es, fr or de.
    bases : sequence of str, optional
        Only these voices of ``FLITE`` and variants of ``ESPEAK``; all if not given.

    Returns
    -------
    list of Speaker

    Raises
    ------
    DsuError
        If the language or a base is unknown.

    Example
    -------
    >>> [speaker.id for speaker in speakers_of("en", ["slt", "m3"])[3:]]
    ['flite_slt_106', 'flite_slt_112', 'espeak_m3_en_us', 'espeak_m3_en_gb']
    >>> speakers_of("de", ["m3"])[0].voice
    'gmw/de+m3'
    """
    if language not in _ACCENTS:
        raise DsuError(f"language={language!r}: take one of {', '.join(LANGUAGES)}")
    chosen = check_bases(bases)
    flite = [
        Speaker(f"flite_{base}_{tract}", "flite", language, base, base, sex, tract)
        for base, sex in FLITE.items()
        if base in chosen and language == "en"
        for tract in _TRACTS
    ]
    espeak = [
        _espeak_speaker(language, base, accent, sex)
        for base, sex in ESPEAK.items()
        if base in chosen
        for accent in _ACCENTS[language]
    ]
    return flite + espeak


def plain_speaker(language: str, base: str) -> Speaker | None:
    """The unchanged speaker of a base (first accent); None if it has none there.

    Example
    -------
    >>> plain_speaker("en", "slt").id, plain_speaker("es", "slt")
    ('flite_slt_100', None)
    """
    found = [s for s in speakers_of(language, [base]) if s.tract == 100]
    return found[0] if found else None


def check_bases(bases: Sequence[str] | None) -> list[str]:
    """Names of voices and variants as a list; all of them for None.

    Raises
    ------
    DsuError
        If one is unknown.
    """
    known = [*FLITE, *ESPEAK]
    for base in bases or ():
        if base not in known:
            raise DsuError(
                f"voice {base!r}: unknown; flite has {', '.join(FLITE)} and the "
                f"variants of espeak-ng are {', '.join(ESPEAK)}"
            )
    return known if bases is None else list(bases)


def _espeak_speaker(language: str, base: str, accent: str, sex: str) -> Speaker:
    rng = random.Random(f"{base} {accent}")
    return Speaker(
        f"espeak_{base}_{accent}",
        "espeak-ng",
        language,
        base,
        f"{_ACCENTS[language][accent]}+{base}",
        sex,
        rate=rng.randint(140, 180),
        pitch=rng.randint(35, 65),
        pitch_range=rng.randint(35, 65),
    )
