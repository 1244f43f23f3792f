"""A codebook fitted by optimal transport between frames and its vectors."""

import math

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.codebook_base import (
    Step,
    TrainedQuantizer,
)
from speechbrain_dsu.nnet.quantizers.codebook_gradient import rotate_through
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


class TransportCodebook(TrainedQuantizer):
    """Nearest vector of a codebook learned through an optimal-transport loss.

    Vuong et al., "Vector Quantized Wasserstein Auto-Encoder" (2023), the objective of
    the practical algorithm: in place of codebook and commitment loss, frames are
    moved at least cost onto the vectors, which have a learned distribution. (The
    first version, submitted to ICLR 2023, keeps it uniform: section 3.2.) Every vector
    with weight has to receive its share of frames, so none dies. The transport is the
    entropic one (Cuturi, "Sinkhorn Distances", 2013), on the frames of the local
    batch.

    Losses, weighted: "transport" (squared distance per channel under the plan) and
    "spread", the divergence of the learned distribution from the uniform one.

    Arguments
    ---------
    size : int
        Number of codes.
    dim : int
        Size of a frame and of a vector.
    epsilon : float
        Entropic smoothing, in units of the mean cost of a batch.
    iterations : int
        Sinkhorn iterations per training pass; each is a pass over frames x size.
    transport_weight, spread_weight : float
        Weights of the losses.
    estimator : "straight-through" or "rotation"
        How the gradient reaches the frames.
    learned_weights : bool
        Whether the distribution over the vectors is learned, as in the paper. It
        may then give up vectors that start far from all frames; uniform weights
        draw all of them in.

    Raises
    ------
    DsuError
        If a number is out of range.

    Example
    -------
    >>> quantizer = TransportCodebook(size=8, dim=4)
    >>> found = quantizer(torch.randn(2, 10, 4))
    >>> found.codes.shape, sorted(found.losses)
    (torch.Size([2, 10, 1]), ['spread', 'transport'])
    """

    def __init__(
        self,
        size: int,
        dim: int,
        epsilon: float = 0.05,
        iterations: int = 20,
        transport_weight: float = 1.0,
        spread_weight: float = 0.1,
        estimator: str = "straight-through",
        learned_weights: bool = True,
    ):
        if min(size, dim, iterations) < 1 or epsilon <= 0:
            raise DsuError(
                f"size={size}, dim={dim}, iterations={iterations} and "
                f"epsilon={epsilon} must be positive"
            )
        if estimator not in ("straight-through", "rotation"):
            raise DsuError(f"estimator={estimator!r}: straight-through or rotation")
        super().__init__(dim, (size,))
        self.size, self.epsilon, self.iterations = size, epsilon, iterations
        self.transport_weight, self.spread_weight = transport_weight, spread_weight
        self.estimator = estimator
        self.vectors = nn.Parameter(torch.randn(size, dim) / dim**0.5)
        if learned_weights:
            self.logits = nn.Parameter(torch.zeros(size))
        else:
            self.register_buffer("logits", torch.zeros(size))

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Nothing: the transport reaches every vector wherever it starts."""

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Nearest vectors: ``[batch, frames, 1]``."""
        rows = latents.reshape(-1, self.dim)
        ids, _ = nearest_centers(rows, self.vectors.detach(), exact=exact)
        return ids.view(*latents.shape[:-1], 1)

    def contributions(self, codes: Tensor) -> Tensor:
        """The chosen vectors ``[batch, frames, 1, dim]``."""
        return self.vectors.float()[codes]

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """Quantize with gradient and the transport losses."""
        codes = self.search(latents.detach(), valid, keep, exact=not self.training)
        values = self.lookup(codes).detach()
        through = rotate_through if self.estimator == "rotation" else straight_through
        rows = latents.flatten(0, 1) if valid is None else latents[valid]
        return Step(codes, through(latents, values), self._losses(rows))

    def _losses(self, rows: Tensor) -> dict[str, Tensor]:
        weights = self.logits.float().softmax(0)
        # KL(learned | uniform) = log size - entropy.
        uniform = math.log(self.size) - torch.special.entr(weights).sum()
        loss = transport_cost(
            rows, self.vectors.float(), weights, self.epsilon, self.iterations
        )
        return {
            "transport": self.transport_weight * loss / self.dim,
            "spread": self.spread_weight * uniform,
        }


