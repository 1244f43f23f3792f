"""Units to speech: a generator of waveforms behind streams of conditions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.vocoders.conditions import Speaker
from speechbrain_dsu.tokens.runs import deduplicate, expand
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    pad_stack,
    relative_lengths,
)


@dataclass(frozen=True, eq=False)
class VocoderOutput:
    """What a vocoder makes of a batch in training.

    Arguments
    ---------
    audio : Tensor or None
        ``[batch, frames * hop]``, zero behind each item's end; None in training of a
        generator that learns from levels.
    levels : Tensor or None
        ``[batch, frames, values]`` of such a generator.
    losses : dict
        Scalars by name: of durations, of a coded pitch.
    """

    audio: Tensor | None
    levels: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)


class UnitVocoder(nn.Module):
    """Speech of units in a chosen voice.

    Polyak et al., "Speech Resynthesis from Discrete Disentangled Self-Supervised
    Representations" (2021): look-ups of units, speaker and pitch are concatenated
    frame by frame and go through a generator. Any module that makes waveforms
    ``[batch, frames * hop]`` of latents ``[batch, frames, dim]`` will do:
    ``HifiganDecoder``, ``VocosDecoder``, ``SEANetDecoder``, or ``LevelDecoder``, which
    learns in minutes on a CPU.

    Arguments
    ---------
    generator : nn.Module
        Has ``dim``, ``sample_rate`` and ``hop``.
    content : nn.Module
        ``UnitContent``, or ``FrameContent`` for soft units.
    speakers : nn.Module
        ``Voices``.
    contours : mapping, optional
        Name ("pitch", "energy") to ``Contour``.
    durations : nn.Module, optional
        ``Durations``: takes units without repetition.
    units : str
        Fingerprint of the tokenizer whose units these are.
    jitter : float
        Share of the frames that get a neighbour's content in training, so that what is
        said is learned from more than a frame (Chorowski et al., "Unsupervised Speech
        Representation Learning Using WaveNet Autoencoders", 2019, section II-C).

    Raises
    ------
    DsuError
        If the streams together don't have the size that the generator takes, or
        ``jitter`` is no share.

    Example
    -------
    >>> from speechbrain_dsu.lobes.vocoders.conditions import UnitContent, Voices
    >>> from speechbrain_dsu.lobes.vocoders.levels import LevelDecoder
    >>> generator = LevelDecoder(dim=12, channels=16, hidden=16, layers=1, rounds=1)
    >>> speakers = Voices(["ann", "bob"], dim=4)
    >>> vocoder = UnitVocoder(generator, UnitContent([9], 8), speakers, units="f00")
    >>> codes = [torch.tensor([[3], [1]]), torch.tensor([[2]])]
    >>> tokens = Tokens.from_list(codes, 50.0, (9,), "f00")
    >>> wavs, lens = vocoder.eval().decode(tokens, speaker="bob")
    >>> wavs.shape, lens.tolist(), vocoder.voices
    (torch.Size([2, 640]), [1.0, 0.5], ('ann', 'bob'))
    """

    def __init__(
        self,
        generator: nn.Module,
        content: nn.Module,
        speakers: nn.Module,
        contours: Mapping[str, nn.Module] | None = None,
        durations: nn.Module | None = None,
        units: str = "",
        jitter: float = 0.0,
    ):
        super().__init__()
        if not 0 <= jitter <= 1:
            raise DsuError(f"jitter={jitter}: a share of the frames, 0 to 1")
        self.jitter = jitter
        self.generator, self.content, self.speakers = generator, content, speakers
        self.contours = nn.ModuleDict(contours or {})
        self.durations, self.units = durations, units
        parts = [content.dim, speakers.dim, *(c.dim for c in self.contours.values())]
        if sum(parts) != generator.dim:
            raise DsuError(
                f"streams of {parts} values are {sum(parts)} together, the generator "
                f"takes {generator.dim}"
            )
        if durations is not None and durations.dim != sum(parts[:2]):
            raise DsuError(
                f"durations of vectors of {durations.dim} values; units and voice have "
                f"{sum(parts[:2])}"
            )

    @property
    def sample_rate(self) -> int:
        """Of the speech, in hertz."""
        return self.generator.sample_rate

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.generator.hop

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def voices(self) -> tuple[str, ...]:
        """Names that ``speaker`` may have."""
        return self.speakers.names

    def extra_repr(self) -> str:
        """Whose units it takes; part of the fingerprint."""
        return f"units={self.units[:12]}"

    def follow(self, wavs: Tensor, frames: int) -> dict[str, Tensor]:
        """Contours of waveforms ``[batch, time]``, for ``frames`` frames of each.

        Returns
        -------
        dict
            Name to ``[batch, frames, values]``, as ``decode`` takes them.
        """
        return {name: c.tracker(wavs, frames) for name, c in self.contours.items()}

    # Training.

    def forward(
        self,
        content: Tensor,
        lens: Tensor | None,
        speaker: Speaker,
        **contours: Tensor,
    ) -> VocoderOutput:
        """Speech of a batch, with gradients.

        Arguments
        ---------
        content : Tensor
            int64 ``[batch, frames, codebooks]``; of soft units float
            ``[batch, frames, size]``.
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        speaker : str, sequence of str or Tensor
            See ``Voices``.
        **contours : Tensor
            ``[batch, frames, values]`` by name; those left out are taken as unknown.

        Returns
        -------
        VocoderOutput
            See there.
        """
        batch, frames = content.shape[:2]
        counts = absolute_lengths(lens, frames, batch).to(content.device)
        voice = self.speakers(speaker, batch)
        heard = content
        if self.training and self.jitter:
            heard = _jittered(content, counts, self.jitter)
        latents, losses = self.latents(heard, voice, contours)
        if self.durations is not None and not self.content.soft:
            losses["durations"] = self._duration_loss(content, lens, voice)
        levels = audio = None
        if hasattr(self.generator, "levels"):
            levels = self.generator.levels(latents)
        if levels is None or not self.training:
            audio = self.generator(latents)
            audio = audio * length_mask(counts * self.hop, audio.shape[1])
        return VocoderOutput(audio, levels, losses)

    def latents(
        self, content: Tensor, voice: Tensor, contours: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the generator gets: ``[batch, frames, dim]``, and the streams' losses.

        Arguments
        ---------
        content : Tensor
            See ``forward``.
        voice : Tensor
            ``[batch, dim]``, of ``speakers``.
        contours : mapping
            See ``forward``.

        Raises
        ------
        DsuError
            If a contour is given that this vocoder has no stream for.
        """
        unknown = sorted(set(contours) - set(self.contours))
        if unknown:
            raise DsuError(
                f"this vocoder takes no '{unknown[0]}', only {sorted(self.contours)}"
            )
        batch, frames = content.shape[:2]
        held = voice.unsqueeze(1).expand(-1, frames, -1)
        parts, losses = [self.content(content), held], {}
        for name, stream in self.contours.items():
            vectors, own = stream(contours.get(name), batch, frames)
            parts.append(vectors)
            losses |= own
        return torch.cat([part.to(voice.dtype) for part in parts], dim=-1), losses

    def _duration_loss(
        self, codes: Tensor, lens: Tensor | None, voice: Tensor
    ) -> Tensor:
        """Mean squared error of log durations; runs that a crop cuts don't count."""
        runs = deduplicate(codes, lens)
        counts = absolute_lengths(runs.lens, runs.units.shape[1]).to(codes.device)
        inside = length_mask(counts - 1, runs.units.shape[1])
        inside[:, :1] = False
        found = self.durations(self._run_vectors(runs.units, voice))
        wanted = (runs.durations + 1).to(found.dtype).log()
        error = (found - wanted).square() * inside
        return error.sum() / inside.sum().clamp(min=1)

    def _run_vectors(self, units: Tensor, voice: Tensor) -> Tensor:
        vectors = self.content(units)
        held = voice.unsqueeze(1).expand(-1, vectors.shape[1], -1)
        return torch.cat([vectors, held.to(vectors.dtype)], dim=-1)

    # Use.

    @torch.no_grad()
    def decode(
        self,
        tokens: Tokens,
        speaker: Speaker = None,
        deduplicated: bool = False,
        **contours: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Speech of units.

        Arguments
        ---------
        tokens : Tokens
            Of the tokenizer with the fingerprint ``units``.
        speaker : str, sequence of str or Tensor
            See ``Voices``.
        deduplicated : bool
            The tokens are without repetition: how long each lasts is predicted.
        **contours : Tensor, optional
            ``pitch=[batch, frames, 2]`` and so on; see ``follow``.

        Returns
        -------
        wavs : Tensor
            float32 ``[batch, time]``: exactly ``hop`` samples per frame, zero behind.
        lens : Tensor
            Relative lengths ``[batch]``.

        Raises
        ------
        DsuError
            If the tokens are another tokenizer's, or a condition can't be met.
        """
        self._check(tokens)
        tokens = tokens.to(next(self.parameters()).device)
        codes, voice = tokens.unpad(), self.speakers(speaker, len(tokens))
        if deduplicated:
            codes = self._expand(codes, voice)
        return self.decode_frames(codes, voice, contours)

    @torch.no_grad()
    def decode_frames(
        self,
        items: list[Tensor],
        voice: Tensor,
        contours: Mapping[str, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Speech of what ``content`` takes: codes, or the frames of soft units.

        Items of one length run together, so that company changes nothing.

        Arguments
        ---------
        items : list of Tensor
            ``[frames, codebooks]`` or ``[frames, size]``.
        voice : Tensor
            ``[batch, dim]``, of ``speakers``.
        contours : mapping, optional
            Name to ``[batch, frames, values]``; longer ones than an item are cut.

        Returns
        -------
        wavs : Tensor
            ``[batch, time]``.
        lens : Tensor
            Relative lengths.
        """
        contours = {k: c for k, c in (contours or {}).items() if c is not None}
        wavs = [torch.zeros(0, device=voice.device)] * len(items)
        sizes = [len(item) for item in items]
        for size in sorted(set(sizes) - {0}):
            places = [place for place, n in enumerate(sizes) if n == size]
            content = torch.stack([items[place] for place in places])
            given = {name: c[places, :size] for name, c in contours.items()}
            latents, _ = self.latents(content, voice[places], given)
            for place, wav in zip(places, self.generator(latents), strict=True):
                wavs[place] = wav.float()
        padded, counts = pad_stack(wavs)
        return padded, relative_lengths(counts, padded.shape[1])

    def _expand(self, items: list[Tensor], voice: Tensor) -> list[Tensor]:
        """Runs repeated for as long as they are thought to last."""
        if self.durations is None:
            raise DsuError(
                "this vocoder has no durations: give it units with their repetitions "
                "(tokens.runs.expand)"
            )
        found = []
        for units, vector in zip(items, voice, strict=True):
            if not len(units):
                found.append(units)
                continue
            units, vector = units.unsqueeze(0), vector.unsqueeze(0)
            frames = self.durations.frames(self._run_vectors(units, vector))
            found.append(expand(units, frames)[0][0])
        return found

    def _check(self, tokens: Tokens) -> None:
        if self.content.soft:
            raise DsuError("this vocoder takes soft units, not tokens: decode_frames")
        if tokens.fingerprint != self.units:
            raise DsuError(
                f"tokens of another tokenizer: theirs is {tokens.fingerprint[:12]}, "
                f"this vocoder speaks units of {self.units[:12]}; load the vocoder "
                "that was trained on them"
            )
        if tokens.sizes != self.content.sizes:
            raise DsuError(
                f"tokens of {len(tokens.sizes)} codebooks, this vocoder was trained on "
                f"{len(self.content.sizes)}"
            )


def _jittered(content: Tensor, counts: Tensor, share: float) -> Tensor:
    """``[batch, frames, values]``, some frames being a neighbour of theirs."""
    batch, frames = content.shape[:2]
    draw = torch.rand(batch, frames, device=content.device)
    step = (draw < share / 2).long() - (draw > 1 - share / 2).long()
    places = torch.arange(frames, device=content.device) + step
    last = (counts - 1).clamp(min=0).unsqueeze(1)  # never from the padding
    places = places.clamp(min=0).minimum(last).unsqueeze(-1)
    return content.gather(1, places.expand_as(content))
