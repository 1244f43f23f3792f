"""What all self-supervised objectives return and share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_dsu.lobes.encoders.ssl import Latents
from speechbrain_dsu.nnet.quantizers.base import Quantizer


@dataclass(frozen=True, eq=False)
class PretrainingOutput:
    """Losses and figures of a batch.

    Arguments
    ---------
    losses : dict
        Named scalars; weights belong to the training.
    stats : dict
        Named scalars without gradient, for the log.
    usage : tuple of Tensor
        How often each code of a trained quantizer occurred, as in ``Quantized``; empty
        where there is none.
    """

    losses: dict[str, Tensor]
    stats: dict[str, Tensor]
    usage: tuple[Tensor, ...] = ()


def feature_penalty(latents: Latents) -> Tensor:
    """Mean square of the front end's valid frames: keeps them from growing."""
    return latents.frames[latents.valid].float().square().mean()


def set_quantizer_step(quantizer: Quantizer, step: int) -> None:
    """Set the updates made, where a quantizer cools down by them.

    A count of its own passes would run ahead under gradient accumulation.
    """
    if hasattr(quantizer, "set_steps"):
        quantizer.set_steps(step)


def align_labels(
    labels: Tensor, size: int, step: float = 1.0, offset: float = 0.0
) -> Tensor:
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
