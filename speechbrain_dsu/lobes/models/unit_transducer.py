"""A transducer over units."""

import torch
from speechbrain.decoders.transducer import TransducerBeamSearcher
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.nnet.embedding import Embedding
from speechbrain.nnet.RNN import LSTM
from speechbrain.nnet.transducer.transducer_joint import Transducer_joint
from torch import Tensor, nn

from speechbrain_dsu.lobes.models.unit_asr import UnitRecogniser
from speechbrain_dsu.lobes.models.unit_pieces import UnitPieces
from speechbrain_dsu.lobes.models.unit_reader import UnitReader
from speechbrain_dsu.tokens.text import Transcripts
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths


class UnitTransducer(UnitRecogniser):
    """A transducer with CTC beside it.

    Graves, "Sequence Transduction with Recurrent Neural Networks" (2012); the
    recogniser of "Towards Universal Speech Discrete Tokens" (Yang et al. 2024), with a
    Conformer in the place of their Zipformer. Joiner and search are SpeechBrain's; the
    loss is torchaudio's, since SpeechBrain's own needs numba and a GPU.

    Arguments
    ---------
    reader, transformer, transcripts, pieces, units
        See ``UnitRecogniser``; the transformer without decoder layers.
    hidden : int
        Size of the network that predicts from the text so far.
    ctc_weight : float
        Share of CTC in the loss.
    beam : int
        Hypotheses of the search; 1: greedy.

    Raises
    ------
    DsuError
        If the transformer has a decoder, which nothing would use.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> transcripts = Transcripts("ab ")
    >>> transformer = TransformerASR(
    ...     transcripts.size, 8, 8, 2, 1, 0, 16, causal=False, normalize_before=True
    ... )
    >>> model = UnitTransducer(UnitReader((50,), dim=8), transformer, transcripts)
    >>> codes, text = torch.randint(50, (2, 30, 1)), torch.tensor([[0, 1], [1, 1]])
    >>> sorted(model(codes, torch.ones(2), text, torch.ones(2)))
    ['ctc', 'loss', 'transducer']
    """

    def __init__(
        self,
        reader: UnitReader,
        transformer: TransformerASR,
        transcripts: Transcripts,
        pieces: UnitPieces | None = None,
        units: str = "",
        hidden: int = 128,
        ctc_weight: float = 0.3,
        beam: int = 1,
    ):
        super().__init__(reader, transformer, transcripts, pieces, units)
        if hasattr(transformer, "custom_tgt_module"):
            raise DsuError("a transducer has no use for decoder layers: set them to 0")
        self.ctc_weight, self.beam = ctc_weight, beam
        size = transcripts.size
        self.embedding = Embedding(size, embedding_dim=hidden)
        self.predictor = LSTM(hidden, input_size=hidden)
        self.from_text = nn.Linear(hidden, self.dim)
        self.joiner = Transducer_joint(joint="sum", nonlinearity=nn.Tanh)
        self.head = nn.Linear(self.dim, size)

    def forward(
        self, source: Tensor, source_lens: Tensor, text: Tensor, text_lens: Tensor
    ) -> dict[str, Tensor]:
        """Losses of a batch, see ``UnitCTC.forward``."""
        from torchaudio.functional import rnnt_loss

        hidden, lens = self.encode(source, source_lens)
        ctc = self._ctc_loss(hidden, lens, text, text_lens)
        # The search begins with a blank, too.
        begin = text.new_full((len(text), 1), self.transcripts.blank)
        known = self.embedding(torch.cat([begin, text], 1))
        predicted = self.from_text(self.predictor(known)[0])
        joined = self.joiner(hidden.unsqueeze(2), predicted.unsqueeze(1))
        counts = absolute_lengths(lens, hidden.shape[1])
        transducer = rnnt_loss(
            self.head(joined).float(),
            text.int(),
            counts.int().to(text.device),
            absolute_lengths(text_lens, text.shape[1]).int().to(text.device),
            blank=self.transcripts.blank,
        )
        loss = self.ctc_weight * ctc + (1 - self.ctc_weight) * transducer
        return {"loss": loss, "ctc": ctc, "transducer": transducer}

    def search(self, hidden: Tensor, lens: Tensor) -> list[int]:
        """Ids of one item's states ``[1, steps, dim]``."""
        searcher = TransducerBeamSearcher(
            [self.embedding, self.predictor, self.from_text],
            self.joiner,
            [self.head],
            blank_id=self.transcripts.blank,
            beam_size=self.beam,
            nbest=1,
        )
        found = searcher(hidden)[0][0]
        return found if self.beam <= 1 else found[0]
