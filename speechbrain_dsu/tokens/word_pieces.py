"""Written text as word pieces, their model kept where weights are."""

import io
from collections.abc import Iterable

import sentencepiece
import torch
from torch import nn

from speechbrain_dsu.utils.errors import DsuError


class WordPieces(nn.Module):
    """Text as subwords learned from text, lower case (see ``tokens.text.Text``).

    HebTTS (Roth et al., "A Language Modeling Approach to Diacritic-Free Hebrew TTS",
    2024) reads word pieces, as a spelling that leaves sounds out is read by its
    context. The model is sentencepiece's (Kudo & Richardson, 2018); its bytes are a
    buffer, so that one safetensors file holds it.

    Arguments
    ---------
    size : int
        Number of pieces.
    model_bytes : int
        Size of the sentencepiece model that is loaded.

    Raises
    ------
    DsuError
        If a size isn't positive.

    Example
    -------
    >>> model = WordPieces.learn(["three one four", "one four"] * 9, 16)
    >>> text = WordPieces(16, len(model)).load(model)
    >>> ids = text.encode("Four one")
    >>> text.decode(ids), max(ids) < text.size
    ('four one', True)
    """

    def __init__(self, size: int, model_bytes: int):
        super().__init__()
        if size < 1 or model_bytes < 1:
            raise DsuError(
                f"{size} pieces in a model of {model_bytes} bytes: word pieces are "
                "trained first (WordPieces.learn), their model's size is declared"
            )
        self.size = size
        self.register_buffer("model", torch.zeros(model_bytes, dtype=torch.uint8))
        self._made: tuple[int, sentencepiece.SentencePieceProcessor] | None = None

    def extra_repr(self) -> str:
        """The setting that no weight shows."""
        return f"size={self.size}"

    @staticmethod
    def learn(texts: Iterable[str], size: int) -> bytes:
        """Learn pieces by byte-pair encoding.

        Arguments
        ---------
        texts : iterable of str
            What they are learned from; all its letters become pieces.
        size : int
            Number of pieces.

        Returns
        -------
        bytes
            For ``load``; the same for the same texts.

        Raises
        ------
        DsuError
            If the texts don't hold so many pieces.
        """
        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=out,
                vocab_size=size,
                model_type="bpe",
                character_coverage=1.0,
                normalization_rule_name="nmt_nfkc_cf",
                bos_id=-1,
                eos_id=-1,
                num_threads=1,
                minloglevel=3,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise DsuError(f"{size} word pieces: {reason}") from error
        return out.getvalue()

    def load(self, model: bytes) -> "WordPieces":
        """Take a model that ``learn`` gave, in place."""
        if len(model) != len(self.model):
            raise DsuError(
                f"word pieces of {len(model)} bytes for a buffer of {len(self.model)}"
            )
        self.model.copy_(torch.frombuffer(bytearray(model), dtype=torch.uint8))
        if self._processor().get_piece_size() != self.size:
            raise DsuError(
                f"{self._processor().get_piece_size()} word pieces, not {self.size}"
            )
        return self

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises
        ------
        DsuError
            If it has a letter that training had not.
        """
        processor = self._processor()
        found = processor.encode(text)
        if processor.unk_id() in found:
            known = "".join(
                piece
                for piece in map(processor.id_to_piece, range(self.size))
                if len(piece) == 1
            )
            raise DsuError(f"{text!r} has letters besides those of the model: {known}")
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""
        return self._processor().decode([int(i) for i in ids])

    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        """Sentencepiece's object, made again when the bytes have changed."""
        version = self.model._version
        if self._made is None or self._made[0] != version:
            model = bytes(self.model.cpu().numpy().tobytes())
            if not any(model):
                raise DsuError("these word pieces have no model yet: load one")
            self._made = (
                version,
                sentencepiece.SentencePieceProcessor(model_proto=model),
            )
        return self._made[1]

    def __getstate__(self) -> dict:
        # The object is made again from the buffer.
        return self.__dict__ | {"_made": None}
