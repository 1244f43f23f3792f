"""Batches of frames walked in step by all ranks, and a sample drawn from them.

Nothing here waits for a rank that has run out: every step begins with one exchange
of a few integers, which also carries faults, so that all ranks stop together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask

_HAS_FRAMES, _EXHAUSTED, _FAILED = 0, 1, 2


def valid_frames(features: Tensor, lens: Tensor | None) -> Tensor:
    """Frames of a padded batch without the padding, one item after the other.

    Arguments
    ---------
    features : torch.Tensor
        Features [batch, frames, dim].
    lens : torch.Tensor | None
        Relative lengths [batch]; None when nothing is padded.

    Returns
    -------
    torch.Tensor
        Frames [n, dim].

    Example
    -------
    >>> features = torch.arange(8.0).view(2, 2, 2)
    >>> valid_frames(features, torch.tensor([1.0, 0.5])).tolist()
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """
    if features.ndim != 3:
        raise DsuError(
            f"features must be [batch, frames, dim], got {list(features.shape)}"
        )
    if lens is None:
        return features.flatten(0, 1)
    if len(lens) != len(features):
        raise DsuError(f"{len(lens)} lengths for a batch of {len(features)} items")
    counts = absolute_lengths(lens, features.shape[1]).to(features.device)
    return features[length_mask(counts, features.shape[1])]


@dataclass(frozen=True)
class Step:
    """One batch of this rank and what it is among the frames of all ranks.

    Arguments
    ---------
    index : int
        Number of the step in its epoch, from 0.
    frames : torch.Tensor | None
        Frames [n, dim] float32; None when this rank has run out before others.
    offset : int
        Frames of all ranks before this batch, in the order of steps, then ranks.
    total : int
        Frames of all ranks in this step.
    """

    index: int
    frames: Tensor | None
    offset: int
    total: int


def walk(batches: Iterable[Tensor], dim: int, skip: int = 0) -> Iterator[Step]:
    """Check batches and hand them out in step with the other ranks.

    Arguments
    ---------
    batches : iterable of torch.Tensor
        Frames [n, dim] each; ranks may have different numbers of them.
    dim : int
        Size of a frame.
    skip : int
        Steps to pass over, for a run that is taken up again.

    Yields
    ------
    Step
        Until the batches of every rank are used up.

    Raises
    ------
    DsuError
        If a batch has another shape or a value that isn't finite, on whichever rank.

    Example
    -------
    >>> [step.offset for step in walk([torch.ones(2, 1), torch.ones(3, 1)], dim=1)]
    [0, 2]
    """
    source, index, offset = iter(batches), 0, 0
    while True:
        frames, state, fault = None, _HAS_FRAMES, None
        try:
            frames = next(source)
            if index >= skip:
                frames = _checked(frames, dim, index)
        except StopIteration:
            state = _EXHAUSTED
        except Exception as error:
            # The others must hear of it before this rank leaves.
            state, fault = _FAILED, error
        size = 0 if frames is None or fault is not None else len(frames)
        sizes, states = _exchange(size, state)
        if fault is not None:
            raise fault
        if _FAILED in states:
            raise DsuError(
                f"rank {states.index(_FAILED)} failed at batch {index}: "
                "its own message says why"
            )
        if all(other == _EXHAUSTED for other in states):
            return
        before = offset + sum(sizes[: rank()])
        offset += sum(sizes)
        if index >= skip:
            yield Step(index, frames, before, sum(sizes))
        index += 1


class FrameSample:
    """A fixed number of frames drawn evenly from a stream of unknown length.

    Every frame of the stream has a random key that depends on the seed and on its
    place alone; the frames with the smallest keys are kept. The sample is therefore
    the same however the stream is cut into batches or dealt out to ranks.

    Arguments
    ---------
    capacity : int
        Frames to keep.
    seed : int
        Seed of the keys.

    Example
    -------
    >>> sample = FrameSample(capacity=3, seed=0)
    >>> sample.add(torch.arange(8.0).view(8, 1), offset=0)
    >>> sample.gather(dim=1).shape
    torch.Size([3, 1])
    """

    def __init__(self, capacity: int, seed: int):
        self.capacity = capacity
        self.seed = seed
        self._limit: int | None = None
        self._keys: list[Tensor] = []
        self._frames: list[Tensor] = []

    def add(self, frames: Tensor, offset: int) -> None:
        """Offer frames [n, dim] whose first has place `offset` in the stream."""
        places = torch.arange(offset, offset + len(frames), device=frames.device)
        keys = _random_keys(places, self.seed)
        if self._limit is not None:
            keep = keys < self._limit
            keys, frames = keys[keep], frames[keep]
        self._keys.append(keys)
        # A copy: a view would keep the whole batch alive.
        self._frames.append(frames.detach().clone())
        if sum(map(len, self._keys)) >= 2 * self.capacity:
            self._compact()

    def gather(self, dim: int, device: torch.device | None = None) -> Tensor:
        """The sample of all ranks, the same on each: [at most capacity, dim]."""
        if self._keys:
            self._compact()
        keys = self._keys[0] if self._keys else torch.empty(0, dtype=torch.int64)
        frames = self._frames[0] if self._frames else torch.empty(0, dim)
        if device is not None:
            keys, frames = keys.to(device), frames.to(device)
        if world() == 1:
            return frames
        padded = keys.new_full((self.capacity,), torch.iinfo(torch.int64).max)
        padded[: len(keys)] = keys
        everywhere = [torch.empty_like(padded) for _ in range(world())]
        dist.all_gather(everywhere, padded)
        ranked = torch.cat(everywhere).sort().values[: self.capacity]
        ranked = ranked[ranked < torch.iinfo(torch.int64).max]
        mine = torch.isin(keys, ranked)
        joined = frames.new_zeros(len(ranked), dim)
        joined[torch.searchsorted(ranked, keys[mine])] = frames[mine]
        dist.all_reduce(joined)
        return joined

    def _compact(self) -> None:
        keys, frames = torch.cat(self._keys), torch.cat(self._frames)
        order = keys.argsort()[: self.capacity]
        self._keys, self._frames = [keys[order]], [frames[order]]
        if len(order) == self.capacity:
            self._limit = int(keys[order[-1]])


def rank() -> int:
    """Number of this process, 0 without torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _exchange(size: int, state: int) -> tuple[list[int], list[int]]:
    if world() == 1:
        return [size], [state]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    mine = torch.tensor([size, state], device=device)
    everywhere = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(everywhere, mine)
    sizes, states = torch.stack(everywhere).t().tolist()
    return sizes, states


