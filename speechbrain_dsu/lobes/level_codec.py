"""A codec that learns from mel levels; its waveforms are made when they are wanted."""

from dataclasses import dataclass

from torch import Tensor

from speechbrain_dsu.lobes.codec import Codec, CodecOutput


@dataclass(frozen=True, eq=False)
class LevelOutput(CodecOutput):
    """``CodecOutput`` with the decoder's levels; in training ``audio`` is None.

    Arguments
    ---------
    levels : Tensor
        ``[batch, frames, values]``, see ``LevelDecoder.levels``.
    """

    levels: Tensor | None = None


class LevelCodec(Codec):
    """A codec whose decoder has ``levels``, such as ``LevelDecoder``.

    Phases are found without training, so training need not find them: a step takes
    a fraction of the time.

    Arguments
    ---------
    encoder, quantizer, decoder : nn.Module
        As for ``Codec``.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
    >>> from speechbrain_dsu.lobes.encoders.level_frames import LevelFrames
    >>> from speechbrain_dsu.lobes.vocoders.levels import LevelDecoder
    >>> from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
    >>> small = {"channels": 8, "hidden": 16, "layers": 1}
    >>> encoder = ConvNextEncoder(LevelFrames(phase_bins=0), dim=4, **small)
    >>> codec = LevelCodec(encoder, ResidualVQ(2, 16, 4), LevelDecoder(4, **small))
    >>> output = codec(torch.randn(2, 4000))
    >>> output.audio is None, output.levels.shape
    (True, torch.Size([2, 13, 160]))
    >>> codec.eval()(torch.randn(2, 4000)).audio.shape
    torch.Size([2, 4000])
    """

    def forward(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
        quantize: bool = True,
    ) -> LevelOutput:
        """Encode, quantize and decode a batch; arguments as for ``Codec``."""
        latents, quantized, mask = self.to_codes(wavs, lens, n_codebooks, quantize)
        levels = self.decoder.levels(quantized.quantized)
        audio = None if self.training else self.to_audio(quantized, wavs.shape[1], mask)
        return LevelOutput(audio, quantized, latents, levels)
