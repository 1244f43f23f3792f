"""Tokens of a signal that arrives in pieces, and the way back."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechbrain_dsu.tokenizers.batching import Field
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling_stream import StreamResampler

Step = Callable[[Tensor, bool], Tensor]
"""Samples ``[time]`` and whether they are the last, to codes ``[frames, k]``."""


class TokenStream:
    """Samples in, tokens out, as early as the tokenizer can say them.

    Made by ``Tokenizer.stream``. The tokens of all pushes and of the flush, joined,
    are those of ``Tokenizer.encode`` on the whole signal, however it was cut.

    Arguments
    ---------
    tokenizer : Tokenizer
        Gives rates, sizes and the fingerprint.
    step : callable
        What turns the next samples into the next codes.
    keep : int
        Number of codebooks.
    sample_rate : int, optional
        Of the samples in hertz; the tokenizer's if not given.
    lookahead : int
        Samples behind a frame's own hop that it waits for.
    exact : bool
        False if tokens may differ from those of one pass.
    """

    def __init__(
        self,
        tokenizer: "StreamsTokens",
        step: Step,
        keep: int,
        sample_rate: int | None = None,
        lookahead: int = 0,
        exact: bool = True,
    ):
        self.lookahead, self.exact = lookahead, exact
        self._tokenizer, self._step = tokenizer, step
        self._sizes = tokenizer.codebook_sizes[:keep]
        self._fingerprint = tokenizer.fingerprint
        self._device = tokenizer.device
        self._resampler = None
        if sample_rate not in (None, tokenizer.sample_rate):
            self._resampler = StreamResampler(sample_rate, tokenizer.sample_rate)
        # The model takes min_samples at least: until then they are held back.
        self._held: Tensor | None = torch.zeros(0)
        self._ended = False

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tokens:
        """The tokens that these samples complete.

        Arguments
        ---------
        samples : Tensor
            Floating point ``[time]`` in [-1, 1]; any number, none included.

        Returns
        -------
        Tokens
            A batch of one; often without frames.

        Raises
        ------
        DsuError
            If they are no such samples or the stream has ended.
        """
        if self._ended:
            raise DsuError("this stream was flushed: open a new one")
        if samples.ndim != 1 or not samples.is_floating_point():
            raise DsuError(
                "a stream takes floating point [time] in [-1, 1], got "
                f"{samples.dtype} {list(samples.shape)}"
            )
        if not bool(samples.isfinite().all()):
            raise DsuError("the stream's samples hold NaN or infinity")
        samples = samples.detach().to(self._device).float()
        if self._resampler is not None:
            samples = self._resampler.push(samples)
        return self._advance(samples, last=False)

    @torch.no_grad()
    def flush(self) -> Tokens:
        """The tokens that were waiting for more; ends the stream."""
        if self._ended:
            raise DsuError("this stream was flushed before: open a new one")
        rest = torch.zeros(0, device=self._device)
        if self._resampler is not None:
            rest = self._resampler.flush().to(rest.device)
        found = self._advance(rest, last=True)
        self._ended = True
        return found

    def _advance(self, samples: Tensor, last: bool) -> Tokens:
        if self._held is not None:
            samples = torch.cat([self._held.to(samples.device), samples])
            missing = self._tokenizer.min_samples - len(samples)
            if missing > 0 and not last:
                self._held = samples
                return self._tokens(torch.zeros(0, len(self._sizes), dtype=torch.int64))
            if missing > 0 and len(samples):
                samples = torch.nn.functional.pad(samples, (0, missing))
            self._held = None
        return self._tokens(self._step(samples, last))

    def _tokens(self, codes: Tensor) -> Tokens:
        rate = self._tokenizer.frame_rate
        return Tokens.from_list([codes], rate, self._sizes, self._fingerprint)


class DecodeStream:
    """Tokens in, samples out. Made by ``decode_stream`` of a codec's tokenizer.

    The samples of all pushes and of the flush, joined, are those of ``decode``.

    Arguments
    ---------
    tokenizer : Tokenizer
        Whose tokens these are.
    step : callable
        Codes ``[frames, k]`` and whether they are the last, to samples ``[time]``.
    delay : int
        Samples that come later than their frame.
    """

    def __init__(self, tokenizer: "StreamsTokens", step: Step, delay: int):
        self.delay = delay
        self._tokenizer, self._step = tokenizer, step
        # Asked once: it looks at every weight, a millisecond of each small piece.
        self._fingerprint = tokenizer.fingerprint
        self._device = tokenizer.device
        self._width: int | None = None
        self._ended = False

    @torch.no_grad()
    def push(self, tokens: Tokens | Tensor) -> Tensor:
        """The samples ``[time]`` that these tokens complete.

        Arguments
        ---------
        tokens : Tokens or Tensor
            One item's, or codes int64 ``[frames, k]``; the number of codebooks stays
            the same.

        Raises
        ------
        DsuError
            If they are another tokenizer's or of another shape, or the stream has
            ended.
        """
        if self._ended:
            raise DsuError("this stream was flushed: open a new one")
        if isinstance(tokens, Tokens):
            if len(tokens) != 1:
                raise DsuError(f"a stream takes one item's tokens, got {len(tokens)}")
            if tokens.fingerprint != self._fingerprint:
                self._tokenizer.check_fingerprint(tokens)
            (codes,) = tokens.unpad()
        else:
            codes = tokens
        width = self._width or (codes.shape[-1] if codes.ndim == 2 else 0)
        if codes.ndim != 2 or codes.shape[1] != width or width < 1:
            raise DsuError(
                f"a stream takes codes [frames, {width or 'codebooks'}], got "
                f"{list(codes.shape)}"
            )
        self._width = width
        return self._step(codes.to(self._device), False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The samples that were waiting for later tokens; ends the stream."""
        if self._ended:
            raise DsuError("this stream was flushed before: open a new one")
        self._ended = True
        codes = torch.zeros(0, self._width or 1, dtype=torch.int64)
        return self._step(codes.to(self._device), True)


