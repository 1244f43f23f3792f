"""How close decoded speech is to the original, with failures counted.

Every score takes both signals with their sample rates, resamples by
``utils.audio.resample`` and nothing else, and compares the stretch that both have.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.utils.audio import resample
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.optional import require

MEL_RATE = 16000
"""The mel distance is measured at this rate, whatever the signals' own."""

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


def score(
    reference: Tensor, reference_rate: int, decoded: Tensor, decoded_rate: int
) -> Scores:
    """All scores of one decoded signal against its original.

    Arguments
    ---------
    reference, decoded : Tensor
        ``[time]``. The longer one is cut at its end.
    reference_rate, decoded_rate : int
        Of each, in hertz.

    Returns
    -------
    Scores
        ``stoi``, ``mel_l1`` (dB) and ``mel_l2`` (dB); a score that fails or whose
        package is missing is None, with its reason.

    Example
    -------
    >>> wav = torch.sin(torch.arange(16000) * 0.1)
    >>> score(wav, 16000, wav[:-100], 16000)["mel_l1"]
    0.0
    """
    values: dict[str, float | None] = {"stoi": None, "mel_l1": None, "mel_l2": None}
    reasons: dict[str, str] = {}
    pair = (reference, reference_rate, decoded, decoded_rate)
    try:
        values["stoi"] = stoi(*pair)
    except DsuError as error:
        reasons["stoi"] = str(error)
    try:
        values["mel_l1"], values["mel_l2"] = mel_distance(*pair)
    except DsuError as error:
        reasons["mel_l1"] = reasons["mel_l2"] = str(error)
    return Scores(values, reasons)


def summarize(scores: Iterable[Scores]) -> dict[str, dict[str, Any]]:
    """Mean of each score over the pairs that have it, and how many have not.

    Arguments
    ---------
    scores : iterable of Scores
        One per pair.

    Returns
    -------
    dict
        Per score: ``mean`` (None if no pair has it), ``n_scored``, ``n_failed``,
        and ``reasons``, the number of pairs for each reason.

    Example
    -------
    >>> pairs = [Scores({"stoi": 0.5}), Scores({"stoi": None}, {"stoi": "too short"})]
    >>> summarize(pairs)["stoi"]
    {'mean': 0.5, 'n_scored': 1, 'n_failed': 1, 'reasons': {'too short': 1}}
    """
    found: dict[str, dict[str, Any]] = {}
    for item in scores:
        for name, value in item.values.items():
            row = found.setdefault(
                name, {"mean": None, "n_scored": 0, "n_failed": 0, "reasons": {}}
            )
            if value is None:
                reason = item.reasons.get(name, "no reason given")
                row["n_failed"] += 1
                row["reasons"][reason] = row["reasons"].get(reason, 0) + 1
            else:
                row["n_scored"] += 1
                before = row["mean"] or 0.0
                row["mean"] = before + (value - before) / row["n_scored"]
    return found


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
