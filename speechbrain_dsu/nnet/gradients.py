"""What changes gradients and leaves values alone."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values, their gradient multiplied by a factor.

    Arguments
    ---------
    values : Tensor
        Any shape.
    factor : float
        Below 1 what lies underneath learns more slowly (the front end of wav2vec 2.0:
        0.1), -1 turns the gradient round; 0 stops it.

    Returns
    -------
    Tensor
        Equal to ``values``.

    Example
    -------
    >>> x = torch.ones(2, requires_grad=True)
    >>> scale_gradient(x, 0.5).sum().backward()
    >>> x.grad
    tensor([0.5000, 0.5000])
    """
    return values.detach() if factor == 0 else _Scale.apply(values, factor)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
