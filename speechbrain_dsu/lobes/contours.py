"""What speech does beside its units: pitch and energy, frame by frame."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError


class PitchTracker(nn.Module):
    """Normalised log pitch and voicing at the frames of units.

    The pitch is SpeechBrain's: the best lag of Boersma's (1993) autocorrelation,
    smoothed by a running median. Its logarithm is centred on the mean of an item's
    voiced frames, so that the register of a voice is not in it: Polyak et al., "Speech
    Resynthesis from Discrete Disentangled Self-Supervised Representations" (2021),
    section 2.2, who take the mean of a speaker.

    Arguments
    ---------
    sample_rate : int
        In hertz.
    hop : int
        Samples per frame; frame ``t`` is measured around the middle of its hop.
    low, high : float
        Range of the pitch in hertz.
    voiced : float
        Strength of the autocorrelation from which on a frame is voiced, 0 to 1.
    quiet : float
        Frames below this share of the loudest one's level are unvoiced.

    Raises
    ------
    DsuError
        If there is no range.

    Example
    -------
    >>> wav = torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
    >>> round(float(PitchTracker().hertz(wav[None])[0, 10]))
    200
    >>> PitchTracker()(wav[None]).shape
    torch.Size([1, 50, 2])
    """

    values = 2

    def __init__(
        self,
        sample_rate: int = 16000,
        hop: int = 320,
        low: float = 70.0,
        high: float = 400.0,
        voiced: float = 0.5,
        quiet: float = 0.03,
    ):
        super().__init__()
        if not 0 < low < high < sample_rate / 2:
            raise DsuError(f"pitch from low={low} to high={high} at {sample_rate} Hz")
        self.sample_rate, self.hop = sample_rate, hop
        self.low, self.high = float(low), float(high)
        self.voiced, self.quiet = float(voiced), float(quiet)
        # Three periods of the lowest pitch.
        self.window = int(3 * sample_rate / low)

    def extra_repr(self) -> str:
        """Settings that decide the values; part of the fingerprint."""
        return (
            f"sample_rate={self.sample_rate}, hop={self.hop}, low={self.low}, "
            f"high={self.high}, voiced={self.voiced}, quiet={self.quiet}"
        )

    @torch.no_grad()
    def hertz(self, wavs: Tensor, frames: int | None = None) -> Tensor:
        """Pitch of waveforms.

        Arguments
        ---------
        wavs : Tensor
            ``[batch, time]``, all of them full.
        frames : int, optional
            How many; as many as hops begin within ``wavs`` by default.

        Returns
        -------
        Tensor
            ``[batch, frames]``; 0 where unvoiced.
        """
        from speechbrain.processing.vocal_features import compute_autocorr_features

        windows = cut_frames(wavs.float(), self.hop, self.window, frames)
        windows = windows - windows.mean(-1, keepdim=True)
        level = windows.abs().amax(-1)
        first, last = (round(self.sample_rate / f) for f in (self.high, self.low))
        power = windows.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
        strength, lags = compute_autocorr_features(windows / power, first, last)
        # SpeechBrain's scores are relative to the window's, not to lag 0's.
        scores = autocorrelation_at(windows, lags)
        loudest = level.amax(1, keepdim=True)
        loud = level > self.quiet * loudest.clamp(min=1e-6)
        return torch.where((scores > self.voiced) & loud, self.sample_rate / lags, 0.0)

    def forward(self, wavs: Tensor, frames: int | None = None) -> Tensor:
        """Log pitch about its mean, and voicing: ``[batch, frames, 2]``."""
        return normalised(self.hertz(wavs, frames))


class EnergyTracker(nn.Module):
    """Log energy about its mean at the frames of units.

    Arguments
    ---------
    hop : int
        Samples per frame.
    floor : float
        Added to the mean square before the logarithm.

    Example
    -------
    >>> EnergyTracker(hop=2)(torch.tensor([[1.0, 1.0, 0.0, 0.0]])).shape
    torch.Size([1, 2, 1])
    """

    values = 1

    def __init__(self, hop: int = 320, floor: float = 1e-6):
        super().__init__()
        self.hop, self.floor = hop, float(floor)

    def extra_repr(self) -> str:
        """Settings that decide the values; part of the fingerprint."""
        return f"hop={self.hop}, floor={self.floor}"

    def forward(self, wavs: Tensor, frames: int | None = None) -> Tensor:
        """``[batch, frames, 1]`` of ``[batch, time]``, in units of 5 nepers."""
        windows = cut_frames(wavs.float(), self.hop, 2 * self.hop, frames)
        level = (windows.square().mean(-1) + self.floor).log()
        return ((level - level.mean(1, keepdim=True)) / 5).unsqueeze(-1)


def cut_frames(
    wavs: Tensor, hop: int, window: int, frames: int | None = None
) -> Tensor:
    """Windows around the middle of each hop: ``[batch, frames, window]``.

    Example
    -------
    >>> cut_frames(torch.arange(1.0, 5.0)[None], hop=2, window=4).tolist()
    [[[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 0.0]]]
    """
    frames = wavs.shape[1] // hop if frames is None else frames
    before = (window - hop) // 2
    missing = max(frames * hop + window - before - wavs.shape[1], 0)
    padded = nn.functional.pad(wavs, (before, missing))
    return padded.unfold(1, window, hop)[:, :frames]


def autocorrelation_at(windows: Tensor, lags: Tensor) -> Tensor:
    """Correlation of windows ``[..., window]`` with themselves ``lags [...]`` later.

    Example
    -------
    >>> wave = torch.tensor([1.0, -1.0, 1.0, -1.0])
    >>> float(autocorrelation_at(wave[None], torch.tensor([2])))
    1.0
    """
    size = windows.shape[-1]
    places = torch.arange(size, device=windows.device) + lags.unsqueeze(-1)
    inside = places < size
    later = windows.gather(-1, places.clamp(max=size - 1)) * inside
    now = windows * inside
    norm = (now.square().sum(-1) * later.square().sum(-1)).sqrt()
    return (now * later).sum(-1) / norm.clamp(min=1e-9)


def normalised(hertz: Tensor) -> Tensor:
    """Log pitch about the mean of the voiced frames, and voicing.

    Arguments
    ---------
    hertz : Tensor
        ``[batch, frames]``; 0 where unvoiced.

    Returns
    -------
    Tensor
        ``[batch, frames, 2]``: a third of an octave above the mean is about 1.

    Example
    -------
    >>> normalised(torch.tensor([[100.0, 0.0, 100.0]]))[0].abs().tolist()
    [[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    """
    voiced = (hertz > 0).float()
    logs = hertz.clamp(min=1).log() * voiced
    mean = logs.sum(1, keepdim=True) / voiced.sum(1, keepdim=True).clamp(min=1)
    return torch.stack([(logs - mean) * voiced / 0.25, voiced], dim=-1)
