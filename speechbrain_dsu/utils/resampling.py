"""Sample rate conversion by windowed sinc, whatever the two rates are."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError

# torchaudio's defaults, of its table and of the direct sum alike.
_ZEROS = 6
_ROLLOFF = 0.99
# Entries of torchaudio's table of phases. 16000 and 22254 Hz would need 90 million.
_LARGEST_TABLE = 2**22
_OUTPUTS_AT_ONCE = 8192


def resample(wav: Tensor, rate_in: int, rate_out: int) -> Tensor:
    """Change the sample rate of ``[..., time]`` by torchaudio's windowed sinc.

    ``n`` samples become ``ceil(n * rate_out / rate_in)``.

    Arguments
    ---------
    wav : Tensor
        Floating point ``[..., time]``.
    rate_in, rate_out : int
        In hertz; any two rates.

    Returns
    -------
    Tensor
        ``wav`` itself if the rates are equal.

    Raises
    ------
    DsuError
        If a rate is not positive.

    Example
    -------
    >>> resample(torch.zeros(441), 22050, 16000).shape
    torch.Size([320])
    """
    if rate_in < 1 or rate_out < 1:
        raise DsuError(f"sample rates must be positive, got {rate_in} and {rate_out}")
    if rate_in == rate_out or wav.shape[-1] == 0:
        return wav
    common = math.gcd(rate_in, rate_out)
    if (rate_in // common) * (rate_out // common) > _LARGEST_TABLE:
        return resample_directly(wav, rate_in, rate_out)
    with torch.no_grad():
        return _resampler(rate_in, rate_out).to(wav.device)(wav)


@lru_cache(maxsize=8)
def _resampler(rate_in: int, rate_out: int):
    from torchaudio.transforms import Resample

    return Resample(rate_in, rate_out, "sinc_interp_hann", _ZEROS, _ROLLOFF)


@torch.no_grad()
def resample_directly(wav: Tensor, rate_in: int, rate_out: int) -> Tensor:
    """The same sum as ``resample``, its weights computed for each sample anew.

    Slower than a table of phases, but it needs none: the table holds one row per
    phase, and two rates without a common factor have as many phases as hertz.

    Arguments
    ---------
    wav : Tensor
        Floating point ``[..., time]``.
    rate_in, rate_out : int
        In hertz.

    Returns
    -------
    Tensor
        ``[..., ceil(time * rate_out / rate_in)]``.

    Example
    -------
    >>> resample_directly(torch.zeros(2, 22254), 22254, 16000).shape
    torch.Size([2, 16000])
    """
    common = math.gcd(rate_in, rate_out)
    step_in, step_out = rate_in // common, rate_out // common
    cutoff = min(step_in, step_out) * _ROLLOFF
    reach = math.ceil(_ZEROS * step_in / cutoff)
    total = math.ceil(wav.shape[-1] * step_out / step_in)
    padded = torch.nn.functional.pad(wav, (reach, reach + 2))
    near = torch.arange(-reach, reach + 2, device=wav.device)
    parts = []
    for first in range(0, total, _OUTPUTS_AT_ONCE):
        stop = min(first + _OUTPUTS_AT_ONCE, total)
        outputs = torch.arange(first, stop, device=wav.device).unsqueeze(1)
        inputs = outputs * step_in // step_out + near
        # In whole numbers: the phase of a late sample is as exact as that of an early.
        phase = (inputs * step_out - outputs * step_in).double()
        angle = (phase * (cutoff / (step_in * step_out))).clamp(-_ZEROS, _ZEROS)
        window = torch.cos(angle * (math.pi / (2 * _ZEROS))).square()
        weights = torch.sinc(angle) * window * (cutoff / step_in)
        parts.append((padded[..., inputs + reach] * weights.to(wav.dtype)).sum(-1))
    return torch.cat(parts, dim=-1)
