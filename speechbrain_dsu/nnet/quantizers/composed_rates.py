"""Quantizers that run slower than the frames, and streams of several rates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.codebook_base import Step, TrainedQuantizer
from speechbrain_dsu.nnet.quantizers.grouped import Product
from speechbrain_dsu.utils.errors import DsuError


class Pooled(TrainedQuantizer):
    """One set of codes for several frames, or for a whole utterance.

    Valid frames are pooled over windows, quantized, and codes and vectors repeated
    for every frame of the window: codes keep the rate of the frames, and
    ``compact`` / ``expand`` drop and restore the repetitions. A window over the
    whole utterance around a ``GroupedVQ`` gives the time-invariant codes of TiCodec
    (Ren et al., "Fewer-token Neural Speech Codec with Time-invariant Codes", 2024,
    section 2.2); a window of several frames with "max" the prosody codes of
    FreeCodec (Zheng et al., 2024).

    Arguments
    ---------
    quantizer : TrainedQuantizer
        Takes the pooled frames.
    window : int, optional
        Frames; None for the whole utterance.
    pool : "mean" or "max"
        Over the valid frames of a window.

    Raises
    ------
    DsuError
        If the window or the way of pooling is unknown.

    Example
    -------
    >>> from speechbrain_dsu.nnet.quantizers.grouped import GroupedVQ
    >>> speaker = Pooled(GroupedVQ(groups=8, size=16, dim=32))
    >>> codes = speaker.encode(torch.randn(1, 50, 32))
    >>> codes.shape, speaker.compact(codes).shape
    (torch.Size([1, 50, 8]), torch.Size([1, 1, 8]))
    """

    def __init__(
        self,
        quantizer: TrainedQuantizer,
        window: int | None = None,
        pool: str = "mean",
    ):
        if (window is not None and window < 1) or pool not in ("mean", "max"):
            raise DsuError(
                f"window={window} must be positive or None, pool={pool!r} mean or max"
            )
        super().__init__(quantizer.dim, quantizer.codebook_sizes)
        self.quantizer, self.window, self.pool = quantizer, window, pool

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"{super().extra_repr()}, window={self.window}, pool={self.pool}"

    def compact(self, codes: Tensor) -> Tensor:
        """Codes once per window: ``[batch, windows, k]``."""
        return codes[:, :: self.window or max(codes.shape[1], 1)]

    def expand(self, codes: Tensor, frames: int) -> Tensor:
        """Codes of every frame ``[batch, frames, k]`` from those of the windows."""
        return self._repeat(codes, frames)

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Start the inner quantizer on pooled frames."""
        self.quantizer.start(*self._windows(latents, valid))

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Codes of the windows, repeated."""
        pooled, used = self._windows(latents, valid)
        codes = self.quantizer.search(pooled, used, keep, exact)
        return self._repeat(codes, latents.shape[1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors of the windows, repeated."""
        vectors = self.quantizer.lookup(self.compact(codes))
        return self._repeat(vectors, codes.shape[1])

    def contributions(self, codes: Tensor) -> Tensor:
        """Vectors of each codebook, repeated."""
        vectors = self.quantizer.contributions(self.compact(codes))
        return self._repeat(vectors, codes.shape[1])

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """A step of the inner quantizer on the windows."""
        pooled, used = self._windows(latents, valid)
        step = self.quantizer.step(pooled, used, keep, drop)
        frames = latents.shape[1]
        codes = self._repeat(step.codes, frames)
        quantized = self._repeat(step.quantized, frames)
        return Step(codes, quantized, step.losses, step.seen)

    def _repeat(self, windows: Tensor, frames: int) -> Tensor:
        times = self.window or max(frames, 1)
        return windows.repeat_interleave(times, dim=1)[:, :frames]

    def _windows(
        self, latents: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Pooled frames ``[batch, windows, dim]`` and which windows are valid."""
        batch, frames, dim = latents.shape
        window = self.window or max(frames, 1)
        count = -(-frames // window)
        if valid is None:
            valid = latents.new_ones(batch, frames, dtype=torch.bool)
        missing = count * window - frames
        latents = torch.nn.functional.pad(latents, (0, 0, 0, missing))
        inside = torch.nn.functional.pad(valid, (0, missing))
        latents = latents.view(batch, count, window, dim)
        inside = inside.view(batch, count, window, 1)
        used = inside.any(2).squeeze(-1)
        if self.pool == "max":
            pooled = latents.masked_fill(~inside, -torch.inf).amax(2)
            pooled = pooled.masked_fill(~used.unsqueeze(-1), 0)
        else:
            # float64: the mean must not depend on how much padding follows.
            total = (latents.double() * inside).sum(2)
            pooled = (total / inside.sum(2).clamp(min=1)).float()
        return pooled, used


class MultiRate(Product):
    """Streams of several rates in one quantizer, and their packing.

    Zheng et al., "FreeCodec: A Disentangled Neural Speech Codec with Fewer Tokens"
    (2024): content at the frame rate, prosody at a fraction of it, the speaker once.
    Every stream quantizes its own channels; a slower one is a ``Pooled``. Codes come
    at the frame rate; ``pack`` gives what has to be sent.

    Arguments
    ---------
    quantizers : sequence of TrainedQuantizer
        The streams, in the order of their channels.

    Example
    -------
    >>> from speechbrain_dsu.nnet.quantizers.codebook import Codebook
    >>> streams = MultiRate(
    ...     [Codebook(size=16, dim=4), Pooled(Codebook(size=8, dim=2), window=7)]
    ... )
    >>> codes = streams.encode(torch.randn(1, 50, 6))
    >>> [stream.shape[1] for stream in streams.pack(codes)]
    [50, 8]
    >>> torch.equal(streams.unpack(streams.pack(codes), 50), codes)
    True
    """

    def pack(self, codes: Tensor) -> list[Tensor]:
        """Codes of each stream at its own rate.

        Arguments
        ---------
        codes : Tensor
            All codebooks at the frame rate: ``[batch, frames, codebooks]``.

        Returns
        -------
        list of Tensor
            ``[batch, windows, codebooks of the stream]``.
        """
        streams = [codes[..., self.columns(i)] for i in range(len(self.parts))]
        pairs = zip(self.parts, streams, strict=True)
        return [
            part.compact(stream) if isinstance(part, Pooled) else stream
            for part, stream in pairs
        ]

    def unpack(self, streams: Sequence[Tensor], frames: int) -> Tensor:
        """The codes that ``pack`` was given.

        Arguments
        ---------
        streams : sequence of Tensor
            One per stream.
        frames : int
            Number of frames.

        Returns
        -------
        Tensor
            ``[batch, frames, codebooks]``.
        """
        full = [
            part.expand(stream, frames) if isinstance(part, Pooled) else stream
            for part, stream in zip(self.parts, streams, strict=True)
        ]
        return self._interleave(full, len(self.codebook_sizes))
