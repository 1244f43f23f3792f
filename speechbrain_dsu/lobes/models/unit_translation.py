"""Speech-to-speech translation: a source's frames or units to units of the target."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.lobes.models.readers import with_positions
from speechbrain_dsu.lobes.models.taps import CTCTap, Tap, recorded
from speechbrain_dsu.lobes.models.unit_seq2seq import UnitTranslator
from speechbrain_dsu.nnet.heads import Head
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.steps import UnitSteps
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths


class SpeechToUnits(UnitTranslator):
    """S2UT (Lee et al., "Direct Speech-to-Speech Translation with Discrete Units",
    2022): a speech encoder, a unit decoder, auxiliary texts on layers of both.

    Arguments
    ---------
    reader : nn.Module
        ``reader(source, lens)`` gives vectors and their relative lengths:
        `ConvReader` of frames, `UnitReader` of units.
    encoder : nn.Module
        ``encoder(vectors, lens)``; `Transformer` that is not causal.
    embedding, transformer, head
        See `UnitTranslator`.
    steps : UnitSteps
        How target units are written.
    taps : sequence of Tap
        Auxiliary tasks; see `lobes.models.taps`. The last `CTCTap` on the decoder is
        what ``texts`` reads.
    duration_weight : float
        Of the loss of durations, where units are reduced: the model then says how long
        each unit lasts, as the duration predictor of a unit vocoder does. 0: it does
        not, and the vocoder has to.
    condition_dropout : float
        See `UnitTranslator`.

    Raises
    ------
    DsuError
        If a tap names a layer that is not there.

    Example
    -------
    >>> from speechbrain_dsu.lobes.models.readers import ConvReader
    >>> from speechbrain_dsu.nnet.embeddings import UnitEmbedding
    >>> from speechbrain_dsu.nnet.heads import SoftmaxHead
    >>> steps = UnitSteps((50,))
    >>> model = SpeechToUnits(
    ...     ConvReader(80, 16),
    ...     Transformer(16, 2, 2, causal=False),
    ...     UnitEmbedding(steps, 16),
    ...     Transformer(16, 2, 2, memory_dim=16),
    ...     SoftmaxHead(steps, 16),
    ...     steps,
    ...     [CTCTap(16, "encoder", 1, "text", "ab ")],
    ... )
    >>> codes, text = torch.randint(50, (2, 9, 1)), torch.tensor([[0, 1], [1, 2]])
    >>> full = torch.ones(2)
    >>> list(
    ...     model(torch.randn(2, 60, 80), full, codes, full, text=text, text_lens=full)
    ... )
    ['loss', 'nll', 'duration', 'encoder 1 text']
    """

    def __init__(
        self,
        reader: nn.Module,
        encoder: nn.Module,
        embedding: nn.Module,
        transformer: Transformer,
        head: Head,
        steps: UnitSteps,
        taps: Sequence[Tap] = (),
        duration_weight: float = 0.1,
        condition_dropout: float = 0.0,
    ):
        super().__init__(
            reader, encoder, embedding, transformer, head, condition_dropout
        )
        self.steps, self.taps = steps, nn.ModuleList(taps)
        self.duration_weight = duration_weight if steps.reduce else 0.0
        self.lasting = None
        if self.duration_weight:
            self.lasting = nn.Linear(transformer.dim, 1)
        self.register_buffer("pace", torch.ones(()))
        for tap in self.taps:
            layers = self._layers(tap.side)
            if tap.layer > len(layers):
                raise DsuError(
                    f"a tap on {tap.side} layer {tap.layer}: there are {len(layers)}"
                )

    def set_pace(self, steps: float, frames: float) -> None:
        """Note how many steps so many frames of the source took in training: what is
        far longer is cut when the model writes."""
        self.pace.fill_(steps / max(frames, 1))

    def read(
        self, source: Tensor, source_lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The memory ``[batch, length, memory_dim]`` and its relative lengths."""
        vectors, lens = self.reader(source, source_lens)
        return self.encoder(with_positions(vectors), lens), lens

    def forward(
        self,
        source: Tensor,
        source_lens: Tensor | None,
        codes: Tensor,
        codes_lens: Tensor | None = None,
        **texts: Any,
    ) -> dict[str, Tensor]:
        """Losses of target units, given their sources.

        Arguments
        ---------
        source : Tensor
            What the reader takes, ``[batch, length, ...]``.
        source_lens : Tensor, optional
            Relative lengths of the sources.
        codes : Tensor
            Target units ``[batch, frames, codebooks]``.
        codes_lens : Tensor, optional
            Relative lengths of the targets.
        **texts
            Columns of the taps and their lengths.

        Returns
        -------
        dict
            Scalars, ``loss`` first.
        """
        ids, lens, durations = self.steps.write(codes, codes_lens)
        with recorded(self._tapped(self.taps)) as found:
            hidden, memory_lens = self._hidden(source, source_lens, ids)
        terms = self._losses(hidden, ids, lens)
        if self.lasting is not None:
            terms["duration"] = self._duration_loss(hidden, durations)
            terms["loss"] = terms["loss"] + self.duration_weight * terms["duration"]
        for tap in self.taps:
            states = found[self._layers(tap.side)[tap.layer - 1]]
            at = memory_lens if tap.side == "encoder" else _without_begin(lens, ids)
            text = texts[tap.column], texts[f"{tap.column}_lens"]
            term = tap.loss(states, at, *text)
            terms["loss"] = terms["loss"] + tap.weight * term
            terms[f"{tap.side} {tap.layer} {tap.column}"] = term.detach()
        return terms

    @torch.no_grad()
    def say(
        self,
        memory: Tensor,
        memory_lens: Tensor,
        ids: Tensor,
        lens: Tensor,
    ) -> tuple[Tensor, Tensor, list[str] | None]:
        """Codes and text of steps that were written from a memory.

        Arguments
        ---------
        memory, memory_lens
            What ``read`` gave.
        ids : Tensor
            ``[batch, steps, streams]``, the begin included; padding behind each end.
        lens : Tensor
            Relative lengths in steps.

        Returns
        -------
        codes : Tensor
            ``[batch, frames, codebooks]``.
        lens : Tensor
            Relative lengths in frames.
        texts : list of str or None
            What the decoder's last CTC tap reads; None without one.
        """
        readers = [
            tap
            for tap in self.taps
            if isinstance(tap, CTCTap) and tap.side == "decoder"
        ]
        # One pass over all steps: the states of writing, at once.
        with recorded(self._tapped(readers[-1:])) as found:
            x = self.embedding(ids)
            hidden = self.transformer(x, None, memory, memory_lens)
        durations = None
        if self.lasting is not None:
            durations = self._lasts(hidden)[:, 1:].exp().round().clamp(min=1).long()
        codes, code_lens = self.steps.read(ids, durations)
        if not readers:
            return codes, code_lens, None
        tap = readers[-1]
        states = found[self.transformer.layers[tap.layer - 1]]
        # Padding behind the end was read, too; the end itself counts nowhere.
        counts = absolute_lengths(lens, ids.shape[1]).to(ids.device)
        ended = (ids == self.steps.layout.vocabulary.eos).any(2).any(1)
        at = (counts - ended.long()).double() / ids.shape[1]
        return codes, code_lens, tap.read(states, at)

    def _hidden(
        self, source: Tensor, source_lens: Tensor | None, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        memory, memory_lens = self.read(source, source_lens)
        hide = self._hidden_items(len(memory), memory.device)
        if hide is not None:
            null, null_lens = self._unconditional(memory)
            memory = torch.where(hide[:, None, None], null, memory)
            memory_lens = torch.where(hide, null_lens, memory_lens.double())
        x = self.embedding(ids[:, :-1])
        return self.transformer(x, None, memory, memory_lens), memory_lens

    def _lasts(self, hidden: Tensor) -> Tensor:
        """Log frames ``[batch, steps]`` of the unit that each state has read last."""
        return self.lasting(hidden)[..., 0].float()

    def _duration_loss(self, hidden: Tensor, durations: Tensor) -> Tensor:
        # State t + 1 has read unit t.
        found = self._lasts(hidden)[:, 1:][:, : durations.shape[1]]
        known = durations > 0
        wanted = durations.clamp(min=1).log()
        return F.mse_loss(found[known], wanted[known])

    def _layers(self, side: str) -> nn.ModuleList:
        return (self.encoder if side == "encoder" else self.transformer).layers

    def _tapped(self, taps: Iterable[Tap]) -> list[nn.Module]:
        return list({self._layers(tap.side)[tap.layer - 1] for tap in taps})


def _without_begin(lens: Tensor, ids: Tensor) -> Tensor:
    """Lengths of the decoder's inputs ``ids[:, :-1]``, ends left out."""
    counts = absolute_lengths(lens, ids.shape[1])
    return (counts - 1).double() / (ids.shape[1] - 1)
