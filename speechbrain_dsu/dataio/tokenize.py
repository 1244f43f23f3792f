"""Tokenize a corpus once: sharded, resumable, the same bytes however it is run."""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from speechbrain_dsu.dataio.job_report import JobReport, collect, write_summary
from speechbrain_dsu.dataio.manifest import AudioItem, hash_items, sort_items
from speechbrain_dsu.dataio.prefetch import Loaded, load_item, prefetch
from speechbrain_dsu.dataio.shards import (
    FORMAT,
    JOB_FILE,
    ShardWriter,
    StoreInfo,
    header_info,
    read_header,
    shard_path,
    sweep,
    write_json,
)
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import pad_stack, relative_lengths

# An accelerator gets this many items at a time, for the tokenizer to sort into
# batches. It is fixed: who stands beside whom must not depend on the machine.
_ITEMS_AT_ONCE = 32
_CHECKED = {
    "fingerprint": "tokenizer",
    "items_hash": "list of items",
    "n_codebooks": "number of codebooks",
    "shard_items": "number of items per shard",
    "long_seconds": "threshold for long files",
}


def print_line(line: str) -> None:
    """Print to the standard error, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def tokenize_corpus(
    items: Iterable[AudioItem],
    tokenizer: Any,
    out: str | Path,
    *,
    name: str = "",
    shard: tuple[int, int] = (0, 1),
    shard_items: int = 1000,
    n_codebooks: int | None = None,
    workers: int | None = None,
    long_seconds: float = 60.0,
    retry_failed: bool = False,
    progress: bool | None = None,
    report: Callable[[str], None] = print_line,
) -> JobReport:
    """Tokenize items into a token store.

    The items, sorted by id, are cut into shards of ``shard_items``; each shard is
    one file that appears whole or not at all. Whatever is there already is not done
    again, so a job that was stopped, at any point and in any way, is finished by
    running it again, and its files are the same, byte for byte, as if it had never
    stopped. Worker ``i`` of ``n`` does shards ``i, i + n, ...``; run the workers
    wherever you like, the files do not depend on ``n``.

    A file that can't be read costs one line of report and one entry in
    ``_summary.json``; the other files go on. Silent files are tokenized and named.

    Arguments
    ---------
    items : iterable of AudioItem
        See ``read_items``.
    tokenizer : Tokenizer
        On the device where it is to run.
    out : str or Path
        Folder of the store.
    name : str
        The tokenizer's name, kept in the store for people to read.
    shard : (int, int)
        Worker ``i`` of ``n``, counted from 0.
    shard_items : int
        Items per file.
    n_codebooks : int, optional
        Keep the first ``n_codebooks`` codebooks.
    workers : int, optional
        Threads that read and resample; one per core, at most four, by default.
    long_seconds : float
        Longer files are read and tokenized piece by piece, in constant memory.
    retry_failed : bool
        Do shards with failed items again, as a whole.
    progress : bool, optional
        Show a bar; by default when the standard error is a terminal.
    report : callable
        Takes one line about each item that failed or is silent.

    Returns
    -------
    JobReport
        Of this worker's shards, those of earlier runs included.

    Raises
    ------
    DsuError
        If ``out`` holds another job (of another tokenizer or other items), an id
        occurs twice, or an argument makes no sense.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.dataio.token_store import TokenStore
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
    >>> from speechbrain_dsu.tokenizers.features import FeatureTokenizer
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.randn(16000) * 0.1, 16000)
    >>> dmel = FeatureTokenizer(LogMel(), UniformBins(80, 16, -11.5, 2.0))
    >>> items = [AudioItem("a", str(folder / "a.wav"))]
    >>> tokenize_corpus(items, dmel, folder / "tokens").frames
    81
    >>> TokenStore(folder / "tokens")["a"].codes.shape
    torch.Size([1, 81, 80])
    """
    items = sort_items(items)
    _check_arguments(items, shard, shard_items, long_seconds)
    out = Path(out)
    info = StoreInfo.of(tokenizer, name, n_codebooks)
    job = {
        "format": FORMAT,
        "fingerprint": info.fingerprint,
        "tokenizer": name,
        "n_codebooks": len(info.sizes),
        "items": len(items),
        "items_hash": hash_items(items),
        "shard_items": shard_items,
        "shards": math.ceil(len(items) / shard_items),
        "long_seconds": long_seconds,
    }
    _start_or_resume(out, job)
    mine = range(shard[0], job["shards"], shard[1])
    pending = [k for k in mine if not _is_done(out, k, info, retry_failed)]
    run = _Run(tokenizer, info, long_seconds, out, report)
    started = time.perf_counter()
    groups = [items[k * shard_items : (k + 1) * shard_items] for k in pending]
    with _evaluating(tokenizer), _bar(sum(map(len, groups)), progress) as bar:
        workers = min(4, os.cpu_count() or 1) if workers is None else workers
        run.all(pending, groups, workers, bar)
    result = collect(out, mine)
    result.new_seconds, result.resampled = run.seconds, run.resampled
    result.run_seconds = time.perf_counter() - started
    result.finished = all(shard_path(out, k).exists() for k in range(job["shards"]))
    if result.finished:
        sweep(out)
        write_summary(out, job["shards"])
    return result


def _check_arguments(items, shard, shard_items, long_seconds) -> None:
    if not items:
        raise DsuError("there are no items to tokenize")
    index, total = shard
    if not 0 <= index < total:
        raise DsuError(
            f"shard {index}/{total}: workers count from 0, so of {total} take "
            f"0/{total} to {total - 1}/{total}"
        )
    if shard_items < 1 or not long_seconds > 0:
        raise DsuError(
            "shard_items and long_seconds must be positive, got "
            f"{shard_items} and {long_seconds}"
        )


def _start_or_resume(out: Path, job: dict[str, Any]) -> None:
    path = out / JOB_FILE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.glob("*.parquet"))):
            raise DsuError(
                f"{out}: exists and is no tokenizing job; take another folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, job)
    there = json.loads(path.read_text(encoding="utf-8"))
    for key, what in _CHECKED.items():
        if there.get(key) != job[key]:
            old, new = there.get(key), job[key]
            if key == "fingerprint":
                old = f"{there.get('tokenizer') or 'unnamed'} {str(old)[:12]}"
                new = f"{job['tokenizer'] or 'unnamed'} {new[:12]}"
            elif key == "items_hash":
                old, new = f"{there.get('items')} items", f"{job['items']} items"
            raise DsuError(
                f"{out}: holds a job with another {what} ({old}, now {new}); go on "
                "with that one, or take another folder"
            )


def _is_done(out: Path, index: int, info: StoreInfo, retry_failed: bool) -> bool:
    path = shard_path(out, index)
    if not path.exists():
        return False
    try:
        header = read_header(path)
    except DsuError as error:
        raise DsuError(f"{error}; remove it and run again") from None
    difference = header_info(header).difference(info)
    if difference:
        raise DsuError(f"{path}: made by another tokenizer: {difference}")
    return not (retry_failed and header["failed"])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards whatever it was before."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def items_at_once(tokenizer: Any) -> int:
    """How many items are handed to the tokenizer together: one on a CPU."""
    return 1 if tokenizer.device.type == "cpu" else _ITEMS_AT_ONCE


def _bar(total: int, progress: bool | None):
    from tqdm import tqdm

    # None leaves it to tqdm, which is quiet when nobody looks.
    disable = None if progress is None else not progress
    return tqdm(total=total, unit="file", disable=disable, dynamic_ncols=True)


class _Run:
    """Does the shards that are missing."""

    def __init__(self, tokenizer, info: StoreInfo, long_seconds, out: Path, report):
        self.tokenizer, self.info, self.out = tokenizer, info, out
        self.long_seconds, self.report = long_seconds, report
        self.seconds = 0.0
        self.resampled: Counter = Counter()

    def all(
        self, indices: list[int], groups: list[list[AudioItem]], workers: int, bar
    ) -> None:
        size = items_at_once(self.tokenizer)
        load = partial(
            load_item,
            sample_rate=self.info.sample_rate,
            long_seconds=self.long_seconds,
        )
        flat = (item for group in groups for item in group)
        # Reading runs on across the ends of shards.
        loaded = prefetch(load, flat, workers, depth=size + 2 * workers)
        try:
            for index, group in zip(indices, groups, strict=True):
                self.shard(index, islice(loaded, len(group)), size, bar)
        finally:
            loaded.close()

    def shard(self, index: int, loaded: Iterator[Loaded], size: int, bar) -> None:
        writer = ShardWriter(shard_path(self.out, index), self.info)
        record: dict[str, Any] = {"shard": index, "failed": [], "silent": []}
        frames = samples = 0
        try:
            while batch := list(islice(loaded, size)):
                for entry, codes, error in self.encode(batch):
                    if codes is None:
                        self.fail(entry.item, error, record)
                    else:
                        self.note(entry, record)
                        writer.add(entry.item.id, codes, entry.n_samples)
                        frames += len(codes)
                        samples += entry.n_samples
                    bar.update(1)
            record |= {"items": len(writer.ids), "frames": frames, "samples": samples}
            writer.close(record)
        except BaseException:
            writer.discard()
            raise
        self.seconds += samples / self.info.sample_rate

    def fail(self, item: AudioItem, reason: str, record: dict[str, Any]) -> None:
        entry = {"id": item.id, "path": item.path, "reason": reason}
        record["failed"].append(entry)
        self.report(f"failed: {reason}")

    def note(self, entry: Loaded, record: dict[str, Any]) -> None:
        if entry.silent:
            record["silent"].append(entry.item.id)
            self.report(f"note: {entry.item.path}: silent")
        if entry.source_rate != self.info.sample_rate:
            self.resampled[entry.source_rate] += 1

    def encode(
        self, batch: Sequence[Loaded]
    ) -> Iterator[tuple[Loaded, Tensor | None, str]]:
        """Each entry with its codes, or with the reason why there are none."""
        together: dict[int, Tensor] = {}
        whole = [entry for entry in batch if self.is_short(entry)]
        if len(whole) > 1:
            try:
                codes = self.encode_wavs([entry.wav for entry in whole])
                together = {id(e): c for e, c in zip(whole, codes, strict=True)}
            except (DsuError, RuntimeError):
                # One item, or all of them at once, was too much: find out which.
                together = {}
        for entry in batch:
            codes, error = together.get(id(entry)), entry.error
            if codes is None and not error:
                try:
                    codes = self.encode_one(entry)
                except (DsuError, RuntimeError) as problem:
                    error = str(problem).strip() or type(problem).__name__
                    error = " ".join(error.splitlines()[:1])
                    if not error.startswith(entry.item.path):
                        error = f"{entry.item.path}: {error}"
            yield entry, codes, error

    def is_short(self, entry: Loaded) -> bool:
        limit = self.long_seconds * self.info.sample_rate
        return entry.wav is not None and len(entry.wav) <= limit

    def encode_one(self, entry: Loaded) -> Tensor:
        if self.is_short(entry):
            return self.encode_wavs([entry.wav])[0]
        source = entry.item.path if entry.wav is None else entry.wav
        tokens = self.tokenizer.encode_long(source, n_codebooks=len(self.info.sizes))
        return tokens.codes[0].cpu()

    def encode_wavs(self, wavs: list[Tensor]) -> list[Tensor]:
        padded, counts = pad_stack(wavs)
        lens = relative_lengths(counts, padded.shape[1])
        tokens = self.tokenizer.encode(
            padded, lens, n_codebooks=len(self.info.sizes)
        ).to("cpu")
        return tokens.unpad()
