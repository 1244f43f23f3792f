"""Unit sequences as subword pieces (byte-pair encoding over units), and back.

On sentencepiece itself: SpeechBrain's ``SentencePiece`` can't be told to leave the
characters alone, so that normalisation and the split at spaces and scripts merge
different units, and it drops lines beyond 4192 bytes.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    pad_stack,
    relative_lengths,
)

# Private use plane 15: no character of it is a space, changes under any Unicode
# normalisation, belongs to a script, or is sentencepiece's own U+2581 or U+2585.
_FIRST = 0xF0000
_MOST = 0xFFFD + 1

# The trainer sums character shares in float32 and leaves out the rarest characters
# once the sum rounds to 1; one alphabet for so many units keeps them above that.
_UNITS_PER_ALPHABET = 2**21

UnitSequence = Sequence[int] | np.ndarray | Tensor


class UnitBPE:
    """Byte-pair encoding of unit sequences, exact for every unit id.

    Piece ``k`` below ``n_units`` is unit ``k`` alone, whether training saw it or not;
    the pieces above are merges, the most useful first. Hence any sequence of units
    encodes and comes back. Raw ids only: specials and padding are the vocabulary's,
    as ``Vocabulary(sizes=(bpe.size,))``.

    Several codebooks go in one by one, or as one stream through a layout; runs go in
    with or without ``deduplicate`` before.

    Arguments
    ---------
    model : str, Path or bytes
        A ``.model`` file that ``save`` wrote, or its content.

    Raises
    ------
    DsuError
        If the file isn't there or wasn't made by ``UnitBPE.train``.

    Example
    -------
    >>> import numpy as np
    >>> units = np.tile([3, 1, 2, 0], 50)
    >>> bpe = UnitBPE.train([units], n_units=10, size=12)
    >>> pieces = bpe.encode([[3, 1, 2, 0, 9], []])
    >>> [len(item) for item in pieces]
    [3, 0]
    >>> [item.tolist() for item in bpe.decode(pieces)]
    [[3, 1, 2, 0, 9], []]
    """

    def __init__(self, model: str | Path | bytes):
        if not isinstance(model, bytes):
            name, path = str(model), Path(model)
            if not path.is_file():
                raise DsuError(f"no unit subword model at {name}")
            model = path.read_bytes()
        else:
            name = "the given bytes"
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            known = range(1, self._processor.get_piece_size())
            pieces = [self._processor.id_to_piece(i) for i in known]
        except Exception as error:
            raise DsuError(f"{name}: no sentencepiece model ({error})") from error
        units = [_to_units(piece) for piece in pieces]
        single = [int(item[0]) for item in units if len(item) == 1]
        self.n_units = len(single)
        if not single or sorted(single) != list(range(self.n_units)):
            raise DsuError(
                f"{name} wasn't made by UnitBPE.train: its pieces aren't units"
            )
        self._set_tables(units)

    def _set_tables(self, units: list[np.ndarray]) -> None:
        """Our piece number of each sentencepiece id, and the units of each piece."""
        rank = iter(range(self.n_units, len(units)))
        ours = [int(u[0]) if len(u) == 1 else next(rank) for u in units]
        # Id 0 is sentencepiece's unknown, which cannot come out.
        self._ours = np.array([-1, *ours], dtype=np.int64)
        units = [units[i] for i in np.argsort(ours)]
        self._flat = np.concatenate(units)
        self._lengths = np.array([len(item) for item in units])
        self._starts = self._lengths.cumsum() - self._lengths

    @classmethod
    def train(
        cls,
        sequences: Iterable[UnitSequence],
        n_units: int,
        size: int,
        max_units: int = 16,
    ) -> "UnitBPE":
        """Learn merges from unit sequences.

        Arguments
        ---------
        sequences : iterable of sequence of int, numpy.ndarray or Tensor
            Units ``[frames_i]`` each, of any length; held in memory by the trainer.
        n_units : int
            Number of units, at most 65,534; all become pieces.
        size : int
            Number of pieces, at least ``n_units``.
        max_units : int
            Most units in one piece, 1 to 512.

        Returns
        -------
        UnitBPE
            The same for the same sequences in the same order.

        Raises
        ------
        DsuError
            If the sizes can't be, a unit is out of range (which, where), or the
            sequences don't hold enough repetition for so many pieces.
        """
        if not 1 <= n_units <= _MOST:
            raise DsuError(f"{n_units} units; subwords take 1 to {_MOST}")
        if size < n_units:
            raise DsuError(
                f"{size} pieces can't hold the {n_units} units themselves; "
                f"take a size above {n_units}"
            )
        if not 1 <= max_units <= 512:
            raise DsuError(
                f"{max_units} units in one piece; sentencepiece takes 1 to 512"
            )
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_training_lines(sequences, n_units),
                model_writer=model,
                model_type="bpe",
                vocab_size=size + 1,
                max_sentencepiece_length=max_units,
                max_sentence_length=2**30,
                character_coverage=1.0,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                split_by_unicode_script=False,
                split_by_number=False,
                split_by_whitespace=False,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise DsuError(
                f"can't learn {size} pieces over {n_units} units: {error}; "
                "give more sequences or a smaller size"
            ) from error
        bpe = cls(model.getvalue())
        if (bpe.n_units, bpe.size) != (n_units, size):
            raise DsuError(
                f"sentencepiece made {bpe.size} pieces over {bpe.n_units} units, not "
                f"{size} over {n_units}; give more sequences or a smaller size"
            )
        return bpe

    @property
    def size(self) -> int:
        """Number of pieces, the units included."""
        return len(self._lengths)

    @property
    def piece_lengths(self) -> Tensor:
        """Units in each piece: int64 ``[size]``; for scores per unit."""
        return torch.from_numpy(self._lengths.copy())

    def save(self, path: str | Path) -> None:
        """Write the ``.model`` file, which any sentencepiece can read."""
        Path(path).write_bytes(self.model)

    def encode(self, sequences: Iterable[UnitSequence]) -> list[np.ndarray]:
        """Pieces of unit sequences.

        Arguments
        ---------
        sequences : iterable of sequence of int, numpy.ndarray or Tensor
            Units ``[frames_i]`` each.

        Returns
        -------
        list of numpy.ndarray
            int64 pieces, one array per sequence.

        Raises
        ------
        DsuError
            If a unit is out of range: which, in which sequence, where.
        """
        items = [_array(item) for item in sequences]
        flat, ends = _join(items, self.n_units, "unit")
        text, start, lines = _to_text(flat), 0, []
        for end in ends.tolist():
            lines.append(text[start:end])
            start = end
        encoded = self._processor.encode(lines, num_threads=1)
        return [self._ours[np.array(item, dtype=np.int64)] for item in encoded]

    def decode(self, pieces: Iterable[UnitSequence]) -> list[np.ndarray]:
        """Units of piece sequences: the inverse of ``encode``, of any pieces at all."""
        items = [_array(item) for item in pieces]
        flat, ends = _join(items, self.size, "piece")
        lengths = self._lengths[flat]
        until = lengths.cumsum()
        first = self._starts[flat] - (until - lengths)
        units = self._flat[np.repeat(first, lengths) + np.arange(lengths.sum())]
        return np.split(units, np.concatenate([[0], until])[ends])[:-1]

    def encode_batch(
        self, units: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pieces of a padded batch.

        Arguments
        ---------
        units : Tensor
            Integers ``[batch, frames]`` or ``[batch, frames, 1]``.
        lens : Tensor or None
            Relative lengths ``[batch]``; None: all items are full.

        Returns
        -------
        pieces : Tensor
            int64, with as many axes as ``units``; 0 behind an item's end.
        lens : Tensor
            Relative lengths ``[batch]`` in pieces.
        """
        return _batched(self.encode, units, lens)

    def decode_batch(
        self, pieces: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Units of a padded batch of pieces: the inverse of ``encode_batch``."""
        return _batched(self.decode, pieces, lens)


def _training_lines(sequences: Iterable[UnitSequence], n_units: int) -> Iterator[str]:
    """Sequences as text, and every unit as a line of its own, which merges nothing."""
    total = 0
    for number, item in enumerate(sequences):
        units = _array(item)
        _check(units, n_units, "unit", number)
        total += len(units)
        if len(units):
            yield _to_text(units)
    alphabet = _to_text(np.arange(n_units))
    for _ in range(1 + total // _UNITS_PER_ALPHABET):
        yield from alphabet


def _array(item: UnitSequence) -> np.ndarray:
    item = item.cpu().numpy() if isinstance(item, Tensor) else np.asarray(item)
    if item.ndim != 1 or (len(item) and item.dtype.kind not in "iu"):
        raise DsuError(
            f"a sequence is a vector of integers, got {item.dtype} {item.shape}"
        )
    return item.astype(np.int64, copy=False)


def _join(items: list[np.ndarray], size: int, noun: str):
    """All items in one array, checked, and where each ends."""
    ends = np.cumsum([len(item) for item in items], dtype=np.int64)
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *items])
    if len(flat) and (flat.min() < 0 or flat.max() >= size):
        for number, item in enumerate(items):
            _check(item, size, noun, number)
    return flat, ends


def _check(item: np.ndarray, size: int, noun: str, number: int) -> None:
    if len(item) and (item.min() < 0 or item.max() >= size):
        at = int(((item < 0) | (item >= size)).argmax())
        raise DsuError(
            f"{noun} {item[at]} in sequence {number}, position {at}: "
            f"{noun}s run from 0 to {size - 1}"
        )


def _to_text(units: np.ndarray) -> str:
    return (units + _FIRST).astype("<u4").tobytes().decode("utf-32-le")


def _to_units(text: str) -> np.ndarray:
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return points.astype(np.int64) - _FIRST


def _batched(function, batch: Tensor, lens: Tensor | None) -> tuple[Tensor, Tensor]:
    flat = batch.squeeze(2) if batch.ndim == 3 and batch.shape[2] == 1 else batch
    if flat.ndim != 2:
        raise DsuError(
            f"subwords take [batch, frames] or [batch, frames, 1], got "
            f"{list(batch.shape)}: one codebook at a time, or a layout of one stream"
        )
    counts = absolute_lengths(lens, flat.shape[1], len(flat))
    rows = flat.cpu().numpy()
    found = function(row[:n] for row, n in zip(rows, counts.tolist(), strict=True))
    if not found:
        return batch.long(), counts.double()
    padded, counts = pad_stack([torch.from_numpy(item) for item in found])
    padded = padded.view(*padded.shape, *batch.shape[2:]).to(batch.device)
    return padded, relative_lengths(counts, padded.shape[1]).to(batch.device)
