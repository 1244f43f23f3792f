"""What all layouts of codebooks share: laying codes out as ids, and taking them up."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)


class Layout:
    """Base: where each code sits. A subclass says it in one formula, ``_locate``.

    Ids have the shape ``[batch, steps, streams]``; a model of several streams has an
    embedding and a head for each of them. Specials and padding come from the
    vocabulary; the layout knows positions only.

    Arguments
    ---------
    vocabulary : Vocabulary
        Owner of the ids.
    codebooks : sequence of int or None
        Codebooks of the vocabulary that the last axis of the codes holds; None: all.
    ends : bool
        Start every sequence with a step of ``<bos>`` and end it with one of ``<eos>``.

    Raises
    ------
    DsuError
        If the vocabulary lacks a codebook or special that the layout needs.
    """

    _tail = 0  # Steps that a sequence has beyond `_per_frame` for each frame.
    _needs_frames = False  # Where a code sits depends on the number of frames.

    def __init__(
        self,
        vocabulary: Vocabulary,
        codebooks: Sequence[int] | None = None,
        ends: bool = True,
    ):
        self.vocabulary = vocabulary
        if codebooks is None:
            codebooks = range(vocabulary.n_codebooks)
        self.codebooks = tuple(codebooks)
        if not self.codebooks or not set(self.codebooks) <= set(
            range(vocabulary.n_codebooks)
        ):
            raise DsuError(
                f"layout of codebooks {list(self.codebooks)} over a vocabulary with "
                f"{vocabulary.n_codebooks} codebooks"
            )
        self.ends = bool(ends)
        self._set_specials()

    def _set_specials(self) -> None:
        """What fills a cell before the first frame, after the last, behind the end."""
        names = ("<bos>", "<eos>") if self.ends or self._tail else ("<pad>", "<pad>")
        self._fill = tuple(self.vocabulary[name] for name in (*names, "<pad>"))

    @property
    def streams(self) -> int:
        """Ids per step."""
        return 1

    @property
    def _per_frame(self) -> int:
        return len(self.codebooks) // self.streams

    def _locate(self, frames: Tensor, step: Tensor, stream: Tensor):
        """Frame and position in ``codebooks`` at a step: vectorised, broadcasting.

        A frame below 0 reads "not yet", one from ``frames`` on reads "no more".
        """
        raise NotImplementedError

    def length(self, frames: int | Tensor) -> int | Tensor:
        """Steps of a sequence of so many frames."""
        return frames * self._per_frame + self._tail + 2 * self.ends

    def frames(self, steps: int | Tensor) -> int | Tensor:
        """Most frames that fit into so many steps: the inverse of ``length``."""
        found = (steps - self._tail - 2 * self.ends) // self._per_frame
        return found.clamp(min=0) if isinstance(found, Tensor) else max(found, 0)

    def apply(self, codes: Tensor, lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ids of a sequence model from codes.

        Arguments
        ---------
        codes : Tensor
            Integers ``[batch, frames, codebooks]``.
        lens : Tensor or None
            Relative lengths ``[batch]``; None: all items are full.

        Returns
        -------
        ids : Tensor
            int64 ``[batch, steps, streams]``, ``<pad>`` behind an item's end.
        lens : Tensor
            Relative lengths ``[batch]`` in steps.

        Raises
        ------
        DsuError
            If a code is out of range or the number of codebooks is another.
        """
        counts, ids = self._unit_ids(codes, lens)
        fill = ids.new_tensor(self._fill).expand(len(ids), -1)
        cells = self._cells(counts, codes.shape[1])
        laid = torch.cat([ids.flatten(1), fill], 1).gather(1, cells.flatten(1))
        steps = cells.shape[1]
        return laid.view_as(cells), relative_lengths(self.length(counts), steps)

    def undo(self, ids: Tensor, lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Codes from whole sequences: the exact inverse of ``apply``.

        Arguments
        ---------
        ids : Tensor
            Integers ``[batch, steps, streams]``.
        lens : Tensor or None
            Relative lengths ``[batch]`` in steps; None: all items are full.

        Returns
        -------
        codes : Tensor
            int64 ``[batch, frames, codebooks]``, 0 behind an item's end.
        lens : Tensor
            Relative lengths ``[batch]`` in frames.

        Raises
        ------
        DsuError
            If no number of frames has a sequence of that length, or an id where a
            code should be isn't one of its codebook. Use ``undo_partial`` for what a
            model makes.
        """
        self._check_streams(ids)
        steps = absolute_lengths(lens, ids.shape[1], len(ids)).to(ids.device)
        counts = self.frames(steps)
        wrong = (self.length(counts) != steps).nonzero()
        if len(wrong):
            item = int(wrong[0])
            raise DsuError(
                f"item {item} has {int(steps[item])} steps, which no number of frames "
                f"takes in {type(self).__name__}; use undo_partial for unfinished ones"
            )
        return self._extract(ids, counts, counts)

    def undo_partial(
        self, ids: Tensor, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Codes of the frames that are complete in sequences still being made.

        A sequence ends at its first ``<eos>`` or ``<pad>``, wherever that is; without
        one all its steps count. Frames of which a code is missing are left out.

        Arguments
        ---------
        ids : Tensor
            Integers ``[batch, steps, streams]``, from the first step on.
        frames : Tensor or None
            Frames ``[batch]`` that the sequences will have in the end, if known.

        Returns
        -------
        codes : Tensor
            int64 ``[batch, frames, codebooks]``, 0 behind an item's end.
        lens : Tensor
            Relative lengths ``[batch]`` in frames.

        Raises
        ------
        DsuError
            If an id where a code should be isn't one of its codebook: constrain the
            model with ``allowed``.
        """
        self._check_streams(ids)
        body = ids[:, int(self.ends) :]
        done = self._done(body)
        if frames is None:
            frames = self._final_frames(body, done)
        else:
            frames = torch.as_tensor(frames, device=ids.device)
        complete = self._complete(done, frames)
        frames = complete if frames is None else frames
        return self._extract(ids, frames, complete)

    def step_codebooks(self, frames: int) -> Tensor:
        """Codebook at each step and stream: int64 ``[steps, streams]``, -1: special."""
        cells = self._cells(torch.tensor([frames]), frames)[0]
        books = torch.tensor(self.codebooks)[cells % len(self.codebooks)]
        return torch.where(cells < frames * len(self.codebooks), books, -1)

    def allowed(self, step: int, frames: int | None = None) -> Tensor:
        """Ids that may stand at a step, for constrained decoding.

        Arguments
        ---------
        step : int
            Counted from 0, the step of ``<bos>`` included.
        frames : int or None
            Frames of the whole sequence. None: not known yet, the sequence may end
            at each frame's start.

        Returns
        -------
        Tensor
            bool ``[streams, vocabulary.size]``.
        """
        if frames is None and self._needs_frames:
            raise DsuError(
                f"{type(self).__name__} needs the number of frames: pass frames="
            )
        final = step + 1 if frames is None else frames
        n_books = len(self.codebooks)
        cells = self._cells(torch.tensor([final]), final, torch.tensor([step]))
        masks = torch.zeros(self.streams, self.vocabulary.size, dtype=torch.bool)
        for stream, cell in enumerate(cells[0, 0].tolist()):
            if cell >= final * n_books:
                masks[stream, self._fill[cell - final * n_books]] = True
                continue
            masks[stream] = self.vocabulary.allowed(self.codebooks[cell % n_books])
            starts = self.streams > 1 or cell % n_books == 0
            if frames is None and starts and (self.ends or self._tail):
                masks[stream, self.vocabulary.eos] = True
        return masks

    def _unit_ids(self, codes: Tensor, lens) -> tuple[Tensor, Tensor]:
        """Frames of each item and ids ``[batch, frames, codebooks]``."""
        if codes.ndim != 3 or codes.shape[2] != len(self.codebooks):
            raise DsuError(
                f"codes {list(codes.shape)} aren't [batch, frames, "
                f"{len(self.codebooks)} codebooks]"
            )
        counts = absolute_lengths(lens, codes.shape[1], len(codes)).to(codes.device)
        mask = length_mask(counts, codes.shape[1])
        return counts, self.vocabulary.to_ids(codes, self.codebooks, mask)

    def _check_streams(self, ids: Tensor) -> None:
        if ids.ndim != 3 or ids.shape[2] != self.streams:
            raise DsuError(
                f"ids {list(ids.shape)} aren't [batch, steps, {self.streams} streams]"
            )

    def _cells(self, counts: Tensor, size: int, steps: Tensor | None = None) -> Tensor:
        """What stands in each cell, at all steps or some: ``[batch, steps, streams]``.

        A number below ``size * codebooks`` is a code of the flattened item; the three
        above are begin, end and padding. ``apply`` gathers by it, ``undo`` scatters.
        """
        counts = counts.view(-1, 1, 1)
        if steps is None:
            steps = torch.arange(self.length(size), device=counts.device)
        steps = steps.view(1, -1, 1)
        stream = torch.arange(self.streams, device=counts.device)
        step = steps - int(self.ends)
        frame, book = self._locate(counts, step, stream)
        special = size * len(self.codebooks)
        body = self.length(counts) - 2 * self.ends
        cells = frame * len(self.codebooks) + book
        cells = torch.where((frame >= counts) | (step >= body), special + 1, cells)
        cells = torch.where((frame < 0) | (step < 0), special, cells)
        return torch.where(steps >= self.length(counts), special + 2, cells)

    def _extract(self, ids: Tensor, final: Tensor, counts: Tensor):
        """The first ``counts`` frames of sequences that will have ``final`` frames."""
        n_books = len(self.codebooks)
        size = int(final.max()) if len(final) else 0
        cells = self._cells(final, size)[:, : ids.shape[1]]
        laid = ids.new_zeros(len(ids), size * n_books + 3, dtype=torch.int64)
        laid.scatter_(1, cells.flatten(1), ids[:, : cells.shape[1]].flatten(1).long())
        size = int(counts.max()) if len(counts) else 0
        laid = laid[:, : size * n_books].view(len(ids), size, n_books)
        mask = length_mask(counts, size)
        codes = self.vocabulary.to_codes(laid, self.codebooks, mask)
        return codes, relative_lengths(counts, size)

    def _done(self, body: Tensor) -> Tensor:
        """Steps before the end in every stream: int64 ``[batch, streams]``."""
        end = (body == self._fill[1]) | (body == self._fill[2])
        return (end.cumsum(1) == 0).sum(1)

    def _final_frames(self, body: Tensor, done: Tensor) -> Tensor | None:
        """Frames that unfinished sequences will have, where that can be told."""
        return None

    def _complete(self, done: Tensor, final: Tensor | None) -> Tensor:
        """Frames of which all codes are there."""
        complete = done[:, 0] // self._per_frame
        return complete if final is None else complete.minimum(final)
