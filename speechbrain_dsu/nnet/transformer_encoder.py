"""Transformers of self-supervised speech models: frames in, contextual frames out.

SpeechBrain's ``TransformerEncoder`` is not used here on purpose: it has no
convolutional positions, its two layer norm orders differ from those of the published
weights, and its attention goes through ``nn.MultiheadAttention``, which takes no gated
position bias.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.positions import ConvPositions, GatedBias, RelativeBias
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import length_mask


class SelfAttention(nn.Module):
    """Multi-head self-attention of ``[batch, frames, dim]``.

    Arguments
    ---------
    dim : int
        Size of a frame.
    heads : int
        Number of heads; divides ``dim``.
    dropout : float
        Of the attention weights.
    gated : bool
        Whether a relative position bias comes in, gated by each query (WavLM).

    Example
    -------
    >>> SelfAttention(dim=8, heads=2)(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, gated: bool = False):
        super().__init__()
        if dim % heads:
            raise DsuError(f"dim={dim} is no multiple of heads={heads}")
        self.heads, self.dropout = heads, dropout
        # One product instead of three: queries, keys and values side by side.
        self.inputs = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.gate = GatedBias(dim // heads, heads) if gated else None

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Arguments
        ---------
        hidden : Tensor
            ``[batch, frames, dim]``.
        mask : Tensor, optional
            True where a key may be seen: bool ``[batch, 1, 1, frames]``.
        bias : Tensor, optional
            Of ``RelativeBias``, ``[heads, frames, frames]``.
        """
        batch, frames, dim = hidden.shape
        parts = self.inputs(hidden).view(batch, frames, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if self.gate is not None:
            weights = self.gate(hidden, bias)
            mask = weights if mask is None else weights.masked_fill(~mask, -torch.inf)
            mask = mask.to(query.dtype)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, frames, dim))


class Block(nn.Module):
    """Attention and a feed-forward part, a norm before or behind each.

    Arguments
    ---------
    dim, heads, ffn : int
        Size of a frame, heads, width of the feed-forward part.
    norm_first : bool
        Norms before the parts ("stable layer norm" of the large models).
    gated : bool
        As in ``SelfAttention``.
    dropout, attention_dropout, activation_dropout : float
        Behind each part, of attention weights, inside the feed-forward part.

    Example
    -------
    >>> Block(dim=8, heads=2, ffn=16)(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn: int,
        norm_first: bool = False,
        gated: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.attention = SelfAttention(dim, heads, attention_dropout, gated)
        self.attention_norm = nn.LayerNorm(dim)
        self.wide, self.narrow = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Frames ``[batch, frames, dim]``; arguments as of ``SelfAttention``."""
        given = (mask, bias)
        if self.norm_first:
            mixed = self.attention(self.attention_norm(hidden), *given)
            hidden = hidden + self.dropout(mixed)
            return hidden + self.feed_forward(self.ffn_norm(hidden))
        hidden = hidden + self.dropout(self.attention(hidden, *given))
        hidden = self.attention_norm(hidden)
        return self.ffn_norm(hidden + self.feed_forward(hidden))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """The second part, without its norm and its shortcut."""
        wide = self.activation_dropout(F.gelu(self.wide(hidden)))
        return self.dropout(self.narrow(wide))


class TransformerEncoder(nn.Module):
    """The context network of wav2vec 2.0, HuBERT and WavLM.

    Positions come from a convolution over the frames (Baevski et al., "wav2vec 2.0",
    2020, section 2). Layer 0 is what enters the first block, layer ``k`` what leaves
    block ``k``. Frames behind an item's end are never seen by valid ones.

    Arguments
    ---------
    dim, layers, heads, ffn : int
        Size of a frame, number of blocks, heads, width of the feed-forward parts.
    norm_first : bool
        False: as the BASE models; True: as the LARGE ones, with a norm at the end.
    positions : int
        Taps of the positional convolution.
    position_groups : int
        Its groups.
    relative_buckets : int
        Distances that WavLM tells apart (320 there); 0: no relative position bias.
    relative_reach : int
        Distance in frames from which on all are taken as one.
    dropout, attention_dropout, activation_dropout : float
        As in ``Block``.
    layer_dropout : float
        Share of blocks left out at random in training.

    Raises
    ------
    DsuError
        If sizes don't divide.

    Example
    -------
    >>> encoder = TransformerEncoder(
    ...     dim=8, layers=2, heads=2, ffn=16, positions=4, position_groups=2
    ... )
    >>> encoder(torch.randn(2, 5, 8), torch.tensor([5, 3])).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        dim: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        norm_first: bool = False,
        positions: int = 128,
        position_groups: int = 16,
        relative_buckets: int = 0,
        relative_reach: int = 800,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
        layer_dropout: float = 0.0,
    ):
        super().__init__()
        self.dim, self.heads, self.norm_first = dim, heads, norm_first
        self.layer_dropout = layer_dropout
        self.positions = ConvPositions(dim, positions, position_groups)
        self.bias = None
        if relative_buckets:
            self.bias = RelativeBias(heads, relative_buckets, relative_reach)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        drops = (dropout, attention_dropout, activation_dropout)
        self.blocks = nn.ModuleList(
            Block(dim, heads, ffn, norm_first, bool(relative_buckets), *drops)
            for _ in range(layers)
        )
        self.apply(_init_weights)

    def extra_repr(self) -> str:
        """Settings that decide the states and that weights don't show."""
        return f"heads={self.heads}, norm_first={self.norm_first}"

    def forward(self, hidden: Tensor, counts: Tensor | None = None) -> Tensor:
        """Contextual frames, behind the final norm where there is one.

        Arguments
        ---------
        hidden : Tensor
            ``[batch, frames, dim]``.
        counts : Tensor, optional
            Valid frames ``[batch]``; None if all are valid.

        Returns
        -------
        Tensor
            ``[batch, frames, dim]``; frames behind an item's end hold anything.
        """
        top, _ = self._run(hidden, counts, ())
        return self.norm(top) if self.norm_first else top

    def states(
        self, hidden: Tensor, counts: Tensor | None, layers: Sequence[int]
    ) -> list[Tensor]:
        """States ``[batch, frames, dim]`` of some layers, in their order.

        As ``hidden_states`` of transformers 5: with ``norm_first`` the last one comes
        from before the final norm.
        """
        _, kept = self._run(hidden, counts, layers)
        return [kept[layer] for layer in layers]

    def _run(
        self, hidden: Tensor, counts: Tensor | None, layers: Collection[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        mask = None
        if counts is not None:
            # An item without frames keeps one, so that its softmax has a sum.
            valid = length_mask(counts.to(hidden.device).clamp(min=1), hidden.shape[1])
            hidden = hidden * valid.unsqueeze(-1)
            mask = valid[:, None, None]
        hidden = hidden + self.positions(hidden)
        if not self.norm_first:
            hidden = self.norm(hidden)
        hidden = self.dropout(hidden)
        bias = None if self.bias is None else self.bias(hidden.shape[1])
        kept = {0: hidden} if 0 in layers else {}
        for index, block in enumerate(self.blocks, start=1):
            if not self._skips():
                hidden = block(hidden, mask, bias)
            if index in layers:
                kept[index] = hidden
        return hidden, kept

    def _skips(self) -> bool:
        if not self.training or self.layer_dropout == 0:
            return False
        return torch.rand(()).item() < self.layer_dropout


def _init_weights(module: nn.Module) -> None:
    """As BERT: normal of deviation 0.02 (the convolution starts itself)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
