"""How the gradient passes codebooks: turned with the vector, or past a whole chain."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx


def rotate_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """The quantized values, with the gradient rotated and rescaled.

    Fifty et al., "Restructuring Vector Quantization with the Rotation Trick", 2024,
    section 4.2: the codebook acts as the rotation and scaling that takes the latent
    to its vector, held constant, so that the gradient keeps its angle to the vector.

    Arguments
    ---------
    latents : Tensor
        Input of the codebook ``[..., dim]``.
    quantized : Tensor
        The chosen vectors, same shape; gets no gradient.

    Returns
    -------
    Tensor
        Equal to ``quantized``.

    Example
    -------
    >>> x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> rotate_through(x, torch.tensor([[0.0, 2.0]])).backward(
    ...     torch.tensor([[0.0, 1.0]])
    ... )
    >>> x.grad.round(decimals=4)
    tensor([[2., 0.]])
    """
    return _Rotate.apply(latents, (quantized.detach(),))


def residual_through(
    latents: Tensor, quantized: Tensor, rests: Sequence[Tensor], loss: Tensor
) -> tuple[Tensor, Tensor]:
    """Straight through a whole residual chain, with its commitment loss.

    What remains after each level is the latents minus a constant, so the gradient of
    all commitment terms is one weighted sum: no graph per level is needed.

    Arguments
    ---------
    latents : Tensor
        Input of the chain ``[batch, frames, dim]``.
    quantized : Tensor
        Its output, computed without gradient.
    rests : sequence of Tensor
        One tensor, the derivative of the loss by the latents; empty when there is
        no loss.
    loss : Tensor
        The value of the commitment loss.

    Returns
    -------
    quantized, loss : Tensor
        Same values, with gradients to ``latents``.

    Example
    -------
    >>> x = torch.tensor([[[3.0]]], requires_grad=True)
    >>> q, loss = residual_through(
    ...     x, torch.tensor([[[2.0]]]), [torch.tensor([[[2.0]]])], torch.tensor(1.0)
    ... )
    >>> (q.sum() + loss).backward()
    >>> x.grad.item()
    3.0
    """
    return _Chain.apply(latents, (quantized, loss), tuple(rests))


# The values travel in tuples: autograd then takes them as results of the function
# itself, neither inputs (which would make views of them) nor differentiable.


class _Rotate(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, latents: Tensor, values: tuple[Tensor]) -> Tensor:
        ctx.save_for_backward(latents, values[0])
        return values[0]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        latents, quantized = ctx.saved_tensors
        length = latents.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        target = quantized.norm(dim=-1, keepdim=True)
        from_, to = latents / length, quantized / target.clamp(min=1e-6)
        middle = torch.nn.functional.normalize(from_ + to, dim=-1, eps=1e-6)
        # The transpose of I - 2 m m' + 2 to from', scaled by |q| / |x|.
        turned = gradient - 2 * middle * (middle * gradient).sum(-1, keepdim=True)
        turned = turned + 2 * from_ * (to * gradient).sum(-1, keepdim=True)
        return turned * (target / length), None


class _Chain(Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        latents: Tensor,
        values: tuple[Tensor, Tensor],
        rests: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*rests)
        return values

    @staticmethod
    def backward(
        ctx: FunctionCtx, gradient: Tensor, of_loss: Tensor
    ) -> tuple[Tensor, None, None]:
        for rest in ctx.saved_tensors:
            gradient = torch.addcmul(gradient, rest, of_loss)
        return gradient, None, None
