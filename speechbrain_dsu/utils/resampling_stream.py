"""Sample rate conversion of a signal that arrives in pieces."""

import math

import torch
from torch import Tensor

from speechbrain_dsu.utils.resampling import resample

# Input samples on either side that the filter can reach, per unit of the rates' ratio
# (its half width is 6 zero crossings, 6.1 with the roll-off).
_REACH = 8


class StreamResampler:
    """``resample`` for a stream: the pieces joined equal the whole, up to rounding.

    Arguments
    ---------
    rate_in, rate_out : int
        In hertz.

    Example
    -------
    >>> wav = torch.sin(torch.arange(2205) * 0.05)
    >>> stream = StreamResampler(22050, 16000)
    >>> pieces = [stream.push(part) for part in wav.split(100)] + [stream.flush()]
    >>> torch.allclose(torch.cat(pieces), resample(wav, 22050, 16000), atol=1e-5)
    True
    """

    def __init__(self, rate_in: int, rate_out: int):
        common = math.gcd(rate_in, rate_out)
        self.rate_in, self.rate_out = rate_in, rate_out
        self._step_in, self._step_out = rate_in // common, rate_out // common
        self._reach = _REACH * max(1, math.ceil(self._step_in / self._step_out))
        self._kept = torch.zeros(0)
        self._first = 0  # periods of both rates before what is kept
        self._done = 0

    def push(self, samples: Tensor) -> Tensor:
        """What ``samples [time]`` complete: ``[time]`` at the new rate."""
        self._kept = torch.cat([self._kept.to(samples.device), samples])
        total = self._first * self._step_in + len(self._kept)
        return self._emit((total - self._reach) * self._step_out // self._step_in)

    def flush(self) -> Tensor:
        """The rest, at the end of the signal."""
        total = self._first * self._step_in + len(self._kept)
        return self._emit(-(-total * self._step_out // self._step_in))

    def _emit(self, ready: int) -> Tensor:
        if ready <= self._done:
            return self._kept[:0]
        offset = self._first * self._step_out
        found = resample(self._kept, self.rate_in, self.rate_out)
        found = found[self._done - offset : ready - offset]
        self._done = ready
        margin = math.ceil(self._reach / self._step_in)
        first = max(self._first, ready // self._step_out - margin)
        self._kept = self._kept[(first - self._first) * self._step_in :]
        self._first = first
        return found
