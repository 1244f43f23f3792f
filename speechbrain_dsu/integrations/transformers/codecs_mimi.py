"""Mimi, the streaming codec of Moshi."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers.codecs_base import TransformersCodec
from speechbrain_dsu.integrations.transformers.codecs_encodec import conv_stack
from speechbrain_dsu.utils.audio import AudioReader
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.optional import require


class MimiTokenizer(TransformersCodec):
    """Mimi (Défossez et al., "Moshi", 2024): 12.5 frames per second, causal.

    Codebook 0 is semantic (distilled from WavLM), the others are a residual
    quantizer of their own. Codes and audio are those of transformers for the
    utterance alone. Attention reaches 10 s back in each layer, 80 s in all;
    ``encode_long`` carries keys and values along instead of computing them again.

    Arguments
    ---------
    config, n_codebooks
        As in ``TransformersCodec``. The published model has 32 codebooks, of which
        Moshi uses 8.
    bandwidth : None
        Mimi has no nominal bandwidths: take ``n_codebooks``.

    Example
    -------
    >>> config = {"model_type": "mimi", "num_filters": 2, "hidden_size": 16}
    >>> config |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    >>> config |= {"intermediate_size": 32, "upsample_groups": 16}
    >>> mimi = MimiTokenizer(config, n_codebooks=8)
    >>> tokens = mimi.encode(torch.randn(1, 24000))
    >>> tokens.codes.shape, mimi.frame_rate, mimi.bitrate, mimi.causal
    (torch.Size([1, 13, 8]), 12.5, 1100.0, True)
    """

    model_type = "mimi"

    def _numbers(self, settings: Any, model: nn.Module) -> dict[str, Any]:
        if not settings.use_causal_conv or settings.audio_channels != 1:
            raise DsuError("Mimi is causal and has one channel: use_causal_conv=True")
        encoder = model.encoder
        seanet = conv_stack(encoder.encoder_seanet, causal=True)
        left = seanet.receptive_field[0]
        left += settings.num_hidden_layers * (settings.sliding_window - 1) * seanet.hop
        hop = seanet.hop
        if encoder.downsample is not None:
            down = encoder.downsample.conv
            left += (down.kernel_size[0] - down.stride[0]) * seanet.hop
            hop *= down.stride[0]
        return {
            "sample_rate": settings.sampling_rate,
            "hop": hop,
            "receptive_field": (left, hop),
            "frame_offset": (hop - 1) / 2,
            "has_decoder": True,
        }

    def count_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples: the last one may be partly empty."""
        return -(-n_samples // self.hop)

    def encode_batch(
        self, wavs: Tensor, counts: Tensor | None, n_codebooks: int | None
    ) -> Tensor:
        """Codes of utterances of one length."""
        latents = self.model.encoder(wavs.unsqueeze(1), use_streaming=False).latents
        return self._quantize(latents, n_codebooks)

    def _quantize(self, latents: Tensor, n_codebooks: int | None) -> Tensor:
        self._forget_codebooks()
        keep, quantizer = self._keep(n_codebooks), self.model.quantizer
        asked = max(keep, quantizer.num_semantic_quantizers)
        return quantizer.encode(latents, asked)[:keep].permute(1, 2, 0)

    def decode_batch(self, codes: Tensor, **conditions: Any) -> Tensor:
        """Waveforms of codes."""
        latents = self.embed_batch(codes).transpose(1, 2)
        return self.model.decoder(latents).audio_values.squeeze(1)

    def embed_batch(self, codes: Tensor) -> Tensor:
        """Latents ``[batch, frames, hidden_size]`` of codes."""
        self._forget_codebooks()
        return self.model.quantizer.decode(codes.transpose(1, 2)).transpose(1, 2)

    def _forget_codebooks(self) -> None:
        # transformers keeps each codebook's vectors in a plain attribute from their
        # first use on: they would survive new weights and a move to another device.
        for part in self.model.quantizer.modules():
            if "_embed" in vars(part):
                part._embed = None

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._forget_codebooks()
        return self

    def _encode_chunks(
        self, reader: AudioReader, keep: int, chunk_seconds: float
    ) -> Iterator[Tensor]:
        if self.num_frames(reader.n_samples) <= chunk_seconds * self.frame_rate:
            yield from super()._encode_chunks(reader, keep, chunk_seconds)
            return
        cache = require("transformers.cache_utils", "hf", type(self).__name__)
        encoder = self.model.encoder
        seanet = conv_stack(encoder.encoder_seanet, causal=True)
        factor = self.hop // seanet.hop
        past = cache.DynamicCache(config=encoder.encoder_transformer.config)
        left = seanet.num_frames(reader.n_samples)
        context = None

        def run(wavs: Tensor) -> Tensor:
            hidden = encoder.encoder_seanet(wavs.unsqueeze(1)).transpose(1, 2)
            hidden = F.pad(hidden, (0, 0, 0, -hidden.shape[1] % factor))
            return hidden.unflatten(1, (-1, factor))

        field = seanet.receptive_field[0], self.hop
        for part in self.chunked(reader, chunk_seconds, field, run):
            hidden = part.flatten(0, 1)[:left].unsqueeze(0)
            left -= hidden.shape[1]
            out = encoder.encoder_transformer(
                hidden, past_key_values=past, use_cache=True
            )
            hidden = out.last_hidden_state.transpose(1, 2)
            if encoder.downsample is not None:
                hidden, context = _downsample(encoder.downsample, hidden, context)
            yield self._quantize(hidden, keep)[0]


def _downsample(
    layer: nn.Module, hidden: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A chunk through Mimi's last convolution, and what the next chunk needs of it."""
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    if context is None:
        context = hidden[..., :1].expand(-1, -1, kernel - stride)
    hidden = torch.cat([context, hidden], dim=-1)
    missing = -(hidden.shape[-1] - kernel) % stride
    filled = torch.cat([hidden, hidden[..., -1:].expand(-1, -1, missing)], dim=-1)
    return layer.conv(filled), hidden[..., stride - kernel :]
