"""Discriminators that see a waveform at several rates."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.lobes.discriminators.base import ConvChain, Verdict
from speechbrain_dsu.utils.errors import DsuError

# Kernel, stride and groups of each layer.
_LAYERS = ((15, 1, 1), (41, 2, 4), (41, 2, 16), (41, 4, 16), (41, 4, 16), (41, 1, 16))


class ScaleDiscriminator(nn.Module):
    """HiFi-GAN's multi-scale discriminator: the same network at halved rates.

    Kumar et al., "MelGAN" (2019), section 2.2, in the form of Kong et al., "HiFi-GAN"
    (2020), section 2.3, but weight-normalised at every scale, where HiFi-GAN has
    spectral norm at the first: its power iteration changes buffers in every forward
    pass, so that looking at the loss would change the next step. SpeechBrain's
    ``MultiScaleDiscriminator`` does that, and has its widths in the code.

    Arguments
    ---------
    scales : int
        Number of rates, each half of the one before.
    channels : sequence of int
        Width of the seven layers; multiples of 16, of 4 for the second.

    Raises
    ------
    DsuError
        If there are not seven widths.

    Example
    -------
    >>> import torch
    >>> judge = ScaleDiscriminator(2, [16] * 7)
    >>> [tuple(score.shape) for score in judge(torch.randn(1, 640)).scores]
    [(1, 10), (1, 6)]
    """

    def __init__(
        self,
        scales: int = 3,
        channels: Sequence[int] = (128, 128, 256, 512, 1024, 1024, 1024),
    ):
        super().__init__()
        if len(channels) != len(_LAYERS) + 1 or scales < 1:
            raise DsuError(
                f"a scale discriminator has {len(_LAYERS) + 1} layers, "
                f"got channels={list(channels)}, scales={scales}"
            )
        self.chains = nn.ModuleList(_chain(channels) for _ in range(scales))

    def forward(self, wavs: Tensor) -> Verdict:
        """Verdict on waveforms ``[batch, time]``."""
        scores, features = [], []
        maps = wavs.unsqueeze(1)
        for index, chain in enumerate(self.chains):
            if index:
                maps = F.avg_pool1d(maps, 4, 2, padding=2)
            score, layers = chain(maps)
            scores.append(score)
            features.append(layers)
        return Verdict(scores, features)


def _chain(channels: Sequence[int]) -> ConvChain:
    layers, width = [], 1
    for channel, (kernel, stride, groups) in zip(channels, _LAYERS, strict=False):
        layers.append(
            nn.Conv1d(width, channel, kernel, stride, kernel // 2, groups=groups)
        )
        width = channel
    layers.append(nn.Conv1d(width, channels[-1], 5, padding=2))
    return ConvChain(layers, nn.Conv1d(channels[-1], 1, 3, padding=1))
