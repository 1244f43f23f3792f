"""Text to units: a language model behind the text, finer codebooks all at once."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.models.text_reader import TextReader
from speechbrain_dsu.lobes.models.unit_lm import UnitLM
from speechbrain_dsu.nnet.embeddings import UnitEmbedding
from speechbrain_dsu.nnet.heads import Head, SoftmaxHead
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.patterns import Parallel
from speechbrain_dsu.tokens.steps import UnitSteps
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)


class TextToUnits(UnitLM):
    """A language model over units whose prefix is a voice and a text.

    As VALL-E (Wang et al., "Neural Codec Language Models are Zero-Shot Text to Speech
    Synthesizers", 2023, section 4.2.1). With several codebooks the layout of ``steps``
    delays them against one another, as QTTS does; with a `DepthHead` and no delays
    they follow each other within a step. Guidance hides the whole prefix.

    Arguments
    ---------
    reader : TextReader
        Of text and voice.
    embedding, transformer, head, condition_dropout
        See `SequenceModel`.
    steps : UnitSteps
        How units are written; not reduced.

    Raises
    ------
    DsuError
        If the steps are reduced: nothing here says how long a unit lasts.

    Example
    -------
    >>> from speechbrain_dsu.tokens.text import Characters
    >>> steps = UnitSteps((50,), reduce=False)
    >>> model = TextToUnits(
    ...     TextReader(Characters("ab "), 16, ["ann"]),
    ...     UnitEmbedding(steps, 16),
    ...     Transformer(16, 1, 2),
    ...     SoftmaxHead(steps, 16),
    ...     steps,
    ... )
    >>> text, lens = model.reader.write(["ab", "b"])
    >>> codes, voice = torch.randint(50, (2, 9, 1)), torch.tensor([0, 1])
    >>> sorted(model(text, lens, codes, None, voice))
    ['loss', 'nll']
    """

    def __init__(
        self,
        reader: TextReader,
        embedding: nn.Module,
        transformer: Transformer,
        head: Head,
        steps: UnitSteps,
        condition_dropout: float = 0.0,
    ):
        super().__init__(embedding, transformer, head, condition_dropout)
        if steps.reduce:
            raise DsuError("units without durations can't be spoken: reduce=False")
        self.reader, self.steps = reader, steps
        self.register_buffer("pace", torch.full((), 10.0))

    def forward(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None,
        voice: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of units, given what they say and in whose voice.

        Arguments
        ---------
        text : Tensor
            Ids ``[batch, symbols]``.
        text_lens : Tensor, optional
            Relative lengths.
        codes : Tensor
            ``[batch, frames, codebooks]``.
        codes_lens : Tensor, optional
            Relative lengths.
        voice : Tensor
            int64 ``[batch]``, see ``TextReader.place``.

        Returns
        -------
        dict
            Scalars, ``loss`` first.
        """
        prefix, prefix_lens = self.reader.prefix(text, text_lens, voice)
        ids, lens, _ = self.steps.write(codes, codes_lens)
        return super().forward(ids, lens, prefix, prefix_lens)

    @torch.no_grad()
    def scores(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None,
        voice: Tensor,
    ) -> dict[str, Tensor]:
        """Log probabilities of given units; takes what ``forward`` takes."""
        prefix, prefix_lens = self.reader.prefix(text, text_lens, voice)
        ids, _, _ = self.steps.write(codes, codes_lens)
        hidden = self.hidden(ids, prefix, prefix_lens)
        return {"scores": self.head.score(hidden, ids[:, 1:])}

    def set_pace(self, frames: float, symbols: float) -> None:
        """Note how many frames so many symbols took in training: what is far longer is
        cut when the model writes."""
        self.pace.fill_(frames / max(symbols, 1))

    def fill(self, codes: Tensor, lens: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """All codebooks of what was written: here they are."""
        return codes, lens


class LevelFiller(nn.Module):
    """The finer codebooks of frames, one after the other, each over all frames at once.

    The non-autoregressive half of VALL-E (section 4.2.2), which HebTTS and the USLM of
    SpeechTokenizer take over: text, a voice, all codebooks of a prompt and the coarser
    ones of the frames are read in both directions; a codebook that isn't known yet is a
    mask.

    Arguments
    ---------
    reader : TextReader
        Of text and voice.
    transformer : Transformer
        Not causal.
    sizes : sequence of int
        Ids of each codebook.

    Raises
    ------
    DsuError
        If the transformer is causal.

    Example
    -------
    >>> from speechbrain_dsu.tokens.text import Characters
    >>> reader = TextReader(Characters("ab "), 16)
    >>> filler = LevelFiller(reader, Transformer(16, 1, 2, causal=False), (50, 50))
    >>> text, lens = reader.write(["ab"])
    >>> first, voice = torch.randint(50, (1, 9, 1)), torch.tensor([0])
    >>> filler.eval().fill(first, torch.ones(1), text, lens, voice)[0].shape
    torch.Size([1, 9, 2])
    """

    def __init__(self, reader: TextReader, transformer: Transformer, sizes: list[int]):
        super().__init__()
        if transformer.causal:
            raise DsuError("codebooks of all frames at once need causal=False")
        vocabulary = Vocabulary(sizes=sizes, specials=("<pad>", "<mask>"), shared=True)
        self.layout = Parallel(vocabulary, ends=False)
        self.reader, self.transformer = reader, transformer
        self.embedding = UnitEmbedding(self.layout, transformer.dim)
        self.head = SoftmaxHead(self.layout, transformer.dim)

    def forward(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None,
        voice: Tensor,
    ) -> dict[str, Tensor]:
        """Loss of one codebook, drawn for the batch, behind prompts of drawn lengths.

        Takes what ``TextToUnits.forward`` takes.
        """
        books = codes.shape[2]
        if books == 1:
            return {"loss": self.head.out.weight.sum() * 0.0}
        level = int(torch.randint(1, books, ()))
        counts = absolute_lengths(codes_lens, codes.shape[1], len(codes))
        given = torch.rand(len(codes), device=counts.device) * 0.5 * counts
        given = given.long().to(codes.device)
        logits = self.logits(codes, codes_lens, given, level, text, text_lens, voice)
        frames = length_mask(counts.to(codes.device), codes.shape[1])
        asked = frames & ~length_mask(given, codes.shape[1])
        scores = logits[asked].log_softmax(-1)
        wanted = self.layout.vocabulary.to_ids(codes[..., level], level, frames)[asked]
        return {"loss": -scores.gather(1, wanted.unsqueeze(1)).mean()}

    @torch.no_grad()
    def fill(
        self,
        codes: Tensor,
        lens: Tensor,
        text: Tensor,
        text_lens: Tensor | None,
        voice: Tensor,
        prompt: Tensor | None = None,
        prompt_lens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All codebooks of frames whose first one is known.

        Arguments
        ---------
        codes : Tensor
            ``[batch, frames, 1]``, those of the prompt in front.
        lens : Tensor
            Relative lengths.
        text : Tensor
            Ids ``[batch, symbols]``, those of the prompt in front.
        text_lens : Tensor, optional
            Relative lengths.
        voice : Tensor
            Numbers of voices ``[batch]``.
        prompt : Tensor, optional
            ``[batch, frames, codebooks]``: comes back as it is.
        prompt_lens : Tensor, optional
            Relative lengths of the prompt.

        Returns
        -------
        codes : Tensor
            ``[batch, frames, codebooks]``.
        lens : Tensor
            Relative lengths, the same.
        """
        books, (batch, frames, _) = self.layout.streams, codes.shape
        full = codes.new_zeros(batch, frames, books)
        full[..., :1] = codes
        given = codes.new_zeros(batch)
        if prompt is not None and prompt.shape[1]:
            given = absolute_lengths(prompt_lens, prompt.shape[1], batch)
            given = given.to(codes.device)
            size = min(prompt.shape[1], frames)
            inside = length_mask(given, size).unsqueeze(2)
            full[:, :size] = torch.where(inside, prompt[:, :size], full[:, :size])
        first = self.layout.vocabulary.offsets[0]
        for level in range(1, books):
            logits = self.logits(full, lens, given, level, text, text_lens, voice)
            size = self.layout.vocabulary.sizes[level]
            found = logits[..., first : first + size].argmax(-1)
            known = length_mask(given, frames)
            full[..., level] = torch.where(known, full[..., level], found)
        counts = absolute_lengths(lens, frames, batch).to(codes.device)
        return full * length_mask(counts, frames).unsqueeze(2), lens

    def logits(
        self,
        codes: Tensor,
        lens: Tensor | None,
        given: Tensor | None,
        level: int,
        text: Tensor,
        text_lens: Tensor | None,
        voice: Tensor,
    ) -> Tensor:
        """Scores ``[batch, frames, size]`` of one codebook's ids.

        Arguments
        ---------
        codes : Tensor
            ``[batch, frames, codebooks]``, of which those from ``level`` on are read
            in the prompts only.
        lens : Tensor, optional
            Relative lengths.
        given : Tensor, optional
            Frames of each item's prompt, int64 ``[batch]``.
        level : int
            The codebook, from 1.
        text, text_lens, voice
            See ``fill``.
        """
        batch, frames, books = codes.shape
        counts = absolute_lengths(lens, frames, batch).to(codes.device)
        vocabulary = self.layout.vocabulary
        ids = vocabulary.to_ids(codes, mask=length_mask(counts, frames))
        given = counts.new_zeros(batch) if given is None else given
        finer = torch.arange(books, device=ids.device) >= level
        hidden = finer & ~length_mask(given, frames).unsqueeze(2)
        x = self.embedding(torch.where(hidden, vocabulary.mask, ids))
        prefix, prefix_lens = self.reader.prefix(text, text_lens, voice)
        hidden = self._run(prefix, prefix_lens, x, counts)
        size = vocabulary.size
        weight = self.head.out.weight[level * size : (level + 1) * size]
        return torch.nn.functional.linear(hidden, weight).float()

    def _run(
        self, prefix: Tensor, prefix_lens: Tensor, x: Tensor, counts: Tensor
    ) -> Tensor:
        """States of ``x``, read together with the prefix in front, without a gap."""
        size, frames = prefix.shape[1], x.shape[1]
        before = absolute_lengths(prefix_lens, size).to(x.device)
        place = torch.arange(size + frames, device=x.device).expand(len(x), -1)
        shift = (size - before)[:, None]
        order = torch.where(place < before[:, None], place, place + shift)
        joined = torch.cat([prefix.to(x.dtype), x], 1)
        order = order.clamp(max=size + frames - 1)
        joined = joined.gather(1, order.unsqueeze(2).expand_as(joined))
        lens = relative_lengths(before + counts, size + frames)
        hidden = self.transformer(joined, lens)
        back = (before[:, None] + place[:, :frames]).unsqueeze(2)
        return hidden.gather(1, back.expand(-1, -1, hidden.shape[2]))


class CoarseToFine(nn.Module):
    """`TextToUnits` over the first codebook, `LevelFiller` over the others.

    Both are trained at once; they share nothing.

    Arguments
    ---------
    coarse : TextToUnits
        Its steps hold the first codebook alone.
    filler : LevelFiller
        Of all codebooks.
    steps : UnitSteps
        Of all codebooks: whose tokens come out.

    Raises
    ------
    DsuError
        If the first model writes more than one codebook.
    """

    def __init__(self, coarse: TextToUnits, filler: LevelFiller, steps: UnitSteps):
        super().__init__()
        if coarse.steps.streams != 1:
            raise DsuError(f"the first model writes {coarse.steps.streams} codebooks")
        self.coarse, self.filler, self.steps = coarse, filler, steps

    @property
    def reader(self) -> TextReader:
        """Of text and voice."""
        return self.coarse.reader

    def forward(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None,
        voice: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of both; takes what ``TextToUnits.forward`` takes."""
        found = self.coarse(text, text_lens, codes[..., :1], codes_lens, voice)
        fine = self.filler(text, text_lens, codes, codes_lens, voice)["loss"]
        found["loss"] = found["loss"] + fine
        return {**found, "fine": fine.detach()}

    @torch.no_grad()
    def scores(
        self,
        text: Tensor,
        text_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None,
        voice: Tensor,
    ) -> dict[str, Tensor]:
        """Log probabilities of given units; takes what ``forward`` takes."""
        read = (text, text_lens)
        found = self.coarse.scores(*read, codes[..., :1], codes_lens, voice)
        if codes.shape[2] > 1:
            logits = self.filler.logits(codes, codes_lens, None, 1, *read, voice)
            found["fine"] = logits.log_softmax(-1).amax(-1)
        return found

    def set_pace(self, frames: float, symbols: float) -> None:
        """See ``TextToUnits``."""
        self.coarse.set_pace(frames, symbols)

    def fill(self, codes: Tensor, lens: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LevelFiller.fill``."""
        return self.filler.fill(codes, lens, *rest)
