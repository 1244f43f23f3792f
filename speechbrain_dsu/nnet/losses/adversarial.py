"""Losses between a model and the discriminators it has to convince.

SpeechBrain's losses of this kind (``lobes.models.HifiGAN``) average over padding and
add up discriminators, so that their weight depends on how many there are. Here every
discriminator counts the same and only valid steps do.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_dsu.nnet.losses.masking import masked_mean
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

Kind = Literal["hinge", "least_squares"]


def discriminator_loss(
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    lens: Tensor | None = None,
    kind: Kind = "hinge",
) -> Tensor:
    """What discriminators minimise: high scores for real, low ones for decoded.

    ``hinge``: Lim and Ye, "Geometric GAN" (2017), eq. 2; ``least_squares``: Mao et
    al., "Least squares generative adversarial networks" (2017), eq. 9.

    Arguments
    ---------
    real, fake : sequence of Tensor
        Scores ``[batch, steps, ...]`` of each discriminator; give ``fake`` without
        gradient to the model.
    lens : Tensor, optional
        Relative lengths ``[batch]``.
    kind : "hinge" or "least_squares"
        Form of the loss.

    Returns
    -------
    Tensor
        Scalar, mean over discriminators.

    Example
    -------
    >>> discriminator_loss([torch.full((1, 2), 3.0)], [torch.zeros(1, 2)])
    tensor(1.)
    """
    _check_kind(kind)
    total = []
    for high, low in zip(real, fake, strict=True):
        if kind == "hinge":
            values = F.relu(1 - high), F.relu(1 + low)
        else:
            values = (1 - high).square(), low.square()
        total.append(sum(_mean(value, lens) for value in values))
    return torch.stack(total).mean()


def generator_loss(
    fake: Sequence[Tensor], lens: Tensor | None = None, kind: Kind = "hinge"
) -> Tensor:
    """What the model minimises: its scores should be high.

    With ``hinge`` it is the negative mean score (Lim and Ye, 2017, eq. 3), which
    never stops pulling; EnCodec clips it at 1, MelGAN does not.

    Arguments
    ---------
    fake : sequence of Tensor
        Scores ``[batch, steps, ...]`` of decoded speech.
    lens : Tensor, optional
        Relative lengths ``[batch]``.
    kind : "hinge" or "least_squares"
        As for the discriminators.

    Returns
    -------
    Tensor
        Scalar, mean over discriminators.

    Example
    -------
    >>> generator_loss([torch.full((1, 2), 0.5)], kind="least_squares")
    tensor(0.2500)
    """
    _check_kind(kind)
    values = [-low if kind == "hinge" else (1 - low).square() for low in fake]
    return torch.stack([_mean(value, lens) for value in values]).mean()


def feature_matching_loss(
    real: Sequence[Sequence[Tensor]],
    fake: Sequence[Sequence[Tensor]],
    lens: Tensor | None = None,
) -> Tensor:
    """Distance of discriminators' features, relative to the real ones' size.

    Défossez et al., "High Fidelity Neural Audio Compression" (2022), eq. 4: without
    the division a discriminator that grows its features makes this loss grow without
    bound.

    Arguments
    ---------
    real, fake : sequence of sequences of Tensor
        Features ``[batch, channels, steps, ...]`` of each layer of each
        discriminator; the real ones get no gradient.
    lens : Tensor, optional
        Relative lengths ``[batch]``.

    Returns
    -------
    Tensor
        Scalar, mean over layers and discriminators.

    Example
    -------
    >>> layer = torch.full((1, 3, 2), 4.0)
    >>> feature_matching_loss([[layer]], [[layer - 1]])
    tensor(0.2500)
    """
    terms = []
    for layers, guesses in zip(real, fake, strict=True):
        for layer, guess in zip(layers, guesses, strict=True):
            layer = layer.detach().transpose(1, 2)
            distance = _mean((guess.transpose(1, 2) - layer).abs(), lens)
            size = _mean(layer.abs(), lens)
            terms.append(distance / size.clamp(min=1e-6))
    return torch.stack(terms).mean()


def _mean(values: Tensor, lens: Tensor | None) -> Tensor:
    values = values.float()
    counts = None if lens is None else absolute_lengths(lens, values.shape[1])
    return masked_mean(values, counts)


def _check_kind(kind: str) -> None:
    if kind not in ("hinge", "least_squares"):
        raise DsuError(f"kind={kind!r}: take 'hinge' or 'least_squares'")
