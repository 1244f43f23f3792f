"""Contrastive losses: tell the true frame from others of the same utterance.

In float32 under autocast too; padding and frames without negatives count nowhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_dsu.nnet.losses.prediction import cosine_logits
from speechbrain_dsu.utils.lengths import length_mask


def contrastive_loss(
    predicted: Tensor,
    targets: Tensor,
    negatives: Tensor,
    counts: Tensor,
    codes: Tensor | None = None,
    temperature: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Pick the target of each frame among targets of other frames.

    Baevski et al., "wav2vec 2.0" (2020), equation 3.

    Arguments
    ---------
    predicted, targets : Tensor
        ``[batch, frames, dim]``.
    negatives : Tensor
        Frames whose targets are compared with, int64 ``[batch, frames, n]``.
    counts : Tensor
        Valid frames of each item, int64 ``[batch]``; items with fewer than two have no
        negatives and don't count.
    codes : Tensor, optional
        Of the targets, int64 ``[batch, frames, codebooks]``: a negative of the same
        codes as the target is no negative and is left out.
    temperature : float
        Divides the cosines.

    Returns
    -------
    loss, accuracy : Tensor
        Means over frames; 0 when there is none.

    Example
    -------
    >>> frames = torch.eye(2).unsqueeze(0)
    >>> negatives = torch.tensor([[[1], [0]]])
    >>> loss, accuracy = contrastive_loss(frames, frames, negatives, torch.tensor([2]))
    >>> round(loss.item(), 6), accuracy.item()
    (4.5e-05, 1.0)
    """
    # All pairs of an utterance in one product, instead of a copy of every negative.
    logits = cosine_logits(predicted, targets, temperature)
    if codes is not None:
        same = (codes.unsqueeze(2) == codes.unsqueeze(1)).all(-1)
        own = torch.eye(same.shape[1], dtype=torch.bool, device=same.device)
        logits = logits.masked_fill(same & ~own, -torch.inf)
    true = logits.diagonal(dim1=1, dim2=2).unsqueeze(2)
    scores = torch.cat([true, logits.gather(2, negatives)], 2)
    valid = length_mask(counts * (counts > 1), predicted.shape[1])
    # Behind an item's end a score may be no number: only valid ones are looked at.
    scores = scores[valid]
    total = max(len(scores), 1)
    loss = F.cross_entropy(
        scores, scores.new_zeros(len(scores), dtype=torch.int64), reduction="sum"
    )
    right = (scores.detach().argmax(1) == 0).sum()
    return loss / total, right / total


def future_loss(
    predicted: Tensor, latents: Tensor, negatives: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Tell the latents some steps ahead from others of the same utterance.

    Schneider et al., "wav2vec" (2019), equation 2: a binary decision on the inner
    product for the true latents, and one for every negative, as in vq-wav2vec.

    Arguments
    ---------
    predicted : Tensor
        Guesses of the latents 1, 2, ... steps ahead: ``[batch, frames, steps, dim]``.
    latents : Tensor
        ``[batch, frames, dim]``.
    negatives : Tensor
        Frames to compare the latents of each frame with: int64
        ``[batch, frames, n]``.
    counts : Tensor
        Valid frames of each item, int64 ``[batch]``; items with fewer than two have no
        negatives and don't count.

    Returns
    -------
    loss, accuracy : Tensor
        The sum of the true decision's and all negatives' losses, and how often the
        true latents score highest: means over frames and steps that end before an
        item does; 0 when there is none.

    Example
    -------
    >>> predicted, latents = torch.zeros(1, 4, 2, 3), torch.randn(1, 4, 3)
    >>> negatives = torch.ones(1, 4, 5, dtype=torch.int64)
    >>> loss, _ = future_loss(predicted, latents, negatives, torch.tensor([4]))
    >>> round(loss.item() / 6, 4)  # log(2) for each decision
    0.6931
    """
    frames, steps = predicted.shape[1:3]
    counts = counts * (counts > 1)
    losses, right, total = [], [], 0
    with torch.autocast(predicted.device.type, enabled=False):
        for step in range(1, min(steps, frames - 1) + 1):
            guesses = predicted[:, : frames - step, step - 1].float()
            logits = guesses @ latents[:, step:].float().mT
            others = guesses @ latents.float().mT
            true = logits.diagonal(dim1=1, dim2=2)
            false = others.gather(2, negatives[:, step:])
            each = F.softplus(-true) + F.softplus(false).sum(2)
            valid = length_mask((counts - step).clamp(min=0), frames - step)
            losses.append(each[valid].sum())
            best = true.detach() > false.detach().amax(2)
            right.append((best & valid).sum())
            total = total + valid.sum()
        if not losses:
            return predicted.sum() * 0.0, predicted.new_zeros(())
        total = total.clamp(min=1)
        return torch.stack(losses).sum() / total, torch.stack(right).sum() / total
