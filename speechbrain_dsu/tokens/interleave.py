"""Text and units in one stream, and apart again."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_dsu.tokens.patterns import Flatten
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)


class TextAndUnits(NamedTuple):
    """Two streams of one batch, as ``Interleave`` takes and gives them.

    Arguments
    ---------
    text : Tensor
        Text pieces ``[batch, pieces]``.
    codes : Tensor
        Codes ``[batch, frames, codebooks]``.
    text_lens : Tensor or None
        Relative lengths ``[batch]`` of the text.
    lens : Tensor or None
        Relative lengths ``[batch]`` of the codes.
    """

    text: Tensor
    codes: Tensor
    text_lens: Tensor | None = None
    lens: Tensor | None = None


class Interleave:
    """Text and units in one stream, in turns; ``undo`` gives back both.

    By a fixed ratio (StreamMel's n:m), here text 1 and units 2; when one side has
    run out, the rest of the other follows. Or by an alignment: ``starts`` says before
    which frame each text piece stands (SUTLM). With tags, each turn opens with one::

        text u v w, frames a b c d   <  u a b v c d w >
        starts = (0, 0, 3)           <  u v a b c w d >
        tags T, S                    <  T u v S a b c T w S d >

    Frames of several codebooks are flattened. It isn't a ``Layout``, as those take
    codes alone. Undoing reads the namespace of each id, hence needs no alignment.

    Arguments
    ---------
    vocabulary : Vocabulary
        Owner of the ids, with a text namespace.
    text_chunk : int
        Text pieces in a turn, at least 1.
    unit_chunk : int
        Frames in a turn, at least 1.
    codebooks : sequence of int or None
        See ``Layout``.
    tags : pair of str or None
        Specials or tags of the vocabulary that open a turn of text and one of units.
    ends : bool
        Start with ``<bos>`` and end with ``<eos>``.

    Example
    -------
    >>> layout = Interleave(Vocabulary(sizes=(50,), text=5), unit_chunk=2)
    >>> text, codes = torch.tensor([[3, 4]]), torch.tensor([[[40], [41], [42]]])
    >>> ids, lens = layout.apply(text, codes)
    >>> ids.squeeze(2).tolist()
    [[6, 3, 48, 49, 4, 50, 7]]
    >>> [stream.tolist() for stream in layout.undo(ids, lens)[:2]]
    [[[3, 4]], [[[40], [41], [42]]]]
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_chunk: int = 1,
        unit_chunk: int = 1,
        codebooks: Sequence[int] | None = None,
        tags: tuple[str, str] | None = None,
        ends: bool = True,
    ):
        if text_chunk < 1 or unit_chunk < 1 or not vocabulary.text:
            raise DsuError(
                f"interleaving {text_chunk} of {vocabulary.text} text pieces with "
                f"{unit_chunk} frames: each must be at least 1"
            )
        self.vocabulary = vocabulary
        self.text_chunk, self.unit_chunk = int(text_chunk), int(unit_chunk)
        self.ends = bool(ends)
        self._units = Flatten(vocabulary, codebooks, ends=False)
        self.tags = None if tags is None else tuple(tags)
        self._tags = None if tags is None else [vocabulary[name] for name in tags]
        self._end = vocabulary.eos if ends else vocabulary.pad

    @property
    def streams(self) -> int:
        """Ids per step."""
        return 1

    def apply(
        self,
        text: Tensor,
        codes: Tensor,
        text_lens: Tensor | None = None,
        lens: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One stream of ids from text and codes.

        Arguments
        ---------
        text : Tensor
            Text pieces ``[batch, pieces]``, integers.
        codes : Tensor
            Integers ``[batch, frames, codebooks]``.
        text_lens : Tensor or None
            Relative lengths ``[batch]`` of the text; None: all full.
        lens : Tensor or None
            Relative lengths ``[batch]`` of the codes; None: all full.
        starts : Tensor or None
            Frame ``[batch, pieces]`` before which each text piece stands, 0 to the
            item's frames, not falling. None: the fixed ratio.

        Returns
        -------
        ids : Tensor
            int64 ``[batch, steps, 1]``.
        lens : Tensor
            Relative lengths ``[batch]`` in steps.

        Raises
        ------
        DsuError
            If a piece or code is out of range, or ``starts`` isn't as it should be.
        """
        n_text = absolute_lengths(text_lens, text.shape[1], len(text)).to(text.device)
        frames = absolute_lengths(lens, codes.shape[1], len(codes)).to(text.device)
        units = self._units.apply(codes, lens)[0].squeeze(2)
        valid = length_mask(n_text, text.shape[1])
        pieces = self.vocabulary.text_to_ids(text, valid)
        starts = self._starts(starts, frames, valid)

        n_books = len(self._units.codebooks)
        frame = torch.arange(codes.shape[1], device=text.device).repeat(len(text), 1)
        text_before = torch.searchsorted(starts, frame, right=True)
        place_units = torch.arange(units.shape[1], device=text.device)
        place_units = place_units + text_before.repeat_interleave(n_books, 1)
        place_text = torch.arange(text.shape[1], device=text.device) + starts * n_books
        counts = n_text + frames * n_books
        size = int(counts.max()) if len(counts) else 0
        ids = units.new_full((len(text), size + 1), self.vocabulary.pad)
        unit_mask = length_mask(frames * n_books, units.shape[1])
        ids.scatter_(1, torch.where(unit_mask, place_units, size), units)
        ids.scatter_(1, torch.where(valid, place_text, size), pieces)
        return self._dress(ids[:, :size], counts)

    def undo(self, ids: Tensor, lens: Tensor | None = None) -> TextAndUnits:
        """Text and codes from whole sequences: the exact inverse of ``apply``.

        Raises
        ------
        DsuError
            If the units of an item aren't whole frames, or of wrong codebooks.
        """
        steps = absolute_lengths(lens, ids.shape[1], len(ids)).to(ids.device)
        return self._split(ids, steps, partial=False)

    def undo_partial(self, ids: Tensor) -> TextAndUnits:
        """Text and complete frames of sequences still being made.

        A sequence ends at its first ``<eos>`` or ``<pad>``.
        """
        end = (ids == self._end) | (ids == self.vocabulary.pad)
        steps = (end[..., 0].cumsum(1) == 0).sum(1)
        return self._split(ids, steps, partial=True)

    def _starts(self, starts: Tensor | None, frames: Tensor, valid: Tensor) -> Tensor:
        """Checked starts; behind the text, beyond every frame."""
        last = frames.unsqueeze(1)
        if starts is None:
            piece = torch.arange(valid.shape[1], device=valid.device)
            starts = (piece // self.text_chunk * self.unit_chunk).minimum(last)
        elif starts.shape != valid.shape:
            raise DsuError(f"starts {list(starts.shape)}, text {list(valid.shape)}")
        starts = starts.long()
        falls = torch.zeros_like(valid)
        falls[:, 1:] = starts[:, 1:] < starts[:, :-1]
        wrong = ((falls | (starts < 0) | (starts > last)) & valid).nonzero()
        if len(wrong):
            item, piece = wrong[0].tolist()
            raise DsuError(
                f"text piece {piece} of item {item} starts at frame "
                f"{int(starts[item, piece])}: starts run from 0 to "
                f"{int(frames[item])} and don't fall"
            )
        beyond = int(frames.max()) + 1 if len(frames) else 1
        return torch.where(valid, starts, beyond)

    def _dress(self, ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Add tags and ends to packed ids; lengths relative."""
        vocabulary = self.vocabulary
        if self._tags is not None:
            valid = length_mask(counts, ids.shape[1])
            is_text = vocabulary.is_text(ids)
            opens = valid.clone()
            opens[:, 1:] &= is_text[:, 1:] != is_text[:, :-1]
            shift = opens.cumsum(1)
            place = torch.arange(ids.shape[1], device=ids.device) + shift
            counts = counts + opens.sum(1)
            size = int(counts.max()) if len(counts) else 0
            tags = ids.new_tensor(self._tags)[(~is_text).long()]
            laid = ids.new_full((len(ids), size + 1), vocabulary.pad)
            laid.scatter_(1, torch.where(opens, place - 1, size), tags)
            laid.scatter_(1, torch.where(valid, place, size), ids)
            ids = laid[:, :size]
        if self.ends:
            ids = torch.nn.functional.pad(ids, (1, 1), value=vocabulary.pad)
            ids[:, 0] = vocabulary.bos
            ids.scatter_(1, counts.unsqueeze(1) + 1, vocabulary.eos)
            counts = counts + 2
        return ids.unsqueeze(2), relative_lengths(counts, ids.shape[1])

    def _split(self, ids: Tensor, steps: Tensor, partial: bool) -> TextAndUnits:
        if ids.ndim != 3 or ids.shape[2] != 1:
            raise DsuError(f"ids {list(ids.shape)} aren't [batch, steps, 1]")
        ids, n_books = ids.squeeze(2).long(), len(self._units.codebooks)
        valid = length_mask(steps, ids.shape[1])
        text, n_text = _pack(ids, valid & self.vocabulary.is_text(ids))
        units, n_units = _pack(ids, valid & self.vocabulary.is_unit(ids))
        whole = n_units // n_books * n_books
        if not partial and bool((whole != n_units).any()):
            item = int((whole != n_units).nonzero()[0])
            raise DsuError(
                f"item {item} has {int(n_units[item])} unit ids, not whole frames of "
                f"{n_books} codebooks; use undo_partial for an unfinished one"
            )
        size = int(whole.max()) if len(whole) else 0
        lens = relative_lengths(whole, size)
        codes, lens = self._units.undo(units[:, :size].unsqueeze(2), lens)
        mask = length_mask(n_text, text.shape[1])
        text = self.vocabulary.ids_to_text(text, mask)
        return TextAndUnits(text, codes, relative_lengths(n_text, text.shape[1]), lens)


def _pack(ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Move what is kept to the left, in order; and how many of each row."""
    counts = keep.sum(1)
    size = int(counts.max()) if len(counts) else 0
    place = torch.where(keep, keep.cumsum(1) - 1, size)
    packed = ids.new_zeros(len(ids), size + 1).scatter_(1, place, ids)
    return packed[:, :size], counts
