"""Matrices in eight bits, for models whose speed is that of reading their weights."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.utils.errors import DsuError


class Int8Linear(nn.Module):
    """A linear layer with eight-bit weights: one scale for each row, inputs as they
    are.

    Writing step by step costs what reading the weights costs, so a quarter of the
    bytes is most of four times the speed. Weights are rounded to the nearest of 255
    levels up to the row's largest (absmax, as in Dettmers et al., "LLM.int8()", 2022,
    section 2.1, by rows of the matrix).

    Arguments
    ---------
    layer : nn.Linear
        What is rounded; it stays as it is.

    Example
    -------
    >>> layer = nn.Linear(64, 32)
    >>> small, x = Int8Linear(layer), torch.randn(5, 64)
    >>> error = (small(x.bfloat16()) - layer(x)).norm() / layer(x).norm()
    >>> bool(error < 0.03)
    True
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.in_features, self.out_features = layer.in_features, layer.out_features
        levels = (weight / scale[:, None]).round().to(torch.int8)
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale.bfloat16())
        bias = None if layer.bias is None else layer.bias.detach().bfloat16()
        self.register_buffer("bias", bias)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

    @property
    def weight(self) -> Tensor:
        """The matrix that the levels stand for ``[out, in]``, bfloat16."""
        return self.levels.to(self.scale.dtype) * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, both bfloat16."""
        rows = x.reshape(-1, self.in_features)
        # torch's kernel reads the levels as they are, on a CPU and for few rows: many
        # share the cost of making the matrix once.
        few = len(rows) <= 64 and x.device.type == "cpu" and x.dtype == torch.bfloat16
        if few and self.in_features % 32 == 0:
            out = torch._weight_int8pack_mm(rows.contiguous(), self.levels, self.scale)
            out = out if self.bias is None else out + self.bias
        else:
            out = F.linear(rows, self.weight.to(x.dtype), self.bias)
        return out.view(*x.shape[:-1], self.out_features)


def int8_copy(model: nn.Module) -> nn.Module:
    """A copy for inference: linear layers in eight bits, everything else in bfloat16.

    Arguments
    ---------
    model : nn.Module
        Stays as it is.

    Returns
    -------
    nn.Module
        In evaluation mode.

    Raises
    ------
    DsuError
        If the model has no linear layer.

    Example
    -------
    >>> model = int8_copy(nn.Sequential(nn.Linear(32, 4), nn.ReLU()))
    >>> model[0].levels.dtype, model(torch.zeros(2, 32, dtype=torch.bfloat16)).dtype
    (torch.int8, torch.bfloat16)
    """
    found = copy.deepcopy(model).bfloat16()
    count = 0
    # Scales come from the weights as they were, not from their bfloat16.
    sources = dict(model.named_modules())
    for name, module in list(found.named_modules()):
        for key, layer in list(module.named_children()):
            if type(layer) is nn.Linear:
                source = sources[f"{name}.{key}" if name else key]
                setattr(module, key, Int8Linear(source))
                count += 1
    if not count:
        raise DsuError(f"{type(model).__name__} has no linear layer to make smaller")
    return found.eval()
