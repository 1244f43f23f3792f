"""Losses weighed by the gradients they send, not by their values."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError


class LossBalancer(nn.Module):
    """Gives each loss a fixed share of the gradient that reaches the output.

    Défossez et al., "High Fidelity Neural Audio Compression" (2022), eq. 5: with
    ``g_i`` the gradient of loss ``i`` with respect to the model's output and ``n_i``
    a moving average of its norm, the output receives the sum of
    ``total_norm * (weight_i / sum of weights) * g_i / n_i``. A weight then means a
    share, whatever the scale of its loss, and a loss that blows up is divided by its
    own size.

    The result is a scalar whose gradient with respect to the output is exactly that
    sum: call ``backward`` on it as on any loss (mixed precision, accumulation and
    distributed training know nothing of it). Its value is the weighted sum of the
    losses, for the log.

    Arguments
    ---------
    weights : mapping
        Name of a loss to its positive share.
    total_norm : float
        Norm of the balanced gradient, were all parts parallel.
    decay : float
        Of the average of norms.
    per_item : bool
        Average the norms of the items' gradients; otherwise the norm over the batch.

    Raises
    ------
    DsuError
        If there is no weight or one is not positive.

    Example
    -------
    >>> balancer = LossBalancer({"a": 3.0, "b": 1.0}, per_item=False)
    >>> output = torch.ones(1, 4, requires_grad=True)
    >>> losses = {"a": 1000 * output[0, :2].sum(), "b": output[0, 2:].sum()}
    >>> balancer(losses, output).backward()
    >>> output.grad.square() / output.grad.square().sum()  # shares 9 to 1
    tensor([[0.4500, 0.4500, 0.0500, 0.0500]])
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        total_norm: float = 1.0,
        decay: float = 0.999,
        per_item: bool = True,
    ):
        super().__init__()
        if not weights or min(weights.values()) <= 0:
            raise DsuError(f"the balancer's weights must be positive, got {weights}")
        self.weights = dict(weights)
        self.total_norm, self.decay, self.per_item = total_norm, decay, per_item
        self.names = tuple(sorted(weights))
        # Sums of norms and of the averages' weights: an average from step 1 on.
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("totals", torch.zeros(len(weights)))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """One scalar that stands for all losses.

        Arguments
        ---------
        losses : mapping
            Scalars that depend on ``output``; a loss that is switched off for now may
            be missing, the others then keep their proportions.
        output : Tensor
            ``[batch, ...]``, what the model decoded.

        Returns
        -------
        Tensor
            Scalar.

        Raises
        ------
        DsuError
            If a loss has no weight, or none is given.
        """
        unknown = sorted(set(losses) - set(self.weights))
        if unknown or not losses:
            raise DsuError(
                f"the balancer has weights for {', '.join(self.names)}; "
                f"got {', '.join(unknown) or 'no loss'}"
            )
        gradients = {
            name: torch.autograd.grad(losses[name], output, retain_graph=True)[0]
            for name in sorted(losses)
        }
        norms = self._norms(gradients)
        share = self.total_norm / sum(self.weights[name] for name in losses)
        pull = torch.zeros_like(output)
        for name, gradient in gradients.items():
            norm = norms[self.names.index(name)].clamp(min=1e-12)
            pull += share * self.weights[name] * gradient / norm
        value = sum(share * self.weights[name] * losses[name] for name in losses)
        return _with_gradient(output, pull, value.detach())

    @torch.no_grad()
    def _norms(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Averages of the norms, this step included, equal on all ranks."""
        places = [self.names.index(name) for name in gradients]
        fresh = []
        for gradient in gradients.values():
            rows = gradient.flatten(1) if self.per_item else gradient.reshape(1, -1)
            fresh.append(rows.float().norm(dim=1).mean())
        fresh = torch.stack(fresh)
        parallel = torch.distributed
        if parallel.is_available() and parallel.is_initialized():
            parallel.all_reduce(fresh)
            fresh /= parallel.get_world_size()
        if self.training:
            self.sums[places] = self.decay * self.sums[places] + fresh
            self.totals[places] = self.decay * self.totals[places] + 1
            return self.sums / self.totals.clamp(min=1e-12)
        norms = torch.ones_like(self.sums)
        norms[places] = fresh
        return norms


def _with_gradient(output: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
    """A scalar ``value`` whose gradient with respect to ``output`` is ``gradient``."""
    through = (output * gradient.detach()).sum()
    return through + (value - through).detach()
