"""Which frames say which symbol: learned from pairs of text and units alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.nnet.embeddings import Sequences, UnitEmbedding
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask

_NEVER = -1e4


class Aligner(nn.Module):
    """A monotonic alignment of symbols and frames.

    Badlani et al., "One TTS Alignment to Rule Them All" (2022): every frame attends to
    the symbols by distance, with a prior for the diagonal; training raises the
    likelihood of all paths that go through the symbols in order, which CTC's loss sums
    up when each place of the text is a label of its own. The best path is
    torchaudio's ``forced_align``.

    Arguments
    ---------
    layout : Sequences
        Of the units, without ends.
    symbols : int
        Number of symbols of the text.
    dim : int
        Size of what is compared.
    blank : float
        Log weight of "no symbol" in training, before the softmax.
    width : float
        Of the prior, as a share of the text.

    Example
    -------
    >>> from speechbrain_dsu.tokens.patterns import Parallel
    >>> from speechbrain_dsu.tokens.vocabulary import Vocabulary
    >>> layout = Parallel(Vocabulary(sizes=(9,), specials=("<pad>",)), ends=False)
    >>> aligner = Aligner(layout, symbols=4, dim=8)
    >>> text, codes = torch.tensor([[0, 2, 1]]), torch.randint(9, (1, 7, 1))
    >>> loss, durations = aligner(text, None, layout.apply(codes)[0], None)
    >>> int(durations.sum()), bool((durations > 0).all())
    (7, True)
    """

    def __init__(
        self,
        layout: Sequences,
        symbols: int,
        dim: int = 64,
        blank: float = -1.0,
        width: float = 0.15,
    ):
        super().__init__()
        self.table = nn.Embedding(symbols, dim)
        self.embedding = UnitEmbedding(layout, dim)
        self.of_text = nn.Conv1d(dim, dim, 5, padding=2)
        self.of_units = nn.Conv1d(dim, dim, 5, padding=2)
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.blank, self.width = blank, width

    def forward(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        ids: Tensor,
        lens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and how many frames each symbol lasts.

        Arguments
        ---------
        text : Tensor
            Ids ``[batch, symbols]``.
        text_lens : Tensor, optional
            Relative lengths.
        ids : Tensor
            Units of the layout, ``[batch, frames, streams]``.
        lens : Tensor, optional
            Relative lengths; no item may have fewer frames than symbols.

        Returns
        -------
        loss : Tensor
            Minus log likelihood, nats per frame.
        durations : Tensor
            int64 ``[batch, symbols]``: at least 1, 0 behind an item's end; they add up
            to its frames.

        Raises
        ------
        DsuError
            If an item has more symbols than frames.
        """
        batch, size = text.shape
        counts = absolute_lengths(text_lens, size, batch).to(text.device)
        frames = absolute_lengths(lens, ids.shape[1], batch).to(text.device)
        short = (frames < counts).nonzero()
        if len(short):
            item = int(short[0])
            raise DsuError(
                f"item {item}: {int(counts[item])} symbols in {int(frames[item])} "
                "frames can't be aligned; leave it out"
            )
        scores = self.scores(text, counts, ids, frames)
        loss = F.ctc_loss(
            F.pad(scores, (1, 0), value=self.blank).log_softmax(-1).transpose(0, 1),
            torch.arange(1, size + 1, device=text.device).expand(batch, -1),
            frames,
            counts,
            reduction="sum",
            zero_infinity=True,
        )
        with torch.no_grad():
            durations = best_path(scores.log_softmax(-1), counts, frames)
        return loss / frames.sum(), durations

    def scores(
        self, text: Tensor, counts: Tensor, ids: Tensor, frames: Tensor
    ) -> Tensor:
        """How well each frame fits each symbol, ``[batch, frames, symbols]``."""
        keys = _smooth(self.of_text, self.table(text), counts)
        queries = _smooth(self.of_units, self.embedding(ids), frames)
        distances = torch.cdist(queries.float(), keys.float()).square()
        scores = -distances * self.scale.float().exp() / queries.shape[2] ** 0.5
        at = (torch.arange(ids.shape[1], device=text.device) + 0.5) / frames[:, None]
        to = (torch.arange(text.shape[1], device=text.device) + 0.5) / counts[:, None]
        away = (at.unsqueeze(2) - to.unsqueeze(1)) / self.width
        scores = scores - 0.5 * away.square()
        inside = length_mask(counts, text.shape[1]).unsqueeze(1)
        return scores.masked_fill(~inside, _NEVER)


def best_path(scores: Tensor, counts: Tensor, frames: Tensor) -> Tensor:
    """Frames of each symbol on the likeliest path through all of them in order.

    Arguments
    ---------
    scores : Tensor
        Log weights ``[batch, frames, symbols]``.
    counts, frames : Tensor
        How many symbols and frames each item has, int64 ``[batch]``.

    Returns
    -------
    Tensor
        int64 ``[batch, symbols]``.

    Example
    -------
    >>> scores = torch.tensor([[[0.0, -9], [0, -9], [-9, 0]]])
    >>> best_path(scores, torch.tensor([2]), torch.tensor([3])).tolist()
    [[2, 1]]
    """
    # Loading it takes a second.
    from torchaudio.functional import forced_align

    durations = torch.zeros(scores.shape[0], scores.shape[2], dtype=torch.int64)
    # Id 0 is the blank, which no path through the symbols needs.
    table = F.pad(scores.detach().float().cpu(), (1, 0), value=10 * _NEVER)
    # Items one by one, as forced_align takes no more.
    for row, symbols, size in zip(range(len(table)), counts, frames, strict=True):
        symbols, size = int(symbols), int(size)
        if not symbols:
            continue
        labels = torch.arange(1, symbols + 1, dtype=torch.int32).unsqueeze(0)
        part = table[row : row + 1, :size, : symbols + 1].contiguous()
        path, _ = forced_align(part, labels)
        found = path[0].long().bincount(minlength=symbols + 1)
        durations[row, :symbols] = found[1:]
    return durations.to(scores.device)


def _smooth(conv: nn.Conv1d, x: Tensor, counts: Tensor) -> Tensor:
    """A convolution that reads zeros behind an item's end."""
    inside = length_mask(counts, x.shape[1]).unsqueeze(2)
    return x + torch.tanh(conv((x * inside).transpose(1, 2)).transpose(1, 2))
