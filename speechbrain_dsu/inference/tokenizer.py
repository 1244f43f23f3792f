"""``UnitTokenizer``: speech to tokens and back in three lines."""

from pathlib import Path

from torch import Tensor, nn

from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.tokenizers.streaming import DecodeStream, TokenStream
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError


class UnitTokenizer(Interface):
    """A tokenizer from a bundle.

    In another recipe's YAML it takes two lines::

        tokenizer: !apply:speechbrain_dsu.inference.tokenizer.UnitTokenizer.from_hparams
            source: dmel

    and in a data pipeline, where ``DataLoader`` workers each get a copy::

        @sb.utils.data_pipeline.takes("wav")
        @sb.utils.data_pipeline.provides("tokens")
        def tokenize(path):
            return hparams["tokenizer"].encode_file(path).codes[0]

    Arguments
    ---------
    *args, **kwargs
        See ``Interface``; the modules must have ``tokenizer``.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
    >>> from speechbrain_dsu.tokenizers.features import FeatureTokenizer
    >>> mel = LogMel(sample_rate=16000, hop=200, n_mels=80)
    >>> dmel = FeatureTokenizer(mel, UniformBins(80, 16, -11.5, 2.0))
    >>> units = UnitTokenizer({"tokenizer": dmel}, run_opts={"device": "cpu"})
    >>> units.encode_batch(torch.zeros(2, 8000)).codes.shape
    torch.Size([2, 41, 80])
    """

    MODULES_NEEDED = ["tokenizer"]

    def encode_file(self, path: str | Path, n_codebooks: int | None = None) -> Tokens:
        """Tokens of an audio file of any length, a batch of one.

        The file is read piece by piece at the tokenizer's own rate, so memory does
        not grow with it.

        Raises
        ------
        AudioError
            If the file is missing, damaged or not audio.
        """
        with self.inference_ctx:
            return self.mods.tokenizer.encode_long(path, n_codebooks=n_codebooks)

    def encode_batch(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
    ) -> Tokens:
        """Tokens of ``wavs [batch, time]`` with relative ``lens [batch]``.

        Audio of another ``sample_rate`` is resampled; without it, ``wavs`` are taken
        to have the tokenizer's.
        """
        with self.inference_ctx:
            return self.mods.tokenizer.encode(wavs, lens, sample_rate, n_codebooks)

    def forward(self, wavs: Tensor, lens: Tensor | None = None, **options) -> Tokens:
        """The same as ``encode_batch``."""
        return self.encode_batch(wavs, lens, **options)

    def decode(self, tokens: Tokens, **conditions) -> tuple[Tensor, Tensor]:
        """Speech ``[batch, time]`` and relative lengths from this tokenizer's tokens.

        Raises
        ------
        DsuError
            If the tokens are another tokenizer's (the message names both), or there
            is no vocoder.
        """
        with self.inference_ctx:
            return self.mods.tokenizer.decode(tokens, **conditions)

    decode_batch = decode

    def decode_file(self, tokens: Tokens, out: str | Path, **conditions) -> None:
        """Write the speech of one item's tokens; the suffix says the format."""
        if len(tokens) != 1:
            raise DsuError(
                f"{out}: one file takes the tokens of one item, got {len(tokens)}: "
                "loop over the batch"
            )
        wavs, _ = self.decode(tokens[0], **conditions)
        write_audio(out, wavs[0], self.sample_rate)

    def stream(
        self,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
        **options: float,
    ) -> TokenStream:
        """Open a stream: ``push(samples [time])`` and ``flush()`` give tokens.

        A codec gives each frame when it is complete. Other tokenizers compute frames
        anew with the context they need; their seconds of ``chunk``, ``context`` and
        ``lookahead`` are ``options`` (see ``Tokenizer.stream``). The stream says its
        ``lookahead`` in samples and whether its tokens are ``exact``ly those of one
        pass.
        """
        return self.mods.tokenizer.stream(sample_rate, n_codebooks, **options)

    def decode_stream(self) -> DecodeStream:
        """Open a stream: ``push(tokens)`` and ``flush()`` give samples ``[time]``.

        Raises
        ------
        DsuError
            If the decoder takes whole utterances only.
        """
        return self.mods.tokenizer.decode_stream()

    def embed(self, tokens: Tokens) -> Tensor:
        """Vectors ``[batch, frames, dim]`` behind the tokens."""
        return self.mods.tokenizer.embed(tokens)

    @property
    def features(self) -> nn.Module:
        """What gives the frames that are quantized, frozen: ``(wavs, counts)`` to
        ``[batch, frames, dim]``. A teacher for other trainings.

        Raises
        ------
        DsuError
            If the tokenizer is a codec.
        """
        tokenizer = self.mods.tokenizer
        if not hasattr(tokenizer, "features"):
            raise DsuError(f"{type(tokenizer).__name__} has no frames to learn from")
        return tokenizer.features

    @property
    def sample_rate(self) -> int:
        """Of the audio it takes, in hertz."""
        return self.mods.tokenizer.sample_rate

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.mods.tokenizer.hop

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.mods.tokenizer.frame_rate

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of ids of each codebook."""
        return self.mods.tokenizer.codebook_sizes

    @property
    def bitrate(self) -> float:
        """Nominal bits per second with all codebooks."""
        return self.mods.tokenizer.bitrate

    @property
    def fingerprint(self) -> str:
        """Content hash of everything that decides the ids."""
        return self.mods.tokenizer.fingerprint

    @property
    def has_decoder(self) -> bool:
        """Whether ``decode`` works."""
        return self.mods.tokenizer.has_decoder

    def num_frames(self, n_samples: int) -> int:
        """Exact number of frames of an utterance of ``n_samples`` samples."""
        return self.mods.tokenizer.num_frames(n_samples)

    def num_samples(self, n_frames: int) -> int:
        """Exact number of samples that ``n_frames`` frames decode to."""
        return self.mods.tokenizer.num_samples(n_frames)

    def frame_times(self, n_samples: int) -> Tensor:
        """Centre of each frame, in seconds."""
        return self.mods.tokenizer.frame_times(n_samples)
