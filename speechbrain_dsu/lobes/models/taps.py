"""Auxiliary tasks on chosen layers: text read off a model while it learns another."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.nnet.embeddings import UnitEmbedding
from speechbrain_dsu.nnet.heads import SoftmaxHead
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.patterns import Flatten
from speechbrain_dsu.tokens.text import Characters, Words
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask

Side = Literal["encoder", "decoder"]


@contextmanager
def recorded(layers: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """What layers give while the context lasts, the last time they are called.

    Works for any layer, SpeechBrain's included: of a tuple the first part counts.

    Arguments
    ---------
    layers : iterable of nn.Module
        Whose outputs to keep; with their gradients.

    Yields
    ------
    dict
        Layer to output.

    Example
    -------
    >>> layer = nn.Linear(2, 3)
    >>> with recorded([layer]) as found:
    ...     _ = layer(torch.ones(1, 2))
    >>> found[layer].shape
    torch.Size([1, 3])
    """
    found: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, inputs: object, output: object) -> None:
        found[layer] = output[0] if isinstance(output, tuple) else output

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class Tap(nn.Module):
    """Base: a text to be read off one layer.

    Arguments
    ---------
    side : "encoder" or "decoder"
        Whose layer.
    layer : int
        Counted from 1, the one next to the input.
    column : str
        The batch's column with the text: "text" (target), "source_text".
    symbols : str or sequence of str
        Letters or words that texts are made of.
    weight : float
        Factor of its loss.

    Raises
    ------
    DsuError
        If there is no such side.
    """

    def __init__(
        self,
        side: Side,
        layer: int,
        column: str,
        symbols: str | Sequence[str],
        weight: float = 1.0,
    ):
        super().__init__()
        if side not in ("encoder", "decoder") or layer < 1:
            raise DsuError(
                f"a tap on layer {layer} of {side!r}: take 'encoder' or 'decoder', and "
                "count layers from 1"
            )
        self.side, self.layer, self.column = side, layer, column
        self.weight = weight
        letters = isinstance(symbols, str)
        self.text = Characters(symbols) if letters else Words(symbols)

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        symbols = "".join if isinstance(self.text, Characters) else " ".join
        shown = self.text.letters if symbols == "".join else self.text.words
        return f"{self.side} {self.layer}, column={self.column}, symbols={shown!r}"

    def loss(self, states: Tensor, lens: Tensor, text: Tensor, text_lens: Tensor):
        """Scalar, nats per symbol.

        Arguments
        ---------
        states : Tensor
            ``[batch, steps, dim]`` of the layer.
        lens : Tensor
            Relative lengths of the states.
        text : Tensor
            Raw ids of the symbols ``[batch, symbols]``.
        text_lens : Tensor
            Relative lengths of the text.
        """
        raise NotImplementedError


class CTCTap(Tap):
    """Text by CTC (Graves et al., 2006) on a layer's states.

    On the decoder it gives text beside units in one pass: S2UT's dual output.

    Arguments
    ---------
    dim : int
        Size of the layer's states.
    side, layer, column, symbols, weight
        See `Tap`.

    Example
    -------
    >>> tap = CTCTap(8, "encoder", 1, "text", ["one", "two"])
    >>> states, full = torch.randn(2, 9, 8), torch.ones(2)
    >>> tap.loss(states, full, torch.tensor([[0, 1], [1, 1]]), full).shape
    torch.Size([])
    >>> len(tap.read(states, full))
    2
    """

    def __init__(
        self,
        dim: int,
        side: Side,
        layer: int,
        column: str,
        symbols: str | Sequence[str],
        weight: float = 1.0,
    ):
        super().__init__(side, layer, column, symbols, weight)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, self.blank + 1))

    @property
    def blank(self) -> int:
        """Id of the blank: behind the symbols."""
        return self.text.size

    def loss(self, states: Tensor, lens: Tensor, text: Tensor, text_lens: Tensor):
        """CTC's loss; items too short for their text cost nothing."""
        logs = self.head(states).float().log_softmax(-1).transpose(0, 1)
        steps = absolute_lengths(lens, states.shape[1])
        counts = absolute_lengths(text_lens, text.shape[1])
        total = F.ctc_loss(
            logs,
            text,
            steps.to(text.device),
            counts.to(text.device),
            self.blank,
            "sum",
            zero_infinity=True,
        )
        return total / counts.sum().clamp(min=1)

    @torch.no_grad()
    def read(self, states: Tensor, lens: Tensor) -> list[str]:
        """The likeliest path as text, one for each item."""
        ids = self.head(states).argmax(-1)
        counts = absolute_lengths(lens, ids.shape[1]).to(ids.device)
        kept = length_mask(counts, ids.shape[1]) & (ids != self.blank)
        kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
        return [
            self.text.decode(row[mask].tolist())
            for row, mask in zip(ids, kept, strict=True)
        ]


class AttentionTap(Tap):
    """Text by a small decoder that attends to a layer's states, as S2UT's auxiliary
    tasks are (Lee et al. 2022, section 3.4).

    Arguments
    ---------
    dim : int
        Size of the layer's states.
    side, layer, column, symbols, weight
        See `Tap`.
    decoder_dim, n_layers, n_heads : int
        Of the decoder.
    dropout : float
        In training.

    Example
    -------
    >>> tap = AttentionTap(8, "encoder", 1, "text", "ab ", decoder_dim=8, n_heads=2)
    >>> full = torch.ones(2)
    >>> text = torch.tensor([[0, 1], [1, 1]])
    >>> tap.loss(torch.randn(2, 9, 8), full, text, full).shape
    torch.Size([])
    """

    def __init__(
        self,
        dim: int,
        side: Side,
        layer: int,
        column: str,
        symbols: str | Sequence[str],
        weight: float = 1.0,
        decoder_dim: int = 128,
        n_layers: int = 1,
        n_heads: int = 4,
        dropout: float = 0.1,
    ):
        super().__init__(side, layer, column, symbols, weight)
        self.layout = Flatten(Vocabulary(sizes=(self.text.size,)))
        self.norm = nn.LayerNorm(dim)
        self.embedding = UnitEmbedding(self.layout, decoder_dim)
        self.decoder = Transformer(
            decoder_dim, n_layers, n_heads, dropout=dropout, memory_dim=dim
        )
        self.head = SoftmaxHead(self.layout, decoder_dim)

    def loss(self, states: Tensor, lens: Tensor, text: Tensor, text_lens: Tensor):
        """Cross-entropy of the symbols and the end."""
        ids, _ = self.layout.apply(text.unsqueeze(2), text_lens)
        x = self.embedding(ids[:, :-1])
        hidden = self.decoder(x, None, self.norm(states), lens)
        targets = ids[:, 1:]
        return self.head.loss(hidden, targets, targets != self.layout.vocabulary.pad)[
            "loss"
        ]
