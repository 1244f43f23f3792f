"""Shorter sequences of units: without repetition, as subwords."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.subwords import UnitBPE
from speechbrain_dsu.utils.errors import DsuError


class UnitPieces(nn.Module):
    """What a model reads of a tokenizer's codes, the subwords kept with its weights.

    De-duplication and byte-pair encoding over units, as the discrete-unit challenge
    (Chang et al., Interspeech 2024) shortens its sequences. Durations are dropped.
    The subword model is a buffer of bytes, so that one safetensors file holds it.

    Arguments
    ---------
    sizes : sequence of int
        Ids of each codebook of the tokenizer; empty for continuous frames.
    deduplicate : bool
        Drop frames that repeat the one before them.
    n_pieces : int
        Number of subwords (one codebook only); 0: none.
    model_bytes : int
        Size of the subword model that is loaded.

    Raises
    ------
    DsuError
        If subwords are wanted of several codebooks or of none.

    Example
    -------
    >>> codes = torch.tensor([3, 3, 1, 1, 3, 1, 3, 1, 3, 3, 1])[:, None]
    >>> UnitPieces((4,), deduplicate=True)(codes)[:, 0].tolist()
    [3, 1, 3, 1, 3, 1, 3, 1]
    >>> model = UnitBPE.train([[3, 1] * 50], n_units=4, size=6).model
    >>> pieces = UnitPieces((4,), True, 6, len(model)).load(model)
    >>> len(pieces(codes)), pieces.sizes
    (2, (6,))
    """

    def __init__(
        self,
        sizes: Sequence[int],
        deduplicate: bool = False,
        n_pieces: int = 0,
        model_bytes: int = 0,
    ):
        super().__init__()
        if n_pieces and len(sizes) != 1:
            raise DsuError(f"subwords need one codebook, there are {len(sizes)}")
        self.deduplicate, self.n_pieces = deduplicate, n_pieces
        self.sizes = (n_pieces,) if n_pieces else tuple(sizes)
        buffer = torch.zeros(model_bytes, dtype=torch.uint8) if n_pieces else None
        self.register_buffer("subwords", buffer)
        self._bpe: tuple[int, UnitBPE] | None = None

    def extra_repr(self) -> str:
        """Settings that decide what the model reads."""
        return f"deduplicate={self.deduplicate}, n_pieces={self.n_pieces}"

    def load(self, model: bytes) -> "UnitPieces":
        """Take a subword model (``UnitBPE.model``), in place."""
        if self.subwords is None or len(model) != len(self.subwords):
            size = 0 if self.subwords is None else len(self.subwords)
            raise DsuError(f"a subword model of {len(model)} bytes for one of {size}")
        self.subwords.copy_(torch.frombuffer(bytearray(model), dtype=torch.uint8))
        return self

    def forward(self, codes: Tensor) -> Tensor:
        """What the model reads of codes ``[frames, codebooks]`` of one item.

        Returns
        -------
        Tensor
            int64 ``[steps, codebooks]``; frames come back as they are.
        """
        if codes.is_floating_point() or not len(codes):
            return codes
        if self.deduplicate:
            codes = _runs(codes)
        if self.subwords is None:
            return codes
        found = self._subwords().encode([codes[:, 0]])[0]
        return torch.from_numpy(found).to(codes.device).unsqueeze(1)

    def _subwords(self) -> UnitBPE:
        """The subword model, built again when its bytes have changed."""
        version = self.subwords._version
        if self._bpe is None or self._bpe[0] != version:
            model = bytes(self.subwords.cpu().numpy().tobytes())
            self._bpe = version, UnitBPE(model)
        return self._bpe[1]

    def __getstate__(self) -> dict:
        # Sentencepiece's object is made again from the buffer.
        return self.__dict__ | {"_bpe": None}


def _runs(codes: Tensor) -> Tensor:
    return deduplicate(codes.unsqueeze(0)).units[0]
