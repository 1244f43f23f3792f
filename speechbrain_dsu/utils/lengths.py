"""Relative and absolute lengths, masks and padding: the only place that rounds.

SpeechBrain carries lengths as fractions of the longest item. Here the way back is
``round(lens * size)``, nowhere else, so that no two rooms disagree by a frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError


def absolute_lengths(lens: Tensor | None, size: int, batch: int = 1) -> Tensor:
    """Lengths in steps from lengths relative to the padded size.

    Arguments
    ---------
    lens : Tensor or None
        Relative lengths ``[batch]`` in [0, 1]; None means that all items are full.
    size : int
        Padded size in steps (samples or frames).
    batch : int
        Number of items, used only when ``lens`` is None.

    Returns
    -------
    Tensor
        int64 ``[batch]``.

    Raises
    ------
    DsuError
        If a length is outside [0, 1] or not a number.

    Example
    -------
    >>> absolute_lengths(torch.tensor([1.0, 0.5, 0.333]), 6)
    tensor([6, 3, 2])
    """
    if lens is None:
        return torch.full((batch,), size, dtype=torch.int64)
    lens = torch.as_tensor(lens)
    inside = (lens >= 0) & (lens <= 1 + 1e-6)
    if lens.ndim != 1 or not bool(inside.all()):
        raise DsuError(
            f"lengths must be a [batch] vector of fractions in [0, 1], got {lens}; "
            "divide lengths in samples by the padded size"
        )
    # float64: float32 can't count the samples of a long recording.
    return torch.round(lens.double() * size).long().clamp(max=size)


def relative_lengths(counts: Tensor, size: int) -> Tensor:
    """Fractions of ``size`` from lengths in steps; undone by ``absolute_lengths``.

    Arguments
    ---------
    counts : Tensor
        int64 ``[batch]``.
    size : int
        Padded size in steps.

    Returns
    -------
    Tensor
        float64 ``[batch]``; zeros when ``size`` is 0.

    Example
    -------
    >>> relative_lengths(torch.tensor([4, 1]), 4)
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    return counts.double() / max(size, 1)


def length_mask(counts: Tensor, size: int) -> Tensor:
    """True where a step is valid: bool ``[batch, size]``.

    Example
    -------
    >>> length_mask(torch.tensor([2, 0]), 3)
    tensor([[ True,  True, False],
            [False, False, False]])
    """
    return torch.arange(size, device=counts.device) < counts.unsqueeze(1)


def pad_stack(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack items that differ in their first axis, padding with zeros on the right.

    Arguments
    ---------
    items : sequence of Tensor
        At least one tensor ``[n_i, ...]`` of one dtype and trailing shape.

    Returns
    -------
    padded : Tensor
        ``[batch, max n_i, ...]``.
    counts : Tensor
        int64 ``[batch]``, on the items' device.

    Example
    -------
    >>> pad_stack([torch.ones(2), torch.ones(1)])
    (tensor([[1., 1.],
            [1., 0.]]), tensor([2, 1]))
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True)
    counts = torch.tensor([len(item) for item in items], device=padded.device)
    return padded, counts
