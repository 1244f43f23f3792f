"""Samples from standard input, token lines to standard output, as they come."""

import json
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from speechbrain_dsu.utils.errors import DsuError

FORMATS = {"s16le": ("<i2", 1 / 32768), "f32le": ("<f4", 1.0)}
_WAV_FORMATS = {(1, 16): "s16le", (3, 32): "f32le"}


def read_samples(
    file: BinaryIO, rate: int | None, form: str, block_seconds: float = 0.02
) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of samples from raw PCM or from a WAV that need not have an end yet.

    A WAV is known by its first four bytes; its own header then counts. Several of its
    channels are averaged.

    Arguments
    ---------
    file : BinaryIO
        Read until its end.
    rate : int, optional
        Of raw samples in hertz.
    form : str
        Of raw samples: one of ``FORMATS``.
    block_seconds : float
        The most to wait for.

    Yields
    ------
    samples : ndarray
        float32 ``[time]``.
    rate : int
        In hertz.

    Raises
    ------
    DsuError
        If the bytes are no such audio.

    Example
    -------
    >>> import io
    >>> pcm = np.array([0, 16384, -32768], "<i2").tobytes()
    >>> [(x.tolist(), hz) for x, hz in read_samples(io.BytesIO(pcm), 8000, "s16le")]
    [([0.0, 0.5], 8000), ([-1.0], 8000)]
    """
    start, channels, left = file.read(4), 1, None
    if start == b"RIFF":
        form, rate, channels, left = _read_header(file)
        start = b""
    elif rate is None:
        raise DsuError(
            "standard input holds no WAV: give the rate of raw samples by --rate"
        )
    dtype, scale = FORMATS[form]
    width = np.dtype(dtype).itemsize * channels
    size = max(1, round(rate * block_seconds)) * width
    rest = b""
    for block in chain([start], _blocks(file, size, left)):
        rest += block
        whole = len(rest) // width * width
        samples = np.frombuffer(rest[:whole], dtype).astype(np.float32) * scale
        rest = rest[whole:]
        if len(samples):
            yield samples.reshape(-1, channels).mean(axis=1), rate
    if rest:
        raise DsuError(
            f"standard input ends within a sample: {len(rest)} of {width} bytes; is it "
            f"{form} with {channels} channel(s)?"
        )


def _blocks(file: BinaryIO, size: int, left: int | None) -> Iterator[bytes]:
    """What there is, ``size`` bytes at most at a time, ``left`` bytes in all."""
    # read1 doesn't wait for a slow source to fill the block.
    read = getattr(file, "read1", file.read)
    while block := read(size if left is None else min(size, left)):
        left = None if left is None else left - len(block)
        yield block


def _read_header(file: BinaryIO) -> tuple[str, int, int, int | None]:
    """Format, rate, channels and bytes of a WAV, read up to its first sample."""
    if file.read(8)[4:] != b"WAVE":
        raise DsuError("standard input begins as a RIFF file that is no WAV")
    found = None
    while len(head := file.read(8)) == 8:
        name, length = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            if found is None:
                break
            # 0 and 0xffffffff are what streaming writers leave: length unknown.
            return *found, length if length not in (0, 0xFFFFFFFF) else None
        chunk = file.read(length + length % 2)
        if name == b"fmt " and len(chunk) >= 16:
            tag, channels = np.frombuffer(chunk[:4], "<u2").tolist()
            (rate,) = np.frombuffer(chunk[4:8], "<u4").tolist()
            bits = int.from_bytes(chunk[14:16], "little")
            if tag == 0xFFFE and len(chunk) >= 26:  # the real tag lies further on
                tag = int.from_bytes(chunk[24:26], "little")
            form = _WAV_FORMATS.get((tag, bits))
            if form is None or not channels or not rate:
                raise DsuError(
                    f"a WAV on standard input must hold 16-bit integers or 32-bit "
                    f"floats, got format {tag} with {bits} bits"
                )
            found = form, rate, channels
    raise DsuError("standard input is a WAV without samples: its header ends early")


def run_stream(
    tokenizer: Any,
    rate: int | None,
    form: str,
    n_codebooks: int | None = None,
    source: BinaryIO | None = None,
) -> int:
    """Print a JSON line for every frame: its number, its time and its codes.

    Arguments
    ---------
    tokenizer : Tokenizer
        Takes the samples.
    rate, form
        Of raw samples; see ``read_samples``.
    n_codebooks : int, optional
        Keep the first ``n_codebooks`` codebooks.
    source : BinaryIO, optional
        Standard input by default.

    Returns
    -------
    int
        Number of frames.
    """
    import torch

    stream, frames = None, 0
    for samples, found in read_samples(source or sys.stdin.buffer, rate, form):
        if stream is None:
            stream = tokenizer.stream(sample_rate=found, n_codebooks=n_codebooks)
            _report(tokenizer, stream)
        frames = _print(stream.push(torch.from_numpy(samples)), frames)
    if stream is None:
        raise DsuError("standard input holds no samples")
    return _print(stream.flush(), frames)


def _report(tokenizer: Any, stream: Any) -> None:
    ahead = 1000 * stream.lookahead / tokenizer.sample_rate
    exact = "the tokens of one pass" if stream.exact else "close to those of one pass"
    print(f"look-ahead {ahead:.0f} ms, {exact}", file=sys.stderr)


def _print(tokens: Any, first: int) -> int:
    for index, codes in enumerate(tokens.codes[0].tolist(), first):
        line = {"frame": index, "time": round(index / tokens.frame_rate, 6)}
        print(json.dumps(line | {"codes": codes}), flush=True)
    return first + tokens.codes.shape[1]
