"""Transformers that run a signal at once or piece by piece, with equal results."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.attention import KVCache, Rotary, Sight
from speechbrain_dsu.nnet.streaming import Stream, current_stream
from speechbrain_dsu.nnet.transformer_layer import (
    FeedForwardKind,
    Norm,
    TransformerLayer,
    make_norm,
)
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


class Transformer(nn.Module):
    """A stack of layers over frames: encoder, decoder, or part of a codec.

    Within a stream (`nnet.streaming`) each call continues the one before it: keys and
    values are kept, and the output equals that of one pass. Items of a batch may then
    differ in length: ``lens`` of the first call says how long each prompt is, and the
    frames of later calls follow each item's own end, as if it were alone.

    Arguments
    ---------
    dim : int
        Size of a frame.
    n_layers, n_heads : int
        Layers, and heads of each.
    ffn_dim : int, optional
        Size within the feed-forward parts; ``4 * dim`` if not given.
    kv_heads : int, optional
        Heads of keys and values; ``n_heads`` if not given.
    causal : bool
        Whether a frame sees only itself and what is before it.
    context : int, optional
        How many frames a frame sees at most, itself included; causal ones only.
    rotary_base : float, optional
        Of rotary positions; None: no positions but what the frames bring along.
    norm : str
        "layer" or "rms".
    feed_forward : str
        "gelu" or "swiglu".
    bias : bool
        Whether the products add one.
    layer_scale : float, optional
        First value of learned factors on the branches; None: no factors.
    dropout : float
        In training.
    memory_dim : int, optional
        Size of the frames of a memory to attend to; None: there is none.
    final_norm : bool
        Whether to normalise what comes out.
    eps : float
        Of the normalisations.

    Raises
    ------
    DsuError
        If settings do not go together.

    Example
    -------
    >>> from speechbrain_dsu.nnet.streaming import Stream
    >>> model = Transformer(dim=16, n_layers=2, n_heads=4).eval()
    >>> x, stream, parts = torch.randn(1, 6, 16), Stream(), []
    >>> whole = model(x)
    >>> for part in x.split(2, dim=1):
    ...     with stream.active():
    ...         parts.append(model(part))
    >>> torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    True
    """

    def __init__(
        self,
        dim: int,
        n_layers: int,
        n_heads: int,
        ffn_dim: int | None = None,
        kv_heads: int | None = None,
        causal: bool = True,
        context: int | None = None,
        rotary_base: float | None = 10000.0,
        norm: Norm = "layer",
        feed_forward: FeedForwardKind = "gelu",
        bias: bool = True,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        memory_dim: int | None = None,
        final_norm: bool = True,
        eps: float = 1e-5,
    ):
        super().__init__()
        if context is not None and (not causal or context < 1):
            raise DsuError(
                f"context={context}: only a causal transformer has one, of 1 or more"
            )
        self.dim, self.causal, self.context = dim, causal, context
        self.memory_dim = memory_dim
        self.rotary = (
            None if rotary_base is None else Rotary(dim // n_heads, rotary_base)
        )
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim,
                n_heads,
                4 * dim if ffn_dim is None else ffn_dim,
                kv_heads,
                norm,
                feed_forward,
                bias,
                layer_scale,
                dropout,
                memory_dim,
                eps,
            )
            for _ in range(n_layers)
        )
        self.norm = make_norm(norm, dim, eps) if final_norm else nn.Identity()

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        return f"causal={self.causal}, context={self.context}"

    def forward(
        self,
        x: Tensor,
        lens: Tensor | None = None,
        memory: Tensor | None = None,
        memory_lens: Tensor | None = None,
    ) -> Tensor:
        """Run the stack.

        Arguments
        ---------
        x : Tensor
            ``[batch, frames, dim]``.
        lens : Tensor, optional
            Relative lengths ``[batch]``; frames behind an item's end are not seen by
            others, and hold anything themselves.
        memory : Tensor, optional
            ``[batch, length, memory_dim]``. In a stream only the first call needs it.
        memory_lens : Tensor, optional
            Relative lengths of the memory.

        Returns
        -------
        Tensor
            ``[batch, frames, dim]``.

        Raises
        ------
        DsuError
            If a memory is missing or not expected, or a stream meets a transformer
            that is not causal.
        """
        stream = current_stream()
        if stream is None:
            state = None
        elif not self.causal:
            raise DsuError("a transformer that is not causal can't run in a stream")
        else:
            state = stream.state(self, lambda: _State(self))
        if x.shape[1] == 0:
            return self.norm(x)
        memories, memory_mask = self._read(memory, memory_lens, state)
        sight = self._sight(x, lens) if state is None else state.sight(x, lens)
        for index, layer in enumerate(self.layers):
            cache = None if state is None else state.caches[index]
            x = layer(x, sight, cache, memories[index], memory_mask)
        return self.norm(x)

    def _read(
        self, memory: Tensor | None, lens: Tensor | None, state: "_State | None"
    ) -> tuple[list[tuple[Tensor, Tensor] | None], Tensor | None]:
        """Keys and values of the memory for each layer, and its mask."""
        if state is not None and state.memory is not None:
            return state.memory
        if (self.memory_dim is None) != (memory is None):
            wanted = "takes no" if self.memory_dim is None else "needs"
            raise DsuError(f"this transformer {wanted} memory")
        if memory is None:
            return [None] * len(self.layers), None
        mask = None
        if lens is not None:
            counts = absolute_lengths(lens, memory.shape[1])
            mask = length_mask(counts, memory.shape[1])[:, None, None]
        found = [layer.memory_attention.read(memory) for layer in self.layers], mask
        if state is not None:
            state.memory = found
        return found

    def _sight(self, x: Tensor, lens: Tensor | None) -> Sight:
        """All frames at once."""
        frames = x.shape[1]
        steps = torch.arange(frames, device=x.device)
        turn = None if self.rotary is None else self.rotary(steps)
        if self.causal:
            # What is behind an item's end is behind all that counts: no mask needed.
            if self.context is None or frames <= self.context:
                return Sight(causal=frames > 1, turn=turn)
            return Sight(mask=self.window(steps[:, None], steps), turn=turn)
        if lens is None:
            return Sight(turn=turn)
        valid = length_mask(absolute_lengths(lens, frames), frames)
        return Sight(mask=valid[:, None, None], turn=turn)

    def rewind(self, stream: Stream, steps: Tensor) -> None:
        """Make a stream forget its last frames, as speculative decoding does.

        Arguments
        ---------
        stream : Stream
            In which this transformer runs once per piece; not active now.
        steps : Tensor
            int64 ``[batch]``: how many of each item, at most those it has.

        Raises
        ------
        DsuError
            If the context is bounded: what it pushed out can't come back.
        """
        if self.context is not None:
            raise DsuError("a stream with a bounded context can't be rewound")
        with stream.active():
            stream.state(self, lambda: _State(self)).rewind(steps)

    def window(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether a query at one position may see a key at another; bool."""
        seen = keys <= queries
        if self.context is not None:
            seen = seen & (keys > queries - self.context)
        return seen


