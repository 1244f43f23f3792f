"""The tokenizer contract: waveforms to ``Tokens`` and back, whatever is inside."""

import math
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.tokenizers.batching import (
    Batching,
    Field,
    group_items,
    overlapping_chunks,
    valid_items,
)
from speechbrain_dsu.tokenizers.streaming import StreamsTokens
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import AudioReader
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import module_fingerprint, state_versions
from speechbrain_dsu.utils.lengths import length_mask, pad_stack, relative_lengths


class Tokenizer(StreamsTokens, nn.Module):
    """Waveforms ``[batch, time]`` to tokens ``[batch, frames, codebooks]``.

    An utterance's tokens do not depend on the batch it comes in. ``batching`` says
    how this is kept up: ``solo`` runs items one by one, ``equal`` runs items of one
    length together, ``padded`` pads and masks (only models that mask exactly).
    ``auto`` is ``solo`` on a CPU, where a batch leaves the cache (``equal`` for models
    that ``gather``), on an accelerator ``padded`` where possible, otherwise ``equal``.
    Batched products may round differently from those of one item: for bit-equal
    tokens on an accelerator set ``batching="solo"``.

    Lengths follow one rule. No samples give no frames. An utterance shorter than
    ``min_samples`` is continued with zeros up to it. Everything else gives
    ``num_frames(n)`` frames.

    A subclass calls ``__init__`` with its numbers and implements ``count_frames``,
    ``encode_batch`` and, if it decodes, ``count_samples`` and ``decode_batch``.

    Arguments
    ---------
    sample_rate : int
        Of the audio that the model takes, in hertz.
    hop : int
        Samples per frame.
    codebook_sizes : sequence of int
        Number of ids of each codebook.
    min_samples : int
        The shortest input that the model can take.
    receptive_field : (int or None, int or None)
        Frame ``t`` depends on samples ``t * hop - left`` up to, not including,
        ``t * hop + right``; None where there is no bound.
    frame_offset : float
        Sample on which frame 0 is centred.
    masks_padding : bool
        Whether ``encode_batch`` with ``counts`` gives exactly the codes of solo runs.
    has_decoder : bool
        Whether ``decode`` works.
    """

    batching: Batching = "auto"
    max_batch_seconds = 160.0  # padded audio per batch on an accelerator
    gathers = False  # whether items of one length run faster together on a CPU, too
    has_vectors = True
    """Whether ``embed`` works: False in a subclass without ``embed_batch``."""

    def __init__(
        self,
        sample_rate: int,
        hop: int,
        codebook_sizes: tuple[int, ...],
        *,
        min_samples: int = 1,
        receptive_field: Field = (None, None),
        frame_offset: float = 0.0,
        masks_padding: bool = False,
        has_decoder: bool = False,
    ):
        super().__init__()
        self.sample_rate = sample_rate
        self.hop = hop
        self.codebook_sizes = tuple(codebook_sizes)
        self.min_samples = min_samples
        self.receptive_field = receptive_field
        self.frame_offset = frame_offset
        self.masks_padding = masks_padding
        self.has_decoder = has_decoder
        self._fingerprint: tuple[Any, str] | None = None

    # What a subclass provides.

    def count_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples >= min_samples`` samples."""
        raise NotImplementedError

    def encode_batch(
        self, wavs: Tensor, counts: Tensor | None, n_codebooks: int | None
    ) -> Tensor:
        """Codes ``[batch, frames, codebooks]`` of ``[batch, time]``.

        ``counts`` (valid samples, int64 ``[batch]``) is None when all items are
        full; frames behind an item's end may hold anything.
        """
        raise NotImplementedError

    def count_samples(self, n_frames: int) -> int:
        """Samples that ``n_frames >= 1`` frames decode to."""
        raise NotImplementedError

    def decode_batch(self, codes: Tensor, **conditions: Any) -> Tensor:
        """Waveforms ``[batch, time]`` of unpadded codes ``[batch, frames, k]``."""
        raise NotImplementedError

    def embed_batch(self, codes: Tensor) -> Tensor:
        """Decoder-side vectors ``[batch, frames, dim]`` of codes."""
        raise NotImplementedError

    # What users see.

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def bitrate(self) -> float:
        """Nominal bits per second with all codebooks."""
        return self.frame_rate * sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def lookahead(self) -> int | None:
        """Samples behind a frame's own hop that it waits for; None: all of them."""
        right = self.receptive_field[1]
        return None if right is None else max(0, right - self.hop)

    @property
    def causal(self) -> bool:
        """Whether a frame depends on nothing behind its own hop."""
        return self.lookahead == 0

    @property
    def exact_long(self) -> bool:
        """Whether ``encode_long`` gives the tokens of one pass."""
        return None not in self.receptive_field

    @property
    def fingerprint(self) -> str:
        """Content hash of everything that decides the ids; equal after a reload."""
        key = state_versions(self)
        if self._fingerprint is None or self._fingerprint[0] != key:
            self._fingerprint = key, module_fingerprint(self)
        return self._fingerprint[1]

    @property
    def device(self) -> torch.device:
        """Where the model lies (the CPU if it has no tensors)."""
        tensors = chain(self.parameters(), self.buffers())
        return next(tensors, torch.empty(0)).device

    def num_frames(self, n_samples: int) -> int:
        """Exact number of frames of an utterance of ``n_samples`` samples."""
        if n_samples < 0:
            raise DsuError(f"a number of samples can't be {n_samples}")
        if n_samples == 0:
            return 0
        return self.count_frames(max(n_samples, self.min_samples))

    def num_samples(self, n_frames: int) -> int:
        """Exact number of samples that ``n_frames`` frames decode to."""
        self._check_decoder()
        return self.count_samples(n_frames) if n_frames > 0 else 0

    def frame_times(self, n_samples: int) -> Tensor:
        """Centre of each frame of an utterance, in seconds: float64 ``[frames]``."""
        steps = torch.arange(self.num_frames(n_samples), dtype=torch.float64)
        return (self.frame_offset + self.hop * steps) / self.sample_rate

    def forward(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
    ) -> Tokens:
        """The same as ``encode``."""
        return self.encode(wavs, lens, sample_rate, n_codebooks)

    @torch.no_grad()
    def encode(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
    ) -> Tokens:
        """Tokenize a batch.

        Arguments
        ---------
        wavs : Tensor
            Floating point ``[batch, time]`` in [-1, 1].
        lens : Tensor, optional
            Relative lengths ``[batch]``; what lies behind an item's end is ignored.
        sample_rate : int, optional
            Of ``wavs`` in hertz; the audio is resampled if the model's differs.
        n_codebooks : int, optional
            Keep the first ``n_codebooks`` codebooks.

        Returns
        -------
        Tokens
            On the model's device.

        Raises
        ------
        DsuError
            If the shape, a length or a value is wrong.
        """
        wavs = wavs.detach().to(self.device)
        items = valid_items(wavs, lens, sample_rate, self.sample_rate)
        sizes = self.codebook_sizes[: self._keep(n_codebooks)]
        codes: list[Tensor | None] = [None] * len(items)
        limit = self.max_batch_seconds * self.sample_rate
        for group in group_items([len(item) for item in items], self._mode(), limit):
            found = self._encode_group([items[i] for i in group], n_codebooks)
            for index, item in zip(group, found, strict=True):
                codes[index] = item
        return Tokens.from_list(codes, self.frame_rate, sizes, self.fingerprint)

    def _keep(self, n_codebooks: int | None) -> int:
        total = len(self.codebook_sizes)
        if n_codebooks is not None and not 1 <= n_codebooks <= total:
            raise DsuError(f"n_codebooks={n_codebooks} asked of {total} codebooks")
        return n_codebooks or total

    def _mode(self) -> Batching:
        """How items run together."""
        if self.batching == "padded" and not self.masks_padding:
            name = type(self).__name__
            raise DsuError(f"{name} can't mask padding: batching='equal' or 'solo'")
        if self.batching != "auto":
            return self.batching
        if self.device.type == "cpu":
            return "equal" if self.gathers else "solo"
        return "padded" if self.masks_padding else "equal"

    def _encode_group(
        self, items: list[Tensor], n_codebooks: int | None
    ) -> list[Tensor]:
        frames = [self.num_frames(len(item)) for item in items]
        if frames[0] == 0:
            empty = torch.zeros(
                0, self._keep(n_codebooks), dtype=torch.int64, device=self.device
            )
            return [empty] * len(items)
        wavs, counts = pad_stack([self._fill(item) for item in items])
        full = bool((counts == wavs.shape[1]).all())
        codes = self.encode_batch(wavs, None if full else counts, n_codebooks)
        return [row[:count] for row, count in zip(codes, frames, strict=True)]

    def _fill(self, wav: Tensor) -> Tensor:
        missing = self.min_samples - len(wav)
        return nn.functional.pad(wav, (0, missing)) if missing > 0 else wav

    @torch.no_grad()
    def encode_long(
        self,
        wav: Tensor | str | Path,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
        chunk_seconds: float = 30.0,
    ) -> Tokens:
        """Tokenize a recording of any length in memory that does not grow with it.

        Chunks overlap by the receptive field, so the tokens are those of one pass.
        Where the field has no bound (attention over the whole utterance), each
        chunk sees itself and ``chunk_seconds / 4`` on either side, and the tokens
        are only close to those of one pass.

        Arguments
        ---------
        wav : Tensor, str or Path
            ``[time]``, or a file that is read piece by piece.
        sample_rate : int, optional
            Of a Tensor, in hertz; the model's if not given. A file knows its own.
        n_codebooks : int, optional
            Keep the first ``n_codebooks`` codebooks.
        chunk_seconds : float
            Audio per chunk without the overlap.

        Returns
        -------
        Tokens
            A batch of one.
        """
        if isinstance(wav, Tensor) and wav.ndim != 1:
            raise DsuError(f"encode_long takes [time], got {list(wav.shape)}")
        reader = AudioReader(wav, self.sample_rate, sample_rate)
        keep = self._keep(n_codebooks)
        parts = list(self._encode_chunks(reader, keep, chunk_seconds))
        codes = torch.cat(parts) if parts else torch.zeros(0, keep, dtype=torch.int64)
        sizes = self.codebook_sizes[:keep]
        return Tokens.from_list([codes], self.frame_rate, sizes, self.fingerprint)

    def _encode_chunks(
        self, reader: AudioReader, keep: int, chunk_seconds: float
    ) -> Iterator[Tensor]:
        """Yield the codes ``[frames, codebooks]`` of one chunk after another."""
        yield from self.chunked(
            reader,
            chunk_seconds,
            self.receptive_field,
            lambda wavs: self.encode_batch(wavs, None, keep),
        )

    def chunked(
        self,
        reader: AudioReader,
        chunk_seconds: float,
        field: Field,
        run: Callable[[Tensor], Tensor],
    ) -> Iterator[Tensor]:
        """Apply ``run`` to overlapping chunks and yield each chunk's own frames.

        ``run`` takes ``[1, time]`` to ``[1, frames, ...]`` with ``num_frames``
        frames; ``field`` is the receptive field of ``run``, which sets the overlap.
        """
        step = max(1, round(chunk_seconds * self.frame_rate))
        sizes = self.num_frames(reader.n_samples), self.hop, step, self.min_samples
        for wav, own in overlapping_chunks(reader, *sizes, field):
            yield run(self._fill(wav.to(self.device)).unsqueeze(0))[0, own]

    @torch.no_grad()
    def decode(self, tokens: Tokens, **conditions: Any) -> tuple[Tensor, Tensor]:
        """Speech from tokens of this tokenizer.

        Arguments
        ---------
        tokens : Tokens
            Made by a tokenizer of the same fingerprint; the first few codebooks
            are enough where the model can do with less.
        **conditions
            What the vocoder needs beside the tokens, e.g. a speaker.

        Returns
        -------
        wavs : Tensor
            float32 ``[batch, time]``.
        lens : Tensor
            Relative lengths ``[batch]``.

        Raises
        ------
        DsuError
            If there is no decoder or the tokens are another tokenizer's.
        """
        self._check_decoder()
        self.check_fingerprint(tokens)
        items = tokens.to(self.device).unpad()
        wavs = [torch.zeros(0, device=self.device)] * len(items)
        # Conditions are those of one item.
        mode = "solo" if conditions or self._mode() == "solo" else "equal"
        limit = self.max_batch_seconds * self.frame_rate
        for group in group_items(tokens.counts.tolist(), mode, limit):
            if len(items[group[0]]):
                codes = torch.stack([items[i] for i in group])
                together = self.decode_batch(codes, **conditions)
                for index, wav in zip(group, together, strict=True):
                    wavs[index] = wav
        padded, counts = pad_stack(wavs)
        return padded, relative_lengths(counts, padded.shape[1])

    @torch.no_grad()
    def embed(self, tokens: Tokens) -> Tensor:
        """Vectors ``[batch, frames, dim]`` behind the tokens, zero behind each end."""
        self.check_fingerprint(tokens)
        tokens = tokens.to(self.device)
        mask = length_mask(tokens.counts, tokens.codes.shape[1])
        return self.embed_batch(tokens.codes) * mask.unsqueeze(-1)

    def check_fingerprint(self, tokens: Tokens) -> None:
        """Raise DsuError unless the tokens were made by this tokenizer."""
        if tokens.fingerprint != self.fingerprint:
            raise DsuError(
                f"tokens of another tokenizer: theirs is {tokens.fingerprint[:12]}, "
                f"this one is {self.fingerprint[:12]}; load the tokenizer they were "
                "made with"
            )

    def _check_decoder(self) -> None:
        if not self.has_decoder:
            raise DsuError(
                f"this {type(self).__name__} has no vocoder: it can't decode; choose a "
                "codec, or give it one trained on its units"
            )
