"""How close decoded speech is to the original, with failures counted.

Every score takes both signals with their sample rates, resamples by
``utils.audio.resample`` and nothing else, and compares the stretch that both have.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.intervals import bootstrap_interval
from speechbrain_dsu.utils.audio import resample
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.optional import require

MEL_RATE = 16000
"""The mel distance is measured at this rate, whatever the signals' own."""

PESQ_RATE = 16000
"""PESQ is taken at this rate, whatever the signals' own."""

MEL_FLOOR_DB = -80.0
"""Levels below it count as equal; a sine wave at full scale is at about 0 dB."""

_STOI_RATE = 10000
# STOI looks at stretches of 30 frames of 256 samples, hop 128, at its own 10 kHz.
_STOI_SAMPLES = 29 * 128 + 256


@dataclass(frozen=True)
class Scores:
    """Scores of one pair.

    Arguments
    ---------
    values : dict
        Score by name; None where it could not be taken.
    reasons : dict
        Why, for each None.
    """

    values: dict[str, float | None]
    reasons: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float | None:
        return self.values[name]


Metric = Callable[[Tensor, int, Tensor, int], Any]
"""Reference, its rate, decoded, its rate, to one number or as many as it has names.

It raises DsuError where it is not defined or lacks a package.
"""


def score(
    reference: Tensor,
    reference_rate: int,
    decoded: Tensor,
    decoded_rate: int,
    metrics: Mapping[tuple[str, ...], Metric] | None = None,
) -> Scores:
    """All scores of one decoded signal against its original.

    Arguments
    ---------
    reference, decoded : Tensor
        ``[time]``. The longer one is cut at its end.
    reference_rate, decoded_rate : int
        Of each, in hertz.
    metrics : mapping of names to callable, optional
        By default ``stoi``, ``mel_l1`` (dB) and ``mel_l2`` (dB).

    Returns
    -------
    Scores
        By name; a score that fails or whose package is missing is None, with its
        reason.

    Example
    -------
    >>> wav = torch.sin(torch.arange(16000) * 0.1)
    >>> score(wav, 16000, wav[:-100], 16000)["mel_l1"]
    0.0
    """
    if metrics is None:
        metrics = {("stoi",): stoi, ("mel_l1", "mel_l2"): mel_distance}
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for names, metric in metrics.items():
        try:
            found = metric(reference, reference_rate, decoded, decoded_rate)
        except DsuError as error:
            values |= dict.fromkeys(names)
            reasons |= dict.fromkeys(names, str(error))
            continue
        values |= zip(names, found if len(names) > 1 else (found,), strict=True)
    return Scores(values, reasons)