class _State:
    """What a transformer remembers of one stream."""

    def __init__(self, model: Transformer):
        self.model = model
        self.caches = [KVCache(model.context) for _ in model.layers]
        self.memory = None
        # Frames so far: a number while all items have as many, else int64 [batch].
        self.counts: int | Tensor = 0

    def sight(self, x: Tensor, lens: Tensor | None) -> Sight:
        """What new frames see, and count them."""
        frames = x.shape[1]
        steps = torch.arange(frames, device=x.device)
        if lens is not None:
            added = absolute_lengths(lens, frames)
            if bool((added == frames).all()):
                lens = None
        if lens is None and isinstance(self.counts, int):
            sight = self._even(steps)
            self.counts += frames
            return sight
        if self.model.context is not None:
            raise DsuError("items of a stream with a bounded context must keep in step")
        begin = torch.as_tensor(self.counts, device=x.device).expand(len(x))
        at = begin[:, None] + steps
        size = max(self.caches[0].size, int(at.max()) + 1)
        keys = torch.arange(size, device=x.device)
        mask = self.model.window(at[:, None, :, None], keys)
        self.counts = begin + (frames if lens is None else added)
        return Sight(mask=mask, turn=self._turn(at), at=at, size=size)

    def _even(self, steps: Tensor) -> Sight:
        """All items have seen as much."""
        at = self.counts + steps
        if self.counts == 0 and self.model.context is None:
            return Sight(causal=len(steps) > 1, turn=self._turn(at))
        if len(steps) == 1:
            # The cache holds no more than the newest frame may see.
            return Sight(turn=self._turn(at))
        kept = self.counts
        if self.model.context is not None:
            kept = min(kept, self.model.context - 1)
        keys = torch.arange(self.counts - kept, self.counts + len(steps))
        mask = self.model.window(at[:, None], keys.to(at.device))
        return Sight(mask=mask, turn=self._turn(at))

    def rewind(self, steps: Tensor) -> None:
        """Forget the last frames of each item."""
        counts = torch.as_tensor(self.counts, device=steps.device) - steps
        self._set_counts(counts)

    def _set_counts(self, counts: Tensor) -> None:
        """Frames of each item; as one number, which is faster, where they agree."""
        longest = int(counts.max())
        self.counts = longest if bool((counts == longest).all()) else counts
        if self.model.context is None:
            for cache in self.caches:
                cache.size = longest

    def _turn(self, at: Tensor) -> tuple[Tensor, Tensor] | None:
        return None if self.model.rotary is None else self.model.rotary(at)

    def select(self, items: Tensor) -> None:
        """Keep (or repeat) the batch's items of these indices, in this order."""
        for cache in self.caches:
            cache.select(items)
        if isinstance(self.counts, Tensor):
            self._set_counts(self.counts[items])
        if self.memory is not None:
            read, mask = self.memory
            self.memory = (
                [part and tuple(x[items] for x in part) for part in read],
                None if mask is None else mask[items],
            )