class Recompute:
    """A ``Step`` for any tokenizer: frames are computed with the context they need.

    Where the receptive field is bounded, the codes are those of one pass, at the cost
    of encoding the context again with every chunk. Where it is not, they are close.

    Arguments
    ---------
    tokenizer : Tokenizer
        With frames a hop apart.
    keep : int
        Number of codebooks.
    field : (int, int)
        Samples before and behind a frame's first one that it is given at least.
    chunk : int
        Samples to wait for between two computations.
    """

    def __init__(
        self,
        tokenizer: "StreamsTokens",
        keep: int,
        field: tuple[int, int],
        chunk: int,
    ):
        self._tokenizer, self._keep = tokenizer, keep
        self._left = -(-field[0] // tokenizer.hop)
        self._right, self._chunk = field[1], max(1, chunk)
        self._kept = torch.zeros(0)
        self._begin = 0  # the frame at which what is kept begins
        self._done = 0

    def __call__(self, samples: Tensor, last: bool) -> Tensor:
        """Codes of the frames that are complete: ``[frames, k]``."""
        tokenizer, hop = self._tokenizer, self._tokenizer.hop
        self._kept = torch.cat([self._kept.to(samples.device), samples])
        total = self._begin * hop + len(self._kept)
        if last:
            ready = tokenizer.num_frames(total)
        else:
            # Whole chunks only; their right context is there by now.
            own = (total - self._right) // self._chunk * self._chunk
            ready = min(max(0, own // hop), tokenizer.num_frames(total))
        if ready <= self._done:
            return torch.zeros(0, self._keep, dtype=torch.int64, device=samples.device)
        missing = max(0, tokenizer.min_samples - len(self._kept))
        wav = torch.nn.functional.pad(self._kept, (0, missing))
        codes = tokenizer.encode_batch(wav.unsqueeze(0), None, self._keep)[0]
        codes = codes[self._done - self._begin : ready - self._begin]
        self._done = ready
        begin = max(self._begin, ready - self._left)
        self._kept = self._kept[(begin - self._begin) * hop :]
        self._begin = begin
        return codes


class StreamsTokens:
    """The part of the tokenizer contract that is about streams."""

    receptive_field: Field

    def stream(
        self,
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
        chunk_seconds: float = 0.1,
        context_seconds: float = 5.0,
        lookahead_seconds: float = 1.0,
    ) -> TokenStream:
        """Open a stream of samples.

        Arguments
        ---------
        sample_rate : int, optional
            Of the samples in hertz; they are resampled if the model's differs.
        n_codebooks : int, optional
            Keep the first ``n_codebooks`` codebooks.
        chunk_seconds : float
            Audio to wait for before more frames are computed. Codecs don't wait:
            they keep state and give each frame when it is complete.
        context_seconds, lookahead_seconds : float
            What a frame gets to see on either side where the model would look at the
            whole utterance; the tokens are then close to those of one pass, and the
            stream's ``exact`` is False.

        Returns
        -------
        TokenStream
            With ``push`` and ``flush``, and the ``lookahead`` in samples.

        Raises
        ------
        DsuError
            If this tokenizer can't take streams.
        """
        if self.frame_rate != self.sample_rate / self.hop:
            raise DsuError(
                f"{type(self).__name__} cuts recordings into chunks of its own and "
                "can't take a stream: choose a causal codec"
            )
        keep = self._keep(n_codebooks)
        left, right = self.receptive_field
        seconds = (context_seconds, lookahead_seconds)
        if min(chunk_seconds, *seconds) < 0:
            raise DsuError("seconds of chunk, context and lookahead can't be negative")
        context = [
            max(self.min_samples, round(self.sample_rate * length))
            if side is None
            else side
            for side, length in zip((left, right), seconds, strict=True)
        ]
        chunk = round(self.sample_rate * chunk_seconds)
        step = Recompute(self, keep, tuple(context), chunk)
        ahead = max(0, context[1] - self.hop) + chunk
        exact = left is not None and right is not None
        return TokenStream(self, step, keep, sample_rate, ahead, exact)

    def decode_stream(self) -> DecodeStream:
        """Open a stream of tokens.

        Raises
        ------
        DsuError
            If this tokenizer's decoder takes whole utterances only.
        """
        self._check_decoder()
        raise DsuError(
            f"the decoder of {type(self).__name__} takes whole utterances; choose a "
            "causal codec to decode a stream"
        )
