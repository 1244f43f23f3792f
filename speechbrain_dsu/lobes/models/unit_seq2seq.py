"""Encoder-decoder models: units written from a source of another length."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.models.base import SequenceModel
from speechbrain_dsu.lobes.models.session import Session
from speechbrain_dsu.nnet.heads import Head
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, relative_lengths


class UnitTranslator(SequenceModel):
    """A source, encoded once, and a decoder that attends to it.

    Arguments
    ---------
    reader : nn.Module
        Makes the source vectors: `UnitEmbedding`, or `torch.nn.Identity` for
        features.
    encoder : nn.Module
        Called ``encoder(vectors, lens)``; a `Transformer` that is not causal, or any
        module that keeps the number of frames.
    embedding : nn.Module
        See `SequenceModel`.
    transformer : Transformer
        Causal, with the ``memory_dim`` that the encoder gives.
    head : Head
        See `SequenceModel`.
    condition_dropout : float
        See `SequenceModel`. What hides the source is a learned vector in its place.

    Raises
    ------
    DsuError
        If the transformer takes no memory.

    Example
    -------
    >>> from speechbrain_dsu.nnet.embeddings import UnitEmbedding
    >>> from speechbrain_dsu.nnet.heads import SoftmaxHead
    >>> from speechbrain_dsu.tokens.patterns import Flatten
    >>> from speechbrain_dsu.tokens.vocabulary import Vocabulary
    >>> layout = Flatten(Vocabulary(sizes=(50,)))
    >>> model = UnitTranslator(
    ...     nn.Linear(5, 16),
    ...     Transformer(16, 1, 2, causal=False),
    ...     UnitEmbedding(layout, 16),
    ...     Transformer(16, 1, 2, memory_dim=16),
    ...     SoftmaxHead(layout, 16),
    ... )
    >>> ids, lens = layout.apply(torch.randint(50, (2, 9, 1)))
    >>> sorted(model(torch.randn(2, 30, 5), None, ids, lens))
    ['loss', 'nll']
    """

    def __init__(
        self,
        reader: nn.Module,
        encoder: nn.Module,
        embedding: nn.Module,
        transformer: Transformer,
        head: Head,
        condition_dropout: float = 0.0,
    ):
        super().__init__(embedding, transformer, head, condition_dropout)
        if transformer.memory_dim is None:
            raise DsuError("the decoder needs memory_dim, the size of encoded frames")
        self.reader, self.encoder = reader, encoder
        self.null = None
        if condition_dropout:
            self.null = nn.Parameter(torch.zeros(transformer.memory_dim))

    def forward(
        self,
        source: Tensor,
        source_lens: Tensor | None,
        tokens: Tensor,
        lens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of whole sequences, given their sources.

        Arguments
        ---------
        source : Tensor
            What the reader takes, ``[batch, length, ...]``.
        source_lens : Tensor, optional
            Relative lengths of the sources.
        tokens : Tensor
            Ids ``[batch, steps, streams]`` or frames ``[batch, steps, frame_dim]``,
            the begin included.
        lens : Tensor, optional
            Relative lengths.

        Returns
        -------
        dict
            Scalars, ``loss`` first; means over the targets that count.
        """
        hidden = self.hidden(source, source_lens, tokens)
        return self._losses(hidden, tokens, lens)

    def log_likelihood(
        self,
        source: Tensor,
        source_lens: Tensor | None,
        tokens: Tensor,
        lens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log probability ``[batch]`` of each item, and how many ids it is of."""
        hidden = self.hidden(source, source_lens, tokens)
        return self._likelihood(hidden, tokens, lens)

    def hidden(
        self, source: Tensor, source_lens: Tensor | None, tokens: Tensor
    ) -> Tensor:
        """States ``[batch, steps - 1, dim]``: row t predicts step t + 1."""
        memory, source_lens = self.read(source, source_lens)
        hide = self._hidden_items(len(memory), memory.device)
        if hide is not None:
            null, null_lens = self._unconditional(memory)
            memory = torch.where(hide[:, None, None], null, memory)
            if source_lens is None:
                source_lens = torch.ones_like(null_lens)
            source_lens = torch.where(hide, null_lens, source_lens.double())
        x = self.embedding(tokens[:, :-1])
        return self.transformer(x, None, memory, source_lens)

    def read(
        self, source: Tensor, source_lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The memory ``[batch, length, memory_dim]`` and its relative lengths."""
        return self.encoder(self.reader(source), source_lens), source_lens

    def encode(self, source: Tensor, source_lens: Tensor | None = None) -> Tensor:
        """The memory alone."""
        return self.read(source, source_lens)[0]

    def session(self, memory: Tensor, memory_lens: Tensor | None = None) -> Session:
        """Begin to write from what ``encode`` gave."""
        return Session(self, memory, memory_lens)

    def with_unconditional(
        self, memory: Tensor, memory_lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The batch twice, with its memory and with none: for `Guided`.

        Returns
        -------
        memory : Tensor
            ``[2 * batch, length, memory_dim]``.
        lens : Tensor
            Relative lengths.

        Raises
        ------
        DsuError
            If the model has not learned to do without a source.
        """
        size = memory.shape[1]
        counts = absolute_lengths(memory_lens, size, len(memory)).to(memory.device)
        null, null_lens = self._unconditional(memory)
        lens = torch.cat([relative_lengths(counts, size), null_lens])
        return torch.cat([memory, null]), lens

    def _unconditional(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One learned frame for every item."""
        if self.null is None:
            raise DsuError("no condition_dropout in training: nothing to guide with")
        null = self.null.to(memory.dtype).expand_as(memory)
        ones = torch.ones(len(memory), dtype=torch.int64, device=memory.device)
        return null, relative_lengths(ones, memory.shape[1])
