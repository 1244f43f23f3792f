"""Text and a voice as the vectors that models of speech read."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.text import Text
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths


class TextReader(nn.Module):
    """Vectors of a text's symbols, and of a voice.

    Arguments
    ---------
    text : Text
        ``Characters``, ``Words`` or ``WordPieces``.
    dim : int
        Size of a vector.
    voices : sequence of str
        Names of the training's voices; there is always one more, "any voice", for
        speakers known by a prompt only.
    encoder : Transformer, optional
        Not causal: symbols see one another.
    voice_dropout : float
        In training, the share of items whose voice isn't told.

    Raises
    ------
    DsuError
        If a voice comes twice.

    Example
    -------
    >>> from speechbrain_dsu.tokens.text import Characters
    >>> reader = TextReader(Characters("ab "), 8, voices=["ann", "bob"])
    >>> text, lens = reader.write(["a b", "b"])
    >>> reader(text, lens).shape, reader.voice(["bob", None]).shape
    (torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(
        self,
        text: Text,
        dim: int,
        voices: Sequence[str] = (),
        encoder: Transformer | None = None,
        voice_dropout: float = 0.1,
    ):
        super().__init__()
        if len(set(voices)) != len(voices):
            raise DsuError(f"voices {list(voices)}: give each once")
        self.text, self.dim, self.voices = text, dim, tuple(voices)
        self.voice_dropout = voice_dropout
        self.symbols = nn.Embedding(text.size, dim)
        self.speakers = nn.Embedding(len(self.voices) + 1, dim)
        for table in (self.symbols, self.speakers):
            nn.init.normal_(table.weight, std=dim**-0.5)
        self.encoder = encoder

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        return f"voices={self.voices}, text={type(self.text).__name__}"

    def write(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids ``[batch, symbols]`` of texts, and their relative lengths."""
        rows = [torch.tensor(self.text.encode(text)).long() for text in texts]
        ids, counts = pad_stack(rows)
        device = self.symbols.weight.device
        return ids.to(device), relative_lengths(counts, ids.shape[1]).to(device)

    def place(self, voice: str | None) -> int:
        """Number of a voice; None: any.

        Raises
        ------
        DsuError
            If the training had none of that name.
        """
        if voice is None:
            return len(self.voices)
        if voice not in self.voices:
            raise DsuError(
                f"no voice '{voice}': {', '.join(self.voices) or 'no names'}"
            )
        return self.voices.index(voice)

    def voice(self, voice: Tensor | Sequence[str | None]) -> Tensor:
        """Vectors ``[batch, dim]`` of voices: their numbers or names.

        In training some are not told.
        """
        device = self.speakers.weight.device
        if not isinstance(voice, Tensor):
            voice = torch.tensor([self.place(name) for name in voice])
        voice = voice.to(device)
        if self.training and self.voice_dropout:
            hidden = torch.rand(len(voice), device=device) < self.voice_dropout
            voice = voice.masked_fill(hidden, len(self.voices))
        return self.speakers(voice)

    def forward(self, text: Tensor, lens: Tensor | None = None) -> Tensor:
        """Vectors ``[batch, symbols, dim]`` of ids ``[batch, symbols]``."""
        x = self.symbols(text)
        return x if self.encoder is None else self.encoder(x, lens)

    def prefix(
        self, text: Tensor, lens: Tensor | None, voice: Tensor | Sequence[str | None]
    ) -> tuple[Tensor, Tensor]:
        """The voice and, behind it, the text: what stands in front of units.

        Arguments
        ---------
        text : Tensor
            Ids ``[batch, symbols]``.
        lens : Tensor, optional
            Relative lengths.
        voice : Tensor or sequence of str
            See ``voice``.

        Returns
        -------
        prefix : Tensor
            ``[batch, 1 + symbols, dim]``.
        lens : Tensor
            Relative lengths.
        """
        x = torch.cat([self.voice(voice).unsqueeze(1), self(text, lens)], 1)
        counts = absolute_lengths(lens, text.shape[1], len(text)).to(x.device)
        return x, relative_lengths(counts + 1, x.shape[1])
