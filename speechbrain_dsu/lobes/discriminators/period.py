"""Discriminators that see every p-th sample."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.lobes.discriminators.base import ConvChain, Verdict
from speechbrain_dsu.utils.errors import DsuError

_KERNEL, _STRIDE = 5, 3


class PeriodDiscriminator(nn.Module):
    """HiFi-GAN's multi-period discriminator.

    Kong et al., "HiFi-GAN" (2020), section 2.3. With the default sizes it computes
    what SpeechBrain's ``MultiPeriodDiscriminator`` does. That one has its periods and
    widths (41 million weights) written into the code and flattens its scores, so that
    time, and with it padding, can't be told any more.

    Arguments
    ---------
    periods : sequence of int
        One discriminator each.
    channels : sequence of int
        Width of each layer; all but the last shorten time by 3.

    Raises
    ------
    DsuError
        If there is no period or no layer.

    Example
    -------
    >>> import torch
    >>> verdict = PeriodDiscriminator([2, 3], [4, 8])(torch.randn(1, 100))
    >>> [tuple(score.shape) for score in verdict.scores]
    [(1, 17, 2), (1, 12, 3)]
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        channels: Sequence[int] = (32, 128, 512, 1024, 1024),
    ):
        super().__init__()
        if not periods or not channels:
            raise DsuError("a period discriminator needs periods and channels")
        self.periods = tuple(periods)
        self.chains = nn.ModuleList(_chain(channels) for _ in periods)

    def forward(self, wavs: Tensor) -> Verdict:
        """Verdict on waveforms ``[batch, time]``; steps are periods."""
        scores, features = [], []
        for period, chain in zip(self.periods, self.chains, strict=True):
            rest = -wavs.shape[1] % period
            grid = F.pad(wavs.unsqueeze(1), (0, rest), mode="reflect")
            score, layers = chain(grid.unflatten(2, (-1, period)))
            scores.append(score)
            features.append(layers)
        return Verdict(scores, features)


def _chain(channels: Sequence[int]) -> ConvChain:
    layers, width = [], 1
    for index, channel in enumerate(channels):
        stride = _STRIDE if index < len(channels) - 1 or index == 0 else 1
        layers.append(
            nn.Conv2d(
                width, channel, (_KERNEL, 1), (stride, 1), padding=(_KERNEL // 2, 0)
            )
        )
        width = channel
    return ConvChain(layers, nn.Conv2d(width, 1, (3, 1), padding=(1, 0)))
