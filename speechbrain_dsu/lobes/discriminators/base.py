"""What all discriminators share."""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.1
"""Of the leaky rectifiers of HiFi-GAN's discriminators."""


class Verdict(NamedTuple):
    """What discriminators say about a batch of waveforms.

    Arguments
    ---------
    scores : list of Tensor
        Of each discriminator, ``[batch, steps, ...]``: high means real. Steps lie
        along time, so that padding can be left out.
    features : list of lists of Tensor
        Of each layer of each, ``[batch, channels, steps, ...]``.
    """

    scores: list[Tensor]
    features: list[list[Tensor]]


class Discriminators(nn.ModuleList):
    """Several discriminators as one.

    Arguments
    ---------
    parts : sequence of nn.Module
        Each returns a ``Verdict``.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.discriminators.period import PeriodDiscriminator
    >>> both = Discriminators([PeriodDiscriminator([2], [4]), PeriodDiscriminator([3])])
    >>> len(both(torch.randn(1, 600)).scores)
    2
    """

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__(parts)

    def forward(self, wavs: Tensor) -> Verdict:
        """Verdict on waveforms ``[batch, time]``."""
        scores, features = [], []
        for part in self:
            verdict = part(wavs)
            scores += verdict.scores
            features += verdict.features
        return Verdict(scores, features)


class ConvChain(nn.Module):
    """Weight-normalised convolutions with leaky rectifiers; the last gives scores.

    Arguments
    ---------
    layers : sequence of nn.Module
        Convolutions to channel-first maps.
    last : nn.Module
        Convolution to one channel.
    slope : float
        Of the rectifiers.
    """

    def __init__(
        self, layers: Sequence[nn.Module], last: nn.Module, slope: float = SLOPE
    ):
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.last = weight_norm(last)
        self.slope = slope

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores ``[batch, steps, ...]`` and the features of each layer."""
        features = []
        for layer in self.layers:
            maps = F.leaky_relu(layer(maps), self.slope)
            features.append(maps)
        return self.last(maps).squeeze(1), features
