"""Classifier-free guidance: two readings of each item, in one batch."""

import torch
from torch import Tensor

from speechbrain_dsu.decoders.protocol import Emission, Sampler, Session


class Guided:
    """A session that amplifies what its condition changes.

    Logits become ``u + scale * (c - u)`` for the conditional ``c`` and the
    unconditional ``u`` (Ho & Salimans 2022, eq. 6; for units as in AudioGen, Kreuk et
    al. 2023, eq. 4); frames are mixed likewise. Scale 1 is the conditional model, 0
    the unconditional one. Heads that emit stream by stream are guided at each.

    Arguments
    ---------
    session : Session
        Of twice the batch: first all items with their condition, then all without, as
        ``model.session(*model.with_unconditional(memory, lens))`` gives.
    scale : float
        How much.
    """

    def __init__(self, session: Session, scale: float):
        self.session, self.scale = session, scale
        self._batch = 0

    @property
    def begin(self) -> Tensor:
        """The step that sequences start with."""
        return self.session.begin

    def feed(self, tokens: Tensor, lens: Tensor | None = None) -> Tensor:
        """Append steps to both readings; their states side by side."""
        self._batch = len(tokens)
        twice = torch.cat([tokens, tokens])
        lens = None if lens is None else torch.cat([lens, lens])
        return torch.cat(self.session.feed(twice, lens).chunk(2), -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Guided scores."""
        return self._mix(self.session.logits(_both(hidden)))

    def emit(self, hidden: Tensor, sampler: Sampler) -> Emission:
        """The next step, the same for both readings."""

        def guided(logits: Tensor, stream: int) -> Tensor:
            ids = sampler(self._mix(logits), stream)
            return torch.cat([ids, ids])

        found = self.session.emit(_both(hidden), guided)
        tokens = found.tokens
        if tokens.is_floating_point():
            tokens = self._mix(tokens)
        half = len(hidden)
        ended = None if found.ended is None else found.ended[:half]
        return type(found)(tokens[:half], ended)

    def select(self, items: Tensor) -> None:
        """Go on with these items, in both readings."""
        self.session.select(torch.cat([items, items + self._batch]))
        self._batch = len(items)

    def rewind(self, steps: Tensor) -> None:
        """Forget the last steps, in both readings."""
        self.session.rewind(torch.cat([steps, steps]))

    def _mix(self, values: Tensor) -> Tensor:
        given, free = values.chunk(2)
        # Ids that a model excludes (-inf) must not become "not a number".
        mixed = free + self.scale * (given - free)
        return torch.where(torch.isfinite(given), mixed, given)


def _both(hidden: Tensor) -> Tensor:
    return torch.cat(hidden.chunk(2, -1))
