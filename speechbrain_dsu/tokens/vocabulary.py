"""The only owner of special ids, offsets and padding of sequence models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import length_mask, pad_stack, relative_lengths


@dataclass(frozen=True)
class Vocabulary:
    """Maps raw ids (0 to size - 1 of each codebook) to the ids of a sequence model.

    One range of ids per namespace, without gaps, in this order::

        | text pieces | specials | tags | codebook 0 | codebook 1 | ...
        0          text                                           size

    Text comes first, so that a pretrained text model keeps its ids when speech is
    added to it; without text, the first special (usually the padding) is id 0.
    With ``shared=True`` all codebooks use one range, as long as the largest
    codebook: for models with one table per stream, or that know the codebook from
    the position.

    Arguments
    ---------
    sizes : sequence of int
        Number of ids of each codebook (or of unit subwords).
    specials : sequence of str
        Names of special ids; ``<pad>`` is compulsory. Conventional names:
        ``<bos>``, ``<eos>``, ``<mask>``, ``<blank>``.
    tags : sequence of str
        Names of task, language, speaker or modality tags.
    text : int
        Number of text pieces.
    shared : bool
        All codebooks share one range of ids.
    check_on_device : bool
        Also check the range of codes which aren't in CPU memory. Off by default, as
        reading the verdict back stalls a GPU. Ids on their way back to codes are
        always checked.

    Raises
    ------
    DsuError
        If there is no codebook and no text, a size isn't positive, a name comes
        twice, or ``<pad>`` is missing.

    Example
    -------
    >>> vocabulary = Vocabulary(sizes=(4, 8), text=100, tags=("<asr>",))
    >>> vocabulary.size, vocabulary.pad, vocabulary["<asr>"]
    (116, 100, 103)
    >>> ids = vocabulary.to_ids(torch.tensor([[[3, 0], [0, 7]]]))
    >>> ids.tolist()
    [[[107, 108], [104, 115]]]
    >>> vocabulary.to_codes(ids).tolist()
    [[[3, 0], [0, 7]]]
    >>> vocabulary.allowed(0, "<eos>").nonzero().flatten().tolist()
    [102, 104, 105, 106, 107]
    """

    sizes: Sequence[int] = ()
    specials: Sequence[str] = ("<pad>", "<bos>", "<eos>")
    tags: Sequence[str] = ()
    text: int = 0
    shared: bool = False
    check_on_device: bool = field(default=False, compare=False)

    def __post_init__(self):
        # YAML gives lists; tuples make the object hashable and safe to share.
        for name in ("sizes", "specials", "tags"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, size in [*enumerate(self.sizes), ("text", self.text)]:
            if not isinstance(size, int) or size < (name != "text"):
                raise DsuError(f"size of codebook or namespace {name!r} is {size!r}")
        if not self.sizes and not self.text:
            raise DsuError("a vocabulary needs codebook sizes, text pieces or both")
        names = self.specials + self.tags
        for name in names:
            if not isinstance(name, str) or names.count(name) > 1:
                raise DsuError(f"special or tag {name!r}: names are strings, each once")
        if "<pad>" not in self.specials:
            raise DsuError(f"specials {list(self.specials)} lack '<pad>': add it")

    @property
    def n_codebooks(self) -> int:
        """Number of codebooks."""
        return len(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First id of each codebook."""
        first = self.text + len(self.specials) + len(self.tags)
        if self.shared:
            return (first,) * len(self.sizes)
        return tuple(first + sum(self.sizes[:k]) for k in range(len(self.sizes)))

    @property
    def size(self) -> int:
        """Total number of ids: the size of the model's table."""
        first = self.text + len(self.specials) + len(self.tags)
        units = max(self.sizes, default=0) if self.shared else sum(self.sizes)
        return first + units

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, name: str) -> int:
        """Id of a special or a tag."""
        names = self.specials + self.tags
        if name not in names:
            raise DsuError(
                f"no special or tag {name!r} in the vocabulary; it has {list(names)}"
            )
        return self.text + names.index(name)

    @property
    def pad(self) -> int:
        """Id of ``<pad>``."""
        return self["<pad>"]

    @property
    def bos(self) -> int:
        """Id of ``<bos>``."""
        return self["<bos>"]

    @property
    def eos(self) -> int:
        """Id of ``<eos>``."""
        return self["<eos>"]

    @property
    def mask(self) -> int:
        """Id of ``<mask>``."""
        return self["<mask>"]

    def to_ids(
        self,
        codes: Tensor,
        codebook: int | Sequence[int] | Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Sequence ids from raw codes.

        Arguments
        ---------
        codes : Tensor
            Integers of any shape.
        codebook : int, sequence of int, Tensor or None
            Codebook of each code, of a shape that broadcasts to the codes'. None:
            the last axis of ``codes`` runs over all codebooks.
        mask : Tensor or None
            True where a code is valid, of the codes' shape or without its last
            axis. What is not becomes ``<pad>``, whatever it held.

        Returns
        -------
        Tensor
            int64, of the codes' shape.

        Raises
        ------
        DsuError
            If a code is outside its codebook: value, codebook and position.
        """
        codebook = self._codebooks(codes, codebook)
        mask = _like(mask, codes)
        codes = _integers(codes)
        if codes.device.type == "cpu" or self.check_on_device:
            self._check_range(codes, codebook, mask, "code", 0)
        ids = codes + codes.new_tensor(self.offsets)[codebook]
        return ids if mask is None else torch.where(mask, ids, self.pad)

    def to_codes(
        self,
        ids: Tensor,
        codebook: int | Sequence[int] | Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Raw codes from sequence ids: the inverse of ``to_ids``.

        Where ``mask`` is False the code is 0. Takes and raises what ``to_ids`` does:
        a special id, or one of another codebook, never becomes a code.
        """
        codebook = self._codebooks(ids, codebook)
        mask = _like(mask, ids)
        offset = _integers(ids).new_tensor(self.offsets)[codebook]
        codes = _integers(ids) - offset
        self._check_range(codes, codebook, mask, "id", offset)
        return codes if mask is None else torch.where(mask, codes, 0)

    def text_to_ids(self, pieces: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sequence ids from text pieces 0 to ``text - 1``; ``<pad>`` outside ``mask``.

        Example
        -------
        >>> mask = torch.tensor([[True, False]])
        >>> Vocabulary(text=9).text_to_ids(torch.tensor([[5, 0]]), mask).tolist()
        [[5, 9]]
        """
        pieces, mask = _integers(pieces), _like(mask, pieces)
        outside = (pieces < 0) | (pieces >= self.text)
        self._raise_at(
            outside, mask, pieces, f"is no text piece (0 to {self.text - 1})"
        )
        return pieces.clone() if mask is None else torch.where(mask, pieces, self.pad)

    def ids_to_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Text pieces from sequence ids; 0 outside ``mask``."""
        pieces = self.text_to_ids(ids, mask)
        return pieces if mask is None else torch.where(_like(mask, ids), pieces, 0)

    def is_text(self, ids: Tensor) -> Tensor:
        """True where an id is a text piece."""
        return (ids >= 0) & (ids < self.text)

    def is_unit(self, ids: Tensor) -> Tensor:
        """True where an id belongs to a codebook."""
        first = self.text + len(self.specials) + len(self.tags)
        return (ids >= first) & (ids < self.size)

    def codebook_of(self, ids: Tensor) -> Tensor:
        """Codebook that each id belongs to, -1 for text, specials and tags.

        Raises
        ------
        DsuError
            If codebooks share their ids, so that an id doesn't tell.

        Example
        -------
        >>> Vocabulary(sizes=(2, 2)).codebook_of(torch.arange(7)).tolist()
        [-1, -1, -1, 0, 0, 1, 1]
        """
        if self.shared and len(self.sizes) > 1:
            raise DsuError("ids don't tell their codebook in a shared vocabulary")
        firsts = ids.new_tensor(self.offsets)
        found = torch.searchsorted(firsts, ids.contiguous(), right=True) - 1
        return torch.where(self.is_unit(ids), found, -1)

    def allowed(self, *names: int | str) -> Tensor:
        """Which ids a model may emit, for constrained decoding.

        Arguments
        ---------
        *names : int or str
            Codebook numbers, names of specials and tags, and ``"text"``.

        Returns
        -------
        Tensor
            bool ``[size]``, True for every id of the names.
        """
        mask = torch.zeros(self.size, dtype=torch.bool)
        for name in names:
            if name == "text":
                mask[: self.text] = True
            elif isinstance(name, str):
                mask[self[name]] = True
            else:
                self._codebooks(mask, name)
                mask[self.offsets[name] :][: self.sizes[name]] = True
        return mask

    def pad_batch(self, items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Stack sequences of ids, with ``<pad>`` behind the shorter ones.

        Arguments
        ---------
        items : sequence of Tensor
            Ids ``[steps_i]`` or ``[steps_i, streams]``, at least one item.

        Returns
        -------
        ids : Tensor
            int64 ``[batch, steps]`` or ``[batch, steps, streams]``.
        lens : Tensor
            Relative lengths ``[batch]``.

        Example
        -------
        >>> items = [torch.tensor([5, 6]), torch.tensor([7])]
        >>> Vocabulary(sizes=(9,)).pad_batch(items)[0].tolist()
        [[5, 6], [7, 0]]
        """
        ids, counts = pad_stack([_integers(item) for item in items])
        mask = _like(length_mask(counts, ids.shape[1]), ids)
        return torch.where(mask, ids, self.pad), relative_lengths(counts, ids.shape[1])

    def to_dict(self) -> dict:
        """Plain values that ``from_dict`` (or YAML) builds the same object from."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Vocabulary":
        """The object that ``to_dict`` described."""
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise DsuError(f"a vocabulary has no {sorted(unknown)}")
        return cls(**values)

    def _codebooks(self, codes: Tensor, codebook) -> Tensor:
        """Checked codebook numbers; all of them along the last axis if None."""
        if codebook is None:
            if not codes.ndim or codes.shape[-1] != len(self.sizes):
                raise DsuError(
                    f"codes {list(codes.shape)} don't end in the vocabulary's "
                    f"{len(self.sizes)} codebooks; pass codebook="
                )
            codebook = range(len(self.sizes))
        numbers = torch.as_tensor(codebook)
        # Tables made by layouts on a GPU aren't read back to be checked.
        if numbers.device.type == "cpu" and numbers.numel():
            low, high = int(numbers.min()), int(numbers.max())
            if low < 0 or high >= len(self.sizes):
                raise DsuError(
                    f"codebook {low if low < 0 else high} asked of a vocabulary with "
                    f"{len(self.sizes)} codebooks"
                )
        return numbers.to(codes.device)

    def _check_range(self, codes, codebook, mask, noun: str, offset) -> None:
        sizes = codes.new_tensor(self.sizes)[codebook]
        outside = (codes < 0) | (codes >= sizes)
        if mask is not None:
            outside = outside & mask
        if not bool(outside.any()):
            return
        at = tuple(outside.nonzero()[0].tolist())
        number = int(codebook.expand_as(codes)[at])
        first = 0 if noun == "code" else self.offsets[number]
        raise DsuError(
            f"{noun} {int((codes + offset)[at])} at position {list(at)} is outside "
            f"codebook {number}, which has {first} to {first + self.sizes[number] - 1}"
        )

    @staticmethod
    def _raise_at(outside, mask, values, message: str) -> None:
        outside = outside if mask is None else outside & mask
        if bool(outside.any()):
            at = tuple(outside.nonzero()[0].tolist())
            raise DsuError(f"id {int(values[at])} at position {list(at)} {message}")


def _integers(values: Tensor) -> Tensor:
    if values.is_floating_point() or values.dtype == torch.bool:
        raise DsuError(f"ids are integers, got {values.dtype}")
    return values.long()


def _like(mask: Tensor | None, values: Tensor) -> Tensor | None:
    """The mask with as many axes as the values."""
    if mask is None or mask.ndim == values.ndim:
        return mask
    return mask.unsqueeze(-1)
