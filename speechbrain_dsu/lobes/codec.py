"""A neural codec: encoder, quantizer and decoder as one trainable module."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantized, Quantizer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)


@dataclass(frozen=True, eq=False)
class CodecOutput:
    """What a codec makes of a batch.

    Arguments
    ---------
    audio : Tensor
        ``[batch, time]``, as long as the input and in step with it; zero behind each
        item's end.
    quantized : Quantized
        Codes, quantized latents, losses and usage.
    latents : Tensor
        What was quantized: ``[batch, frames, dim]``.
    """

    audio: Tensor
    quantized: Quantized
    latents: Tensor


class Codec(nn.Module):
    """Waveforms to codes and back, with gradients.

    Arguments
    ---------
    encoder : nn.Module
        ``[batch, time]`` to latents ``[batch, frames, dim]``; has ``sample_rate``,
        ``hop``, ``dim``, ``causal``, ``receptive_field`` and ``num_frames(n)``.
    quantizer : Quantizer
        Takes latents of ``encoder.dim``.
    decoder : nn.Module
        Latents to waveforms ``[batch, frames * hop]``; has ``sample_rate``, ``hop``
        and ``delay``, the samples that a stream runs behind; ``num_samples(frames)``
        where it gives fewer.

    Raises
    ------
    DsuError
        If the parts don't fit together.

    Example
    -------
    >>> from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
    >>> from speechbrain_dsu.lobes.encoders.stft_frames import StftFrames
    >>> from speechbrain_dsu.lobes.vocoders.vocos import VocosDecoder
    >>> from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
    >>> small = {"channels": 8, "hidden": 16, "layers": 1}
    >>> encoder = ConvNextEncoder(StftFrames(), dim=4, **small)
    >>> codec = Codec(encoder, ResidualVQ(2, 16, 4), VocosDecoder(4, **small))
    >>> output = codec(torch.randn(2, 4000))
    >>> output.audio.shape, output.quantized.codes.shape
    (torch.Size([2, 4000]), torch.Size([2, 13, 2]))
    """

    def __init__(self, encoder: nn.Module, quantizer: Quantizer, decoder: nn.Module):
        super().__init__()
        rates = (encoder.sample_rate, encoder.hop), (decoder.sample_rate, decoder.hop)
        if encoder.dim != quantizer.dim or rates[0] != rates[1]:
            raise DsuError(
                f"an encoder of dim={encoder.dim} at (sample_rate, hop)={rates[0]} "
                f"with a quantizer of dim={quantizer.dim} and a decoder at {rates[1]}"
            )
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder

    @property
    def sample_rate(self) -> int:
        """Of the audio on both sides, in hertz."""
        return self.encoder.sample_rate

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.encoder.hop

    def forward(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
        quantize: bool = True,
    ) -> CodecOutput:
        """Encode, quantize and decode a batch.

        Arguments
        ---------
        wavs : Tensor
            float ``[batch, time]`` in [-1, 1], of any length.
        lens : Tensor, optional
            Relative lengths ``[batch]``; what lies behind them counts nowhere. (The
            decoder still overlaps its windows there with an item's last samples.)
        n_codebooks : int, optional
            Use the first ``n_codebooks`` codebooks, for all items.
        quantize : bool
            False: decode the latents as they are, as a training may begin; there are
            no codes then, and the quantizer sees nothing.

        Returns
        -------
        CodecOutput
            Audio as long as ``wavs``.
        """
        latents, quantized, mask = self.to_codes(wavs, lens, n_codebooks, quantize)
        audio = self.to_audio(quantized, wavs.shape[1], mask)
        return CodecOutput(audio, quantized, latents)

    def to_codes(
        self,
        wavs: Tensor,
        lens: Tensor | None,
        n_codebooks: int | None,
        quantize: bool = True,
    ) -> tuple[Tensor, Quantized, Tensor | None]:
        """The first half of ``forward``: latents, what the quantizer made of them,
        and the mask of valid samples (None without ``lens``)."""
        size, mask = wavs.shape[1], None
        if lens is not None:
            counts = absolute_lengths(lens, size).to(wavs.device)
            mask = length_mask(counts, size)
            wavs = wavs * mask
            frames = [self.encoder.num_frames(n) for n in counts.tolist()]
            total = self.encoder.num_frames(size)
            lens = relative_lengths(torch.tensor(frames), total).to(wavs.device)
        latents = self.encoder(wavs)
        if quantize:
            quantized = self.quantizer(latents, lens, n_codebooks)
        else:
            codes = torch.zeros(*latents.shape[:2], 0, dtype=torch.int64)
            quantized = Quantized(codes.to(latents.device), latents, {}, ())
        return latents, quantized, mask

    def to_audio(self, quantized: Quantized, size: int, mask: Tensor | None) -> Tensor:
        """The second half of ``forward``: audio ``[batch, size]``."""
        audio = self.decoder(quantized.quantized)
        # Whole frames are longer than the input, DAC's a little shorter.
        audio = nn.functional.pad(audio, (0, size - audio.shape[1]))
        return audio if mask is None else audio * mask
