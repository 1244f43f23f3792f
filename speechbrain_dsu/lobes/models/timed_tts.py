"""Text to units without recursion: how long each symbol lasts, then all frames."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.lobes.models.aligner import Aligner
from speechbrain_dsu.lobes.models.text_reader import TextReader
from speechbrain_dsu.nnet.heads import SoftmaxHead
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.patterns import Parallel
from speechbrain_dsu.tokens.runs import expand
from speechbrain_dsu.tokens.steps import UnitSteps
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask

_LONGEST = 200


class TimedUnits(nn.Module):
    """Units of all frames at once, of symbols with durations.

    The text-to-token half of the UniversalTokens study (Yang et al., "Towards
    Universal Speech Discrete Tokens", 2024, section 3.2; the durations as in
    FastSpeech, Ren et al. 2019): the text's states last as long as their symbols and
    are read in both directions; every codebook of a frame has a softmax of its own.
    Durations come with the data or from an `Aligner` that is trained along.

    Arguments
    ---------
    reader : TextReader
        Of text and voice, with an encoder.
    decoder : Transformer
        Not causal; of the frames.
    steps : UnitSteps
        Says whose units these are.
    duration_weight : float
        Of the durations' loss.
    aligner_dim : int
        Of what the aligner compares.

    Raises
    ------
    DsuError
        If the decoder is causal.

    Example
    -------
    >>> from speechbrain_dsu.tokens.text import Characters
    >>> encoder = Transformer(16, 1, 2, causal=False)
    >>> model = TimedUnits(
    ...     TextReader(Characters("ab "), 16, ["ann"], encoder),
    ...     Transformer(16, 1, 2, causal=False),
    ...     UnitSteps((50,), reduce=False),
    ... )
    >>> text, lens = model.reader.write(["ab", "b"])
    >>> codes, voice = torch.randint(50, (2, 9, 1)), torch.tensor([0, 1])
    >>> list(model(text, lens, codes, None, voice))
    ['loss', 'nll', 'duration', 'alignment']
    """

    def __init__(
        self,
        reader: TextReader,
        decoder: Transformer,
        steps: UnitSteps,
        duration_weight: float = 0.1,
        aligner_dim: int = 64,
    ):
        super().__init__()
        if decoder.causal:
            raise DsuError("all frames at once need causal=False")
        self.reader, self.decoder, self.steps = reader, decoder, steps
        vocabulary = Vocabulary(sizes=steps.sizes, specials=("<pad>",), shared=True)
        self.layout = Parallel(vocabulary, ends=False)
        self.head = SoftmaxHead(self.layout, decoder.dim)
        self.aligner = Aligner(self.layout, reader.text.size, aligner_dim)
        self.lasting = nn.Sequential(
            nn.Linear(reader.dim, reader.dim), nn.GELU(), nn.Linear(reader.dim, 1)
        )
        self.place = nn.Linear(3, decoder.dim)
        self.duration_weight = duration_weight

    def forward(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None,
        voice: Tensor,
        durations: Tensor | None = None,
        durations_lens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of units, given what they say and in whose voice.

        Arguments
        ---------
        text, text_lens, codes, codes_lens, voice
            See ``TextToUnits.forward``.
        durations : Tensor, optional
            Frames of each symbol ``[batch, symbols]``, if they are known; they add up
            to the frames of the codes.
        durations_lens : Tensor, optional
            Relative lengths, those of the text.

        Returns
        -------
        dict
            Scalars, ``loss`` first.
        """
        ids, lens = self.layout.apply(codes, codes_lens)
        alignment = ids.new_zeros((), dtype=torch.float32)
        if durations is None:
            alignment, durations = self.aligner(text, text_lens, ids, lens)
        states = self._states(text, text_lens, voice)
        hidden, found = self._frames(states, durations, text_lens)
        size = min(hidden.shape[1], ids.shape[1])
        mask = length_mask(absolute_lengths(found, hidden.shape[1]), size)
        mask = mask.to(ids.device).unsqueeze(2).expand(-1, -1, ids.shape[2])
        terms = self.head.loss(hidden[:, :size], ids[:, :size], mask)
        known = durations > 0
        lasting = self._lasts(states.detach())[known]
        duration = F.mse_loss(lasting, durations[known].float().log())
        loss = terms["loss"] + self.duration_weight * duration + alignment
        return {
            "loss": loss,
            "nll": terms["nll"],
            "duration": duration.detach(),
            "alignment": alignment.detach(),
        }

    @torch.no_grad()
    def scores(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None,
        voice: Tensor,
    ) -> dict[str, Tensor]:
        """Log probabilities of given units that symbols share evenly, and log
        durations; takes what ``forward`` takes."""
        states = self._states(text, text_lens, voice)
        even = codes.shape[1] // text.shape[1]
        durations = torch.full_like(text, even)
        durations[:, -1] += codes.shape[1] - even * text.shape[1]
        hidden, _ = self._frames(states, durations, None)
        ids, _ = self.layout.apply(codes, codes_lens)
        return {"scores": self.head.score(hidden, ids), "lasts": self._lasts(states)}

    @torch.no_grad()
    def write(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        voice: Tensor,
        durations: Tensor | None = None,
        speed: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Units of a text.

        Arguments
        ---------
        text, text_lens, voice
            See ``forward``.
        durations : Tensor, optional
            Frames of each symbol ``[batch, symbols]``; None: the model says.
        speed : float
            Above 1 faster.

        Returns
        -------
        codes : Tensor
            ``[batch, frames, codebooks]``: exactly the sum of the durations.
        lens : Tensor
            Relative lengths.
        """
        states = self._states(text, text_lens, voice)
        if durations is None:
            durations = (self._lasts(states).exp() / speed).round()
            durations = durations.clamp(1, _LONGEST).long()
        hidden, lens = self._frames(states, durations, text_lens)
        first = self.layout.vocabulary.offsets[0]
        logits = self.head.logits(hidden)[..., first:]
        sizes = torch.tensor(self.steps.sizes, device=logits.device)
        beyond = torch.arange(logits.shape[-1], device=logits.device) >= sizes[:, None]
        codes = logits.masked_fill(beyond, float("-inf")).argmax(-1)
        inside = length_mask(absolute_lengths(lens, codes.shape[1]), codes.shape[1])
        return codes * inside.to(codes.device).unsqueeze(2), lens

    def set_pace(self, frames: float, symbols: float) -> None:
        """Nothing to note: durations are bounded one by one."""

    def _states(self, text: Tensor, lens: Tensor | None, voice: Tensor) -> Tensor:
        return self.reader(text, lens) + self.reader.voice(voice).unsqueeze(1)

    def _lasts(self, states: Tensor) -> Tensor:
        """Log frames ``[batch, symbols]``."""
        return self.lasting(states)[..., 0].float()

    def _frames(
        self, states: Tensor, durations: Tensor, lens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """States of all frames, and their relative lengths."""
        symbols = torch.arange(states.shape[1], device=states.device)
        which, frame_lens = expand(symbols.expand(len(states), -1), durations, lens)
        counts = absolute_lengths(lens, states.shape[1], len(states))
        inside = length_mask(counts.to(states.device), states.shape[1])
        durations = durations * inside
        begins = durations.cumsum(1) - durations
        at = torch.arange(which.shape[1], device=which.device) - begins.gather(1, which)
        size = durations.gather(1, which).clamp(min=1)
        share = (at + 0.5) / size
        shape = torch.stack([share, 1 - share, size.float().log()], 2)
        picked = states.gather(1, which.unsqueeze(2).expand(-1, -1, states.shape[2]))
        x = picked + self.place(shape.to(picked.dtype))
        return self.decoder(x, frame_lens), frame_lens
