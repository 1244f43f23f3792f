"""Audio read and resampled in the background, while the model is at work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

from torch import Tensor

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.utils.audio import AudioError, audio_info, read_audio, resample

# Half a step of 16-bit audio: what is below it was not recorded.
_SILENT = 2.0**-16


@dataclass(frozen=True)
class Loaded:
    """An item's audio, or why there is none.

    Arguments
    ---------
    item : AudioItem
        What was asked for.
    wav : Tensor, optional
        ``[time]`` at the rate asked for; None for a long file, to be read piece by
        piece, and for a failure.
    n_samples : int
        At the rate asked for.
    source_rate : int
        Of the file, in hertz.
    silent : bool
        Whether no sample differs from zero by half a step of 16 bits.
    error : str
        ``<path>: <reason>``; empty if all is well.
    """

    item: AudioItem
    wav: Tensor | None = None
    n_samples: int = 0
    source_rate: int = 0
    silent: bool = False
    error: str = ""


def load_item(item: AudioItem, sample_rate: int, long_seconds: float) -> Loaded:
    """Read one item at ``sample_rate``; a fault is a result, not an exception.

    Whole files longer than ``long_seconds`` are scanned but not kept.

    Example
    -------
    >>> load_item(AudioItem("a", "/no/such.wav"), 16000, 60.0).error
    '/no/such.wav: no such file'
    """
    try:
        return _load(item, sample_rate, long_seconds)
    except AudioError as error:
        return Loaded(item, error=str(error))
    except Exception as error:
        # One file must not end the job, whatever a decoder trips over.
        return Loaded(item, error=f"{item.path}: {type(error).__name__}: {error}")


def _load(item: AudioItem, sample_rate: int, long_seconds: float) -> Loaded:
    info = audio_info(item.path)
    stop = info.n_samples if item.stop is None else item.stop
    if stop > info.n_samples or item.start >= stop:
        raise AudioError(
            f"{item.path}: the stretch from {item.start} to {stop} is not in its "
            f"{info.n_samples} samples"
        )
    rate = info.sample_rate
    n_samples = ceil((stop - item.start) * sample_rate / rate)
    if item.is_whole and info.n_samples > long_seconds * rate:
        silent = _is_silent_file(item.path, info.n_samples, rate)
        return Loaded(item, None, n_samples, rate, silent)
    wav = read_audio(item.path, None, item.start, stop)[0]
    silent = bool(wav.abs().max() < _SILENT)
    return Loaded(item, resample(wav, rate, sample_rate), n_samples, rate, silent)


def _is_silent_file(path: str, total: int, rate: int) -> bool:
    """Look up to the first sound, in the memory of a second."""
    for start in range(0, total, rate):
        wav = read_audio(path, None, start, min(start + rate, total))[0]
        if bool(wav.abs().max() >= _SILENT):
            return False
    return True


def prefetch(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, depth: int
) -> Iterator[Any]:
    """``map(function, items)`` in threads, in order, at most ``depth`` ahead.

    Arguments
    ---------
    function : callable
        Takes an item. Its exceptions are raised in turn.
    items : iterable
        Taken as they are needed.
    workers : int
        Threads; 0 runs everything in the caller's thread.
    depth : int
        Results and calls that may wait, so that memory has a bound.

    Yields
    ------
    Any
        Results in the order of the items.

    Example
    -------
    >>> list(prefetch(str, range(4), workers=2, depth=3))
    ['0', '1', '2', '3']
    """
    if workers < 1:
        yield from map(function, items)
        return
    items = iter(items)
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    try:
        waiting.extend(pool.submit(function, item) for item in islice(items, depth))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
