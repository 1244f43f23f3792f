"""Which id to take: greedy, or drawn from a distribution that is cut to its head."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError

Generators = torch.Generator | Sequence[torch.Generator] | None


class Greedy:
    """The likeliest id; of equal ones, the first.

    Example
    -------
    >>> Greedy()(torch.tensor([[[0.1, 0.7, 0.2]]])).tolist()
    [[1]]
    """

    def __call__(self, logits: Tensor, stream: int = 0) -> Tensor:
        """Ids ``[batch, n]`` of logits ``[batch, n, size]``."""
        return logits.argmax(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """All mass on one id."""
        chosen = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float64).scatter_(-1, chosen, 1.0)

    def draw(self, probabilities: Tensor) -> Tensor:
        """The only id that has mass."""
        return probabilities.argmax(-1)

    def uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """One half each: nothing is left to chance."""
        return torch.full(tuple(shape), 0.5, dtype=torch.float64, device=device)

    def select(self, items: Tensor) -> None:
        """Nothing to do."""


class Sampling:
    """Draws from softmax(logits / temperature), cut to its most likely ids.

    First the ``top_k`` likeliest ids are kept, then of these the smallest set whose
    mass reaches ``top_p`` (Holtzman et al., "The Curious Case of Neural Text
    Degeneration", 2020); what is left is scaled to sum to one. Ids of equal logits
    are taken in their order.

    Arguments
    ---------
    temperature : float
        Above 0; below 1 sharpens.
    top_k : int, optional
        Keep so many ids.
    top_p : float, optional
        Keep this mass, in (0, 1].
    generator : torch.Generator or sequence of them, optional
        Source of chance. With one for each item of the batch, what an item draws does
        not depend on its company; with a single one it does. None: torch's global.

    Raises
    ------
    DsuError
        If a setting is out of its range.

    Example
    -------
    >>> sampler = Sampling(top_p=0.7, generator=torch.Generator().manual_seed(0))
    >>> sampler.probabilities(torch.tensor([0.5, 0.3, 0.2]).log()).round(decimals=4)
    tensor([0.6250, 0.3750, 0.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: Generators = None,
    ):
        if temperature <= 0:
            raise DsuError(f"temperature={temperature}: above 0, or take Greedy")
        if top_k is not None and top_k < 1:
            raise DsuError(f"top_k={top_k}: at least 1")
        if top_p is not None and not 0 < top_p <= 1:
            raise DsuError(f"top_p={top_p}: above 0 and at most 1")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.generator = generator

    def __call__(self, logits: Tensor, stream: int = 0) -> Tensor:
        """Ids ``[batch, n]`` of logits ``[batch, n, size]``."""
        return self.draw(self.probabilities(logits))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What is drawn from: float64, the shape of the logits."""
        scaled = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kept = scaled.sort(dim=-1, descending=True, stable=True).indices
            dropped = kept[..., self.top_k :]
            scaled = scaled.scatter(-1, dropped, float("-inf"))
        chance = scaled.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, ids = chance.sort(dim=-1, descending=True, stable=True)
            # The id that crosses the line stays; rounding must not add another.
            before = ordered.cumsum(-1) - ordered
            ordered = ordered * (before < self.top_p - 1e-12)
            chance = torch.zeros_like(chance).scatter_(-1, ids, ordered)
            chance = chance / chance.sum(-1, keepdim=True)
        return chance

    def draw(self, probabilities: Tensor) -> Tensor:
        """Ids ``[batch, ...]`` drawn from ``[batch, ..., size]``."""
        mass = probabilities.cumsum(-1)
        total = mass[..., -1:]
        chance = self.uniform(probabilities.shape[:-1], probabilities.device)
        # Below the total, whatever rounding does: ids without mass are never met.
        below = torch.nextafter(total, torch.zeros_like(total))
        place = (chance.unsqueeze(-1) * total).minimum(below)
        return torch.searchsorted(mass, place, right=True).squeeze(-1)

    def uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Numbers in [0, 1), float64; the first axis is the batch."""
        options = {"dtype": torch.float64, "device": device}
        if self.generator is None or isinstance(self.generator, torch.Generator):
            return torch.rand(*shape, generator=self.generator, **options)
        if len(self.generator) != shape[0]:
            raise DsuError(
                f"{len(self.generator)} generators for a batch of {shape[0]} items"
            )
        rows = [torch.rand(*shape[1:], generator=g, **options) for g in self.generator]
        return torch.stack(rows)

    def select(self, items: Tensor) -> None:
        """Go on with these items of the batch: each keeps its own generator."""
        if self.generator is not None and not isinstance(
            self.generator, torch.Generator
        ):
            self.generator = [self.generator[i] for i in items.tolist()]
