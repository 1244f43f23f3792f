"""Whether translations say the right thing, as read by a recogniser."""

from collections.abc import Sequence

from speechbrain_dsu.evaluation.error_rates import error_rates
from speechbrain_dsu.utils.optional import require


def translation_scores(
    references: Sequence[str], found: Sequence[str], bleu: bool = True
) -> dict[str, float]:
    """Scores of translations against one reference each.

    Read from audio by a recogniser, the first is ASR-BLEU (Lee et al. 2022, section
    4.4). Both sides are compared in lower case and without punctuation, as recognisers
    write.

    Arguments
    ---------
    references, found : sequence of str
        What should be said, what was read.
    bleu : bool
        Whether to compute BLEU, which needs sacrebleu (``pip install
        speechbrain_dsu[eval]``).

    Returns
    -------
    dict
        ``BLEU`` (0 to 100), ``exact`` (percent of items that are right word by word),
        ``WER`` (percent), ``distinct`` (different outputs over different references).

    Raises
    ------
    DsuError
        If the numbers of texts differ, there are none, or sacrebleu is missing.

    Example
    -------
    >>> scores = translation_scores(["one two", "six"], ["one two", "sex"], bleu=False)
    >>> scores["exact"], round(scores["WER"], 1)
    (50.0, 33.3)
    """
    references = [_plain(text) for text in references]
    found = [_plain(text) for text in found]
    rates = error_rates(references, found)
    scores = {
        "exact": 100 - rates["sentence errors"],
        "WER": rates["WER"],
        "distinct": rates["distinct"],
    }
    if not bleu:
        return scores
    sacrebleu = require("sacrebleu", "eval", "BLEU")
    value = sacrebleu.corpus_bleu(list(found), [list(references)]).score
    return {"BLEU": value, **scores}


def _plain(text: str) -> str:
    kept = (c if c.isalnum() or c == "'" else " " for c in text.lower())
    return " ".join("".join(kept).split())
