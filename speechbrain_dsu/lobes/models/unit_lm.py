"""Decoder-only language models over units, with whatever stands in front of them."""

import torch
from torch import Tensor

from speechbrain_dsu.lobes.models.base import SequenceModel
from speechbrain_dsu.lobes.models.session import Session
from speechbrain_dsu.utils.lengths import absolute_lengths, relative_lengths


class UnitLM(SequenceModel):
    """A language model: each step from the steps before it.

    Sequences may stand behind a prefix of vectors (embedded text, a speaker, frames
    of another model), which is read and not predicted. The arguments are those of
    `SequenceModel`; what ``condition_dropout`` hides is the prefix.

    Example
    -------
    >>> from speechbrain_dsu.nnet.embeddings import UnitEmbedding
    >>> from speechbrain_dsu.nnet.heads import SoftmaxHead
    >>> from speechbrain_dsu.nnet.transformer import Transformer
    >>> from speechbrain_dsu.tokens.patterns import Flatten
    >>> from speechbrain_dsu.tokens.vocabulary import Vocabulary
    >>> layout = Flatten(Vocabulary(sizes=(50,)))
    >>> model = UnitLM(
    ...     UnitEmbedding(layout, 16), Transformer(16, 1, 2), SoftmaxHead(layout, 16)
    ... )
    >>> ids, lens = layout.apply(torch.randint(50, (2, 9, 1)))
    >>> sorted(model(ids, lens))
    ['loss', 'nll']
    >>> total, count = model.log_likelihood(ids, lens)
    >>> count.tolist()
    [10, 10]
    """

    def forward(
        self,
        tokens: Tensor,
        lens: Tensor | None = None,
        prefix: Tensor | None = None,
        prefix_lens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of whole sequences.

        Arguments
        ---------
        tokens : Tensor
            Ids ``[batch, steps, streams]`` or frames ``[batch, steps, frame_dim]``,
            the begin included.
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        prefix : Tensor, optional
            ``[batch, length, dim]``.
        prefix_lens : Tensor, optional
            Relative lengths of the prefix; 0 is allowed.

        Returns
        -------
        dict
            Scalars, ``loss`` first; means over the targets that count.
        """
        hidden = self.hidden(tokens, prefix, prefix_lens)
        return self._losses(hidden, tokens, lens)

    def log_likelihood(
        self,
        tokens: Tensor,
        lens: Tensor | None = None,
        prefix: Tensor | None = None,
        prefix_lens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log probability of each item and how many ids it is of, as pairs need.

        Takes what ``forward`` takes.

        Returns
        -------
        total : Tensor
            float64 ``[batch]``, nats.
        count : Tensor
            int64 ``[batch]``.
        """
        hidden = self.hidden(tokens, prefix, prefix_lens)
        return self._likelihood(hidden, tokens, lens)

    def hidden(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        prefix_lens: Tensor | None = None,
    ) -> Tensor:
        """States ``[batch, steps - 1, dim]``: row t predicts step t + 1."""
        x = self.embedding(tokens[:, :-1])
        if prefix is None or not prefix.shape[1]:
            return self.transformer(x)
        size, steps = prefix.shape[1], x.shape[1]
        counts = absolute_lengths(prefix_lens, size, len(x)).to(x.device)
        hide = self._hidden_items(len(x), x.device)
        if hide is not None:
            counts = counts.masked_fill(hide, 0)
        # No gap between the prefix and what follows: positions are those of the item
        # alone. What is moved behind the end is seen by nobody.
        place = torch.arange(size + steps, device=x.device).expand(len(x), -1)
        shift = (size - counts)[:, None]
        order = torch.where(place < counts[:, None], place, place + shift)
        joined = torch.cat([prefix.to(x.dtype), x], 1)
        order = order.clamp(max=size + steps - 1)
        hidden = self.transformer(_gather(joined, order))
        return _gather(hidden, counts[:, None] + place[:, :steps])

    def session(
        self, prefix: Tensor | None = None, prefix_lens: Tensor | None = None
    ) -> Session:
        """Begin to write, behind a prefix where there is one."""
        return Session(self, prefix=prefix, prefix_lens=prefix_lens)

    def with_unconditional(
        self, prefix: Tensor, prefix_lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The batch twice, behind its prefix and behind none: for `Guided`.

        Returns
        -------
        prefix : Tensor
            ``[2 * batch, length, dim]``.
        lens : Tensor
            Relative lengths, zeros in the second half.
        """
        size = prefix.shape[1]
        counts = absolute_lengths(prefix_lens, size, len(prefix))
        counts = torch.cat([counts, torch.zeros_like(counts)]).to(prefix.device)
        return prefix.repeat(2, 1, 1), relative_lengths(counts, size)


def _gather(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
