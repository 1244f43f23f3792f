"""Codes of a tokenizer as the steps that a translator writes, and back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.tokens.patterns import Delay
from speechbrain_dsu.tokens.runs import deduplicate, expand
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)


class UnitSteps:
    """Target units, stacked or reduced as in S2UT (Lee et al. 2022, section 3.2).

    Reduced: units that repeat become one step, and how long they last is known apart.
    Stacked: ``stack`` frames become one step with a stream for each of them; what is
    missing in the last step is a filler of its own. Codebooks of a frame are delayed
    against one another. Without either, a step is a frame. For embeddings and heads it
    is a layout.

    Arguments
    ---------
    sizes : sequence of int
        Ids of each codebook.
    units : str
        Fingerprint of the tokenizer.
    frame_rate : float
        Frames per second of its tokens.
    reduce : bool
        Join repeated units.
    stack : int
        Frames of a step.
    delay : bool
        Delay the codebooks of a frame against one another; False: all in one step,
        for heads that give them in turn (`DepthHead`).
    n_codebooks : int, optional
        Keep the first ones; None: all.

    Raises
    ------
    DsuError
        If both are asked for.

    Example
    -------
    >>> steps = UnitSteps((9,))
    >>> codes = torch.tensor([[[4], [4], [4], [7]]])
    >>> ids, lens, durations = steps.write(codes)
    >>> ids[0, :, 0].tolist(), durations.tolist()
    ([1, 7, 10, 2], [[3, 1]])
    >>> steps.read(ids, durations)[0][0, :, 0].tolist()
    [4, 4, 4, 7]
    >>> ids, lens, _ = UnitSteps((9,), reduce=False, stack=3).write(codes)
    >>> ids[0].tolist()
    [[1, 1, 1], [7, 7, 7], [10, 12, 12], [2, 2, 2]]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        units: str = "",
        frame_rate: float = 50.0,
        reduce: bool = True,
        stack: int = 1,
        delay: bool = True,
        n_codebooks: int | None = None,
    ):
        if stack < 1 or (reduce and stack > 1):
            raise DsuError(
                f"reduce={reduce}, stack={stack}: stack frames (2 or more) or reduce "
                "repeated units, not both"
            )
        self.sizes, self.units = tuple(sizes)[:n_codebooks], units
        self.frame_rate, self.reduce, self.stack = float(frame_rate), reduce, stack
        filler = int(stack > 1)
        streams = [size + filler for _ in range(stack) for size in self.sizes]
        books = list(range(len(self.sizes))) * stack
        self.vocabulary = Vocabulary(sizes=streams, shared=True)
        # Not shown: what models print of a layout is part of their fingerprint.
        delays = books if delay else [0] * len(books)
        self._layout = Delay(self.vocabulary, delays=delays)
        if not delay:
            # Shown only where it is set: older systems keep their fingerprints.
            self.delay = delay

    @property
    def layout(self) -> Delay:
        """Where each id stands."""
        return self._layout

    @property
    def streams(self) -> int:
        """Ids per step."""
        return self._layout.streams

    def write(
        self, codes: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes ``[batch, frames, codebooks]`` as steps.

        Returns
        -------
        ids : Tensor
            ``[batch, steps, streams]``, begin and end included.
        lens : Tensor
            Relative lengths in steps.
        durations : Tensor or None
            Frames of each unit ``[batch, units]`` where they are reduced, 0 behind an
            item's end; one less than the steps behind the begin.
        """
        durations = None
        if self.reduce:
            codes, durations, lens = deduplicate(codes, lens)
        elif self.stack > 1:
            codes, lens = self._stacked(codes, lens)
        ids, lens = self.layout.apply(codes, lens)
        return ids, lens, durations

    def read(
        self, ids: Tensor, durations: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Codes of steps, as far as frames are complete.

        Arguments
        ---------
        ids : Tensor
            ``[batch, steps, streams]``; each item up to its end or padding.
        durations : Tensor, optional
            Frames ``[batch, units or more]`` of reduced units; None: one each.

        Returns
        -------
        codes : Tensor
            ``[batch, frames, codebooks]``.
        lens : Tensor
            Relative lengths.
        """
        codes, lens = self.layout.undo_partial(ids)
        if self.reduce and durations is not None:
            return expand(codes, durations[:, : codes.shape[1]], lens)
        if self.stack > 1:
            return self._unstacked(codes, lens)
        return codes, lens

    def tokens(self, codes: Tensor, lens: Tensor) -> Tokens:
        """Codes with their provenance."""
        return Tokens(codes, lens, self.frame_rate, self.sizes, self.units)

    def _stacked(self, codes: Tensor, lens: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, frames, books = codes.shape
        counts = absolute_lengths(lens, frames, batch).to(codes.device)
        steps = -(-frames // self.stack)
        fillers = codes.new_tensor(self.sizes)
        wide = fillers.expand(batch, steps * self.stack, books).clone()
        inside = length_mask(counts, frames).unsqueeze(2)
        wide[:, :frames] = torch.where(inside, codes, fillers)
        counts = (counts + self.stack - 1) // self.stack
        stacked = wide.reshape(batch, steps, self.stack * books)
        return stacked, relative_lengths(counts, steps)

    def _unstacked(self, codes: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        batch, steps, _ = codes.shape
        counts = absolute_lengths(lens, steps) * self.stack
        wide = codes.reshape(batch, steps * self.stack, len(self.sizes))
        # A model may write a filler anywhere: what is behind the first is lost.
        bad = (wide >= wide.new_tensor(self.sizes)).any(2)
        counts = counts.to(codes.device).minimum((bad.cumsum(1) == 0).sum(1))
        size = int(counts.max()) if batch else 0
        inside = length_mask(counts, size).unsqueeze(2)
        return torch.where(inside, wide[:, :size], 0), relative_lengths(counts, size)
