"""When a drafted id stays: exactly as the target wants, or up to its sound."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechbrain_dsu.decoders.sampling import Greedy, Sampling
from speechbrain_dsu.utils.errors import DsuError

Acceptance = Callable[
    [Tensor, Tensor, Tensor, "Greedy | Sampling"], tuple[Tensor, Tensor]
]
"""``judge(target, draft, drafted, sampler)``, the first two probabilities
``[batch, n, size]`` and the third ids ``[batch, n]`` drawn from the draft's: which
stay, bool ``[batch, n]``, and ids ``[batch, n]`` to take where one doesn't."""


class Exact:
    """An id stays with probability min(1, p / q); else one is drawn from (p - q)+.

    What is written then has the target's distribution p exactly, whatever the draft's
    q is (Leviathan et al. 2023, theorem in appendix A.1).

    Example
    -------
    >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2])
    >>> stays = Exact.stay_probability(p, q)
    >>> (q * stays + (q * (1 - stays)).sum() * Exact.remainder(p, q)).tolist()
    [0.5, 0.5]
    """

    @staticmethod
    def stay_probability(target: Tensor, draft: Tensor) -> Tensor:
        """min(1, p / q) for each id, 0 where both are 0."""
        return (target / draft.clamp(min=1e-300)).clamp(max=1)

    @staticmethod
    def remainder(target: Tensor, draft: Tensor) -> Tensor:
        """(p - q)+ scaled to one; p itself where nothing is left."""
        left = (target - draft).clamp(min=0)
        mass = left.sum(-1, keepdim=True)
        return torch.where(mass > 0, left / mass.clamp(min=1e-300), target)

    def __call__(
        self,
        target: Tensor,
        draft: Tensor,
        drafted: Tensor,
        sampler: Greedy | Sampling,
    ) -> tuple[Tensor, Tensor]:
        """Judge drafted ids, see `Acceptance`."""
        stay = self.stay_probability(target, draft)
        stay = stay.gather(-1, drafted[..., None])[..., 0]
        stays = sampler.uniform(drafted.shape, drafted.device) < stay
        return stays, sampler.draw(self.remainder(target, draft))


class Coarse:
    """An id stays if its group of like-sounding ids is one that the target wants.

    Principled coarse-grained acceptance (PCG): groups may overlap, and an id's mass
    is split evenly over the groups it is in. The test of `Exact` is done on groups: a
    drafted id stands for one of its groups, drawn evenly; if that is refused, a group
    is drawn from what is left and an id from the target within it. The groups that are
    written have exactly the target's distribution over groups, the ids within them
    may be the draft's. Groups of one id each are `Exact`.

    Arguments
    ---------
    members : Tensor
        bool ``[groups, size]``: which ids a group has; each id is in at least one.

    Raises
    ------
    DsuError
        If an id is in no group.
    """

    def __init__(self, members: Tensor):
        members = members.double().T
        shares = members.sum(1, keepdim=True)
        if not bool((shares > 0).all()):
            lost = int((shares[:, 0] == 0).nonzero()[0])
            raise DsuError(f"id {lost} is in no group: give it one of its own")
        self.kernel = members / shares
        """Share of each group in an id, ``[size, groups]``."""

    def __call__(
        self,
        target: Tensor,
        draft: Tensor,
        drafted: Tensor,
        sampler: Greedy | Sampling,
    ) -> tuple[Tensor, Tensor]:
        """Judge drafted ids, see `Acceptance`."""
        kernel = self.kernel.to(target.device)
        wanted, guessed = target @ kernel, draft @ kernel
        group = sampler.draw(kernel[drafted])
        stays, other = Exact()(wanted, guessed, group, sampler)
        within = target * kernel.T[other]
        return stays, sampler.draw(within / within.sum(-1, keepdim=True))


def similarity_groups(
    vectors: Tensor, threshold: float, units: Tensor | None = None
) -> Tensor:
    """For each id, the ids whose vectors point the same way.

    Arguments
    ---------
    vectors : Tensor
        ``[size, dim]``: embeddings of the target's ids.
    threshold : float
        Least cosine of two ids of a group; above 1 every id is alone.
    units : Tensor, optional
        bool ``[size]``: ids that may share a group. Keep the specials out of it: an
        end symbol stands for nothing else.

    Returns
    -------
    Tensor
        bool ``[size, size]``: group g has the ids like id g, itself among them.

    Example
    -------
    >>> vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> similarity_groups(vectors, 0.9).int().tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    alike = unit @ unit.T >= threshold
    if units is not None:
        alike = alike & units & units[:, None]
    return alike | torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