def transport_cost(
    frames: Tensor,
    vectors: Tensor,
    weights: Tensor,
    epsilon: float = 0.05,
    iterations: int = 20,
) -> Tensor:
    """Cost of moving equally weighted frames onto weighted vectors.

    The plan is found without gradient. By the envelope theorem the gradient of the
    optimal cost is that of the costs under this plan, and the dual potential of the
    vectors for their weights: nothing is differentiated through the iterations.

    Arguments
    ---------
    frames : Tensor
        ``[n, dim]``.
    vectors : Tensor
        ``[size, dim]``.
    weights : Tensor
        ``[size]``, positive, sum 1.
    epsilon : float
        Smoothing, in units of the mean cost.
    iterations : int
        Sinkhorn iterations.

    Returns
    -------
    Tensor
        Scalar, mean squared distance under the plan; 0 without frames.

    Example
    -------
    >>> vectors = torch.tensor([[0.0], [10.0]])
    >>> half = torch.tensor([0.5, 0.5])
    >>> round(transport_cost(vectors, vectors, half).item(), 4)
    0.0
    >>> round(transport_cost(torch.zeros(2, 1), vectors, half).item(), 2)
    50.0
    """
    if len(frames) == 0:
        return frames.sum() + 0 * weights.sum()
    cost = frames.square().sum(1)[:, None] + vectors.square().sum(1)
    cost = (cost - 2 * frames @ vectors.t()).clamp(min=0)
    with torch.no_grad():
        source = torch.full_like(cost[:, 0], 1 / len(cost))
        scale = epsilon * cost.mean().clamp(min=1e-12)
        plan, potential = sinkhorn(cost, source, weights.detach(), scale, iterations)
    # The second term is zero and carries the gradient of the weights.
    return (plan * cost).sum() + (potential * (weights - weights.detach())).sum()


def sinkhorn(
    cost: Tensor,
    source: Tensor,
    target: Tensor,
    epsilon: Tensor | float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Entropic transport plan between two distributions, in the log domain.

    Minimises ``sum(plan * cost) - epsilon * entropy(plan)`` over plans whose rows
    add up to ``source`` and whose columns add up to ``target``, by scaling rows and
    columns in turn. Columns are exact, rows as good as the iterations made them.

    Arguments
    ---------
    cost : Tensor
        ``[n, m]``.
    source, target : Tensor
        ``[n]`` and ``[m]``, positive, of equal sum.
    epsilon : float or Tensor
        Smoothing, in units of the cost.
    iterations : int
        How often both sides are scaled.

    Returns
    -------
    plan : Tensor
        ``[n, m]``.
    potential : Tensor
        Dual variable of the target ``[m]``, centred under the target.

    Example
    -------
    >>> plan, _ = sinkhorn(
    ...     torch.rand(3, 2),
    ...     torch.full((3,), 1 / 3),
    ...     torch.tensor([0.9, 0.1]),
    ...     0.1,
    ...     200,
    ... )
    >>> plan.sum(0)
    tensor([0.9000, 0.1000])
    """
    scaled = -cost / epsilon
    rows, columns = source.log(), target.log()
    right = torch.zeros_like(target)
    for _ in range(iterations):
        left = rows - (scaled + right).logsumexp(1)
        right = columns - (scaled + left[:, None]).logsumexp(0)
    plan = (scaled + left[:, None] + right).exp()
    potential = epsilon * right
    return plan, potential - (potential * target).sum() / target.sum()
