"""Priors over units: frequencies, pairs, and a recurrent network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.small_training import draw_crops, train


class Prior(nn.Module):
    """The next unit from all before it, by a recurrent network (GRU).

    Arguments
    ---------
    size : int
        Number of units.
    hidden : int
        Width.

    Example
    -------
    >>> Prior(8).nats([torch.tensor([1, 2, 3])]) > 0
    True
    """

    def __init__(self, size: int, hidden: int = 128):
        super().__init__()
        self.embed = nn.Embedding(size + 1, hidden)  # the last one stands for begin
        self.net = nn.GRU(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, size)

    def forward(self, units: Tensor) -> Tensor:
        """Mean nats of units ``[batch, n]``; the first is told by a begin."""
        begin = units.new_full((len(units), 1), self.embed.num_embeddings - 1)
        before = torch.cat([begin, units[:, :-1]], 1)
        scores = self.out(self.net(self.embed(before))[0])
        return nn.functional.cross_entropy(scores.flatten(0, 1), units.flatten())

    @torch.no_grad()
    def nats(self, texts: Sequence[Tensor]) -> float:
        """Mean nats of all units of sequences ``[n]``."""
        total = sum(float(self(text.unsqueeze(0))) * len(text) for text in texts)
        return total / sum(map(len, texts))


def train_prior(
    prior: Prior, texts: Sequence[Tensor], steps: int, generator: torch.Generator
) -> Prior:
    """Train on stretches of 64 units (or the shortest sequence); returns it."""
    frames = min(64, *map(len, texts))
    tracks = [(text,) for text in texts]
    train(prior, lambda: prior(*draw_crops(tracks, frames, 16, generator)), steps)
    return prior


def unigram_nats(seen: Sequence[Tensor], new: Sequence[Tensor], size: int) -> float:
    """Nats a unit by its frequency in ``seen``, each counted once more.

    Example
    -------
    >>> round(unigram_nats([torch.tensor([0, 0])], [torch.tensor([0])], 2), 3)
    0.288
    """
    counts = torch.bincount(torch.cat(list(seen)), minlength=size) + 1.0
    return float(-(counts / counts.sum()).log()[torch.cat(list(new))].mean())


def bigram_nats(seen: Sequence[Tensor], new: Sequence[Tensor], size: int) -> float:
    """Nats a unit, given the one before, from counts of pairs.

    Pairs are smoothed by ten more drawn by frequency; first units go by frequency.
    """
    single = torch.bincount(torch.cat(list(seen)), minlength=size) + 1.0
    single = single / single.sum()
    cells = torch.cat([text[:-1] * size + text[1:] for text in seen])
    table = torch.bincount(cells, minlength=size * size).view(size, size)
    table = table + 10 * single
    nats = -(table / table.sum(1, keepdim=True)).log()
    firsts = [-single.log()[text[:1]] for text in new]
    found = [nats[text[:-1], text[1:]] for text in new]
    return float(torch.cat([*firsts, *found]).mean())
