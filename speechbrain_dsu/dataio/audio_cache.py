"""Recordings at one sample rate, decoded and resampled once and kept in memory."""

from collections.abc import Hashable

import torch
from torch import Tensor

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.utils.audio import AudioReader, read_audio

_FULL = 2**15


class AudioCache:
    """Stretches of recordings, from memory where they fit a budget.

    Samples are kept as 16-bit integers, and rounded alike where they are not kept:
    what is cached never changes what is learned.

    Arguments
    ---------
    sample_rate : int
        The rate to deliver, in hertz.
    megabytes : float
        For all recordings together; an hour at 16 kHz takes 115. With 0 nothing is
        kept and every stretch is read from its file.

    Example
    -------
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.linspace(-0.5, 0.5, 2205), 22050)
    >>> cache = AudioCache(16000, megabytes=1)
    >>> item = AudioItem("a", str(path))
    >>> cache.read(item, 100, 300).shape, cache.n_samples(item), cache.kept
    (torch.Size([200]), 1600, 1)
    """

    def __init__(self, sample_rate: int, megabytes: float = 1024.0):
        self.sample_rate = sample_rate
        self._left = int(megabytes * 1e6)
        self._whole: dict[Hashable, Tensor] = {}
        self._lengths: dict[Hashable, int] = {}

    @property
    def kept(self) -> int:
        """Recordings in memory."""
        return len(self._whole)

    def n_samples(self, item: AudioItem) -> int:
        """Length of an item at ``sample_rate``, from its header.

        Raises
        ------
        AudioError
            If the file can't be used.
        """
        key = _key(item)
        if key not in self._lengths:
            self._lengths[key] = self._reader(item).n_samples
        return self._lengths[key]

    def read(self, item: AudioItem, start: int = 0, stop: int | None = None) -> Tensor:
        """Samples ``start`` to ``stop`` of an item, float32 ``[time]`` in [-1, 1].

        Raises
        ------
        AudioError
            If the file can't be used.
        """
        key, size = _key(item), self.n_samples(item)
        stop = size if stop is None else min(stop, size)
        if key not in self._whole and 2 * size <= self._left:
            self._whole[key] = _rounded(self._load(item))
            self._left -= 2 * size
        if key in self._whole:
            return self._whole[key][start:stop].float() / _FULL
        return _rounded(self._reader(item).read(start, stop)).float() / _FULL

    def _load(self, item: AudioItem) -> Tensor:
        return read_audio(item.path, self.sample_rate, item.start, item.stop)[0]

    def _reader(self, item: AudioItem) -> AudioReader:
        if item.is_whole:
            return AudioReader(item.path, self.sample_rate)
        # A stretch of a file is short: what it is resampled from ends where it ends.
        return AudioReader(self._load(item), self.sample_rate)


def _key(item: AudioItem) -> Hashable:
    # The same recording may occur under several ids, to weigh more.
    return item.path, item.start, item.stop


def _rounded(wav: Tensor) -> Tensor:
    return (wav * _FULL).round_().clamp_(-_FULL, _FULL - 1).to(torch.int16)
