"""Gradient estimators: how a loss behind a hard choice reaches what lies before it."""

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    """Forward: the hard values, bit for bit. Backward: as if they were the soft."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: tuple[Tensor]) -> Tensor:
        """The hard values; in a tuple, so that they aren't taken for an input."""
        return hard[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of the hard values goes to the soft ones."""
        return grad, None


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """The hard values with the gradient of the soft ones.

    ``soft + (hard - soft).detach()`` says the same but rounds: decoding the codes
    would no longer give what training saw. Here the values are those of ``hard``.

    Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons",
    2013; section 3.2 of van den Oord et al., "Neural Discrete Representation
    Learning", 2017.

    Arguments
    ---------
    soft : Tensor
        Values before the quantization, with gradient.
    hard : Tensor
        Values after it, of the same shape; gets no gradient.

    Returns
    -------
    Tensor
        Equal to ``hard``.

    Example
    -------
    >>> soft = torch.tensor([0.3, 0.8], requires_grad=True)
    >>> hard = straight_through(soft, soft.round())
    >>> (2 * hard).sum().backward()
    >>> hard.tolist(), soft.grad.tolist()
    ([0.0, 1.0], [2.0, 2.0])
    """
    hard = hard.detach()
    if not (torch.is_grad_enabled() and soft.requires_grad):
        return hard
    return _StraightThrough.apply(soft, (hard,))


class _PickRows(torch.autograd.Function):
    """Table rows by hard ids; gradients as of the mixture by soft weights."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        """Rows of the table."""
        ctx.save_for_backward(weights, table, ids)
        return torch.nn.functional.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """To the weights by every row, to the table by the row that was taken."""
        weights, table, ids = ctx.saved_tensors
        to_weights = to_table = None
        if ctx.needs_input_grad[0]:
            to_weights = grad @ table.t()
        if ctx.needs_input_grad[1]:
            to_table = torch.zeros_like(table).index_add_(0, ids, grad)
        return to_weights, to_table, None


def pick_rows(weights: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """Rows ``table[ids]`` with straight-through gradients for soft weights.

    The same as ``(one_hot(ids) + weights - weights.detach()) @ table`` without the
    one-hot matrix, and exactly the rows of the table. The gradient reaches the
    weights by every row and the table by the row that was taken.

    Arguments
    ---------
    weights : Tensor
        ``[n, size]``, e.g. a softmax; gives the gradient only.
    table : Tensor
        ``[size, dim]``.
    ids : Tensor
        int64 ``[n]``.

    Returns
    -------
    Tensor
        ``[n, dim]``.

    Example
    -------
    >>> weights = torch.tensor([[0.6, 0.4]], requires_grad=True)
    >>> table = torch.tensor([[1.0], [3.0]], requires_grad=True)
    >>> pick_rows(weights, table, torch.tensor([0])).sum().backward()
    >>> weights.grad.tolist(), table.grad.tolist()
    ([[1.0, 3.0]], [[1.0], [0.0]])
    """
    return _PickRows.apply(weights, table, ids)
