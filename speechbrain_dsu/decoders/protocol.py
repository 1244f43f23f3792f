"""What a model must offer to be decoded."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Sampler = Callable[[Tensor, int], Tensor]
"""``sampler(logits [batch, n, size], stream)`` gives ids ``[batch, n]`` of the ``n``
streams from ``stream`` on."""


class Emission(Protocol):
    """The next step of each item, as a model gives it."""

    tokens: Tensor
    """Ids int64 ``[batch, streams]``, or frames ``[batch, frame_dim]``."""
    ended: Tensor | None
    """bool ``[batch]``, or None where the ids say it themselves."""


class Session(Protocol):
    """One batch of sequences that a model is writing.

    It begins empty, or with what the model was given as a condition. Items may come
    to differ in length; each goes on from its own end, as if it were alone.
    `lobes.models.session.Session` is one; a fake for tests takes ten lines.
    """

    @property
    def begin(self) -> Tensor:
        """The step ``[streams]`` or ``[frame_dim]`` that sequences start with."""

    def feed(self, tokens: Tensor, lens: Tensor | None = None) -> Tensor:
        """Append steps ``[batch, steps, ...]``, of relative lengths ``lens``.

        Returns hidden states ``[batch, steps, dim]``: row t is for the step after t.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores ``[..., streams, size]`` of all ids after ``hidden`` ``[..., dim]``.

        Needed by search and by speculation only.
        """

    def emit(self, hidden: Tensor, sampler: Sampler) -> Emission:
        """The next step after ``hidden`` ``[batch, dim]``; it isn't fed yet."""

    def select(self, items: Tensor) -> None:
        """Go on with these items (repeated, if named twice), in this order."""

    def rewind(self, steps: Tensor) -> None:
        """Forget the last ``steps`` ``[batch]`` of each item; for speculation only."""
