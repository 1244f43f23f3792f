"""Discriminators that see complex spectra of several resolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.discriminators.base import ConvChain, Verdict
from speechbrain_dsu.utils.errors import DsuError

_KERNEL = (3, 9)


class STFTDiscriminator(nn.Module):
    """EnCodec's multi-scale STFT discriminator.

    Défossez et al., "High Fidelity Neural Audio Compression" (2022), section 3.4 and
    figure 2: convolutions over time and frequency on real and imaginary part, with
    dilation along time and stride along frequency. With ``bands`` each resolution is
    cut into frequency ranges with a network of its own, as in DAC (Kumar et al.,
    2023, section 3.3).

    Arguments
    ---------
    windows : sequence of int
        Hann windows in samples, one discriminator each; hops are a quarter.
    channels : int
        Width of all layers.
    dilations : sequence of int
        Along time, one layer each.
    bands : sequence of float
        Edges between 0 and 1, as shares of half the sample rate.
    slope : float
        Of the rectifiers.

    Raises
    ------
    DsuError
        If the edges of bands don't rise from 0 to 1.

    Example
    -------
    >>> verdict = STFTDiscriminator([64], channels=2)(torch.randn(1, 200))
    >>> verdict.scores[0].shape  # time steps, frequencies
    torch.Size([1, 13, 5])
    """

    def __init__(
        self,
        windows: Sequence[int] = (1024, 2048, 512),
        channels: int = 32,
        dilations: Sequence[int] = (1, 2, 4),
        bands: Sequence[float] = (0.0, 1.0),
        slope: float = 0.2,
    ):
        super().__init__()
        edges = list(bands)
        if edges != sorted(set(edges)) or edges[:1] != [0] or edges[-1:] != [1]:
            raise DsuError(f"bands={edges} must rise from 0 to 1")
        self.windows, self.edges = tuple(windows), tuple(edges)
        for window in windows:
            taper = torch.hann_window(window)
            # Unit energy: loudness does not depend on the resolution.
            taper = taper / taper.square().sum().sqrt()
            self.register_buffer(f"window_{window}", taper, persistent=False)
        self.chains = nn.ModuleList(
            _chain(channels, dilations, slope)
            for _ in range(len(windows) * (len(edges) - 1))
        )

    def forward(self, wavs: Tensor) -> Verdict:
        """Verdict on waveforms ``[batch, time]``; steps are frames."""
        scores, features = [], []
        chains = iter(self.chains)
        for window in self.windows:
            maps = self._maps(wavs, window)
            stops = [round(edge * maps.shape[3]) for edge in self.edges]
            for start, stop in zip(stops[:-1], stops[1:], strict=True):
                score, layers = next(chains)(maps[..., start:stop])
                scores.append(score)
                features.append(layers)
        return Verdict(scores, features)

    def _maps(self, wavs: Tensor, window: int) -> Tensor:
        """Real and imaginary parts ``[batch, 2, frames, bins]``."""
        # Padded, so that no sample at the ends escapes and short clips work.
        edge = window // 2
        with torch.autocast(wavs.device.type, enabled=False):
            spectrum = torch.stft(
                nn.functional.pad(wavs.float(), (edge, edge)),
                window,
                hop_length=window // 4,
                window=getattr(self, f"window_{window}"),
                center=False,
                return_complex=True,
            )
        return torch.stack([spectrum.real, spectrum.imag], 1).transpose(2, 3)


def _chain(channels: int, dilations: Sequence[int], slope: float) -> ConvChain:
    time, frequency = _KERNEL
    layers = [nn.Conv2d(2, channels, _KERNEL, padding=(time // 2, frequency // 2))]
    for dilation in dilations:
        padding = (time // 2 * dilation, frequency // 2)
        layers.append(
            nn.Conv2d(channels, channels, _KERNEL, (1, 2), padding, (dilation, 1))
        )
    square = (time, time)
    layers.append(nn.Conv2d(channels, channels, square, padding=time // 2))
    last = nn.Conv2d(channels, 1, square, padding=time // 2)
    return ConvChain(layers, last, slope)
