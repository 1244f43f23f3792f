"""EnCodec, for whole utterances (24 kHz) and in chunks (48 kHz)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers.codecs_base import TransformersCodec
from speechbrain_dsu.nnet.convolution import ConvStack
from speechbrain_dsu.tokenizers.base import valid_items
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import AudioReader
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import pad_stack, relative_lengths


def conv_stack(layers: nn.Module, causal: bool) -> ConvStack:
    """Lengths of an EnCodec-like encoder: its convolutions but the shortcuts."""
    convs = [
        part
        for name, part in layers.named_modules()
        if isinstance(part, nn.Conv1d) and "shortcut" not in name
    ]
    return ConvStack.from_modules(convs, causal=causal)


class EncodecTokenizer(TransformersCodec):
    """EnCodec as published for 24 kHz (Défossez et al., 2022).

    Codes and audio are those of transformers for the utterance alone. The LSTM sees
    everything before a frame, so the receptive field has no left bound, yet
    ``encode_long`` is exact: it carries the LSTM's state from chunk to chunk. The
    first frames see a little of what follows (padding by reflection).

    Arguments
    ---------
    config, n_codebooks, bandwidth
        As in ``TransformersCodec``. 24 kHz offers 1.5, 3, 6, 12 and 24 kbit/s; all
        codebooks (24) by default.

    Raises
    ------
    DsuError
        If the configuration works in chunks (use ``ChunkedEncodecTokenizer``).

    Example
    -------
    >>> config = {"model_type": "encodec", "num_filters": 2, "hidden_size": 8}
    >>> encodec = EncodecTokenizer(config, bandwidth=6.0)
    >>> tokens = encodec.encode(torch.randn(1, 24000))
    >>> tokens.codes.shape, encodec.bitrate, encodec.decode(tokens)[0].shape
    (torch.Size([1, 75, 8]), 6000.0, torch.Size([1, 24000]))
    """

    model_type = "encodec"
    _chunked = False

    def _numbers(self, settings: Any, model: nn.Module) -> dict[str, Any]:
        if (settings.chunk_length_s is not None) != self._chunked:
            other = "EncodecTokenizer" if self._chunked else "ChunkedEncodecTokenizer"
            raise DsuError(
                f"chunk_length_s={settings.chunk_length_s}: that is for {other}"
            )
        if settings.normalize and not self._chunked:
            raise DsuError("normalize=True needs chunk_length_s in the configuration")
        self._channels = settings.audio_channels
        hop = int(settings.hop_length)
        # Reflection at the start: frame 0 sees the frames below the last kernel.
        mirrored = settings.pad_mode == "reflect"
        right = hop * (settings.last_kernel_size + 1 if mirrored else 1)
        causal = settings.use_causal_conv and settings.norm_type == "weight_norm"
        return {
            "sample_rate": settings.sampling_rate,
            "hop": hop,
            "receptive_field": (None, right if causal else None),
            "frame_offset": (hop - 1) / 2,
            "has_decoder": True,
        }

    @property
    def exact_long(self) -> bool:
        """Whether ``encode_long`` gives the tokens of one pass."""
        return self.receptive_field[1] is not None

    def count_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples: the last one may be partly empty."""
        return -(-n_samples // self.hop)

    def encode_batch(
        self, wavs: Tensor, counts: Tensor | None, n_codebooks: int | None
    ) -> Tensor:
        """Codes of utterances of one length."""
        return self._quantize(self.model.encoder(self._spread(wavs)), n_codebooks)

    def _spread(self, wavs: Tensor) -> Tensor:
        return wavs.unsqueeze(1).expand(-1, self._channels, -1)

    def _quantize(self, latents: Tensor, n_codebooks: int | None) -> Tensor:
        codes, residual = [], latents
        for layer in self.model.quantizer.layers[: self._keep(n_codebooks)]:
            found = layer.encode(residual)
            residual = residual - layer.decode(found)
            codes.append(found)
        return torch.stack(codes, dim=-1)

    def decode_batch(self, codes: Tensor, **conditions: Any) -> Tensor:
        """Waveforms; of two channels, their mean."""
        latents = self.embed_batch(codes).transpose(1, 2)
        return self.model.decoder(latents).mean(1)

    def embed_batch(self, codes: Tensor) -> Tensor:
        """Sums of the chosen vectors ``[batch, frames, hidden_size]``."""
        return self.model.quantizer.decode(codes.permute(2, 0, 1)).transpose(1, 2)

    def _encode_chunks(
        self, reader: AudioReader, keep: int, chunk_seconds: float
    ) -> Iterator[Tensor]:
        total = self.num_frames(reader.n_samples)
        if not self.exact_long or total <= chunk_seconds * self.frame_rate:
            yield from super()._encode_chunks(reader, keep, chunk_seconds)
            return
        layers = self.model.encoder.layers
        at = next(i for i, layer in enumerate(layers) if hasattr(layer, "lstm"))
        front, lstm, rear = layers[:at], layers[at].lstm, layers[at + 1 :]
        left, right = conv_stack(front, causal=True).receptive_field
        # Where the start is reflected, a frame sees as far ahead as it would behind.
        field = (left, right + left)
        context = sum(layer.left for layer in conv_stack(rear, causal=True).layers)

        def run(wavs: Tensor) -> Tensor:
            hidden = self._spread(wavs)
            for layer in front:
                hidden = layer(hidden)
            return hidden.transpose(1, 2)

        state, seen, done, kept = None, 0, 0, None
        for part in self.chunked(reader, chunk_seconds, field, run):
            out, state = lstm(part.unsqueeze(1), state)
            out = out.squeeze(1) + part
            kept = out if kept is None else torch.cat([kept, out])
            seen += len(part)
            if done == 0 and len(kept) <= context and seen < total:
                continue  # Too little to reflect: wait for the next chunk.
            hidden = kept.t().unsqueeze(0)
            for layer in rear:
                hidden = layer(hidden)
            fresh = hidden[..., len(kept) - (seen - done) :]
            yield self._quantize(fresh, keep)[0]
            done, kept = seen, kept[max(len(kept) - context, 0) :]


class ChunkedEncodecTokenizer(EncodecTokenizer):
    """EnCodec as published for 48 kHz: stereo, normalised chunks that overlap by 1 %.

    Chunks of a second begin every 0.99 s, each divided by its own loudness and
    encoded by itself; their frames follow one another, so there are 151.5 frames per
    second of audio (``frame_rate``), and ``frame_times`` is not even. A mono signal
    goes to both channels; the decoded channels are averaged.

    The tokens don't hold the loudness of the chunks. ``decode`` brings every chunk to
    ``level``; to keep the loudness, take ``encode_with_scales`` and pass the scales to
    ``decode``, which then gives transformers' own audio.

    Where an utterance ends at most 320 samples behind the start of a chunk, zeros are
    appended up to 321: with less the last chunk would end before the one it overlaps,
    or the one before would not be full and the tokens would not say where chunks begin
    (transformers stops with an error in these cases).

    Arguments
    ---------
    config, n_codebooks, bandwidth
        As in ``TransformersCodec``. 48 kHz offers 3, 6, 12 and 24 kbit/s (nominal, for
        150 frames per second).

    Example
    -------
    >>> config = {"model_type": "encodec", "num_filters": 2, "hidden_size": 8}
    >>> config |= {"sampling_rate": 48000, "audio_channels": 2, "normalize": True}
    >>> config |= {"chunk_length_s": 1.0, "overlap": 0.01}
    >>> config |= {"norm_type": "time_group_norm", "use_causal_conv": False}
    >>> encodec = ChunkedEncodecTokenizer(config, n_codebooks=4)
    >>> tokens, scales = encodec.encode_with_scales(0.1 * torch.randn(1, 100_000))
    >>> tokens.codes.shape, scales.shape
    (torch.Size([1, 316, 4]), torch.Size([1, 3]))
    >>> encodec.decode(tokens, scales=scales)[0].shape
    torch.Size([1, 100160])
    """

    level = 0.1
    """Root mean square of each chunk that is decoded without its scale."""

    _chunked = True

    def _numbers(self, settings: Any, model: nn.Module) -> dict[str, Any]:
        numbers = super()._numbers(settings, model)
        self._chunk = settings.chunk_length
        self._stride = settings.chunk_stride or self._chunk
        self._frames = -(-self._chunk // numbers["hop"])
        self._normalize = settings.normalize
        return numbers | {"receptive_field": (None, None)}

    @property
    def frame_rate(self) -> float:
        """Frames per second of audio, those of the overlaps included."""
        return self.sample_rate * self._frames / self._stride

    @property
    def exact_long(self) -> bool:
        """Chunks are encoded by themselves: always."""
        return True

    def _filled(self, n_samples: int) -> int:
        """Samples including the zeros that make the last chunk reach far enough."""
        chunks = -(-n_samples // self._stride)
        if chunks < 2:
            return n_samples
        # The chunk before must be full, and must not end behind the last one.
        before = (chunks - 2) * self._stride + (self._frames - 1) * self.hop + 1
        least = -(-(self._frames * self.hop - self._stride) // self.hop)
        last = (chunks - 1) * self._stride + (least - 1) * self.hop + 1
        return max(n_samples, before, last)

    def count_frames(self, n_samples: int) -> int:
        """Frames of all chunks."""
        first = (-(-n_samples // self._stride) - 1) * self._stride
        last = -(-(self._filled(n_samples) - first) // self.hop)
        return first // self._stride * self._frames + last

    def frame_times(self, n_samples: int) -> Tensor:
        """Centre of each frame in seconds; those of an overlap come twice."""
        index = torch.arange(self.num_frames(n_samples), dtype=torch.float64)
        chunk = index.div(self._frames, rounding_mode="floor")
        within = (index - chunk * self._frames) * self.hop
        return (chunk * self._stride + within + self.frame_offset) / self.sample_rate

    def count_samples(self, n_frames: int) -> int:
        """Samples that ``n_frames`` frames decode to."""
        chunks = -(-n_frames // self._frames)
        last = n_frames - (chunks - 1) * self._frames
        return (chunks - 1) * self._stride + last * self.hop

    def _cut(self, wavs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks ``[batch, channels, time]``, normalised, and their scales."""
        n_samples = wavs.shape[1]
        wavs = nn.functional.pad(wavs, (0, self._filled(n_samples) - n_samples))
        for start in range(0, n_samples, self._stride):
            chunk = self._spread(wavs[:, start : start + self._chunk])
            scale = torch.ones(len(wavs), 1, 1, device=wavs.device)
            if self._normalize:
                mono = chunk.sum(1, keepdim=True) / chunk.shape[1]
                scale = mono.pow(2).mean(-1, keepdim=True).sqrt() + 1e-8
            yield chunk / scale, scale.view(-1)

    def encode_batch(
        self, wavs: Tensor, counts: Tensor | None, n_codebooks: int | None
    ) -> Tensor:
        """Codes of utterances of one length, chunk by chunk."""
        parts = [
            self._quantize(self.model.encoder(chunk), n_codebooks)
            for chunk, _ in self._cut(wavs)
        ]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def encode_with_scales(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
    ) -> tuple[Tokens, Tensor]:
        """Tokens, and the loudness of each chunk for ``decode``.

        Arguments
        ---------
        wavs, lens, sample_rate, n_codebooks
            As for ``encode``.

        Returns
        -------
        tokens : Tokens
            As from ``encode``.
        scales : Tensor
            float32 ``[batch, chunks]``, 1 behind an item's last chunk.
        """
        tokens = self.encode(wavs, lens, sample_rate, n_codebooks)
        items = valid_items(wavs.to(self.device), lens, sample_rate, self.sample_rate)
        rows = [[scale for _, scale in self._cut(item.unsqueeze(0))] for item in items]
        rows = [torch.cat(row) if row else torch.ones(0) for row in rows]
        scales = torch.nn.utils.rnn.pad_sequence(rows, True, 1.0)
        return tokens, scales

    @torch.no_grad()
    def decode(
        self, tokens: Tokens, scales: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Speech from tokens.

        Arguments
        ---------
        tokens : Tokens
            Of this tokenizer.
        scales : Tensor, optional
            ``[batch, chunks]`` from ``encode_with_scales``; None: every chunk gets
            the loudness ``level``.

        Returns
        -------
        wavs : Tensor
            float32 ``[batch, time]``.
        lens : Tensor
            Relative lengths ``[batch]``.
        """
        if scales is None or not len(tokens):
            return super().decode(tokens)
        chunks = -(-tokens.codes.shape[1] // self._frames)
        if scales.shape != (len(tokens), chunks):
            raise DsuError(
                f"scales {list(scales.shape)} for {len(tokens)} items of up to "
                f"{chunks} chunks: take them from encode_with_scales"
            )
        pairs = zip(tokens, scales.to(self.device), strict=True)
        wavs = [TransformersCodec.decode(self, t, scales=s)[0][0] for t, s in pairs]
        padded, counts = pad_stack(wavs)
        return padded, relative_lengths(counts, padded.shape[1])

    def decode_batch(
        self, codes: Tensor, scales: Tensor | None = None, **conditions: Any
    ) -> Tensor:
        """Waveform of one utterance, its chunks faded into one another."""
        default = self.level if self._normalize else 1.0
        parts = []
        for index, part in enumerate(codes.split(self._frames, dim=1)):
            latents = self.embed_batch(part).transpose(1, 2)
            scale = default if scales is None else scales[index]
            parts.append(self.model.decoder(latents) * scale)
        return self.model._linear_overlap_add(parts, self._stride).mean(1)

    def _encode_chunks(
        self, reader: AudioReader, keep: int, chunk_seconds: float
    ) -> Iterator[Tensor]:
        total = reader.n_samples
        step = max(1, round(chunk_seconds * self.sample_rate / self._stride))
        for start in range(0, total, step * self._stride):
            # All that this piece's own chunks see, and the start of the next one
            # where the utterance goes on: so each but the last chunk is full.
            stop = start + step * self._stride
            final = stop >= total
            ahead = self._chunk - self._stride
            if not final:
                ahead = min(ahead, total - stop)
            wav = reader.read(start, total if final else stop + ahead)
            wav = wav.to(self.device).unsqueeze(0)
            parts = [
                self._quantize(self.model.encoder(chunk), keep)[0]
                for chunk, _ in self._cut(wav)
            ]
            yield torch.cat(parts if final else parts[:step])
