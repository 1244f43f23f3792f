"""Statistics shared by all ranks: sums, samples, and the start of a codebook.

What a codebook learns from a batch is the same whether the batch sits on one rank or
is spread over many. No function here is reached in evaluation mode or by a frozen
quantizer, so a rank may evaluate alone. Every rank makes the same calls whatever it
holds: an item, padding only, or no frame at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from speechbrain_dsu.utils.nearest import nearest_centers

_SPREAD_FRAMES = 8

_paused = False


@contextmanager
def paused() -> Iterator[None]:
    """Forward passes inside leave codebooks and statistics alone.

    For steps that not every rank takes: where one rank has more batches than
    another, the surplus ones must not wait for ranks that are done.

    Example
    -------
    >>> from speechbrain_dsu.nnet.quantizers.codebook import Codebook
    >>> codebook = Codebook(size=4, dim=2)
    >>> before = codebook.vectors.clone()
    >>> with paused():
    ...     _ = codebook(torch.randn(1, 8, 2))
    >>> torch.equal(codebook.vectors, before)
    True
    """
    global _paused
    before, _paused = _paused, True
    try:
        yield
    finally:
        _paused = before


def is_paused() -> bool:
    """Whether the caller is inside `paused`."""
    return _paused


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums of float32 tensors over all ranks, by one collective for all of them.

    Arguments
    ---------
    tensors : sequence of Tensor
        Of the same shapes on every rank; not changed.

    Returns
    -------
    list of Tensor
        The sums, equal on every rank.
    """
    if world()[1] == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def broadcast_first(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if world()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def sample_over_ranks(frames: Tensor, count: int, seed: int) -> Tensor:
    """Frames drawn without replacement from those of all ranks together.

    Arguments
    ---------
    frames : Tensor
        Valid frames of this rank ``[n, dim]``; ``n`` may differ between ranks.
    count : int
        How many to draw; fewer come back when there are fewer.
    seed : int
        Equal on all ranks. The draw depends on it and on the total number only, so
        that it is the draw of one rank which holds the frames in rank order.

    Returns
    -------
    Tensor
        ``[min(count, total), dim]``, equal on every rank.

    Example
    -------
    >>> sorted(sample_over_ranks(torch.arange(3.0)[:, None], 9, seed=1).flatten())
    [tensor(0.), tensor(1.), tensor(2.)]
    """
    rank, ranks = world()
    held = torch.zeros(ranks, dtype=torch.int64, device=frames.device)
    held[rank] = len(frames)
    if ranks > 1:
        dist.all_reduce(held)
    total, first = int(held.sum()), int(held[:rank].sum())
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randperm(total, generator=generator)[:count].to(frames.device)
    if ranks == 1:
        return frames[picks]
    # Each pick has one owner; the others add zero.
    drawn = frames.new_zeros(len(picks), frames.shape[1])
    mine = (picks >= first) & (picks < first + len(frames))
    drawn[mine] = frames[picks[mine] - first]
    dist.all_reduce(drawn)
    return drawn


def sums_by_code(frames: Tensor, ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Number and sum of the frames of every code.

    Arguments
    ---------
    frames : Tensor
        ``[n, dim]``.
    ids : Tensor
        int64 ``[n]``.
    size : int
        Number of codes.

    Returns
    -------
    counts : Tensor
        float32 ``[size]``.
    sums : Tensor
        float32 ``[size, dim]``.

    Example
    -------
    >>> sums_by_code(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1]), 2)
    (tensor([0., 2.]), tensor([[0.],
            [3.]]))
    """
    counts = torch.bincount(ids, minlength=size).float()
    sums = frames.new_zeros(size, frames.shape[1])
    # The expanded index takes a kernel that adds whole rows.
    sums.scatter_add_(0, ids[:, None].expand_as(frames), frames)
    return counts, sums


def cluster(frames: Tensor, size: int, iterations: int, seed: int) -> Tensor:
    """Centres of a few rounds of k-means, for the start of a codebook.

    The first centres are spread by k-means++ (Arthur and Vassilvitskii, 2007). Codes
    that no frame is nearest to move to the frames that are farthest from their own
    centre; with fewer frames than codes, frames are repeated with a little noise.

    Arguments
    ---------
    frames : Tensor
        float32 ``[n, dim]``, at least one, in random order.
    size : int
        Number of centres.
    iterations : int
        Rounds of assignment and averaging.
    seed : int
        For the spread and the noise.

    Returns
    -------
    Tensor
        ``[size, dim]``.

    Example
    -------
    >>> frames = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> cluster(frames, 2, 5, seed=0).flatten().sort().values
    tensor([ 0.5000, 10.5000])
    """
    generator = torch.Generator().manual_seed(seed)
    if len(frames) < size:
        repeats = -(-size // len(frames))
        centers = frames.repeat(repeats, 1)[:size].clone()
        noise = torch.randn(centers.shape, generator=generator).to(frames.device)
        noise[: len(frames)] = 0
        return centers.add_(noise.mul_(1e-2 * frames.square().mean().sqrt()))
    # The spread costs a pass over its frames per centre: a few per code will do.
    centers = _spread(frames[: _SPREAD_FRAMES * size], size, generator)
    for _ in range(iterations):
        ids, distances = nearest_centers(frames, centers, exact=False)
        counts, sums = sums_by_code(frames, ids, size)
        empty = counts == 0
        centers = torch.where(empty[:, None], centers, sums / counts[:, None])
        lost = int(empty.sum())
        centers[empty] = frames[distances.topk(lost).indices]
    return centers


def _spread(frames: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Frames drawn one by one, each by its squared distance to those before."""
    draws = torch.rand(size, generator=generator, dtype=torch.float64)
    draws = draws.to(frames.device)
    norms = frames.square().sum(1)
    index = (draws[0] * len(frames)).long()
    picks, closest = [index], None
    for draw in draws[1:]:
        chosen = frames[index]
        distances = norms + chosen.square().sum() - 2 * (frames @ chosen)
        distances = distances.clamp_(min=0)
        closest = distances if closest is None else torch.minimum(closest, distances)
        mass = closest.double().cumsum(0)
        index = torch.searchsorted(mass, draw * mass[-1], right=True)
        index = index.clamp_(max=len(frames) - 1)
        picks.append(index)
    return frames[torch.stack(picks)]