def _checked(frames: Tensor, dim: int, index: int) -> Tensor:
    if frames.ndim != 2 or frames.shape[1] != dim:
        raise DsuError(
            f"batch {index} of the k-means stream must be frames [n, {dim}], got "
            f"{list(frames.shape)}; valid_frames() flattens padded features"
        )
    frames = frames.detach().float()
    # The sum meets every value in one pass; only a doubtful one is looked at closely.
    if not bool(frames.sum().isfinite()) and not bool(frames.isfinite().all()):
        bad = int((~frames.isfinite()).any(1).sum())
        raise DsuError(
            f"batch {index} of the k-means stream holds NaN or infinite values in "
            f"{bad} of {len(frames)} frames"
        )
    return frames


def _random_keys(places: Tensor, seed: int) -> Tensor:
    """Well mixed positive int64 from places: the finaliser of SplitMix64.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014. int64 products wrap, which is what is wanted.
    """
    # Python's integers do not wrap by themselves.
    salt = ((seed + 1) * 0x5851F42D4C957F2D + 2**63) % 2**64 - 2**63
    mixed = (places + 1) * -7046029254386353131 + salt
    mixed = (mixed ^ _shift(mixed, 30)) * -4658895280553007687
    mixed = (mixed ^ _shift(mixed, 27)) * -7723592293110705685
    return _shift(mixed ^ _shift(mixed, 31), 1)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
