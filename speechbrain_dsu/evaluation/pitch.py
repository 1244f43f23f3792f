"""Fundamental frequency by autocorrelation, and how well decoded speech keeps it."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.resynthesis import align
from speechbrain_dsu.utils.errors import DsuError

PITCH_RATE = 16000
"""Pitch is measured at this rate, whatever the signals' own."""

HOP = 160
"""Samples between frames: 10 ms."""

_FLOOR, _CEILING = 60.0, 500.0
# Boersma's (1993) thresholds: strength of a voiced frame, level against the loudest.
_VOICED, _SILENT = 0.45, 0.03
_OCTAVE_COST = 0.01
# Three periods of the lowest pitch.
_WINDOW = int(3 * PITCH_RATE / _FLOOR)
_FRAMES_AT_ONCE = 2048


@dataclass(frozen=True)
class PitchError:
    """How decoded pitch differs from the original's.

    Arguments
    ---------
    rmse_cents : float
        Root mean square difference over frames that are voiced in both; 100 cents
        are a semitone, so this does not favour low voices as hertz would.
    correlation : float
        Of log pitch over these frames: the melody, whatever the register.
    voicing_error : float
        Share of all frames that are voiced in one and not in the other.
    frames : int
        Voiced in both.
    """

    rmse_cents: float
    correlation: float
    voicing_error: float
    frames: int

    def as_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return asdict(self)


def pitch(wav: Tensor) -> Tensor:
    """Fundamental frequency every 10 ms.

    Boersma's autocorrelation ("Accurate short-term analysis of the fundamental
    frequency...", 1993): a Hann window of three periods of the lowest pitch, the
    autocorrelation of the frame over that of the window, the best lag refined by a
    parabola. In place of his search for the best path the range is set twice (De
    Looze and Hirst, 2008): the second time to 0.75 of the first quartile up to 1.5
    of the third, which removes most jumps by an octave.

    Arguments
    ---------
    wav : Tensor
        Floating point ``[time]`` at 16 kHz.

    Returns
    -------
    Tensor
        Hertz, float32 ``[1 + time // 160]``; 0 where unvoiced.

    Example
    -------
    >>> wav = torch.sin(2 * torch.pi * 220 * torch.arange(16000) / 16000)
    >>> round(float(pitch(wav).median()), 1)
    220.0
    """
    if wav.ndim != 1:
        raise DsuError(f"pitch takes [time] at 16 kHz, got {list(wav.shape)}")
    loudest = wav.abs().max() if len(wav) else wav.new_zeros(())
    count = 1 + len(wav) // HOP
    if not bool(loudest):
        return torch.zeros(count)
    padded = torch.nn.functional.pad(wav.float(), (_WINDOW // 2, _WINDOW))
    frames = padded.unfold(0, _WINDOW, HOP)[:count]
    first = _candidates(frames, loudest, _FLOOR, _CEILING)
    voiced = first[first > 0]
    if len(voiced) < 10:
        return first
    quartiles = voiced.quantile(torch.tensor([0.25, 0.75])).tolist()
    low, high = max(_FLOOR, 0.75 * quartiles[0]), min(_CEILING, 1.5 * quartiles[1])
    return _candidates(frames, loudest, low, high)


def pitch_error(
    reference: Tensor, reference_rate: int, decoded: Tensor, decoded_rate: int
) -> PitchError:
    """Compare the pitch of decoded speech with that of its original.

    Arguments
    ---------
    reference, decoded : Tensor
        ``[time]``; starts coincide, the longer one is cut.
    reference_rate, decoded_rate : int
        In hertz.

    Returns
    -------
    PitchError
        See there.

    Raises
    ------
    DsuError
        If fewer than ten frames are voiced in both, or as ``resynthesis.align``.

    Example
    -------
    >>> steps = torch.arange(16000) / 16000
    >>> one, two = (
    ...     torch.sin(2 * torch.pi * f * steps) for f in (200, 200 * 2 ** (1 / 12))
    ... )
    >>> round(pitch_error(one, 16000, two, 16000).rmse_cents)
    100
    """
    pair = align(reference, reference_rate, decoded, decoded_rate, PITCH_RATE)
    first, second = (pitch(wav) for wav in pair)
    both = (first > 0) & (second > 0)
    frames = int(both.sum())
    if frames < 10:
        raise DsuError(f"pitch: {frames} frames are voiced in both, 10 are needed")
    logs = torch.stack([first[both], second[both]]).double().log2()
    centred = logs - logs.mean(1, keepdim=True)
    spread = centred.square().sum(1).sqrt().clamp(min=1e-12)
    return PitchError(
        rmse_cents=1200 * float((logs[0] - logs[1]).square().mean().sqrt()),
        correlation=float((centred[0] * centred[1]).sum() / spread.prod()),
        voicing_error=float(((first > 0) != (second > 0)).double().mean()),
        frames=frames,
    )


def _candidates(frames: Tensor, loudest: Tensor, low: float, high: float) -> Tensor:
    blocks = frames.split(_FRAMES_AT_ONCE)
    return torch.cat([_best(block, loudest, low, high) for block in blocks])


def _best(frames: Tensor, loudest: Tensor, low: float, high: float) -> Tensor:
    """The strongest lag of each frame between two frequencies, in hertz."""
    window = torch.hann_window(_WINDOW)
    centred = frames - frames.mean(1, keepdim=True)
    strength = _autocorrelation(centred * window) / _autocorrelation(window)
    lags = torch.arange(int(PITCH_RATE / high), int(PITCH_RATE / low) + 2)
    # A small bonus for high pitch: twice the period fits as well as the period.
    bonus = _OCTAVE_COST * (low * lags / PITCH_RATE).log2()
    inner = strength[:, lags]
    peak = (inner >= strength[:, lags - 1]) & (inner > strength[:, lags + 1])
    score = (inner - bonus).masked_fill(~peak, -torch.inf)
    best = lags[score.argmax(1)].unsqueeze(1)
    left, mid, right = (strength.gather(1, best + k).squeeze(1) for k in (-1, 0, 1))
    bend = (left - 2 * mid + right).clamp(max=-1e-9)
    lag = best.squeeze(1) + (0.5 * (left - right) / bend).clamp(-0.5, 0.5)
    loud = centred.abs().amax(1) > _SILENT * loudest
    voiced = peak.any(1) & (mid > _VOICED) & loud
    return torch.where(voiced, PITCH_RATE / lag, 0.0)


def _autocorrelation(frames: Tensor) -> Tensor:
    """Normalised to 1 at lag 0: ``[..., window]``."""
    power = torch.fft.rfft(frames, 2 * _WINDOW).abs().square()
    found = torch.fft.irfft(power, 2 * _WINDOW)[..., : _WINDOW // 2 + 2]
    return found / found[..., :1].clamp(min=1e-12)
