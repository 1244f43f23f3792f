"""Changes of training audio that a codec has to live with: level, mixing, colour."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError

_EQ_POINTS = 6


class LevelMixColour(nn.Module):
    """Random level, a second voice, and a random smooth frequency response.

    The target of a codec is its input, so these make more targets: quiet and loud
    ones, two talkers at once, other microphones. Drawn per item with torch's
    generator. SpeechBrain's augmentations add noise from files or cut holes; both
    would teach a codec to reproduce what nobody wants.

    Arguments
    ---------
    level_db : (float, float)
        The peak of an item is put at a level drawn from this range, in dB below
        full scale.
    mix : float
        Share of items to which another item of the batch is added.
    mix_db : (float, float)
        How much quieter the other one is.
    colour : float
        Share of items that are filtered.
    colour_db : float
        Standard deviation of the response at six points over the spectrum.

    Raises
    ------
    DsuError
        If a share is outside [0, 1].

    Example
    -------
    >>> augment = LevelMixColour(level_db=(-6.0, -6.0), mix=0.0, colour=0.0)
    >>> round(float(augment(torch.ones(1, 8) * 0.1).max()), 3)
    0.501
    """

    def __init__(
        self,
        level_db: tuple[float, float] = (-25.0, -1.0),
        mix: float = 0.1,
        mix_db: tuple[float, float] = (5.0, 20.0),
        colour: float = 0.3,
        colour_db: float = 4.0,
    ):
        super().__init__()
        if not (0 <= mix <= 1 and 0 <= colour <= 1):
            raise DsuError(f"mix={mix} and colour={colour} are shares: 0 to 1")
        self.level_db, self.mix, self.mix_db = level_db, mix, mix_db
        self.colour, self.colour_db = colour, colour_db

    @torch.no_grad()
    def forward(self, wavs: Tensor) -> Tensor:
        """Changed copies of waveforms ``[batch, time]``; silence stays silence."""
        batch = len(wavs)
        if self.mix and batch > 1:
            quieter = 10 ** (-_draw(batch, self.mix_db, wavs) / 20)
            chosen = torch.rand(batch, 1, device=wavs.device) < self.mix
            wavs = wavs + chosen * quieter * _unit(wavs.roll(1, 0)) * _peak(wavs)
        if self.colour:
            chosen = torch.rand(batch, 1, device=wavs.device) < self.colour
            wavs = torch.where(chosen, self._coloured(wavs), wavs)
        level = 10 ** (_draw(batch, self.level_db, wavs) / 20)
        return level * _unit(wavs)

    def _coloured(self, wavs: Tensor) -> Tensor:
        spectra = torch.fft.rfft(wavs)
        points = torch.randn(len(wavs), 1, _EQ_POINTS, device=wavs.device)
        curve = F.interpolate(
            points, spectra.shape[1], mode="linear", align_corners=True
        )
        gain = 10 ** (self.colour_db * curve.squeeze(1) / 20)
        return torch.fft.irfft(spectra * gain, wavs.shape[1])


def _peak(wavs: Tensor) -> Tensor:
    return wavs.abs().amax(1, keepdim=True)


def _unit(wavs: Tensor) -> Tensor:
    """At full scale; what is nearly silent is not blown up to it."""
    return wavs / _peak(wavs).clamp(min=1e-3)


def _draw(batch: int, limits: tuple[float, float], like: Tensor) -> Tensor:
    low, high = limits
    return low + (high - low) * torch.rand(batch, 1, device=like.device)
