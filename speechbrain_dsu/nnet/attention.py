"""Attention with a cache: what the transformers of this package are made of."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.utils.errors import DsuError


def product(layer: nn.Linear, x: Tensor, width: int = 1024) -> Tensor:
    """``layer(x)``, in pieces where these are faster: a few rows on a CPU.

    The steps of a batch are such rows: one call with a tall matrix takes longer then
    than calls with its parts. For one row, or for many, it is the other way.

    Arguments
    ---------
    layer : nn.Linear
        The layer.
    x : Tensor
        ``[batch, frames, dim]``.
    width : int
        Rows of the matrix in a piece.

    Returns
    -------
    Tensor
        ``[batch, frames, out_features]``.

    Example
    -------
    >>> layer, x = nn.Linear(4, 6), torch.randn(2, 1, 4)
    >>> with torch.no_grad():
    ...     torch.allclose(product(layer, x, width=4), layer(x), atol=1e-6)
    True
    """
    few = 1 < x.shape[0] * x.shape[1] <= 16 and x.device.type == "cpu"
    if not few or torch.is_grad_enabled() or type(layer) is not nn.Linear:
        return layer(x)
    weights = layer.weight.split(width)
    none = [None] * len(weights)
    biases = none if layer.bias is None else layer.bias.split(width)
    parts = [F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class Rotary(nn.Module):
    """Rotary positions (Su et al., "RoFormer", 2021, eq. 34), halves rotated.

    Arguments
    ---------
    dim : int
        Size of a head; even.
    base : float
        Of the geometric row of wavelengths.

    Example
    -------
    Turned by the same angle, products depend on distances only:

    >>> rotary, x = Rotary(8), torch.randn(1, 1, 1, 8)
    >>> turn = lambda at: rotary.apply(x, rotary(torch.tensor([at])))
    >>> near, far = turn(2) * turn(5), turn(102) * turn(105)
    >>> torch.allclose(near.sum(), far.sum(), atol=1e-4)
    True
    """

    def __init__(self, dim: int, base: float = 10000.0):
        super().__init__()
        if dim % 2:
            raise DsuError(f"rotary positions need an even head size, got {dim}")
        self.base = base
        steps = torch.arange(0, dim, 2, dtype=torch.float32)
        self.register_buffer("rates", base ** (-steps / dim), persistent=False)

    def extra_repr(self) -> str:
        """The setting that no weight shows."""
        return f"base={self.base:g}"

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[..., 1, frames, dim]`` of positions ``[..., frames]``.

        The added axis is the heads'. Sines of the first half bear a minus, so that
        turning needs fewer calls.
        """
        # float32 whatever the autocast: at position 10,000 bfloat16 is off by turns.
        angles = positions.unsqueeze(-1).float() * self.rates.float()
        angles = angles.unsqueeze(-3)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    @staticmethod
    def apply(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Turn heads ``[batch, heads, frames, dim]``."""
        first, second = x.chunk(2, -1)
        swapped = torch.cat([second, first], -1)
        return torch.addcmul(x * turn[0], swapped, turn[1]).to(x.dtype)


class KVCache:
    """Keys and values of what was seen, in buffers that grow by doubling.

    Arguments
    ---------
    context : int, optional
        Keep what the next frame may see of a past of so many frames, itself
        included; None: everything.
    """

    def __init__(self, context: int | None = None):
        self.context = context
        self.size = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def append(
        self, keys: Tensor, values: Tensor, sight: "Sight"
    ) -> tuple[Tensor, Tensor]:
        """Add frames ``[batch, heads, frames, dim]``; return all that are kept."""
        frames = keys.shape[2]
        if sight.at is not None:
            self._reserve(keys, sight.size)
            rows = torch.arange(len(keys), device=keys.device)[:, None]
            for buffer, new in zip(self._buffers, (keys, values), strict=True):
                buffer[rows, :, sight.at] = new.transpose(1, 2)
            self.size = sight.size
        elif self.context is not None:
            self._shift(keys, values)
            self.size = self._buffers[0].shape[2]
        else:
            self._reserve(keys, self.size + frames)
            for buffer, new in zip(self._buffers, (keys, values), strict=True):
                buffer[:, :, self.size : self.size + frames] = new
            self.size += frames
        return tuple(buffer[:, :, : self.size] for buffer in self._buffers)

    def _shift(self, keys: Tensor, values: Tensor) -> None:
        if self._buffers is None:
            self._buffers = keys, values
            return
        past = self.context - 1
        begin = max(0, self._buffers[0].shape[2] - past)
        self._buffers = tuple(
            torch.cat([buffer[:, :, begin:], new], 2)
            for buffer, new in zip(self._buffers, (keys, values), strict=True)
        )

    def _reserve(self, like: Tensor, size: int) -> None:
        held = 0 if self._buffers is None else self._buffers[0].shape[2]
        if size <= held:
            return
        batch, heads, _, dim = like.shape
        room = like.new_zeros(2, batch, heads, max(size, 2 * held, 64), dim)
        if held:
            room[0, :, :, :held], room[1, :, :, :held] = self._buffers
        self._buffers = room[0], room[1]

    def select(self, items: Tensor) -> None:
        """Keep (or repeat) the batch's items of these indices, in this order."""
        if self._buffers is not None:
            self._buffers = tuple(buffer[items] for buffer in self._buffers)


@dataclass
class Sight:
    """What the queries of one call may look at; the same in every layer.

    Arguments
    ---------
    mask : Tensor, optional
        bool, broadcast to ``[batch, heads, queries, keys]``; True may be seen.
    causal : bool
        Whether to use the kernel's own triangle instead of a mask.
    turn : tuple of Tensor, optional
        Rotation of the new frames.
    at : Tensor, optional
        int64 ``[batch, frames]``: where in the cache each item's frames go, if that
        differs between items; None: behind what is there.
    size : int
        Frames in the cache then.
    """

    mask: Tensor | None = None
    causal: bool = False
    turn: tuple[Tensor, Tensor] | None = None
    at: Tensor | None = None
    size: int = 0


class SelfAttention(nn.Module):
    """Multi-head attention of frames to each other, with grouped keys and a cache.

    Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2; keys and values
    shared by groups of heads as in Ainslie et al., "GQA", 2023. SpeechBrain's
    attention has neither cache nor grouped heads, and its relative positions cannot
    be continued from chunk to chunk, so this one is our own.

    Arguments
    ---------
    dim : int
        Size of a frame.
    n_heads : int
        Heads of the queries.
    kv_heads : int, optional
        Heads of keys and values; ``n_heads`` if not given.
    bias : bool
        Whether the projections add one.
    dropout : float
        Of the attention weights, in training.

    Raises
    ------
    DsuError
        If the sizes do not divide each other.

    Example
    -------
    >>> attention = SelfAttention(dim=16, n_heads=4, kv_heads=2)
    >>> attention(torch.randn(2, 5, 16), Sight(causal=True)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        kv_heads: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        kv_heads = n_heads if kv_heads is None else kv_heads
        if dim % n_heads or n_heads % kv_heads:
            raise DsuError(
                f"dim={dim} must be a multiple of n_heads={n_heads}, and that of "
                f"kv_heads={kv_heads}"
            )
        self.n_heads, self.kv_heads = n_heads, kv_heads
        self.head_dim = dim // n_heads
        self.dropout = dropout
        # One product for all three: in decoding the cost is the number of calls.
        self.project = nn.Linear(dim, (n_heads + 2 * kv_heads) * self.head_dim, bias)
        self.out = nn.Linear(dim, dim, bias)

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        return f"n_heads={self.n_heads}, kv_heads={self.kv_heads}"

    def forward(self, x: Tensor, sight: Sight, cache: KVCache | None = None) -> Tensor:
        """Attend.

        Arguments
        ---------
        x : Tensor
            ``[batch, frames, dim]``.
        sight : Sight
            What may be seen, and where the frames stand.
        cache : KVCache, optional
            The frames before these.

        Returns
        -------
        Tensor
            ``[batch, frames, dim]``.
        """
        batch, frames, dim = x.shape
        heads = product(self.project, x).view(batch, frames, -1, self.head_dim)
        heads = heads.transpose(1, 2)
        turned, values = heads.split(
            [self.n_heads + self.kv_heads, self.kv_heads], dim=1
        )
        if sight.turn is not None:
            turned = Rotary.apply(turned, sight.turn)
        queries, keys = turned.split([self.n_heads, self.kv_heads], dim=1)
        if cache is not None:
            keys, values = cache.append(keys, values, sight)
        if frames == 1:
            # The heads of a group are queries of one head: no keys are repeated.
            queries = queries.reshape(batch, self.kv_heads, -1, self.head_dim)
        seen = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=sight.mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=sight.causal,
            enable_gqa=frames > 1 and self.kv_heads < self.n_heads,
        )
        if frames == 1:
            return self.out(seen.reshape(batch, 1, dim))
        return self.out(seen.transpose(1, 2).reshape(batch, frames, dim))


class CrossAttention(nn.Module):
    """Attention of frames to a memory of another length.

    Arguments
    ---------
    dim : int
        Size of a frame.
    n_heads : int
        Heads.
    memory_dim : int, optional
        Size of the memory's frames; ``dim`` if not given.
    bias : bool
        Whether the projections add one.
    dropout : float
        Of the attention weights, in training.

    Example
    -------
    >>> attention = CrossAttention(dim=16, n_heads=4)
    >>> memory = attention.read(torch.randn(1, 7, 16))
    >>> attention(torch.randn(1, 5, 16), memory, None).shape
    torch.Size([1, 5, 16])
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        memory_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if dim % n_heads:
            raise DsuError(f"dim={dim} must be a multiple of n_heads={n_heads}")
        self.n_heads, self.dropout = n_heads, dropout
        self.query = nn.Linear(dim, dim, bias)
        self.key_value = nn.Linear(memory_dim or dim, 2 * dim, bias)
        self.out = nn.Linear(dim, dim, bias)

    def extra_repr(self) -> str:
        """The setting that no weight shows."""
        return f"n_heads={self.n_heads}"

    def read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory ``[batch, length, memory_dim]``: once for all."""
        return tuple(self._heads(part) for part in self.key_value(memory).chunk(2, -1))

    def forward(
        self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """Attend to ``read(memory)`` where ``mask`` (or everywhere) allows it."""
        seen = F.scaled_dot_product_attention(
            self._heads(self.query(x)),
            *memory,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(seen.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)
