"""Neural codecs of transformers as tokenizers: EnCodec, Mimi, DAC, X-Codec.

Codes and audio are those that transformers gives for each utterance alone, whatever
else is in the batch. None of these models can mask padding, so a batch is run item by
item, or, on an accelerator, by groups of equal length.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers.codecs_base import TransformersCodec
from speechbrain_dsu.integrations.transformers.codecs_encodec import (
    ChunkedEncodecTokenizer,
    EncodecTokenizer,
)
from speechbrain_dsu.integrations.transformers.codecs_mimi import MimiTokenizer
from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.utils.errors import DsuError

__all__ = [
    "ChunkedEncodecTokenizer",
    "DacTokenizer",
    "EncodecTokenizer",
    "MimiTokenizer",
    "XCodecTokenizer",
]


class DacTokenizer(TransformersCodec):
    """The Descript Audio Codec (Kumar et al., 2023), at 16, 24 or 44.1 kHz.

    As the authors do, and transformers' feature extractor does, an utterance is
    continued with zeros to a whole number of hops. Convolutions only: the receptive
    field is finite on both sides and ``encode_long`` exact.

    Arguments
    ---------
    config, n_codebooks
        As in ``TransformersCodec``; any number of the first codebooks decodes.
    bandwidth : None
        DAC has no nominal bandwidths: take ``n_codebooks``.

    Example
    -------
    >>> config = {"model_type": "dac", "encoder_hidden_size": 4}
    >>> config |= {"decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 5, 8]}
    >>> dac = DacTokenizer(config, n_codebooks=2)
    >>> import torch
    >>> tokens = dac.encode(torch.randn(1, 16000))
    >>> tokens.codes.shape, dac.decode(tokens)[0].shape
    (torch.Size([1, 50, 2]), torch.Size([1, 15992]))
    """

    model_type = "dac"

    def _codebooks(self, settings: Any) -> tuple[int, int]:
        return settings.n_codebooks, settings.codebook_size

    def _numbers(self, settings: Any, model: nn.Module) -> dict[str, Any]:
        convs = (m for m in model.encoder.modules() if isinstance(m, nn.Conv1d))
        stack = ConvStack.from_modules(convs)
        # The decoder loses a sample per odd stride, which the later strides multiply.
        shape = [
            (c.stride[0], c.kernel_size[0] - c.stride[0] - 2 * c.padding[0])
            for c in model.decoder.modules()
            if isinstance(c, nn.ConvTranspose1d)
        ]
        self._upsampling = shape
        return {
            "sample_rate": settings.sampling_rate,
            "hop": stack.hop,
            "receptive_field": stack.receptive_field,
            "frame_offset": stack.frame_offset,
            "has_decoder": True,
        }

    def count_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples: the last one may be partly empty."""
        return -(-n_samples // self.hop)

    def count_samples(self, n_frames: int) -> int:
        """Samples that ``n_frames`` frames decode to."""
        for stride, extra in self._upsampling:
            n_frames = n_frames * stride + extra
        return n_frames

    def encode_batch(
        self, wavs: Tensor, counts: Tensor | None, n_codebooks: int | None
    ) -> Tensor:
        """Codes of utterances of one length."""
        wavs = F.pad(wavs, (0, -wavs.shape[1] % self.hop))
        latents = self.model.encoder(wavs.unsqueeze(1))
        codes = self.model.quantizer(latents, self._keep(n_codebooks))[1]
        return codes.transpose(1, 2)

    def decode_batch(self, codes: Tensor, **conditions: Any) -> Tensor:
        """Waveforms of codes."""
        return self.model.decoder(self.embed_batch(codes).transpose(1, 2)).squeeze(1)

    def embed_batch(self, codes: Tensor) -> Tensor:
        """Sums of the projected vectors ``[batch, frames, hidden_size]``."""
        return self.model.quantizer.from_codes(codes.transpose(1, 2))[0].transpose(1, 2)


class XCodecTokenizer(TransformersCodec):
    """X-Codec (Ye et al., 2024): acoustic and semantic features in one quantizer.

    An utterance is continued with zeros to a whole number of hops, as transformers'
    feature extractor does. A HuBERT (or WavLM) inside sees the whole utterance, so the
    receptive field has no bound and ``encode_long`` is only close to one pass.

    Arguments
    ---------
    config, n_codebooks, bandwidth
        As in ``TransformersCodec``. The published models offer 0.5, 1, 1.5, 2 and
        4 kbit/s; all codebooks (4) by default.

    Example
    -------
    >>> semantic = {"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 2}
    >>> semantic |= {"num_attention_heads": 2, "intermediate_size": 32}
    >>> semantic |= {"conv_dim": [8] * 7, "num_conv_pos_embedding_groups": 2}
    >>> acoustic = {"model_type": "dac", "encoder_hidden_size": 4, "hidden_size": 16}
    >>> acoustic |= {"decoder_hidden_size": 32, "downsampling_ratios": [8, 5, 4, 2]}
    >>> config = {"model_type": "xcodec", "semantic_model_config": semantic}
    >>> xcodec = XCodecTokenizer(config | {"acoustic_model_config": acoustic})
    >>> import torch
    >>> tokens = xcodec.encode(torch.randn(1, 16000))
    >>> tokens.codes.shape, xcodec.bitrate, xcodec.decode(tokens)[0].shape
    (torch.Size([1, 50, 8]), 4000.0, torch.Size([1, 16000]))
    """

    model_type = "xcodec"

    def _numbers(self, settings: Any, model: nn.Module) -> dict[str, Any]:
        semantic, hop = settings.semantic_model_config, int(settings.hop_length)
        pairs = zip(semantic.conv_kernel, semantic.conv_stride, strict=True)
        stack = ConvStack(Conv(kernel, stride) for kernel, stride in pairs)
        if stack.hop != hop or set(settings.strides) != {1}:
            raise DsuError(
                f"X-Codec with a hop of {hop} samples over a semantic model with a hop "
                f"of {stack.hop}"
            )
        return {
            "sample_rate": settings.sample_rate,
            "hop": hop,
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
        wavs = F.pad(wavs, (0, -wavs.shape[1] % self.hop))
        codes = self.model.encode(wavs.unsqueeze(1), return_dict=False)
        return codes[:, : self._keep(n_codebooks)].transpose(1, 2)

    def decode_batch(self, codes: Tensor, **conditions: Any) -> Tensor:
        """Waveforms of codes."""
        wavs = self.model.decode(codes.transpose(1, 2), return_dict=False)
        return wavs.squeeze(1)

    def embed_batch(self, codes: Tensor) -> Tensor:
        """Sums of the chosen vectors ``[batch, frames, codebook_dim]``."""
        return self.model.quantizer.decode(codes.permute(2, 0, 1)).transpose(1, 2)
