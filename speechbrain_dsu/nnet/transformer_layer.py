"""One layer of a transformer and its parts."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.nnet.attention import (
    CrossAttention,
    KVCache,
    SelfAttention,
    Sight,
    product,
)
from speechbrain_dsu.utils.errors import DsuError

Norm = Literal["layer", "rms"]
FeedForwardKind = Literal["gelu", "swiglu"]


def make_norm(kind: Norm, dim: int, eps: float) -> nn.Module:
    """A normalisation over the last axis.

    Raises
    ------
    DsuError
        If there is no such kind.
    """
    if kind == "layer":
        return nn.LayerNorm(dim, eps)
    if kind == "rms":
        return nn.RMSNorm(dim, eps)
    raise DsuError(f"norm must be 'layer' or 'rms', got '{kind}'")


class FeedForward(nn.Module):
    """Two products with a non-linearity between, frame by frame.

    Arguments
    ---------
    dim : int
        Size of a frame.
    hidden : int
        Size between the products.
    kind : str
        "gelu", or "swiglu" (Shazeer, "GLU Variants Improve Transformer", 2020).
    bias : bool
        Whether the products add one.

    Raises
    ------
    DsuError
        If there is no such kind.
    """

    def __init__(
        self, dim: int, hidden: int, kind: FeedForwardKind = "gelu", bias: bool = True
    ):
        super().__init__()
        if kind not in ("gelu", "swiglu"):
            raise DsuError(f"feed_forward must be 'gelu' or 'swiglu', got '{kind}'")
        self.kind = kind
        # Both halves of a gated layer in one product.
        self.into = nn.Linear(dim, hidden * (2 if kind == "swiglu" else 1), bias)
        self.out = nn.Linear(hidden, dim, bias)

    def extra_repr(self) -> str:
        """The setting that no weight shows."""
        return self.kind

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., dim]`` to ``[..., dim]``."""
        x = product(self.into, x)
        if self.kind == "gelu":
            return self.out(F.gelu(x))
        gate, x = x.chunk(2, -1)
        return self.out(F.silu(gate) * x)


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch.

    Touvron et al., "Going deeper with Image Transformers", 2021, section 2.

    Arguments
    ---------
    dim : int
        Channels.
    start : float
        First value of every factor.
    """

    def __init__(self, dim: int, start: float):
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[..., dim]``."""
        return x * self.scale


class TransformerLayer(nn.Module):
    """Attention, attention to a memory where there is one, and feed-forward.

    Normalised before each part (Xiong et al., "On Layer Normalization in the
    Transformer Architecture", 2020). The arguments are those of `Transformer`.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        ffn_dim: int,
        kv_heads: int | None = None,
        norm: Norm = "layer",
        feed_forward: FeedForwardKind = "gelu",
        bias: bool = True,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        memory_dim: int | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()

        def scale() -> nn.Module:
            return (
                nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
            )

        self.attention_norm = make_norm(norm, dim, eps)
        self.attention = SelfAttention(dim, n_heads, kv_heads, bias, dropout)
        self.attention_scale = scale()
        if memory_dim is not None:
            self.memory_norm = make_norm(norm, dim, eps)
            self.memory_attention = CrossAttention(
                dim, n_heads, memory_dim, bias, dropout
            )
            self.memory_scale = scale()
        self.feed_norm = make_norm(norm, dim, eps)
        self.feed_forward = FeedForward(dim, ffn_dim, feed_forward, bias)
        self.feed_scale = scale()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        sight: Sight,
        cache: KVCache | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Map ``[batch, frames, dim]`` to the same shape.

        ``memory`` is what ``memory_attention.read`` gave.
        """
        branch = self.attention(self.attention_norm(x), sight, cache)
        x = x + self.attention_scale(self.dropout(branch))
        if memory is not None:
            branch = self.memory_attention(self.memory_norm(x), memory, memory_mask)
            x = x + self.memory_scale(self.dropout(branch))
        branch = self.feed_forward(self.feed_norm(x))
        return x + self.feed_scale(self.dropout(branch))
