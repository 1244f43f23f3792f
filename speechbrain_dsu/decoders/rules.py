"""What may stand where in a sequence being written, and when it ends.

Rules are asked by everything that writes: ``begin`` for a batch, ``masks`` before a
step, ``accept`` after it, ``select`` when items leave. Every rule has a length cap, so
that a model which never emits the end symbol stops.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from speechbrain_dsu.tokens.layout import Layout
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError


class Rules(Protocol):
    """What writers ask. Steps are counted from the sequence's first one."""

    pad: int
    """What stands behind an item's end."""

    def begin(self, steps: Tensor) -> None:
        """Start a batch whose prompts have ``steps`` ``[batch]``, not empty."""

    @property
    def caps(self) -> Tensor:
        """Most steps of each item, prompt and end included: int64 ``[batch]``."""

    def masks(self, ahead: int = 0) -> Tensor | None:
        """Ids allowed at the next step (or ``ahead`` later), as far as is known now.

        bool ``[batch, streams, size]``, or None: all.
        """

    def accept(
        self, tokens: Tensor, going: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take note of a step ``[batch, ...]`` of the items ``going`` (None: all).

        Returns the step as it must be, which items are done, and which are cut short.
        """

    def select(self, items: Tensor) -> None:
        """Go on with these items."""


class _Capped:
    """Counts steps up to a cap."""

    max_steps: int | Tensor
    pad = 0

    def begin(self, steps: Tensor) -> None:
        """Start a batch."""
        self._steps, self._caps = steps.clone(), _per_item(self.max_steps, steps)

    @property
    def caps(self) -> Tensor:
        """Most steps of each item."""
        return self._caps

    def select(self, items: Tensor) -> None:
        """Go on with these items."""
        self._steps, self._caps = self._steps[items], self._caps[items]

    def _advance(self, going: Tensor | None) -> Tensor:
        """Count a step; which items have no more left."""
        self._steps += 1 if going is None else going.long()
        return self._steps >= self._caps


class EndRule(_Capped):
    """Any ids of a set until the end symbol; cut at a number of steps.

    For one stream: text with units, subwords, text alone.

    Arguments
    ---------
    vocabulary : Vocabulary
        Its ``<eos>`` ends an item.
    max_steps : int or Tensor
        Most steps of a sequence, prompt and end included; one for each item or for
        all.
    allowed : sequence of (int or str), optional
        What `Vocabulary.allowed` takes, besides the end; None: every id but padding
        and begin.

    Example
    -------
    >>> rule = EndRule(Vocabulary(sizes=(4,)), max_steps=9)
    >>> rule.begin(torch.tensor([1]))
    >>> rule.masks().flatten().nonzero().flatten().tolist()
    [2, 3, 4, 5, 6]
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_steps: int | Tensor,
        allowed: Sequence[int | str] | None = None,
    ):
        self.max_steps = max_steps
        self.pad, self.eos = vocabulary.pad, vocabulary.eos
        if allowed is None:
            mask = torch.ones(vocabulary.size, dtype=torch.bool)
            never = {"<pad>", "<bos>"} & set(vocabulary.specials)
            mask[[vocabulary[name] for name in never]] = False
        else:
            mask = vocabulary.allowed(*allowed, "<eos>")
        self._mask = mask[None, None]

    def masks(self, ahead: int = 0) -> Tensor:
        """The same at every step."""
        return self._mask.to(self._steps.device).expand(len(self._steps), -1, -1)

    def accept(
        self, tokens: Tensor, going: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Done at the end symbol, cut at the cap."""
        done = tokens[:, 0] == self.eos
        return tokens, done, ~done & self._advance(going)


class FrameRule(_Capped):
    """Continuous frames: the model's own stop ends an item; cut at a number of steps.

    Arguments
    ---------
    max_steps : int or Tensor
        Most steps of a sequence, the begin included; one for each item or for all.
    """

    def __init__(self, max_steps: int | Tensor):
        self.max_steps = max_steps

    def masks(self, ahead: int = 0) -> None:
        """Frames have no ids."""

    def accept(
        self, tokens: Tensor, going: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut at the cap; the model says when an item is done."""
        cut = self._advance(going)
        return tokens, torch.zeros_like(cut), cut


class LayoutRule:
    """Whole frames of a layout, exactly as ``layout.undo`` takes them.

    At every step and stream only the ids of the codebook whose turn it is. Where a
    frame may begin, the end may stand instead: in one stream, the one with the least
    delay; once it is there, what is still to come in other streams is known. At
    ``max_frames`` the end is dictated, hence every sequence is one that ``apply``
    could have made, and none is cut short.

    Arguments
    ---------
    layout : Layout
        With ends.
    max_frames : int or Tensor
        Most frames of a sequence, those of the prompt included: one for each item or
        for all, as from `LengthCap`.
    frames : int or Tensor, optional
        Exactly so many frames instead. `CoarseFirst` needs it, as the place of its
        second group depends on it.

    Raises
    ------
    DsuError
        If the layout has no ends, or needs ``frames``.

    Example
    -------
    >>> from speechbrain_dsu.tokens.patterns import Flatten
    >>> rule = LayoutRule(Flatten(Vocabulary(sizes=(2, 3))), max_frames=1)
    >>> rule.begin(torch.tensor([1]))
    >>> for step in ([3], [5], [2]):
    ...     allowed = rule.masks()[0, 0].nonzero().flatten().tolist()
    ...     allowed, rule.accept(torch.tensor([step]))[1].tolist()
    ([2, 3, 4], [False])
    ([5, 6, 7], [False])
    ([2], [True])
    """

    def __init__(
        self,
        layout: Layout,
        max_frames: int | Tensor | None = None,
        frames: int | Tensor | None = None,
    ):
        if not layout.ends:
            raise DsuError(
                f"{type(layout).__name__} without ends can't say when to end"
            )
        if (frames is None) == (max_frames is None):
            raise DsuError("give either max_frames or frames")
        self.layout, self._open = layout, frames is None
        try:
            layout.allowed(1)
        except DsuError as error:
            if self._open:
                raise DsuError(f"{error}: to LayoutRule") from None
        self.max_frames = max_frames if self._open else frames
        vocabulary = layout.vocabulary
        self.pad = vocabulary.pad
        specials = [vocabulary[name] for name in ("<pad>", "<bos>", "<eos>")]
        rows = [vocabulary.allowed(book) for book in layout.codebooks]
        rows += [torch.arange(vocabulary.size) == special for special in specials]
        self._rows = torch.stack(rows)
        self._special_row = {
            s: len(layout.codebooks) + i for i, s in enumerate(specials)
        }
        self._plans: dict[int, Tensor] = {}

    def begin(self, steps: Tensor) -> None:
        """Start a batch."""
        device = steps.device
        self._rows = self._rows.to(device)
        self._steps, self._items = (
            steps.clone(),
            torch.arange(len(steps), device=device),
        )
        caps = _per_item(self.max_frames, steps)
        self._undecided = torch.full_like(caps, self._open, dtype=torch.bool)
        self._lengths = self.layout.length(caps)
        short = (self._lengths <= steps).nonzero()
        if len(short):
            item = int(short[0])
            raise DsuError(
                f"item {item} begins with {int(steps[item])} steps, no fewer than the "
                f"{int(self._lengths[item])} of {int(caps[item])} frames"
            )
        if self._open:
            # Of delayed codebooks more frames may have begun than steps are left for.
            begun = self.layout.frames(steps + self.layout.length(0) - 1)
            over = (begun > caps).nonzero()
            if len(over):
                item = int(over[0])
                raise DsuError(
                    f"item {item} begins with {int(begun[item])} frames, more than "
                    f"the most of {int(caps[item])}"
                )
        plans = [self._plan(n).to(device) for n in caps.tolist()]
        # Behind an item's end: padding.
        fill = self._special_row[self.pad]
        self._table = torch.nn.utils.rnn.pad_sequence(
            plans, batch_first=True, padding_value=fill
        )
        self._decider, self._starts = self._find_starts(int(caps.max()))
        self._starts = self._starts.to(device)

    @property
    def caps(self) -> Tensor:
        """Most steps of each item."""
        return self._lengths

    def masks(self, ahead: int = 0) -> Tensor:
        """Ids of the codebook whose turn it is, and the end where it may stand."""
        step = (self._steps + ahead).clamp(max=self._table.shape[1] - 1)
        masks = self._rows[self._table[self._items, step]]
        if self._open:
            may_end = self._starts[step] & self._undecided & (step < self._lengths)
            masks[:, self._decider, self.layout.vocabulary.eos] |= may_end
        return masks

    def accept(
        self, tokens: Tensor, going: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Note an end; ids that it dictates in the same step are put right."""
        eos = self.layout.vocabulary.eos
        if self._open:
            ends = self._undecided & (tokens[:, self._decider] == eos)
            ends = ends if going is None else ends & going
            for item in ends.nonzero().flatten().tolist():
                tokens = self._decide(item, tokens)
        self._steps += 1 if going is None else going.long()
        done = self._steps >= self._lengths
        return tokens, done, torch.zeros_like(done)

    def select(self, items: Tensor) -> None:
        """Go on with these items."""
        self._steps, self._undecided = self._steps[items], self._undecided[items]
        self._lengths, self._table = self._lengths[items], self._table[items]
        self._items = torch.arange(len(items), device=items.device)

    def _decide(self, item: int, tokens: Tensor) -> Tensor:
        """An item ends at the step being accepted: its plan from now on."""
        step = int(self._steps[item])
        frames = int(self._starts[:step].sum())
        plan = self._plan(frames).to(tokens.device)
        self._table[item] = self._special_row[self.pad]
        self._table[item, : len(plan)] = plan
        self._undecided[item], self._lengths[item] = False, len(plan)
        dictated = plan[step] >= len(self.layout.codebooks)
        tokens = tokens.clone()
        found = self._rows[plan[step]].int().argmax(-1)
        tokens[item] = torch.where(dictated, found, tokens[item])
        return tokens

    def _plan(self, frames: int) -> Tensor:
        """Row of ``_rows`` for each step and stream: int64 ``[steps, streams]``."""
        if frames not in self._plans:
            layout = self.layout
            empty = torch.zeros(1, frames, len(layout.codebooks), dtype=torch.int64)
            ids = layout.apply(empty)[0][0]
            books = layout.step_codebooks(frames)
            rows = torch.full_like(books, -1)
            for row, book in enumerate(layout.codebooks):
                rows[books == book] = row
            for special, row in self._special_row.items():
                rows[(books < 0) & (ids == special)] = row
            self._plans[frames] = rows
        return self._plans[frames]

    def _find_starts(self, frames: int) -> tuple[int, Tensor]:
        """The stream that decides, and at which steps a frame may begin in it.

        The step behind the last frame is one as well: the end stands there.
        """
        plan = self._plan(frames)
        first = plan < len(self.layout.codebooks)
        decider = int(first.int().argmax(0).argmin()) if frames else 0
        own = plan[:, decider]
        # In one stream a frame begins with its first codebook; else at every code.
        lead = own[first[:, decider]][0] if frames else -1
        starts = own == lead if self.layout.streams == 1 else first[:, decider]
        last = int(starts.nonzero().max()) if frames else 0
        per_frame = len(self.layout.codebooks) if self.layout.streams == 1 else 1
        starts = starts.clone()
        starts[last + per_frame if frames else 1] = True
        return decider, starts


class LengthCap:
    """Most frames of each item, from what is known of its length.

    Arguments
    ---------
    prior : float or callable
        Frames expected: per unit of the source (text pieces, source frames), or a
        function of the source's counts ``[batch]``, as a duration model is.
    slack : float
        Factor that an item may exceed it by.
    at_least, at_most : int
        Bounds of the cap; the upper one holds whatever the prior says.

    Raises
    ------
    DsuError
        If the bounds don't order.

    Example
    -------
    >>> LengthCap(prior=5.0, slack=1.5, at_most=100)(torch.tensor([4, 90]))
    tensor([ 30, 100])
    """

    def __init__(
        self,
        prior: float | Callable[[Tensor], Tensor],
        slack: float = 2.0,
        at_least: int = 1,
        at_most: int = 3000,
    ):
        if not 0 < at_least <= at_most or slack <= 0:
            raise DsuError(f"cap of {at_least} to {at_most} frames, slack {slack}")
        self.prior, self.slack = prior, slack
        self.at_least, self.at_most = at_least, at_most

    def __call__(self, counts: Tensor) -> Tensor:
        """Caps int64 ``[batch]`` of sources with ``counts`` ``[batch]`` units."""
        if callable(self.prior):
            expected = self.prior(counts)
        else:
            expected = counts * self.prior
        caps = torch.nan_to_num(expected.double() * self.slack, posinf=self.at_most)
        return caps.ceil().clamp(self.at_least, self.at_most).long()


def _per_item(number: int | Tensor, steps: Tensor) -> Tensor:
    found = torch.as_tensor(number, device=steps.device).long()
    if found.ndim and len(found) != len(steps):
        raise DsuError(f"{len(found)} limits for a batch of {len(steps)} items")
    return found.expand(len(steps)).clone()
