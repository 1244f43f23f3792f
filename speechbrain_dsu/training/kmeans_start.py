"""Where k-means begins: greedy k-means++ on a sample of frames held in memory."""

import math

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers

# Centres chosen from one pool of candidates before the pool is drawn again. One
# product scores the whole pool, which is several times faster than centre by centre.
_PICKS_PER_POOL = 16


def grow_centers(
    sample: Tensor,
    centers: Tensor,
    count: int,
    generator: torch.Generator,
    candidates: int | None = None,
) -> Tensor:
    """Choose further centres among the frames of a sample by greedy k-means++.

    Every new centre is the best of several candidates, each drawn with a
    probability proportional to its squared distance from the centres so far
    (Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007,
    section 2.2 and its greedy variant in section 5). Candidates come in pools; inside
    a pool they are weighted by how much that distance has shrunk since the draw.

    Arguments
    ---------
    sample : torch.Tensor
        Frames [n, dim], float32.
    centers : torch.Tensor
        Centres there are already [m, dim]; m may be 0.
    count : int
        How many to add.
    generator : torch.Generator
        Source of randomness, on the device of the sample.
    candidates : int | None
        Candidates per centre; by default 8 + ln(m + count).

    Returns
    -------
    torch.Tensor
        The new centres only [count, dim].

    Raises
    ------
    DsuError
        If the sample holds too few different frames.

    Example
    -------
    >>> sample = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> new = grow_centers(sample, sample[:1], 1, generator)
    >>> bool(new > 8)
    True
    """
    if candidates is None:
        candidates = 8 + int(math.log(len(centers) + count))
    twins = _twins(sample)
    if int(twins.max()) + 1 < count:
        raise DsuError(
            f"{count} centres need as many different frames, the sample of "
            f"{len(sample)} frames holds {int(twins.max()) + 1}: take a smaller size "
            "or more data"
        )
    # Distances are differences of products: without the mean they lose fewer digits.
    shifted = sample - sample.mean(0)
    norms = shifted.square().sum(1)
    if len(centers) > 0:
        nearest = nearest_centers(sample, centers, exact=False)[1]
    else:
        nearest = norms + norms.mean()
    if _reduced_products(sample):
        shifted = shifted.bfloat16()
    tiny = 1e-12 * nearest.mean() + 1e-30
    nearest = nearest.clamp(min=tiny)
    chosen = torch.empty(count, dtype=torch.int64, device=sample.device)
    done = 0
    while done < count:
        picks = min(_PICKS_PER_POOL if done + len(centers) else 1, count - done)
        # multinomial takes at most 2^24 categories; samples are far smaller.
        pool = torch.multinomial(nearest, picks * candidates, True, generator=generator)
        drawn, products = nearest[pool], shifted[pool] @ shifted.t()
        for step in range(done, done + picks):
            # Frames that were taken in the meantime only count when all were.
            weights = (nearest[pool] / drawn).clamp_(min=1e-20)
            tried = torch.multinomial(
                weights, min(candidates, len(pool)), generator=generator
            )
            distances = torch.sub(norms[pool[tried], None], products[tried], alpha=2)
            remaining = torch.minimum(distances, nearest - norms)
            best = remaining.sum(1).argmin()
            chosen[step] = pool[tried[best]]
            taken = nearest == 0
            taken |= twins == twins[chosen[step]]
            nearest = (remaining[best] + norms).clamp_(min=tiny)
            nearest = nearest.masked_fill_(taken, 0)
        done += picks
    return sample[_without_repeats(chosen, twins, generator)]


def refine_centers(
    sample: Tensor, centers: Tensor, passes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations on a sample; centres without frames move to far frames.

    Arguments
    ---------
    sample : torch.Tensor
        Frames [n, dim].
    centers : torch.Tensor
        Centres [size, dim]; not changed.
    passes : int
        Iterations.
    generator : torch.Generator
        For centres that have to move, on the device of the sample.

    Returns
    -------
    centers : torch.Tensor
        Centres [size, dim].
    counts : torch.Tensor
        Frames of each centre in the last iteration, float64 [size].

    Example
    -------
    >>> sample = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> centers, _ = refine_centers(sample, sample[1:3], 2, generator)
    >>> centers.tolist()
    [[1.0], [10.0]]
    """
    counts = torch.zeros(len(centers), dtype=torch.float64, device=centers.device)
    for _ in range(passes):
        ids, _ = nearest_centers(sample, centers, exact=False)
        sums = torch.zeros_like(centers).index_add_(0, ids, sample)
        counts = torch.bincount(ids, minlength=len(centers)).double()
        means = sums / counts.clamp(min=1).unsqueeze(1).float()
        centers = torch.where(counts.unsqueeze(1) > 0, means, centers)
        centers = revive_centers(sample, centers, counts == 0, generator)
    return centers, counts


def revive_centers(
    sample: Tensor, centers: Tensor, dead: Tensor, generator: torch.Generator
) -> Tensor:
    """Move unused centres to frames that the others serve badly.

    Arguments
    ---------
    sample : torch.Tensor
        Frames [n, dim] to choose from.
    centers : torch.Tensor
        Centres [size, dim]; not changed.
    dead : torch.Tensor
        Which to move, bool [size].
    generator : torch.Generator
        On the device of the sample.

    Returns
    -------
    torch.Tensor
        Centres [size, dim].

    Example
    -------
    >>> sample = torch.tensor([[0.0], [0.1], [9.0]])
    >>> centers, dead = torch.tensor([[0.0], [99.0]]), torch.tensor([False, True])
    >>> generator = torch.Generator().manual_seed(0)
    >>> revive_centers(sample, centers, dead, generator).tolist()
    [[0.0], [9.0]]
    """
    count = int(dead.sum())
    if count == 0:
        return centers
    centers = centers.clone()
    centers[dead] = grow_centers(sample, centers[~dead], count, generator)
    return centers


def _reduced_products(sample: Tensor) -> bool:
    """Whether bfloat16 products pay: 2.4 times faster, where the CPU has them.

    They only rank candidates, and the rounding of a long product is far below the
    distances between centres of many dimensions.
    """
    if sample.device.type != "cpu" or sample.shape[1] < 128:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _twins(sample: Tensor) -> Tensor:
    """A number for every frame, shared by exactly equal frames [n].

    Sums of integers do not depend on their order, unlike those of floats.
    """
    random = torch.Generator().manual_seed(0)
    shape, limit = (sample.shape[1],), 2**62
    factors = torch.randint(-limit, limit, shape, generator=random).to(sample.device)
    # Adding zero turns -0.0, which is equal to 0.0, into it.
    keys = [
        ((part + 0.0).contiguous().view(torch.int32) * factors).sum(1)
        for part in sample.split(2048)
    ]
    return torch.cat(keys).unique(return_inverse=True)[1]


def _without_repeats(
    chosen: Tensor, twins: Tensor, generator: torch.Generator
) -> Tensor:
    """Replace frames that were chosen twice by random ones that were not."""
    names, order = twins[chosen].sort(stable=True)
    repeated = torch.zeros_like(chosen, dtype=torch.bool)
    repeated[order[1:]] = names[1:] == names[:-1]
    for place in repeated.nonzero().squeeze(1).tolist():
        free = (~torch.isin(twins, twins[chosen])).nonzero().squeeze(1)
        pick = torch.randint(len(free), (1,), generator=generator, device=free.device)
        chosen[place] = free[pick]
    return chosen
