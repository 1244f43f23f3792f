"""Means over what is valid: the only place where losses meet padding."""

import torch
from torch import Tensor

from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


def silence_padding(wavs: Tensor, lens: Tensor | None) -> Tensor:
    """Waveforms ``[batch, time]`` with zeros behind their ends.

    Example
    -------
    >>> silence_padding(torch.ones(1, 4), torch.tensor([0.5]))
    tensor([[1., 1., 0., 0.]])
    """
    if lens is None:
        return wavs
    counts = absolute_lengths(lens, wavs.shape[1]).to(wavs.device)
    return wavs * length_mask(counts, wavs.shape[1])


def masked_mean(values: Tensor, counts: Tensor | None) -> Tensor:
    """Mean over the first steps of each item.

    Arguments
    ---------
    values : Tensor
        ``[batch, steps, ...]``.
    counts : Tensor, optional
        Valid steps of each item, int64 ``[batch]``; None if all are valid.

    Returns
    -------
    Tensor
        Scalar; 0 when nothing is valid.

    Example
    -------
    >>> masked_mean(torch.tensor([[1.0, 3.0, 50.0]]), torch.tensor([2]))
    tensor(2.)
    """
    if counts is None:
        return values.mean()
    mask = length_mask(counts.to(values.device), values.shape[1])
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - 2))
    each = values[0, 0].numel() if values.numel() else 1
    total = (mask.sum() * each).clamp(min=1)
    return torch.where(mask, values, torch.zeros_like(values)).sum() / total
