"""A codec under the tokenizer contract, for recordings and for streams."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.codec import Codec
from speechbrain_dsu.nnet.streaming import Stream
from speechbrain_dsu.nnet.weights import arrange_weights, fold_weight_norm
from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.tokenizers.streaming import DecodeStream, TokenStream
from speechbrain_dsu.utils.audio import AudioReader
from speechbrain_dsu.utils.fingerprint import state_versions
from speechbrain_dsu.utils.lengths import length_mask


class CodecTokenizer(Tokenizer):
    """The tokens of a ``Codec``.

    Encoder and decoder run as copies for inference: in evaluation mode, weight norm
    folded, the encoder in float64. A sum in float32 depends on how many frames are
    computed together, by enough to move about one code a minute across a border
    between two; in float64 the tokens of a stream, of a batch and of one pass are the
    same. The copies follow the weights when these change.

    Arguments
    ---------
    codec : Codec
        The trained parts.
    precise : bool
        False runs the encoder in its own precision: twice as fast, but a stream's
        tokens may differ from those of one pass where two codes are equally near.

    Example
    -------
    >>> from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
    >>> from speechbrain_dsu.lobes.encoders.stft_frames import StftFrames
    >>> from speechbrain_dsu.lobes.vocoders.vocos import VocosDecoder
    >>> from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
    >>> small = {"channels": 8, "hidden": 16, "layers": 1}
    >>> encoder = ConvNextEncoder(StftFrames(), dim=4, **small)
    >>> codec = Codec(encoder, ResidualVQ(2, 16, 4), VocosDecoder(4, **small))
    >>> tokenizer = CodecTokenizer(codec).eval()
    >>> wav = 0.1 * torch.randn(4000)
    >>> tokens = tokenizer.encode(wav.unsqueeze(0))
    >>> tokens.codes.shape, tokenizer.decode(tokens)[0].shape
    (torch.Size([1, 13, 2]), torch.Size([1, 4160]))
    >>> stream = tokenizer.stream()
    >>> pieces = [stream.push(part).codes for part in wav.split(700)]
    >>> torch.equal(torch.cat([*pieces, stream.flush().codes], dim=1), tokens.codes)
    True
    """

    def __init__(self, codec: Codec, precise: bool = True):
        encoder = codec.encoder
        super().__init__(
            encoder.sample_rate,
            encoder.hop,
            codec.quantizer.codebook_sizes,
            min_samples=getattr(encoder, "min_samples", 1),
            receptive_field=encoder.receptive_field,
            frame_offset=getattr(encoder, "frame_offset", (encoder.hop - 1) / 2),
            masks_padding=getattr(encoder, "masks_padding", False),
            has_decoder=True,
        )
        self.codec = codec
        self.precise = precise
        # In float64 a batch decides no code otherwise than its items alone.
        together = any(getattr(part, "together", False) for part in codec.modules())
        self.gathers = precise and together
        # Not modules of this one: they are its weights over again.
        self._copies: dict[str, tuple[Any, nn.Module]] = {}

    def extra_repr(self) -> str:
        """Settings that decide the codes; part of the fingerprint."""
        return f"precise={self.precise}"

    @property
    def delay(self) -> int:
        """Samples that a stream of decoded audio runs behind its tokens."""
        return self.codec.decoder.delay

    @property
    def exact_long(self) -> bool:
        """Long recordings are encoded as streams: always."""
        return True

    def count_frames(self, n_samples: int) -> int:
        """Frames of the encoder."""
        return self.codec.encoder.num_frames(n_samples)

    def count_samples(self, n_frames: int) -> int:
        """Samples that ``n_frames`` frames decode to: some decoders lose a few."""
        count = getattr(self.codec.decoder, "num_samples", None)
        return n_frames * self.hop if count is None else count(n_frames)

    def encode_batch(
        self, wavs: Tensor, counts: Tensor | None, n_codebooks: int | None
    ) -> Tensor:
        """Codes of the encoder's latents."""
        if counts is not None:
            wavs = wavs * length_mask(counts, wavs.shape[1])
        return self._encode(self._encoder(), wavs, n_codebooks)

    def decode_batch(self, codes: Tensor, **conditions: Any) -> Tensor:
        """Waveforms of the decoded latents."""
        latents = self.codec.quantizer.decode(codes)
        return self._copy("decoder", latents.dtype)(latents, **conditions)

    def embed_batch(self, codes: Tensor) -> Tensor:
        """Decoded latents."""
        return self.codec.quantizer.decode(codes)

    def stream(
        self,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
        **unused: float,
    ) -> TokenStream:
        """Open a stream of samples; each frame comes when it is complete.

        Arguments
        ---------
        sample_rate : int, optional
            Of the samples in hertz; they are resampled if the model's differs.
        n_codebooks : int, optional
            Keep the first ``n_codebooks`` codebooks.
        **unused
            What only tokenizers without state need.

        Returns
        -------
        TokenStream
            Its tokens are those of one pass.
        """
        keep = self._keep(n_codebooks)
        step = self._stream_step(keep)
        return TokenStream(self, step, keep, sample_rate, self.lookahead or 0)

    def decode_stream(self) -> DecodeStream:
        """Open a stream of tokens; its samples come ``delay`` later than they could.

        Returns
        -------
        DecodeStream
            Its samples are those of ``decode``, up to rounding.
        """
        stream, quantizer = Stream(), self.codec.quantizer
        decoder = self._copy("decoder", torch.float32)

        def step(codes: Tensor, last: bool) -> Tensor:
            if len(codes):
                latents = quantizer.decode(codes.unsqueeze(0))
            else:
                latents = torch.zeros(1, 0, quantizer.dim, device=codes.device)
            with stream.active(last):
                return decoder(latents)[0]

        return DecodeStream(self, step, self.delay)

    def plain_parts(self) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder for other runtimes: folded copies in float32."""
        parts = deepcopy(self.codec.encoder), deepcopy(self.codec.decoder)
        plain = [fold_weight_norm(part).float().eval() for part in parts]
        return plain[0].requires_grad_(False), plain[1].requires_grad_(False)

    def _stream_step(self, keep: int):
        stream, encoder = Stream(), self._encoder()

        def step(samples: Tensor, last: bool) -> Tensor:
            with stream.active(last):
                return self._encode(encoder, samples.unsqueeze(0), keep)[0]

        return step

    def _encode_chunks(
        self, reader: AudioReader, keep: int, chunk_seconds: float
    ) -> Iterator[Tensor]:
        # With the state kept, no context is encoded twice.
        total = max(reader.n_samples, self.min_samples if reader.n_samples else 0)
        size = max(self.min_samples, round(chunk_seconds * self.sample_rate))
        step = self._stream_step(keep)
        for start in range(0, total, size):
            wav = reader.read(start, start + size).to(self.device)
            last = start + size >= total
            missing = total - start - len(wav) if last else 0
            yield step(nn.functional.pad(wav, (0, missing)), last)

    def _encoder(self) -> nn.Module:
        wide = self.precise and self.device.type != "mps"  # which has no float64
        return self._copy("encoder", torch.float64 if wide else torch.float32)

    def _encode(self, encoder: nn.Module, wavs: Tensor, keep: int | None) -> Tensor:
        dtype = next(encoder.parameters()).dtype
        with torch.autocast(wavs.device.type, enabled=False):
            latents = encoder(wavs.to(dtype)).float()
        if latents.shape[1] == 0:
            shape = len(latents), 0, self._keep(keep)
            return torch.zeros(shape, dtype=torch.int64, device=wavs.device)
        return self.codec.quantizer.encode(latents, keep)

    def _copy(self, part: str, dtype: torch.dtype) -> nn.Module:
        """The part as it runs: copied once and again when its weights changed."""
        module = getattr(self.codec, part)
        key = dtype, state_versions(module)
        if part not in self._copies or self._copies[part][0] != key:
            copy = fold_weight_norm(deepcopy(module)).eval().requires_grad_(False)
            self._copies[part] = key, arrange_weights(copy.to(dtype))
        return self._copies[part][1]

    def __getstate__(self) -> dict[str, Any]:
        # Neither a worker process nor a copy of this tokenizer needs the copies.
        return self.__dict__ | {"_copies": {}}
