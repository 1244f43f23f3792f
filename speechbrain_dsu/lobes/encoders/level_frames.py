"""Spectra as levels: what a codec of few bits has to keep comes in plainly."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.stft_frames import cut, fourier_matrix
from speechbrain_dsu.nnet.convolution import Conv
from speechbrain_dsu.nnet.streaming_conv import Windows, conv_lengths
from speechbrain_dsu.utils.errors import DsuError

LEVEL_MEAN, LEVEL_SIZE = -5.0, 2.5
"""Bring the logarithms of speech's magnitudes to about zero mean and unit size."""


def mel_filters(win: int, n_mels: int, sample_rate: int) -> Tensor:
    """Slaney's mel filter bank ``[win / 2 + 1, n_mels]``.

    Example
    -------
    >>> mel_filters(win=64, n_mels=8, sample_rate=16000).shape
    torch.Size([33, 8])
    """
    # Imported when an object is built, so that importing this module stays cheap.
    from torchaudio.functional import melscale_fbanks

    bins, top = win // 2 + 1, sample_rate / 2
    return melscale_fbanks(bins, 0.0, top, n_mels, sample_rate, "slaney", "slaney")


class LevelFrames(nn.Module):
    """Log-magnitudes and compressed spectra of several windows per frame.

    ``StftFrames`` gives real and imaginary parts only: a linear layer can't take
    magnitudes of them, and the layer norm behind it takes the loudness away. With
    the logarithms beside them a codec learns levels within minutes, not hours.
    Windows closer together than frames keep what happens within a frame.

    Arguments
    ---------
    sample_rate : int
        In hertz.
    hop : int
        Samples from frame to frame.
    win : int
        Hann window in samples, even, a multiple of ``hop / steps``.
    steps : int
        Windows per frame, evenly spaced.
    power : float
        Of the magnitudes of the compressed spectra, in (0, 1].
    phase_bins : int
        The compressed spectra (real and imaginary parts) are given for that many
        bins from the lowest: only there can few bits carry a phase.
    floor : float
        Added to magnitudes before logarithms.
    n_mels : int, optional
        Levels of that many mel bands instead of all bins.
    causal : bool
        The last window of a frame ends where the frame's hop ends; otherwise its
        windows lie around the middle of the hop.

    Raises
    ------
    DsuError
        If the sizes don't fit.

    Example
    -------
    >>> frames = LevelFrames(hop=320, win=640, steps=2, phase_bins=80)
    >>> frames(torch.randn(2, 1000)).shape, frames.num_frames(1000)
    (torch.Size([2, 4, 962]), 4)
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        hop: int = 320,
        win: int = 640,
        steps: int = 2,
        power: float = 0.3,
        phase_bins: int = 80,
        floor: float = 1e-4,
        n_mels: int | None = None,
        causal: bool = True,
    ):
        super().__init__()
        step, bins = hop // steps, win // 2 + 1
        if hop % steps or win % step or not 0 <= phase_bins <= bins:
            raise DsuError(
                f"steps={steps} must divide hop={hop}, win={win} be a multiple "
                f"of {step} and phase_bins={phase_bins} at most {bins}"
            )
        self.sample_rate, self.hop, self.win = sample_rate, hop, win
        self.steps, self.power, self.phase_bins = steps, float(power), phase_bins
        self.floor = float(floor)
        self.n_mels = n_mels
        self.dim = steps * ((n_mels or bins) + 2 * phase_bins)
        # One stretch with all windows of a frame.
        self.causal = causal
        self.windows = Windows(conv_lengths(win + hop - step, hop, causal=causal))
        # Recomputed from the settings, so not part of anybody's weights.
        self.register_buffer("basis", fourier_matrix(win)[0], persistent=False)
        filters = None if n_mels is None else mel_filters(win, n_mels, sample_rate)
        self.register_buffer("filters", filters, persistent=False)

    @property
    def lengths(self) -> Conv:
        """Its length arithmetic, for ``ConvStack``."""
        return self.windows.lengths

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        return (
            f"sample_rate={self.sample_rate}, hop={self.hop}, win={self.win}, "
            f"steps={self.steps}, power={self.power}, phase_bins={self.phase_bins}, "
            f"floor={self.floor}, n_mels={self.n_mels}, causal={self.causal}"
        )

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples: every sample is in a hop."""
        return self.lengths.num_frames(n_samples)

    def forward(self, wavs: Tensor) -> Tensor:
        """``[batch, frames, dim]`` of waveforms ``[batch, time]``."""
        padded = self.windows(wavs.unsqueeze(1))[:, 0]
        step = self.hop // self.steps
        if padded.shape[1] < self.lengths.span:
            return wavs.new_zeros(len(wavs), 0, self.dim)
        with torch.autocast(wavs.device.type, enabled=False):
            windows = cut(padded.to(self.basis.dtype), self.win, step)
            real, imaginary = (windows @ self.basis).chunk(2, dim=-1)
            magnitude = (real.square() + imaginary.square()).sqrt()
            factor = (magnitude + self.floor)[..., : self.phase_bins]
            factor = factor ** (self.power - 1)
            parts = [part[..., : self.phase_bins] for part in (real, imaginary)]
            if self.filters is not None:
                magnitude = magnitude @ self.filters
            level = ((magnitude + self.floor).log() - LEVEL_MEAN) / LEVEL_SIZE
            values = torch.cat([level, *(part * factor for part in parts)], dim=-1)
        return values.reshape(len(wavs), -1, self.dim)
