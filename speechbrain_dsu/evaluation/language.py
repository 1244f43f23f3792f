"""What language models of speech are worth: pairs, and what they write.

Metrics of GSLM (Lakhotia et al., "On Generative Spoken Language Modeling from Raw
Audio", 2021, section 4) and of the Zero Resource Speech Challenge 2021 (Nguyen et al.
2020: sWUGGY, sBLIMP), over sequences and scores; models arrive as objects.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.rates import entropy
from speechbrain_dsu.utils.errors import DsuError

Score = Callable[[str], tuple[float, int]]
"""A recording's path to its log probability in nats, and of how many ids."""


class Reference(Protocol):
    """A language model that judges what another one wrote."""

    def log_likelihood(self, sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Nats ``[n]`` of sequences ``[steps_i]``, and how many ids each is of."""


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """Pairs to tell apart, as sWUGGY's, from the columns ``real`` and ``fake``.

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
    >>> _ = path.write_text("real,fake\\nbrick.wav,blick.wav\\n")
    >>> read_pairs(path)
    [('brick.wav', 'blick.wav')]
    """
    path, pairs = Path(path), []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            reader = csv.DictReader(file, delimiter=delimiter)
            missing = {"real", "fake"} - set(reader.fieldnames or ())
            if missing:
                raise DsuError(f"{path}: has no column {', '.join(sorted(missing))}")
            for row in reader:
                if not row["real"] or not row["fake"]:
                    raise DsuError(f"{path}:{reader.line_num}: an item is empty")
                pairs.append((row["real"], row["fake"]))
    except (OSError, UnicodeDecodeError) as error:
        raise DsuError(f"{path}: cannot be read as pairs ({error})") from None
    return pairs


@dataclass(frozen=True)
class PairAccuracy:
    """How often the real one of two is the likelier; a tie counts half.

    Arguments
    ---------
    summed : float
        By the log probability of the whole.
    normalised : float
        By the log probability per id, which doesn't prefer short recordings.
    pairs : int
        Number of pairs.
    """

    summed: float
    normalised: float
    pairs: int


def pair_accuracy(pairs: Iterable[tuple[str, str]], score: Score) -> PairAccuracy:
    """Let a model choose between real and fake.

    Arguments
    ---------
    pairs : iterable of (str, str)
        Real and fake, see ``read_pairs``.
    score : callable
        See ``Score``; asked once for each recording.

    Returns
    -------
    PairAccuracy

    Raises
    ------
    DsuError
        If there are no pairs, or a recording has no ids.

    Example
    -------
    >>> scores = {"a": (-6.0, 3), "b": (-5.0, 1)}
    >>> pair_accuracy([("a", "b")], scores.get)
    PairAccuracy(summed=0.0, normalised=1.0, pairs=1)
    """
    pairs = list(pairs)
    if not pairs:
        raise DsuError("no pairs to compare")
    known = {name: score(name) for name in dict.fromkeys(n for p in pairs for n in p)}
    for name, (_, count) in known.items():
        if count < 1:  # its sum of 0 would win every pair
            raise DsuError(f"{name}: has no tokens to score")
    summed, normalised = [], []
    for real, fake in pairs:
        (a, n), (b, m) = known[real], known[fake]
        summed.append(_wins(a, b))
        normalised.append(_wins(a / n, b / m))
    return PairAccuracy(
        math.fsum(summed) / len(pairs), math.fsum(normalised) / len(pairs), len(pairs)
    )


def _wins(real: float, fake: float) -> float:
    return 0.5 if real == fake else float(real > fake)


def perplexity(sequences: Sequence[Tensor], reference: Reference) -> float:
    """Of what was written, under a language model that didn't write it: PPX.

    The exponential of the mean over *all* ids.

    Example
    -------
    >>> class Coin:
    ...     def log_likelihood(self, sequences):
    ...         counts = torch.tensor([len(row) for row in sequences])
    ...         return counts * math.log(0.5), counts
    >>> round(perplexity([torch.tensor([0, 1, 1])], Coin()), 6)
    2.0
    """
    total, count = reference.log_likelihood(sequences)
    if int(count.sum()) == 0:
        raise DsuError("nothing was written: no id to take a perplexity of")
    return math.exp(-float(total.double().sum()) / int(count.sum()))


def self_bleu(sequences: Sequence[Tensor], order: int = 2) -> float:
    """How much the sequences are alike: mean BLEU of each, the others as references.

    Clipped n-gram precisions for n = 1 to ``order``, their geometric mean, and BLEU's
    brevity penalty with the reference of the nearest length (Papineni et al. 2002);
    no smoothing.

    Arguments
    ---------
    sequences : sequence of Tensor
        Ids ``[steps_i]``, at least two.
    order : int
        Longest n-grams.

    Returns
    -------
    float
        0 (nothing in common) to 1.

    Example
    -------
    >>> self_bleu([torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3])])
    1.0
    """
    rows = [row.flatten().tolist() for row in sequences]
    if len(rows) < 2:
        raise DsuError(f"self-BLEU compares two sequences or more, got {len(rows)}")
    matched = [[0.0] * order for _ in rows]
    for n in range(1, order + 1):
        counts = [_grams(row, n) for row in rows]
        # The two largest counts of each n-gram: the largest among the others.
        first: Counter = Counter()
        second: Counter = Counter()
        for grams in counts:
            for gram, number in grams.items():
                if number > first[gram]:
                    second[gram], first[gram] = first[gram], number
                elif number > second[gram]:
                    second[gram] = number
        for place, grams in enumerate(counts):
            kept = 0
            for gram, number in grams.items():
                best = second if number == first[gram] else first
                kept += min(number, best[gram])
            matched[place][n - 1] = kept / max(sum(grams.values()), 1)
    lengths = [len(row) for row in rows]
    scores = []
    for place, parts in enumerate(matched):
        others = lengths[:place] + lengths[place + 1 :]
        scores.append(_geometric(parts) * _brevity(lengths[place], others))
    return math.fsum(scores) / len(scores)


def auto_bleu(sequences: Sequence[Tensor], order: int = 2) -> float:
    """How much the sequences repeat themselves.

    For each n the share of n-grams that the same sequence has elsewhere, too; the
    geometric mean over n, then the mean over sequences.

    Arguments
    ---------
    sequences : sequence of Tensor
        Ids ``[steps_i]``.
    order : int
        Longest n-grams.

    Returns
    -------
    float
        0 to 1.

    Example
    -------
    >>> auto_bleu([torch.tensor([1, 2, 1, 2])], order=1)
    1.0
    """
    scores = []
    for row in sequences:
        ids, parts = row.flatten().tolist(), []
        for n in range(1, order + 1):
            grams = _grams(ids, n)
            again = sum(number for number in grams.values() if number > 1)
            parts.append(again / max(sum(grams.values()), 1))
        scores.append(_geometric(parts))
    if not scores:
        raise DsuError("no sequences to look at")
    return math.fsum(scores) / len(scores)


def vert(sequences: Sequence[Tensor], order: int = 2) -> float:
    """Lack of diversity between and within: geometric mean of self- and auto-BLEU.

    Low is diverse. See ``self_bleu`` and ``auto_bleu``.
    """
    return math.sqrt(self_bleu(sequences, order) * auto_bleu(sequences, order))


def curve_area(points: Iterable[tuple[float, float]], low: float, high: float) -> float:
    """Area under a curve of perplexity over diversity, between two diversities.

    One point per temperature; straight lines between them, and level lines beyond the
    outermost. Lower is better.

    Arguments
    ---------
    points : iterable of (float, float)
        VERT and perplexity.
    low, high : float
        Bounds of VERT.

    Returns
    -------
    float
        The same units as the perplexity times those of VERT.

    Raises
    ------
    DsuError
        If there are no points or the bounds don't order.

    Example
    -------
    >>> curve_area([(0.0, 4.0), (1.0, 2.0)], 0.0, 1.0)
    3.0
    """
    known = sorted(points)
    if not known or not low < high:
        raise DsuError(f"{len(known)} points between {low} and {high}: no area")
    inside = [point for point in known if low < point[0] < high]
    line = [(low, _at(known, low)), *inside, (high, _at(known, high))]
    steps = zip(line, line[1:], strict=False)
    return math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in steps)


def _at(points: Sequence[tuple[float, float]], place: float) -> float:
    """The curve's value at a place."""
    if place <= points[0][0]:
        return points[0][1]
    for (x, y), (u, v) in zip(points, points[1:], strict=False):
        if place <= u:
            return v if u == x else y + (v - y) * (place - x) / (u - x)
    return points[-1][1]


def normalized_entropy(sequences: Iterable[Tensor], size: int) -> float:
    """Entropy of ids over that of a vocabulary used evenly: 1 when all are as frequent.

    Dekel & Fernandez, "Exploring the Benefits of Tokenization of Discrete Acoustic
    Units", 2024.

    Arguments
    ---------
    sequences : iterable of Tensor
        Ids ``[steps_i]``.
    size : int
        Of the vocabulary, at least 2.

    Example
    -------
    >>> normalized_entropy([torch.tensor([0, 1, 2, 3])], 4)
    1.0
    """
    if size < 2:
        raise DsuError(f"a vocabulary of {size} ids has no entropy to compare with")
    ids = torch.cat([row.flatten() for row in sequences])
    return entropy(torch.bincount(ids, minlength=size)) / math.log2(size)


def _grams(ids: Sequence[int], n: int) -> Counter:
    return Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))


def _geometric(parts: Sequence[float]) -> float:
    if min(parts) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, parts)) / len(parts))


def _brevity(length: int, others: Sequence[int]) -> float:
    # Of two as near, the shorter, as in BLEU.
    nearest = min(others, key=lambda other: (abs(other - length), other))
    if length >= nearest:
        return 1.0
    return math.exp(1 - nearest / max(length, 1))
