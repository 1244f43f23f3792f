"""Word and character error rates of transcripts, by SpeechBrain."""

from collections.abc import Sequence

from speechbrain.utils.metric_stats import ErrorRateStats

from speechbrain_dsu.utils.errors import DsuError


def error_rates(references: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """Errors of a recogniser, in percent of what was said.

    Arguments
    ---------
    references, found : sequence of str
        What was said and what was read, words separated by spaces.

    Returns
    -------
    dict
        ``WER`` and ``CER`` in percent (substitutions, insertions and deletions over
        the words or characters said), ``sentence errors`` in percent, and ``distinct``:
        the share of different outputs among the different references, which is near
        zero for a model that always writes the same.

    Raises
    ------
    DsuError
        If the numbers of texts differ or there are none.

    Example
    -------
    >>> rates = error_rates(["one two", "three"], ["one too", "three"])
    >>> round(rates["WER"], 1), rates["sentence errors"], rates["distinct"]
    (33.3, 50.0, 1.0)
    """
    if len(references) != len(found) or not references:
        raise DsuError(f"{len(found)} transcripts for {len(references)} references")
    names = [str(number) for number in range(len(found))]
    rates = {}
    for name, split in (("WER", str.split), ("CER", list)):
        stats = ErrorRateStats()
        stats.append(names, [split(t) for t in found], [split(t) for t in references])
        rates[name] = float(stats.summarize("error_rate"))
    pairs = list(zip(references, found, strict=True))
    rates["sentence errors"] = 100 * sum(a != b for a, b in pairs) / len(pairs)
    rates["distinct"] = len(set(found)) / len(set(references))
    return rates
