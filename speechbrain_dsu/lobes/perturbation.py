"""What recording and room do to speech, at random: for inputs, never for targets."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


class Perturbation(nn.Module):
    """Coloured noise, a smooth random equaliser, and the band of a telephone.

    Nothing moves in time, so labels of the clean signal stay right. Each item draws
    its own noise, its level, its colour, its equaliser and its band; what is behind an
    item's end stays zero. SpeechBrain's ``augment`` has noise and notches, but works on
    the whole batch and has no gentle slopes.

    Arguments
    ---------
    noise_probability : float
        Share of the items that get noise.
    snr : (float, float)
        Signal-to-noise ratio in decibels, drawn evenly.
    colour : float
        Steepest slope of the noise's spectrum, in decibels per octave.
    equalizer : float
        Deviation of the equaliser's gains, in decibels; 0 for none.
    bands : int
        Gains across the spectrum, on a scale near the ear's.
    band_probability : float
        Share of the items that lose what lies above a frequency, noise included.
    band : (float, float)
        That frequency, as a share of the sample rate, drawn evenly: 0.2125 to 0.25 is
        3.4 to 4 kHz at 16 kHz.

    Raises
    ------
    DsuError
        If a probability or range makes no sense.

    Example
    -------
    >>> perturb = Perturbation(noise_probability=1.0, snr=(20.0, 20.0), equalizer=0.0)
    >>> wavs = torch.randn(2, 16000)
    >>> noise = perturb(wavs, torch.ones(2)) - wavs
    >>> (-20 * noise.std().log10()).round().item()
    20.0
    """

    def __init__(
        self,
        noise_probability: float = 0.5,
        snr: tuple[float, float] = (5.0, 30.0),
        colour: float = 6.0,
        equalizer: float = 4.0,
        bands: int = 8,
        band_probability: float = 0.0,
        band: tuple[float, float] = (0.2125, 0.25),
    ):
        super().__init__()
        if not 0 <= noise_probability <= 1 or snr[0] > snr[1] or bands < 2:
            raise DsuError(
                f"noise_probability={noise_probability}, snr={tuple(snr)}, "
                f"bands={bands}: give a share, a range from low to high, two bands"
            )
        if not 0 <= band_probability <= 1 or not 0 < band[0] <= band[1] <= 0.5:
            raise DsuError(
                f"band_probability={band_probability}, band={tuple(band)}: give a "
                "share, and a range within 0 to 0.5 of the sample rate"
            )
        self.band_probability, self.band = band_probability, tuple(band)
        self.noise_probability, self.snr = noise_probability, tuple(snr)
        self.colour, self.equalizer, self.bands = colour, equalizer, bands

    @torch.no_grad()
    def forward(self, wavs: Tensor, lens: Tensor) -> Tensor:
        """Perturbed copies.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``, zero behind each item's end.
        lens : Tensor
            Relative lengths ``[batch]``.
        """
        batch, size = wavs.shape
        low, high = self.snr
        draw = torch.rand(3, batch, 1, device=wavs.device)
        noise = self._coloured(torch.randn_like(wavs), draw[0])
        power = wavs.square().sum(1, keepdim=True) / (lens.view(-1, 1) * size)
        level = (power / 10 ** ((low + (high - low) * draw[1]) / 10)).sqrt()
        scale = level / noise.std(1, keepdim=True).clamp(min=1e-8)
        counts = absolute_lengths(lens, size).to(wavs.device)
        noise = noise * scale * (draw[2] < self.noise_probability)
        wavs = self._narrowed(self._equalized(wavs) + noise)
        return wavs * length_mask(counts, size)

    def _coloured(self, noise: Tensor, draw: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(noise)
        octaves = torch.arange(1, spectrum.shape[1] + 1, device=noise.device).log2()
        slope = (2 * draw - 1) * self.colour
        gains = 10 ** (slope * (octaves - octaves[-1]) / 20)
        return torch.fft.irfft(spectrum * gains, n=noise.shape[1])

    def _equalized(self, wavs: Tensor) -> Tensor:
        if self.equalizer == 0:
            return wavs
        spectrum = torch.fft.rfft(wavs)
        gains = torch.randn(len(wavs), self.bands, device=wavs.device)
        places = torch.linspace(1, 32, spectrum.shape[1], device=wavs.device).log2() / 5
        # Bands get wider towards high frequencies, as those of the ear do.
        index = (places * (self.bands - 1)).clamp(max=self.bands - 1.001)
        below, share = index.long(), index - index.floor()
        smooth = gains[:, below] * (1 - share) + gains[:, below + 1] * share
        gain = 10 ** (self.equalizer * smooth / 20)
        return torch.fft.irfft(spectrum * gain, n=wavs.shape[1])

    def _narrowed(self, wavs: Tensor) -> Tensor:
        if self.band_probability == 0:
            return wavs
        low, high = self.band
        draw = torch.rand(2, len(wavs), 1, device=wavs.device)
        spectrum = torch.fft.rfft(wavs)
        places = torch.linspace(0, 0.5, spectrum.shape[1], device=wavs.device)
        # A slope over a twentieth of the spectrum rings less than an edge.
        gain = 0.5 + (low + (high - low) * draw[0] - places) / 0.025
        whole = draw[1] >= self.band_probability
        gain = torch.where(whole, torch.ones_like(gain), gain.clamp(0, 1))
        return torch.fft.irfft(spectrum * gain, n=wavs.shape[1])
