"""How words may be said: as the synthesisers say them."""

from collections.abc import Sequence

from speechbrain_dsu.dataio.corpora.synth_engines import say
from speechbrain_dsu.dataio.corpora.synth_voices import speakers_of

_PAUSE = "sil"


def pronunciations(
    word: str, language: str = "en", bases: Sequence[str] = ("rms", "m1")
) -> list[list[str]]:
    """Phones of a word in the accents of some voices, each way once, without pauses.

    Arguments
    ---------
    word : str
        In the language.
    language : str
        en, es, fr or de.
    bases : sequence of str
        Voices of flite and variants of espeak-ng.

    Returns
    -------
    list of list of str
        Sorted.

    Raises
    ------
    DsuError
        If a synthesiser is missing.
    """
    ways = set()
    for speaker in speakers_of(language, bases):
        if speaker.tract == 100:
            ways.add(tuple(p for p in say(speaker, word).phones if p != _PAUSE))
    return [list(way) for way in sorted(ways)]
