"""What all self-supervised objectives return and share."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PretrainingOutput:
    """Losses and figures of a batch.

    Arguments
    ---------
    losses : dict
        Named scalars; weights belong to the training.
    stats : dict
        Named scalars without gradient, for the log.
    """

    losses: dict[str, Tensor]
    stats: dict[str, Tensor]


def align_labels(labels: Tensor, size: int, step: float, offset: float = 0.0) -> Tensor:
    """The label nearest in time to each frame.

    Arguments
    ---------
    labels : Tensor
        int64 ``[batch, labels, ...]``.
    size : int
        Number of frames.
    step : float
        Labels per frame: 2 for labels every 10 ms and frames every 20.
    offset : float
        Where frame 0 lies, in labels from label 0.

    Returns
    -------
    Tensor
        ``[batch, size, ...]``; -1 where there is none.

    Example
    -------
    >>> align_labels(torch.tensor([[0, 1, 2, 3, 4]]), size=4, step=2.0)
    tensor([[ 0,  2,  4, -1]])
    """
    wanted = torch.arange(size, device=labels.device, dtype=torch.float64)
    # Halves go up, whatever the frame.
    wanted = (wanted * step + offset + 0.5).floor().long()
    padded = torch.cat([labels, torch.full_like(labels[:, :1], -1)], 1)
    return padded[:, wanted.clamp(0, labels.shape[1])]
