"""Where k-means begins: greedy k-means++ on a sample of frames held in memory."""

import math

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers

# Centres chosen from one pool of candidates before the pool is drawn again. One
# product scores the whole pool, which is several times faster than centre by centre.
_PICKS_PER_POOL = 16

# Squared distances below this share of the mean squared norm are rounding.
_SAME_FRAME = 1e-6


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
        Candidates per centre; by default 4 + ln(m + count).

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
        candidates = 4 + int(math.log(len(centers) + count))
    # Distances are differences of products: without the mean they lose fewer digits.
    shifted = sample - sample.mean(0)
    norms = shifted.square().sum(1)
    floor = _SAME_FRAME * norms.mean()
    if len(centers) > 0:
        nearest = nearest_centers(sample, centers, exact=False)[1]
        nearest[nearest <= floor] = 0
    else:
        nearest = norms + norms.mean()
    chosen = torch.empty(count, dtype=torch.int64, device=sample.device)
    worst = torch.full((), torch.inf, device=sample.device)
    done = 0
    while done < count:
        picks = min(_PICKS_PER_POOL if done + len(centers) else 1, count - done)
        pool, distances = _draw_pool(
            shifted, norms, nearest, picks * candidates, generator
        )
        distances[distances <= floor] = 0
        drawn = nearest[pool].clamp(min=1e-30)
        for step in range(done, done + picks):
            weights = (nearest[pool] / drawn).clamp_(min=1e-20)
            tried = torch.multinomial(
                weights, min(candidates, len(pool)), generator=generator
            )
            remaining = torch.minimum(distances[tried], nearest)
            best = remaining.sum(1).argmin()
            chosen[step] = pool[tried[best]]
            worst = torch.minimum(worst, nearest[chosen[step]])
            nearest = remaining[best]
            nearest[chosen[step]] = 0
        done += picks
    if float(worst) <= 0:
        raise DsuError(
            f"{len(centers) + count} centres need as many different frames, the "
            f"sample of {len(sample)} frames holds fewer: take a smaller size or "
            "more data"
        )
    return sample[chosen]


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


def _draw_pool(
    shifted: Tensor,
    norms: Tensor,
    nearest: Tensor,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Candidates [p] by squared distance, and their distances to all frames [p, n]."""
    # multinomial takes at most 2^24 categories; samples are far smaller.
    pool = torch.multinomial(
        nearest.clamp(min=1e-30), count, replacement=True, generator=generator
    )
    products = torch.addmm(norms, shifted[pool], shifted.t(), alpha=-2)
    return pool, products.add_(norms[pool].unsqueeze(1)).clamp_(min=0)
