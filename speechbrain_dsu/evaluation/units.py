"""What units say of phones: mutual information and purity, with their floor.

The measures are those of HuBERT (Hsu et al., 2021, section IV-E), from counts of
frames: how often each phone meets each unit.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError


@dataclass(frozen=True)
class UnitQuality:
    """How well units tell phones apart, over the labelled frames.

    Arguments
    ---------
    frames : int
        Frames with a label.
    phones, units : int
        How many of each occur.
    pnmi : float
        Share of the phones' entropy that the unit explains, 0 to 1.
    pnmi_floor : float
        The same after the labels were shuffled, mean over shuffles: what that many
        units get by chance on that many frames. Compare tokenizers by what they
        are above it.
    phone_purity : float
        Accuracy of naming each unit's commonest phone.
    cluster_purity : float
        Accuracy of naming each phone's commonest unit; falls with more units.
    pnmi_interval : (float, float) or None
        95 % interval of ``pnmi`` over utterances; None where these are unknown.
    """

    frames: int
    phones: int
    units: int
    pnmi: float
    pnmi_floor: float
    phone_purity: float
    cluster_purity: float
    pnmi_interval: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def unit_quality(
    units: Tensor,
    labels: Tensor,
    permutations: int = 10,
    seed: int = 0,
    groups: Tensor | None = None,
) -> UnitQuality:
    """Mutual information and purity of units and phone labels.

    Arguments
    ---------
    units : Tensor
        Integers ``[frames]``, not negative.
    labels : Tensor
        Integers ``[frames]``: the phone of each frame; negative where there is none,
        such frames don't count.
    permutations : int
        Shuffles for the floor; 0 gives a floor of 0.
    seed : int
        Of the shuffles and the interval.
    groups : Tensor, optional
        Integers ``[frames]``: the utterance of each frame, for the interval.

    Returns
    -------
    UnitQuality
        See there.

    Raises
    ------
    DsuError
        If no frame is labelled, or the shapes disagree.

    Example
    -------
    >>> units = torch.tensor([0, 0, 1, 1, 2, 2])
    >>> found = unit_quality(units, torch.tensor([0, 0, 0, 0, 1, -1]))
    >>> found.frames, found.pnmi, found.phone_purity, found.cluster_purity
    (5, 1.0, 1.0, 0.6)
    """
    interval = None if groups is None else _interval(units, labels, groups, seed)
    units, labels = _labelled(units, labels)
    counts = joint_counts(units, labels)
    generator = torch.Generator().manual_seed(seed)
    floors = [
        pnmi(
            joint_counts(
                units, labels[torch.randperm(len(labels), generator=generator)]
            )
        )
        for _ in range(permutations)
    ]
    return UnitQuality(
        frames=len(units),
        phones=len(counts),
        units=counts.shape[1],
        pnmi=pnmi(counts),
        pnmi_floor=sum(floors) / max(len(floors), 1),
        phone_purity=phone_purity(counts),
        cluster_purity=cluster_purity(counts),
        pnmi_interval=interval,
    )


def joint_counts(units: Tensor, labels: Tensor) -> Tensor:
    """How often each phone meets each unit; only those that occur have a place.

    Arguments
    ---------
    units, labels : Tensor
        Integers ``[frames]``; frames with a negative label don't count.

    Returns
    -------
    Tensor
        int64 ``[phones, units]``, both in rising order.

    Example
    -------
    >>> joint_counts(torch.tensor([7, 7, 3]), torch.tensor([0, 1, 1]))
    tensor([[0, 1],
            [1, 1]])
    """
    units, labels = _labelled(units, labels)
    names, columns = units.unique(return_inverse=True)
    kinds, rows = labels.unique(return_inverse=True)
    flat = torch.bincount(
        rows * len(names) + columns, minlength=len(kinds) * len(names)
    )
    return flat.view(len(kinds), len(names))


def pnmi(counts: Tensor) -> float:
    """Phone-normalised mutual information: I(phone; unit) / H(phone).

    Arguments
    ---------
    counts : Tensor
        ``[phones, units]``, as of ``joint_counts``.

    Returns
    -------
    float
        0 (the unit says nothing) to 1 (it names the phone); 0 if there is one phone.

    Example
    -------
    >>> pnmi(torch.tensor([[2, 0], [0, 2]])), pnmi(torch.tensor([[1, 1], [1, 1]]))
    (1.0, 0.0)
    """
    rows, columns = counts.sum(1), counts.sum(0)
    of_phones = _nats(rows)
    if of_phones == 0:
        return 0.0
    shared = of_phones + _nats(columns) - _nats(counts.flatten())
    return min(1.0, max(0.0, shared / of_phones))


def phone_purity(counts: Tensor) -> float:
    """Share of frames whose phone is the commonest one of their unit.

    Example
    -------
    >>> phone_purity(torch.tensor([[3, 0], [1, 4]]))
    0.875
    """
    return int(counts.amax(0).sum()) / int(counts.sum())


def cluster_purity(counts: Tensor) -> float:
    """Share of frames whose unit is the commonest one of their phone.

    Example
    -------
    >>> cluster_purity(torch.tensor([[2, 2], [0, 4]]))
    0.75
    """
    return int(counts.amax(1).sum()) / int(counts.sum())


def _interval(
    units: Tensor, labels: Tensor, groups: Tensor, seed: int, resamples: int = 200
) -> tuple[float, float] | None:
    """PNMI and twice its bootstrap error, utterances drawn with replacement.

    The quantiles themselves won't do: a draw repeats utterances, fewer different
    frames have a higher PNMI, and all of them may lie above the value.
    """
    known = labels >= 0
    kinds, place = groups[known].unique(return_inverse=True)
    if len(kinds) < 2:
        return None
    names, columns = units[known].unique(return_inverse=True)
    sorts, rows = labels[known].unique(return_inverse=True)
    cells = rows * len(names) + columns
    shape = len(sorts), len(names)
    generator = torch.Generator().manual_seed(seed)

    def value(weights: Tensor) -> float:
        flat = torch.bincount(cells, weights[place], minlength=shape[0] * shape[1])
        return pnmi(flat.view(shape))

    everything = torch.ones(len(kinds), dtype=torch.float64)
    middle, values = value(everything), []
    for _ in range(resamples):
        drawn = torch.randint(len(kinds), (len(kinds),), generator=generator)
        times = torch.bincount(drawn, minlength=len(kinds)).double()
        values.append(value(times))
    error = float(torch.tensor(values, dtype=torch.float64).std())
    return max(0.0, middle - 1.96 * error), min(1.0, middle + 1.96 * error)


def _labelled(units: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if units.ndim != 1 or units.shape != labels.shape:
        raise DsuError(
            "units and labels must be [frames] of one length, got "
            f"{list(units.shape)} and {list(labels.shape)}"
        )
    known = labels >= 0
    if not bool(known.any()):
        raise DsuError(f"none of {len(labels)} frames has a label")
    return units[known], labels[known]


def _nats(counts: Tensor) -> float:
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())