def summarize(scores: Iterable[Scores], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Mean of each score over the pairs that have it, and how many have not.

    Arguments
    ---------
    scores : iterable of Scores
        One per pair.
    seed : int
        Of the intervals.

    Returns
    -------
    dict
        Per score: ``mean`` (None if no pair has it), ``interval`` (95 % of the mean,
        see ``bootstrap_interval``), ``n_scored``, ``n_failed``, and ``reasons``, the
        number of pairs for each reason.

    Example
    -------
    >>> pairs = [Scores({"stoi": 0.5}), Scores({"stoi": None}, {"stoi": "too short"})]
    >>> found = summarize(pairs)["stoi"]
    >>> found["mean"], found["n_scored"], found["n_failed"], found["reasons"]
    (0.5, 1, 1, {'too short': 1})
    """
    values: dict[str, list[float]] = {}
    reasons: dict[str, Counter[str]] = {}
    for item in scores:
        for name, value in item.values.items():
            row = values.setdefault(name, [])
            why = reasons.setdefault(name, Counter())
            if value is None:
                why[item.reasons.get(name, "no reason given")] += 1
            else:
                row.append(value)
    return {
        name: {
            "mean": math.fsum(row) / len(row) if row else None,
            "interval": bootstrap_interval(row, seed=seed),
            "n_scored": len(row),
            "n_failed": sum(reasons[name].values()),
            "reasons": dict(reasons[name]),
        }
        for name, row in values.items()
    }


def align(
    reference: Tensor,
    reference_rate: int,
    decoded: Tensor,
    decoded_rate: int,
    rate: int,
) -> tuple[Tensor, Tensor]:
    """Both signals at one rate, cut to the shorter one.

    Starts are taken to coincide: decoders that keep the tokenizer's contract have no
    delay, they only round the length to whole frames.

    Raises
    ------
    DsuError
        If a signal is not ``[time]``, not finite, or nothing is left to compare.

    Example
    -------
    >>> first, second = align(torch.zeros(100), 8000, torch.zeros(150), 16000, 16000)
    >>> len(first), len(second)
    (150, 150)
    """
    signals = []
    for name, wav, own in (
        ("reference", reference, reference_rate),
        ("decoded", decoded, decoded_rate),
    ):
        if wav.ndim != 1 or not wav.is_floating_point():
            raise DsuError(
                f"{name} must be floating point [time], got {wav.dtype} "
                f"{list(wav.shape)}"
            )
        if not bool(wav.isfinite().all()):
            raise DsuError(f"{name} holds NaN or infinity")
        if len(wav) == 0:
            raise DsuError(f"nothing to compare: {name} holds no samples")
        signals.append(resample(wav.detach().cpu().float(), own, rate))
    size = min(len(wav) for wav in signals)
    return signals[0][:size], signals[1][:size]


def stoi(
    reference: Tensor, reference_rate: int, decoded: Tensor, decoded_rate: int
) -> float:
    """Short-time objective intelligibility (Taal et al., 2011), by ``pystoi``.

    About 0 (unintelligible) to 1. It correlates band envelopes in stretches of
    384 ms and does not care for the level. Made for noisy and enhanced speech: a
    vocoder that is intelligible but not aligned in time scores low.

    Raises
    ------
    DsuError
        If ``pystoi`` is not installed, the reference is silent, or less than 384 ms
        of speech is left once silence is cut out.
    """
    module = require("pystoi", extra="eval", needed_by="STOI")
    first, second = align(reference, reference_rate, decoded, decoded_rate, _STOI_RATE)
    if not bool(first.any()):
        raise DsuError("STOI is not defined: the reference is silent")
    short = "STOI is not defined: less than 384 ms of speech"
    if len(first) < _STOI_SAMPLES:
        raise DsuError(short)
    with warnings.catch_warnings():
        # pystoi warns, and returns 1e-5 as if it were a score.
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            value = float(module.stoi(first.numpy(), second.numpy(), _STOI_RATE))
        except RuntimeWarning:
            raise DsuError(short) from None
    if not math.isfinite(value):
        raise DsuError(f"STOI came out as {value}")
    return value


def pesq(
    reference: Tensor, reference_rate: int, decoded: Tensor, decoded_rate: int
) -> float:
    """Wide-band PESQ (ITU-T P.862.2) at 16 kHz, by the package ``pesq``.

    A mean opinion score between 1.04 and 4.64. It was made for telephone codecs: of
    speech that a vocoder made anew it says little.

    Raises
    ------
    DsuError
        If ``pesq`` is not installed, a signal is silent, or it finds no speech.
    """
    module = require("pesq", extra="eval", needed_by="PESQ")
    pair = align(reference, reference_rate, decoded, decoded_rate, PESQ_RATE)
    if not all(bool(wav.any()) for wav in pair):
        raise DsuError("PESQ is not defined: a signal is silent")
    try:
        value = module.pesq(PESQ_RATE, pair[0].numpy(), pair[1].numpy(), "wb")
    except module.PesqError as error:
        said = error.args[0] if error.args else type(error).__name__
        said = said.decode() if isinstance(said, bytes) else str(said)
        raise DsuError(f"PESQ is not defined: {said}") from None
    if not math.isfinite(value):
        raise DsuError(f"PESQ came out as {value}")
    return float(value)


def mel_distance(
    reference: Tensor, reference_rate: int, decoded: Tensor, decoded_rate: int
) -> tuple[float, float]:
    """Mean absolute and root mean square difference of log-mel spectra, in dB.

    Both signals at 16 kHz; Hann window of 25 ms every 10 ms, powers, 80 mel channels
    to 8 kHz in decibels, floored at -80 dB (a full-scale sine is at about 0 dB). The
    mean runs over all frames and channels. A change of level counts: 6 dB softer is
    6 dB away wherever both are above the floor.

    Returns
    -------
    mel_l1, mel_l2 : float
        In dB; 0 for equal signals.

    Raises
    ------
    DsuError
        See ``align``.

    Example
    -------
    >>> noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    >>> l1, l2 = mel_distance(noise * 0.1, 16000, noise * 0.01, 16000)
    >>> round(l1, 3), round(l2, 3)
    (20.0, 20.0)
    """
    first, second = align(reference, reference_rate, decoded, decoded_rate, MEL_RATE)
    difference = log_mel_db(first) - log_mel_db(second)
    return float(difference.abs().mean()), float(difference.square().mean().sqrt())


def log_mel_db(wav: Tensor) -> Tensor:
    """The spectra of ``mel_distance``: ``[frames, 80]`` in dB of ``[time]`` at 16 kHz.

    Example
    -------
    >>> log_mel_db(torch.zeros(1600)).unique()
    tensor([-80.])
    """
    window, filters = _front_end()
    spectrum = torch.stft(
        wav, 512, 160, 400, window, pad_mode="constant", return_complex=True
    )
    # A full-scale sine has the magnitude of half the window's sum.
    power = (spectrum.abs() / (window.sum() / 2)).square().T
    return 10 * (power @ filters).clamp(min=10 ** (MEL_FLOOR_DB / 10)).log10()


@lru_cache(maxsize=1)
def _front_end() -> tuple[Tensor, Tensor]:
    from torchaudio.functional import melscale_fbanks

    filters = melscale_fbanks(257, 0.0, MEL_RATE / 2, 80, MEL_RATE, None, "slaney")
    return torch.hann_window(400), filters
