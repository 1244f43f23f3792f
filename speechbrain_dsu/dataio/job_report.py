"""What a tokenizing job has come to, added up from the headers of its shards."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_dsu.dataio.shards import read_header, shard_path, write_json

SUMMARY_FILE = "_summary.json"


@dataclass
class JobReport:
    """What a job, or one worker's share of it, has come to.

    Arguments
    ---------
    out : Path
        The store.
    items, frames, tokens : int
        Utterances in the store, their frames, their ids over all codebooks.
    audio_seconds : float
        Of the utterances in the store.
    bitrate : float
        Bits per second of audio, at the nominal log2 of the sizes.
    failed : list of dict
        ``id``, ``path`` and ``reason`` of items without tokens.
    silent : list of str
        Ids of items in which nothing is heard.
    shards_done, shards : int
        Of the share, and of the share in all.
    new_seconds, run_seconds : float
        Audio tokenized by this run, and the time that took.
    resampled : dict
        Files per source rate that were not at the tokenizer's rate, this run.
    finished : bool
        Whether all shards of the job are there.
    """

    out: Path
    items: int = 0
    frames: int = 0
    tokens: int = 0
    audio_seconds: float = 0.0
    bitrate: float = 0.0
    failed: list[dict[str, str]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    shards_done: int = 0
    shards: int = 0
    new_seconds: float = 0.0
    run_seconds: float = 0.0
    resampled: Counter = field(default_factory=Counter)
    finished: bool = False

    @property
    def hours(self) -> float:
        """Of audio in the store."""
        return self.audio_seconds / 3600

    @property
    def real_time(self) -> float:
        """Seconds of audio per second of this run."""
        return self.new_seconds / self.run_seconds if self.run_seconds else 0.0


def collect(out: str | Path, indices: Iterable[int]) -> JobReport:
    """Add up the given shards of a job, those that are there, from their headers."""
    result = JobReport(Path(out))
    for index in indices:
        result.shards += 1
        path = shard_path(out, index)
        if not path.exists():
            continue
        header = read_header(path)
        result.shards_done += 1
        result.items += header["items"]
        result.frames += header["frames"]
        result.audio_seconds += header["samples"] / header["sample_rate"]
        result.failed += header["failed"]
        result.silent += header["silent"]
        bits = sum(math.log2(size) for size in header["sizes"])
        result.tokens = result.frames * len(header["sizes"])
        if result.audio_seconds:
            result.bitrate = result.frames * bits / result.audio_seconds
    return result


def write_summary(out: Path, shards: int) -> None:
    """Write ``_summary.json`` of a finished job; the same whoever writes it."""
    result = collect(out, range(shards))
    header = read_header(shard_path(out, 0))
    names = ("fingerprint", "tokenizer", "frame_rate", "sample_rate", "sizes")
    summary = {name: header[name] for name in names}
    for name in ("items", "frames", "tokens", "hours", "bitrate", "failed", "silent"):
        summary[name] = getattr(result, name)
    write_json(out / SUMMARY_FILE, {**summary, "shards": shards})
