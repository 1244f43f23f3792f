"""What self-supervised models hide and what they compare with, drawn at random.

Everything is drawn with torch's generator and without a loop over items or frames.
SpeechBrain's ``compute_mask`` and ``sample_negatives`` are not used on purpose: the
first loops in numpy, gives all items the spans of the shortest one, never masks an
item's last frame and tops masks up with single frames; the second draws from padding.
"""

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import length_mask


def span_mask(
    counts: Tensor, size: int, probability: float = 0.08, length: int = 10
) -> Tensor:
    """Spans of frames to hide, each item by its own length.

    ``probability * count`` frames of an item begin a span, in the mean over draws
    and up to one more or less; at least one does. Beginnings are drawn without
    replacement from where a whole span fits; spans may overlap. An item shorter than
    two spans gets spans of half its frames, so that something is left to see.

    Arguments
    ---------
    counts : Tensor
        Valid frames of each item, int64 ``[batch]``.
    size : int
        Padded number of frames.
    probability : float
        Share of frames that begin a span: 0.065 in wav2vec 2.0, 0.08 in HuBERT.
    length : int
        Frames of a span.

    Returns
    -------
    Tensor
        True where a frame is hidden: bool ``[batch, size]``.

    Raises
    ------
    DsuError
        If the probability is not in (0, 1] or the length not positive.

    Example
    -------
    >>> mask = span_mask(torch.tensor([40, 5]), 40, probability=0.01, length=10)
    >>> mask.sum(1)
    tensor([10,  2])
    """
    if not 0 < probability <= 1 or length < 1:
        raise DsuError(
            f"span masks need 0 < probability <= 1 and length >= 1, got "
            f"{probability} and {length}"
        )
    counts = counts.clamp(max=size)
    lengths = (counts // 2).clamp(min=1, max=length)
    places = counts - lengths + 1
    wanted = (
        probability * counts + torch.rand(counts.shape, device=counts.device)
    ).long()
    wanted = torch.minimum(wanted.clamp(min=1), places) * (counts > 0)
    # The places with the smallest keys are the beginnings.
    keys = torch.rand(len(counts), size, device=counts.device)
    keys = keys.masked_fill(~length_mask(places, size), 2.0)
    begins = keys.argsort(1).argsort(1) < wanted.unsqueeze(1)
    # A frame is hidden if a span began within the last `length` frames.
    so_far = begins.cumsum(1)
    steps = torch.arange(size, device=counts.device) - lengths.unsqueeze(1)
    before = so_far.gather(1, steps.clamp(min=0)) * (steps >= 0)
    return so_far > before


def pack(frames: Tensor, mask: Tensor) -> Tensor:
    """The chosen frames of each item, moved to its beginning.

    Arguments
    ---------
    frames : Tensor
        ``[batch, frames, ...]``.
    mask : Tensor
        True where a frame is chosen: bool ``[batch, frames]``.

    Returns
    -------
    Tensor
        ``[batch, most chosen, ...]``, in their order; the rest of an item holds
        frames that were not chosen. ``mask.sum(1)`` are the counts.

    Example
    -------
    >>> pack(torch.tensor([[5, 6, 7, 8]]), torch.tensor([[False, True, False, True]]))
    tensor([[6, 8]])
    """
    most = int(mask.sum(1).max()) if mask.numel() else 0
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    index = index.reshape(index.shape + (1,) * (frames.ndim - 2))
    return frames.take_along_dim(index, 1)


def sample_negatives(counts: Tensor, size: int, negatives: int) -> Tensor:
    """For each of an item's frames, others of the same item, uniformly.

    Arguments
    ---------
    counts : Tensor
        Frames of each item to draw from, int64 ``[batch]``.
    size : int
        Padded number of frames.
    negatives : int
        Draws per frame, with replacement.

    Returns
    -------
    Tensor
        Indices of frames, int64 ``[batch, size, negatives]``: below the item's count
        and never the frame itself, for items of two frames and more (others have no
        negatives and get anything inside ``size``).

    Example
    -------
    >>> sample_negatives(torch.tensor([2]), 3, 4)[0, :2]
    tensor([[1, 1, 1, 1],
            [0, 0, 0, 0]])
    """
    device = counts.device
    others = (counts - 1).clamp(min=1).view(-1, 1, 1)
    draws = torch.rand(len(counts), size, negatives, device=device)
    # A product may round up to the bound itself.
    draws = torch.minimum((draws * others).long(), others - 1)
    own = torch.arange(size, device=device).view(1, -1, 1)
    return (draws + (draws >= own)).clamp(max=max(size - 1, 0))
