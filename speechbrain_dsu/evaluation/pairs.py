"""Pairs for speech language models: does the real word score above the made-up one?

As sWUGGY, sBLIMP and the story-cloze tests ask. Whether scores are divided by length
changes the result, so both are given.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from speechbrain_dsu.utils.errors import DsuError

LogLikelihood = Callable[[str], tuple[float, int]]
"""An item's id (or path) to the sum of its log probabilities and its tokens."""


class PairScores(NamedTuple):
    """Accuracy over pairs; equal scores count one half, chance is 0.5.

    Arguments
    ---------
    total : float
        By the sum of log probabilities: shorter items are favoured.
    per_token : float
        By the mean over tokens.
    pairs : int
        How many.
    """

    total: float
    per_token: float
    pairs: int


def score_pairs(
    pairs: Sequence[tuple[str, str]], log_likelihood: LogLikelihood
) -> PairScores:
    """Accuracy of a language model over pairs, by sum and by mean.

    Arguments
    ---------
    pairs : sequence of (str, str)
        The right item and the wrong one, as of ``read_pairs``.
    log_likelihood : callable
        See ``LogLikelihood``; called once for each item.

    Returns
    -------
    PairScores
        See there.

    Raises
    ------
    DsuError
        If there are no pairs, or an item has no tokens.

    Example
    -------
    >>> known = {"a": (-6.0, 3), "b": (-5.0, 1)}
    >>> score_pairs([("a", "b")], known.__getitem__)
    PairScores(total=0.0, per_token=1.0, pairs=1)
    """
    if not pairs:
        raise DsuError("no pairs to score")
    found: dict[str, tuple[float, float]] = {}
    for item in dict.fromkeys(item for pair in pairs for item in pair):
        total, count = log_likelihood(item)
        if count < 1:
            raise DsuError(f"{item}: has no tokens to score")
        found[item] = total, total / count

    def accuracy(kind: int) -> float:
        wins = ((found[a][kind], found[b][kind]) for a, b in pairs)
        return sum((x > y) + (x == y) / 2 for x, y in wins) / len(pairs)

    return PairScores(accuracy(0), accuracy(1), len(pairs))


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """Pairs from a table with the columns ``right`` and ``wrong``.

    Arguments
    ---------
    path : str or Path
        A ``.csv`` or ``.tsv`` file with a head line; other columns are not read.

    Returns
    -------
    list of (str, str)
        One per row.

    Raises
    ------
    DsuError
        If the file can't be read, lacks a column, or a row lacks an item.

    Example
    -------
    >>> path = getfixture("tmp_path") / "pairs.csv"
    >>> _ = path.write_text("right,wrong\\nbrick.wav,blick.wav\\n")
    >>> read_pairs(path)
    [('brick.wav', 'blick.wav')]
    """
    path, pairs = Path(path), []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            reader = csv.DictReader(file, delimiter=delimiter)
            missing = {"right", "wrong"} - set(reader.fieldnames or ())
            if missing:
                raise DsuError(f"{path}: has no column {', '.join(sorted(missing))}")
            for row in reader:
                if not row["right"] or not row["wrong"]:
                    raise DsuError(f"{path}:{reader.line_num}: an item is empty")
                pairs.append((row["right"], row["wrong"]))
    except (OSError, UnicodeDecodeError) as error:
        raise DsuError(f"{path}: cannot be read ({error})") from None
    return pairs
