"""Tokens on disk: Parquet files keyed by utterance, with their tokenizer's fingerprint.

A store is a folder of ``*.parquet`` files that pandas, DuckDB, Spark or Hugging Face
``datasets`` open as they are. One row is one utterance:

- ``id``: string, unique in the store;
- ``n_samples``: int64, samples at the tokenizer's rate, null where unknown;
- ``frames``: int32;
- ``codes``: list of the smallest unsigned integer that fits, ``[frames * codebooks]``
  with the codebooks of a frame side by side.

The key ``speechbrain_dsu`` of each file's metadata holds, as JSON, what is needed to
use the ids: ``StoreInfo`` and the format's version.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechbrain_dsu.dataio.shards import (
    JOB_FILE,
    ShardWriter,
    StoreInfo,
    header_info,
    read_header,
    shard_path,
)
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError

_GROUPS_IN_MEMORY = 8


class TokenStore(Mapping[str, Tokens]):
    """A read-only mapping from utterance ids to tokens.

    Codes are read when they are asked for; the ids and lengths stay in memory. It
    can be handed to the workers of a data loader.

    Arguments
    ---------
    folder : str or Path
        A folder of shards, or one shard.
    partial : bool
        Open a store whose job has not finished.

    Raises
    ------
    DsuError
        If there is no store, it is unfinished, two shards were made by different
        tokenizers, or an id occurs twice.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> info = StoreInfo("f" * 64, frame_rate=50.0, sample_rate=16000, sizes=(500,))
    >>> with TokenStoreWriter(folder, info) as writer:
    ...     writer.add("a", torch.tensor([[3], [4]]), n_samples=640)
    ...     writer.add("b", torch.tensor([[5]]))
    >>> store = TokenStore(folder)
    >>> store["a"].codes.tolist(), list(store)
    ([[[3], [4]]], ['a', 'b'])
    >>> store.batch(["b", "a"]).counts
    tensor([1, 2])

    With SpeechBrain, padded and measured by its own collate function:

    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> dataset = DynamicItemDataset(store.manifest())
    >>> dataset.add_dynamic_item(store.codes, takes="id", provides="codes")
    >>> dataset.set_output_keys(["id", "codes"])
    >>> dataset[1]["codes"]
    tensor([[5]])
    """

    def __init__(self, folder: str | Path, partial: bool = False):
        self.folder = Path(folder)
        self.paths = _shard_files(self.folder)
        if not partial:
            _check_finished(self.folder, self.paths)
        self.info = self._common_info()
        self._files: dict[int, Any] = {}
        self._cache: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._index()

    def _common_info(self) -> StoreInfo:
        first = header_info(read_header(self.paths[0]))
        for path in self.paths[1:]:
            difference = first.difference(header_info(read_header(path)))
            if difference:
                raise DsuError(
                    f"{self.paths[0]} and {path} don't belong together: {difference}"
                )
        return first

    def _index(self) -> None:
        import pyarrow.parquet as pq

        self._row: dict[str, int] = {}
        ids, samples, frames, groups = [], [], [], []
        for shard, path in enumerate(self.paths):
            table = pq.read_table(path, columns=["id", "n_samples", "frames"])
            ids += table["id"].to_pylist()
            samples.append(table["n_samples"].fill_null(-1).to_numpy())
            frames.append(table["frames"].to_numpy())
            meta = pq.read_metadata(path)
            groups += [
                (shard, group, meta.row_group(group).num_rows)
                for group in range(meta.num_row_groups)
            ]
        self._row = {item: row for row, item in enumerate(ids)}
        if len(self._row) < len(ids):
            seen: set[str] = set()
            twice = next(i for i in ids if i in seen or seen.add(i))
            raise DsuError(f"{self.folder}: the id '{twice}' occurs twice")
        self._samples, self._frames = np.concatenate(samples), np.concatenate(frames)
        self._groups = [(shard, group) for shard, group, _ in groups]
        self._starts = np.cumsum([0] + [rows for *_, rows in groups])

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._row

    def __getitem__(self, item_id: str) -> Tokens:
        return self.batch([item_id])

    def __repr__(self) -> str:
        return f"TokenStore('{self.folder}', {len(self)} utterances, {self.info})"

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer that made the tokens."""
        return self.info.fingerprint

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.info.frame_rate

    @property
    def sizes(self) -> tuple[int, ...]:
        """Ids per codebook."""
        return self.info.sizes

    def n_frames(self, item_id: str) -> int:
        """Frames of an utterance, without reading its codes."""
        return int(self._frames[self._find(item_id)])

    def n_samples(self, item_id: str) -> int | None:
        """Samples of an utterance at the tokenizer's rate; None where unknown."""
        found = int(self._samples[self._find(item_id)])
        return None if found < 0 else found

    def codes(self, item_id: str) -> Tensor:
        """Ids of an utterance: int64 ``[frames, codebooks]``."""
        row = self._find(item_id)
        place = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, values = self._group(place)
        row -= int(self._starts[place])
        flat = values[offsets[row] : offsets[row + 1]].astype(np.int64)
        return torch.from_numpy(flat.reshape(-1, len(self.sizes)))

    def batch(self, item_ids: Sequence[str]) -> Tokens:
        """Utterances as one padded batch, in the order asked for."""
        codes = [self.codes(item_id) for item_id in item_ids]
        return Tokens.from_list(codes, self.frame_rate, self.sizes, self.fingerprint)

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Ids with their frames and seconds, as SpeechBrain's datasets take them."""
        # Without the audio's length, the length of its frames comes closest.
        seconds = np.where(
            self._samples < 0,
            self._frames / self.frame_rate,
            self._samples / self.info.sample_rate,
        )
        rows = zip(self._row, self._frames.tolist(), seconds.tolist(), strict=True)
        return {i: {"frames": frames, "duration": s} for i, frames, s in rows}

    def _find(self, item_id: str) -> int:
        try:
            return self._row[item_id]
        except KeyError:
            # A KeyError, as mappings do; `in` and `get` rely on it.
            raise KeyError(
                f"{self.folder} has no tokens of '{item_id}'; it holds {len(self)} "
                "utterances"
            ) from None

    def _group(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and ids of one row group, the last few kept in memory."""
        import pyarrow.parquet as pq

        if place in self._cache:
            self._cache.move_to_end(place)
            return self._cache[place]
        shard, group = self._groups[place]
        if shard not in self._files:
            self._files[shard] = pq.ParquetFile(self.paths[shard])
        # Arrow's threads don't survive the fork of a data loader's workers.
        table = self._files[shard].read_row_group(
            group, columns=["codes", "frames"], use_threads=False
        )
        lists = table["codes"].combine_chunks()
        offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
        expected = table["frames"].to_numpy() * len(self.sizes)
        if not np.array_equal(np.diff(offsets), expected):
            raise DsuError(
                f"{self.paths[shard]}: codes and frames disagree, the file was altered"
            )
        self._cache[place] = offsets, values
        if len(self._cache) > _GROUPS_IN_MEMORY:
            self._cache.popitem(last=False)
        return offsets, values

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_cache": OrderedDict()}


def _shard_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DsuError(f"{folder}: no such token store")
    paths = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))
    if not paths:
        raise DsuError(f"{folder}: no token store, there are no *.parquet files")
    return paths


def _check_finished(folder: Path, paths: list[Path]) -> None:
    job = folder / JOB_FILE
    if not job.is_file():
        return
    shards = json.loads(job.read_text(encoding="utf-8"))["shards"]
    if len(paths) != shards:
        raise DsuError(
            f"{folder}: {len(paths)} of {shards} shards are there; run the job again "
            "to finish it, or open the store with partial=True"
        )


class TokenStoreWriter:
    """Write a store, or add utterances to one, a shard at a time.

    Arguments
    ---------
    folder : str or Path
        Made if missing.
    info : StoreInfo
        Of the tokens to come; ``StoreInfo.of(tokenizer)``.
    shard_items : int
        Utterances per file.

    Raises
    ------
    DsuError
        If the folder holds tokens of another tokenizer.

    Example
    -------
    See ``TokenStore``.
    """

    def __init__(self, folder: str | Path, info: StoreInfo, shard_items: int = 1000):
        if shard_items < 1:
            raise DsuError(f"shard_items must be at least 1, got {shard_items}")
        self.folder, self.info, self.shard_items = Path(folder), info, shard_items
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / JOB_FILE).exists():
            raise DsuError(
                f"{folder}: belongs to a tokenizing job, take another folder"
            )
        self._ids: set[str] = set()
        if any(self.folder.glob("*.parquet")):
            store = TokenStore(self.folder)
            difference = store.info.difference(info)
            if difference:
                raise DsuError(f"{folder}: holds tokens of another kind: {difference}")
            self._ids = set(store)
        self._shard: ShardWriter | None = None

    def add(
        self,
        item_id: str,
        tokens: Tokens | Tensor | np.ndarray,
        n_samples: int | None = None,
    ) -> None:
        """Add an utterance: a batch of one, or codes ``[frames, codebooks]``."""
        if item_id in self._ids:
            raise DsuError(f"{self.folder}: '{item_id}' is there already")
        if isinstance(tokens, Tokens):
            tokens = self._unwrap(item_id, tokens)
        if self._shard is None:
            self._shard = ShardWriter(self._next_path(), self.info)
        self._shard.add(item_id, tokens, n_samples)
        self._ids.add(item_id)
        if len(self._shard.ids) == self.shard_items:
            self.close()

    def _unwrap(self, item_id: str, tokens: Tokens) -> Tensor:
        if tokens.fingerprint != self.info.fingerprint:
            raise DsuError(
                f"'{item_id}': tokens of {tokens.fingerprint[:12]} in a store of "
                f"{self.info.fingerprint[:12]} ({self.info.tokenizer or 'unnamed'})"
            )
        if len(tokens) != 1:
            raise DsuError(f"'{item_id}': a batch of {len(tokens)}, add one by one")
        return tokens.unpad()[0]

    def _next_path(self) -> Path:
        index = 0
        while shard_path(self.folder, index).exists():
            index += 1
        return shard_path(self.folder, index)

    def close(self) -> None:
        """Finish the shard at hand."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def __enter__(self) -> "TokenStoreWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        # What was added before an error is whole and stays.
        self.close()
