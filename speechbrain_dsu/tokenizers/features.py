"""Tokenizers made of features and a quantizer: dMel, MFCC or SSL layers + k-means."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.tokenizers.batching import valid_items
from speechbrain_dsu.utils.audio import AudioReader
from speechbrain_dsu.utils.errors import DsuError


class FeatureTokenizer(Tokenizer):
    """Frames of a front end, quantized one by one.

    Arguments
    ---------
    features : nn.Module
        ``lobes.features`` or ``lobes.ssl``: an object with ``sample_rate``, ``hop``,
        ``dim``, ``min_samples``, ``receptive_field``, ``frame_offset``,
        ``masks_padding``, ``num_frames(n)`` and ``forward(wavs, counts)``.
    quantizer : Quantizer
        Takes frames of ``features.dim``.
    vocoder : nn.Module, optional
        Quantized frames ``[batch, frames, dim]`` to waveforms, with
        ``num_samples(frames)``; without it the tokenizer can't decode.

    Raises
    ------
    DsuError
        If the parts don't fit together.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> from speechbrain_dsu.lobes.vocoders.griffin_lim import GriffinLim
    >>> from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
    >>> mel = LogMel(sample_rate=16000, hop=200, n_mels=80)
    >>> dmel = FeatureTokenizer(mel, UniformBins(80, 16, -11.5, 2.0), GriffinLim(mel))
    >>> tokens = dmel.encode(torch.randn(2, 16000) * 0.1, torch.tensor([1.0, 0.5]))
    >>> tokens.codes.shape, tokens.counts.tolist()
    (torch.Size([2, 81, 80]), [81, 41])
    >>> wavs, lens = dmel.decode(tokens)
    >>> wavs.shape
    torch.Size([2, 16000])
    """

    def __init__(
        self,
        features: nn.Module,
        quantizer: Quantizer,
        vocoder: nn.Module | None = None,
    ):
        if features.dim != quantizer.dim:
            raise DsuError(
                f"features of dimension {features.dim} with a quantizer of "
                f"dimension {quantizer.dim}"
            )
        super().__init__(
            features.sample_rate,
            features.hop,
            quantizer.codebook_sizes,
            min_samples=features.min_samples,
            receptive_field=features.receptive_field,
            frame_offset=features.frame_offset,
            masks_padding=features.masks_padding,
            has_decoder=vocoder is not None,
        )
        self.features = features
        self.quantizer = quantizer
        self.vocoder = vocoder

    @property
    def exact_long(self) -> bool:
        """Whether ``encode_long`` gives the tokens of one pass."""
        return super().exact_long or self._two_passes

    @property
    def _two_passes(self) -> bool:
        # Statistics of the utterance can be summed up before they are used.
        return getattr(self.features, "normalize", None) == "utterance"

    def count_frames(self, n_samples: int) -> int:
        """Frames of the front end."""
        return self.features.num_frames(n_samples)

    def encode_batch(
        self, wavs: Tensor, counts: Tensor | None, n_codebooks: int | None
    ) -> Tensor:
        """Codes of the features' frames."""
        return self.quantizer.encode(self.features(wavs, counts), n_codebooks)

    def _encode_chunks(
        self, reader: AudioReader, keep: int, chunk_seconds: float
    ) -> Iterator[Tensor]:
        size = max(1, round(chunk_seconds * self.sample_rate))
        if getattr(self.features, "normalize_signal", False) and (
            size < reader.n_samples
        ):
            # By the recording's statistics: a silent chunk's own would blow it up.
            starts = range(0, reader.n_samples, size)
            found = self.features.measure(reader.read(s, s + size) for s in starts)

            def run_scaled(wavs: Tensor) -> Tensor:
                return self.quantizer.encode(self.features(wavs, None, found), keep)

            field = self.receptive_field
            yield from self.chunked(reader, chunk_seconds, field, run_scaled)
            return
        if not self._two_passes:
            yield from super()._encode_chunks(reader, keep, chunk_seconds)
            return
        # Statistics of the utterance are not local: one pass to sum them up, one
        # more to use them, both in the memory of a chunk.
        run, field = self.features.frames, self.features.window_field
        total, square, count = 0.0, 0.0, 0
        for frames in self.chunked(reader, chunk_seconds, field, run):
            wide = frames.double()
            total, square = total + wide.sum(0), square + wide.square().sum(0)
            count += len(frames)
        if count == 0:
            return
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-5)
        for frames in self.chunked(reader, chunk_seconds, field, run):
            scaled = self.features.apply_statistics(frames, mean.float(), std.float())
            yield self.quantizer.encode(scaled.unsqueeze(0), keep)[0]

    @torch.no_grad()
    def frames(self, wav: Tensor, sample_rate: int | None = None) -> Tensor:
        """The continuous frames ``[frames, dim]`` that ``encode`` quantizes.

        For baselines that read what the units are made of.

        Arguments
        ---------
        wav : Tensor
            One recording, ``[time]``.
        sample_rate : int, optional
            Of ``wav`` in hertz; it is resampled if the model's differs.

        Returns
        -------
        Tensor
            As many as there are tokens.
        """
        items = valid_items(wav[None], None, sample_rate, self.sample_rate)
        wav = self._fill(items[0].to(self.device))
        if not len(items[0]):
            return wav.new_zeros(0, self.features.dim)
        return self.features(wav[None], None)[0]

    def count_samples(self, n_frames: int) -> int:
        """Samples of the vocoder."""
        return self.vocoder.num_samples(n_frames)

    def decode_batch(self, codes: Tensor, **conditions: Any) -> Tensor:
        """Waveforms of the quantized frames."""
        return self.vocoder(self.quantizer.decode(codes), **conditions)

    def embed_batch(self, codes: Tensor) -> Tensor:
        """Quantized frames."""
        return self.quantizer.decode(codes)
