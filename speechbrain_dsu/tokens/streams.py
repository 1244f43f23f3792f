"""What tokens are: codes of a batch, their lengths, and what is needed to use them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    pad_stack,
    relative_lengths,
)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of token sequences with their provenance.

    Arguments
    ---------
    codes : Tensor
        int64 ``[batch, frames, codebooks]``; raw ids, 0 to ``sizes[k] - 1`` in
        codebook ``k``. Frames behind an item's length hold 0 and mean nothing:
        special ids live in ``tokens.vocabulary`` only.
    lens : Tensor
        Relative lengths ``[batch]`` in [0, 1] (0: an item without frames).
    frame_rate : float
        Frames per second.
    sizes : tuple of int
        Number of ids of each codebook.
    fingerprint : str
        Of the tokenizer that made them. A decoder refuses tokens of another one.

    Raises
    ------
    DsuError
        If the shapes disagree or an id is out of range.

    Example
    -------
    >>> codes = [torch.tensor([[3], [1]]), torch.tensor([[2]])]
    >>> tokens = Tokens.from_list(codes, frame_rate=50.0, sizes=(4,), fingerprint="-")
    >>> tokens.codes.shape, tokens.counts.tolist(), tokens.bitrate
    (torch.Size([2, 2, 1]), [2, 1], 100.0)
    >>> [item.squeeze(1).tolist() for item in tokens.unpad()]
    [[3, 1], [2]]
    """

    codes: Tensor
    lens: Tensor
    frame_rate: float
    sizes: tuple[int, ...]
    fingerprint: str

    def __post_init__(self):
        if self.codes.ndim != 3 or self.codes.dtype != torch.int64:
            raise DsuError(
                "codes must be int64 [batch, frames, codebooks], got "
                f"{self.codes.dtype} {list(self.codes.shape)}"
            )
        if self.codes.shape[2] != len(self.sizes):
            raise DsuError(
                f"codes have {self.codes.shape[2]} codebooks, "
                f"sizes name {len(self.sizes)}"
            )
        if self.lens.shape != self.codes.shape[:1]:
            raise DsuError(
                f"{len(self.codes)} items of codes with lengths {list(self.lens.shape)}"
            )
        # Reading ids back from a GPU would stall it at every call.
        if self.codes.numel() and self.codes.device.type == "cpu":
            self._check_range()

    def _check_range(self) -> None:
        low, high = self.codes.amin((0, 1)), self.codes.amax((0, 1))
        outside = (low < 0) | (high >= torch.tensor(self.sizes))
        if outside.any():
            k = int(outside.nonzero()[0])
            raise DsuError(
                f"codebook {k} holds ids {int(low[k])} to {int(high[k])}, "
                f"its range is 0 to {self.sizes[k] - 1}"
            )

    @classmethod
    def from_list(
        cls,
        items: Sequence[Tensor],
        frame_rate: float,
        sizes: Sequence[int],
        fingerprint: str,
    ) -> "Tokens":
        """Batch from one ``[frames_i, codebooks]`` tensor per item."""
        sizes = tuple(sizes)
        if not items:
            items = [torch.zeros(0, len(sizes), dtype=torch.int64)]
            batch = cls.from_list(items, frame_rate, sizes, fingerprint)
            return replace(batch, codes=batch.codes[:0], lens=batch.lens[:0])
        codes, counts = pad_stack(items)
        lens = relative_lengths(counts, codes.shape[1])
        return cls(codes, lens, frame_rate, sizes, fingerprint)

    @property
    def counts(self) -> Tensor:
        """Frames of each item: int64 ``[batch]``."""
        return absolute_lengths(self.lens, self.codes.shape[1])

    @property
    def mask(self) -> Tensor:
        """True at valid frames: bool ``[batch, frames]``."""
        return length_mask(self.counts, self.codes.shape[1])

    @property
    def bitrate(self) -> float:
        """Nominal bits per second: frame rate times the sum of log2 of the sizes."""
        return self.frame_rate * sum(math.log2(size) for size in self.sizes)

    def unpad(self) -> list[Tensor]:
        """One ``[frames_i, codebooks]`` tensor per item."""
        pairs = zip(self.codes, self.counts.tolist(), strict=True)
        return [codes[:count] for codes, count in pairs]

    def codebooks(self, first: int) -> "Tokens":
        """The same tokens with the first ``first`` codebooks only."""
        if not 1 <= first <= len(self.sizes):
            raise DsuError(f"asked for {first} of {len(self.sizes)} codebooks")
        return replace(self, codes=self.codes[..., :first], sizes=self.sizes[:first])

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens on another device."""
        return replace(self, codes=self.codes.to(device), lens=self.lens.to(device))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> "Tokens":
        """Item ``index`` alone, without padding, as a batch of one."""
        count = int(self.counts[index])
        codes = self.codes[index, :count].unsqueeze(0)
        lens = relative_lengths(torch.tensor([count], device=codes.device), count)
        return replace(self, codes=codes, lens=lens)

    def __iter__(self) -> Iterator["Tokens"]:
        return (self[index] for index in range(len(self)))
