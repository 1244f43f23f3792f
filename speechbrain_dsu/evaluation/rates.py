"""How many bits a token stream takes: by its sizes, and by what actually occurs."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError

Correction = Literal["plug-in", "miller-madow"]


@dataclass(frozen=True)
class Rates:
    """What a batch of tokens costs. All numbers are over the valid frames.

    Arguments
    ---------
    frames : int
        Frames counted.
    frame_rate : float
        Frames per second.
    tokens_per_second : float
        Frame rate times number of codebooks.
    runs_per_second : float
        The same after joining repeated frames: runs in which no codebook changes,
        times the codebooks. Durations are then to be stored as well.
    nominal_bitrate : float
        Bits per second when every id takes log2 of its codebook's size.
    entropy_bitrate : float
        Bits per second of an ideal coder that knows how often each id occurs
        (``entropy``), codebook by codebook.
    conditional_bitrate : float
        The same for a coder that also knows the id before (``conditional_entropy``).
    entropies : tuple of float
        Bits per token of each codebook.
    perplexities : tuple of float
        Two to the entropy: how many equally frequent ids would be as diverse.
    usage : tuple of float
        Share of each codebook's ids that occur at all.
    """

    frames: int
    frame_rate: float
    tokens_per_second: float
    runs_per_second: float
    nominal_bitrate: float
    entropy_bitrate: float
    conditional_bitrate: float
    entropies: tuple[float, ...]
    perplexities: tuple[float, ...]
    usage: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def rates(tokens: Tokens, correction: Correction = "plug-in") -> Rates:
    """Bit rates, usage and perplexity of tokens.

    Entropies are estimated from the tokens themselves. On few frames they come out
    too low: a clip of 100 frames can't show more than log2(100) bits, and knows
    hardly anything of pairs. Compare tokenizers on a corpus, take a single clip's
    number as a hint.

    Arguments
    ---------
    tokens : Tokens
        Any batch; pairs of neighbours never reach over the end of an item.
    correction : "plug-in" or "miller-madow"
        See ``entropy``. The conditional rate is always plug-in.

    Returns
    -------
    Rates
        Zeros where there are no frames.

    Example
    -------
    >>> codes = torch.tensor([0, 1, 2, 3] * 4).view(1, 16, 1)
    >>> found = rates(Tokens(codes, torch.ones(1), 50.0, (8,), "-"))
    >>> found.nominal_bitrate, found.entropy_bitrate, found.conditional_bitrate
    (150.0, 100.0, 0.0)
    >>> found.usage, found.perplexities
    ((0.5,), (4.0,))
    """
    counts = code_counts(tokens)
    bits = tuple(entropy(row, correction) for row in counts)
    frames = int(tokens.counts.sum())
    runs = int((deduplicate(tokens.codes, tokens.lens).durations > 0).sum())
    rate, books = tokens.frame_rate, len(tokens.sizes)
    return Rates(
        frames=frames,
        frame_rate=rate,
        tokens_per_second=rate * books,
        runs_per_second=rate * books * runs / max(frames, 1),
        nominal_bitrate=tokens.bitrate,
        entropy_bitrate=rate * sum(bits),
        conditional_bitrate=rate * sum(conditional_entropy(tokens)),
        entropies=bits,
        perplexities=tuple(2.0**value for value in bits),
        usage=tuple(float((row > 0).double().mean()) for row in counts),
    )


def code_counts(tokens: Tokens) -> tuple[Tensor, ...]:
    """How often each id occurs in the valid frames: int64 ``[size]`` per codebook.

    Example
    -------
    >>> codes = torch.tensor([[[1], [1], [0]]])
    >>> code_counts(Tokens(codes, torch.tensor([2 / 3]), 50.0, (3,), "-"))
    (tensor([0, 2, 0]),)
    """
    columns = tokens.codes[tokens.mask].unbind(1)
    pairs = zip(columns, tokens.sizes, strict=True)
    return tuple(torch.bincount(column, minlength=size) for column, size in pairs)


def entropy(counts: Tensor, correction: Correction = "plug-in") -> float:
    """Order-0 entropy in bits of ids that occurred ``counts`` times.

    The plug-in estimate puts relative frequencies into Shannon's formula. It is too
    low by about ``(m - 1) / (2 n ln 2)`` bits for ``n`` tokens of ``m`` ids, which
    Miller and Madow (1955) add; ids that never occurred stay unknown to both. The
    corrected value is cut at log2 of the number of ids, so both are never above the
    nominal rate.

    Arguments
    ---------
    counts : Tensor
        Integers ``[size]``, not negative.
    correction : "plug-in" or "miller-madow"
        The estimate.

    Returns
    -------
    float
        Between 0 and log2(size); 0 when nothing was counted.

    Raises
    ------
    DsuError
        If a count is negative or the correction is unknown.

    Example
    -------
    >>> entropy(torch.tensor([5, 5, 5, 5])), entropy(torch.tensor([20, 0]))
    (2.0, 0.0)
    """
    if correction not in ("plug-in", "miller-madow"):
        raise DsuError(f"correction={correction!r}: take 'plug-in' or 'miller-madow'")
    if counts.ndim != 1 or bool((counts < 0).any()):
        raise DsuError(f"counts must be [size] and not negative, got {counts}")
    seen = counts[counts > 0].double()
    total = float(seen.sum())
    if total == 0:
        return 0.0
    shares = seen / total
    bits = float(-(shares * shares.log2()).sum())
    if correction == "miller-madow":
        bits += (len(seen) - 1) / (2 * total * math.log(2))
    return min(max(0.0, bits), math.log2(len(counts)))


def conditional_entropy(tokens: Tokens) -> tuple[float, ...]:
    """Order-1 entropy of each codebook: bits of an id when the one before is known.

    The plug-in estimate over pairs of neighbours within items,
    ``H(before, now) - H(before)``. It needs many more tokens than there are pairs
    of ids (``size ** 2``); below that it is far too low and means little.

    Arguments
    ---------
    tokens : Tokens
        Any batch.

    Returns
    -------
    tuple of float
        Bits per token for each codebook; 0 when there are no pairs.

    Example
    -------
    >>> codes = torch.tensor([0, 1] * 8).view(1, 16, 1)
    >>> conditional_entropy(Tokens(codes, torch.ones(1), 50.0, (2,), "-"))
    (0.0,)
    """
    valid = tokens.mask[:, 1:]
    before, now = tokens.codes[:, :-1][valid], tokens.codes[:, 1:][valid]
    found = []
    for k, size in enumerate(tokens.sizes):
        pairs = _occurrences(before[:, k] * size + now[:, k])
        alone = _occurrences(before[:, k])
        found.append(max(0.0, entropy(pairs) - entropy(alone)))
    return tuple(found)


def _occurrences(ids: Tensor) -> Tensor:
    return ids.unique(return_counts=True)[1]
