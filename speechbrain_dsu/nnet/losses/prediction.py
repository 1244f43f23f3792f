"""Losses of predicting units and latents, in float32 under autocast too."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_logits(
    predicted: Tensor, vectors: Tensor, temperature: float = 0.1
) -> Tensor:
    """Cosines of predictions and vectors over a temperature.

    Arguments
    ---------
    predicted : Tensor
        ``[..., n, dim]``.
    vectors : Tensor
        ``[..., size, dim]``.
    temperature : float
        Divides the cosines.

    Returns
    -------
    Tensor
        float32 ``[..., n, size]``.

    Example
    -------
    >>> cosine_logits(torch.eye(2), torch.tensor([[2.0, 0.0]]))
    tensor([[10.],
            [ 0.]])
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted = F.normalize(predicted.float(), dim=-1)
        vectors = F.normalize(vectors.float(), dim=-1)
        return predicted @ vectors.mT / temperature


def unit_loss(logits: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy against units, and how often the best guess is right.

    Arguments
    ---------
    logits : Tensor
        ``[n, size]``.
    units : Tensor
        int64 ``[n]``; negative where there is no label.

    Returns
    -------
    loss, accuracy : Tensor
        Means over labelled frames; 0 when there is none.

    Example
    -------
    >>> loss, accuracy = unit_loss(torch.tensor([[9.0, 0.0]]), torch.tensor([0]))
    >>> round(loss.item(), 4), accuracy.item()
    (0.0001, 1.0)
    """
    units = units.clamp(min=-1)
    total = (units >= 0).sum().clamp(min=1)
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.cross_entropy(logits.float(), units, ignore_index=-1, reduction="sum")
    right = (logits.detach().argmax(-1) == units).sum()
    return loss / total, right / total
