"""Recognisers of units: CTC, CTC with attention."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder
from speechbrain.decoders.seq2seq import S2STransformerBeamSearcher
from speechbrain.lobes.models.transformer.Transformer import (
    get_key_padding_mask,
    get_lookahead_mask,
)
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.losses import ctc_loss, kldiv_loss
from torch import Tensor, nn

from speechbrain_dsu.lobes.models.unit_pieces import UnitPieces
from speechbrain_dsu.lobes.models.unit_reader import UnitReader
from speechbrain_dsu.tokens.text import Transcripts
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


@contextmanager
def masked_convolutions(module: nn.Module, mask: Tensor) -> Iterator[None]:
    """Within it, convolutions over time see zeros behind an item's end.

    SpeechBrain's Conformer masks what its convolution gives, not what it takes: the
    last steps of an item would read its padding.

    Arguments
    ---------
    module : nn.Module
        Whose ``Conv1d`` are meant.
    mask : Tensor
        True at valid steps: bool ``[batch, steps]``.
    """

    def hide(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        found = inputs[0]
        return (found * mask.unsqueeze(1),) if found.shape[2] == mask.shape[1] else None

    wide = (m for m in module.modules() if isinstance(m, nn.Conv1d))
    hooks = [m.register_forward_pre_hook(hide) for m in wide if m.kernel_size[0] > 1]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class UnitRecogniser(nn.Module):
    """Base: pieces of units, their vectors, SpeechBrain's encoder, a CTC head.

    Arguments
    ---------
    reader : UnitReader
        Codes or frames to vectors.
    transformer : TransformerASR
        SpeechBrain's, with a Conformer, Branchformer or transformer as encoder.
    transcripts : Transcripts
        What is written.
    pieces : UnitPieces, optional
        How codes are shortened before they are read.
    units : str
        Fingerprint of the tokenizer whose units it reads; empty: not checked.
    """

    def __init__(
        self,
        reader: UnitReader,
        transformer: TransformerASR,
        transcripts: Transcripts,
        pieces: UnitPieces | None = None,
        units: str = "",
    ):
        super().__init__()
        self.reader, self.transformer = reader, transformer
        self.transcripts, self.pieces, self.units = transcripts, pieces, units
        self.dim = transformer.encoder.norm.norm.normalized_shape[-1]
        self.ctc_head = nn.Linear(self.dim, transcripts.size)

    def extra_repr(self) -> str:
        """What no weight shows: the symbols, and whose units."""
        return f"units={self.units!r}, transcripts={vars(self.transcripts.text)}"

    def prepare(self, codes: Tensor) -> Tensor:
        """What the reader takes of one item's codes or frames ``[frames, ...]``."""
        return codes if self.pieces is None else self.pieces(codes)

    def encode(
        self, source: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States ``[batch, steps, dim]`` of what ``prepare`` gave, and their lengths.

        An item's states do not depend on the batch it comes in (a Branchformer's do:
        SpeechBrain reflects at the batch's end).
        """
        vectors, lens = self.reader(source, lens)
        size = vectors.shape[1]
        counts = absolute_lengths(lens, size).to(vectors.device)
        # SpeechBrain makes its masks from float32 lengths.
        with masked_convolutions(self.transformer, length_mask(counts, size)):
            return self.transformer.encode(vectors, lens.float()), lens

    def ctc_scores(self, hidden: Tensor) -> Tensor:
        """Log probabilities ``[batch, steps, ids]`` of CTC, in float32."""
        return self.ctc_head(hidden).float().log_softmax(-1)

    def ctc_text(self, source: Tensor, lens: Tensor | None = None) -> list[str]:
        """Texts by the best id of each step: fast, whatever else the model has."""
        hidden, lens = self.encode(source, lens)
        found = ctc_greedy_decode(
            self.ctc_scores(hidden), lens.float(), self.transcripts.blank
        )
        return [self.transcripts.decode(ids) for ids in found]

    def transcribe(self, codes: Sequence[Tensor]) -> list[str]:
        """Texts of items' codes (or frames) ``[frames, ...]``, searched one by one.

        Arguments
        ---------
        codes : sequence of Tensor
            As the tokenizer gives them.

        Returns
        -------
        list of str
            Nothing is heard in an item without frames.
        """
        return [self._transcribe(self.prepare(item)) for item in codes]

    @torch.no_grad()
    def _transcribe(self, source: Tensor) -> str:
        if not len(source):
            return ""
        hidden, lens = self.encode(source.unsqueeze(0))
        return self.transcripts.decode(self.search(hidden, lens))

    def search(self, hidden: Tensor, lens: Tensor) -> list[int]:
        """Ids of one item's states ``[1, steps, dim]``."""
        raise NotImplementedError

    def _ctc_loss(
        self, hidden: Tensor, lens: Tensor, text: Tensor, text_lens: Tensor
    ) -> Tensor:
        return ctc_loss(
            self.ctc_scores(hidden),
            text,
            lens.float(),
            text_lens.float(),
            self.transcripts.blank,
        )


class UnitCTC(UnitRecogniser):
    """CTC, joined with an attention decoder where the transformer has one.

    Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech
    Recognition" (2017), the recogniser of the discrete-unit challenge (Chang et al.,
    Interspeech 2024). Search is SpeechBrain's: greedy CTC without a decoder, else
    ``S2STransformerBeamSearcher`` with its ``CTCScorer``.

    Arguments
    ---------
    reader, transformer, transcripts, pieces, units
        See ``UnitRecogniser``.
    ctc_weight : float
        Share of CTC in the loss; 1 without a decoder.
    beam : int
        Hypotheses of the search.
    search_ctc_weight : float
        Weight of CTC's scores beside the decoder's.
    label_smoothing : float
        Of the decoder's targets.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> transcripts = Transcripts(["zero", "one"])
    >>> transformer = TransformerASR(
    ...     tgt_vocab=transcripts.size,
    ...     input_size=8,
    ...     d_model=8,
    ...     nhead=2,
    ...     num_encoder_layers=1,
    ...     num_decoder_layers=1,
    ...     d_ffn=16,
    ...     encoder_module="conformer",
    ...     attention_type="RelPosMHAXL",
    ...     normalize_before=True,
    ...     causal=False,
    ... )
    >>> model = UnitCTC(UnitReader((50,), dim=8), transformer, transcripts)
    >>> codes, text = torch.randint(50, (2, 30, 1)), torch.tensor([[0, 1], [1, 1]])
    >>> sorted(model(codes, torch.ones(2), text, torch.ones(2)))
    ['attention', 'ctc', 'loss']
    >>> len(model.eval().transcribe(list(codes)))
    2
    """

    def __init__(
        self,
        reader: UnitReader,
        transformer: TransformerASR,
        transcripts: Transcripts,
        pieces: UnitPieces | None = None,
        units: str = "",
        ctc_weight: float = 0.3,
        beam: int = 4,
        search_ctc_weight: float = 0.4,
        label_smoothing: float = 0.1,
    ):
        super().__init__(reader, transformer, transcripts, pieces, units)
        self.beam, self.search_ctc_weight = beam, search_ctc_weight
        self.label_smoothing = label_smoothing
        self.head = None
        if hasattr(transformer, "custom_tgt_module"):
            # SpeechBrain's searcher asks its own Linear how many ids there are.
            self.head = Linear(transcripts.size, input_size=self.dim)
        self.ctc_weight = ctc_weight if self.head is not None else 1.0

    def forward(
        self, source: Tensor, source_lens: Tensor, text: Tensor, text_lens: Tensor
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Arguments
        ---------
        source : Tensor
            What ``prepare`` gave, padded: ``[batch, steps, ...]``.
        source_lens, text_lens : Tensor
            Relative lengths.
        text : Tensor
            Ids ``[batch, symbols]``.

        Returns
        -------
        dict
            Scalars, ``loss`` first.
        """
        hidden, lens = self.encode(source, source_lens)
        ctc = self._ctc_loss(hidden, lens, text, text_lens)
        if self.head is None:
            return {"loss": ctc, "ctc": ctc}
        attention = self._attention_loss(hidden, lens, text, text_lens)
        loss = self.ctc_weight * ctc + (1 - self.ctc_weight) * attention
        return {"loss": loss, "ctc": ctc, "attention": attention}

    def _attention_loss(
        self, hidden: Tensor, lens: Tensor, text: Tensor, text_lens: Tensor
    ) -> Tensor:
        special, size = self.transcripts.vocabulary, text.shape[1]
        counts = absolute_lengths(text_lens, size).to(text.device)
        text = torch.where(length_mask(counts, size), text, special.pad)
        begin = text.new_full((len(text), 1), special.bos)
        targets = torch.cat([text, torch.full_like(begin, special.pad)], 1)
        targets = targets.scatter(1, counts.unsqueeze(1), special.eos)
        decoded = self._decode(torch.cat([begin, text], 1), hidden, lens)
        # Its "mean" is the sum of all symbols; CTC's is one per symbol.
        total = kldiv_loss(
            self.head(decoded).float().log_softmax(-1),
            targets,
            length=(counts + 1).float() / (size + 1),
            label_smoothing=self.label_smoothing,
            pad_idx=special.pad,
            reduction="none",
        )
        return total.sum() / (counts + 1).sum()

    def _decode(self, text: Tensor, hidden: Tensor, lens: Tensor) -> Tensor:
        """The decoder's states. SpeechBrain's ``forward`` would encode once more, its
        ``decode`` keeps no gradients."""
        parts = self.transformer
        counts = absolute_lengths(lens, hidden.shape[1]).to(hidden.device)
        embedded = parts.custom_tgt_module(text)
        relative = parts.attention_type in ("RelPosMHAXL", "RoPEMHA")
        place = "positional_encoding_decoder" if relative else "positional_encoding"
        embedded = embedded + getattr(parts, place)(embedded)
        states, _, _ = parts.decoder(
            tgt=embedded,
            memory=hidden,
            tgt_mask=get_lookahead_mask(text).isinf(),
            tgt_key_padding_mask=get_key_padding_mask(
                text, self.transcripts.vocabulary.pad
            ),
            memory_key_padding_mask=~length_mask(counts, hidden.shape[1]),
        )
        return states

    def search(self, hidden: Tensor, lens: Tensor) -> list[int]:
        """Ids of one item's states ``[1, steps, dim]``."""
        if self.head is None:
            scores = self.ctc_scores(hidden)
            return ctc_greedy_decode(scores, lens.float(), self.transcripts.blank)[0]
        special = self.transcripts.vocabulary
        ctc = CTCScorer(self.ctc_head, self.transcripts.blank, special.eos)
        scorer = ScorerBuilder(
            weights={"ctc": self.search_ctc_weight}, full_scorers=[ctc]
        )
        searcher = S2STransformerBeamSearcher(
            [self.transformer, self.head],
            bos_index=special.bos,
            eos_index=special.eos,
            min_decode_ratio=0.0,
            max_decode_ratio=1.0,
            beam_size=self.beam,
            using_eos_threshold=False,
            length_normalization=True,
            scorer=scorer,
        )
        return searcher(hidden, lens.float())[0][0]
