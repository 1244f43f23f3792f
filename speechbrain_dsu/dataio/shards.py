"""One Parquet file of a token store: how it is written, and what its header says."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from speechbrain_dsu import __version__
from speechbrain_dsu.utils.errors import DsuError

FORMAT = 1
# The underscore hides a file from readers of Parquet folders.
JOB_FILE = "_job.json"
_KEY = b"speechbrain_dsu"
# Measured on runs of 500 ids: smaller groups repeat the dictionary of ids, larger
# ones leave the cache; random access reads one group.
_ROWS_PER_GROUP = 256


@dataclass(frozen=True)
class StoreInfo:
    """What a store's ids are and where they come from.

    Arguments
    ---------
    fingerprint : str
        Of the tokenizer.
    frame_rate : float
        Frames per second.
    sample_rate : int
        Of the audio that the tokenizer takes, in hertz; unit of ``n_samples``.
    sizes : tuple of int
        Ids per codebook.
    tokenizer : str
        Name under which it was loaded; for people, not for checks.
    version : str
        Of this package at the time of writing.
    """

    fingerprint: str
    frame_rate: float
    sample_rate: int
    sizes: tuple[int, ...]
    tokenizer: str = ""
    version: str = field(default=__version__, compare=False)

    @classmethod
    def of(
        cls, tokenizer: Any, name: str = "", n_codebooks: int | None = None
    ) -> "StoreInfo":
        """Of a tokenizer's first ``n_codebooks`` codebooks."""
        total = len(tokenizer.codebook_sizes)
        if n_codebooks is not None and not 1 <= n_codebooks <= total:
            raise DsuError(f"n_codebooks={n_codebooks} asked of {total} codebooks")
        sizes = tuple(tokenizer.codebook_sizes)[:n_codebooks]
        return cls(
            tokenizer.fingerprint,
            tokenizer.frame_rate,
            tokenizer.sample_rate,
            sizes,
            name,
        )

    def difference(self, other: "StoreInfo") -> str | None:
        """Why tokens of the two can't stand side by side, or None if they can."""
        for name in ("fingerprint", "sizes", "frame_rate", "sample_rate"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                if name == "fingerprint":
                    mine, theirs = mine[:12], theirs[:12]
                return (
                    f"{name} {mine} ({self.tokenizer or 'unnamed'}) and {theirs} "
                    f"({other.tokenizer or 'unnamed'})"
                )
        return None


def id_dtype(sizes: Sequence[int]) -> np.dtype:
    """The smallest unsigned integer that holds the ids of all codebooks.

    Example
    -------
    >>> id_dtype([256]), id_dtype([500, 100])
    (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(max(sizes, default=1) - 1)


class ShardWriter:
    """One Parquet file of a store; it appears whole, at ``close``, or not at all.

    Arguments
    ---------
    path : str or Path
        The file.
    info : StoreInfo
        Of the tokens that will be added.

    Example
    -------
    >>> import torch
    >>> path = getfixture("tmp_path") / "tokens-00000.parquet"
    >>> info = StoreInfo("f" * 64, 50.0, 16000, (500,))
    >>> with ShardWriter(path, info) as shard:
    ...     shard.add("utterance", torch.tensor([[3], [499]]), n_samples=640)
    >>> import pyarrow.parquet
    >>> pyarrow.parquet.read_table(path)["codes"].to_pylist()
    [[3, 499]]
    """

    def __init__(self, path: str | Path, info: StoreInfo):
        self.path, self.info = Path(path), info
        self.ids: set[str] = set()
        self._rows: list[tuple[str, int | None, np.ndarray]] = []
        self._dtype = id_dtype(info.sizes)
        # Two processes may write the same shard: each has a file of its own.
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._file: Any = None

    def add(
        self, item_id: str, codes: Tensor | np.ndarray, n_samples: int | None = None
    ) -> None:
        """Add an utterance.

        Arguments
        ---------
        item_id : str
            Unique in the file.
        codes : Tensor or array
            Integers ``[frames, codebooks]``.
        n_samples : int, optional
            Length of its audio at the tokenizer's rate.

        Raises
        ------
        DsuError
            If the id is there already, the shape is wrong or an id out of range.
        """
        if item_id in self.ids:
            raise DsuError(f"{self.path}: '{item_id}' is added twice")
        codes = np.asarray(codes.detach().cpu() if isinstance(codes, Tensor) else codes)
        sizes = self.info.sizes
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise DsuError(
                f"'{item_id}': codes must be [frames, {len(sizes)}], got "
                f"{list(codes.shape)}"
            )
        if codes.size and (codes.min() < 0 or (codes.max(0) >= sizes).any()):
            raise DsuError(
                f"'{item_id}': ids {codes.min()} to {codes.max()} are outside the "
                f"codebooks of {sizes} ids"
            )
        self.ids.add(item_id)
        self._rows.append((item_id, n_samples, codes.astype(self._dtype).ravel()))
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is None:
            schema = pa.schema(
                [
                    ("id", pa.string()),
                    ("n_samples", pa.int64()),
                    ("frames", pa.int32()),
                    ("codes", pa.list_(pa.from_numpy_dtype(self._dtype))),
                ]
            )
            self._file = pq.ParquetWriter(
                self._part, schema, compression="zstd", compression_level=1
            )
        return self._file

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        ids, samples, codes = zip(*self._rows, strict=True)
        sizes = np.array([len(item) for item in codes])
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        frames = (sizes // len(self.info.sizes)).astype(np.int32)
        columns = [
            pa.array(ids, pa.string()),
            pa.array(samples, pa.int64()),
            pa.array(frames),
            pa.ListArray.from_arrays(
                pa.array(offsets), pa.array(np.concatenate(codes))
            ),
        ]
        writer = self._open()
        writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))
        self._rows.clear()

    def close(self, record: Mapping[str, Any] | None = None) -> None:
        """Put the file in its place, safe against a power cut.

        Arguments
        ---------
        record : mapping, optional
            More to keep in the file's metadata; plain JSON values.
        """
        writer = self._open()
        self._flush()
        header = {"format": FORMAT, **asdict(self.info), **(record or {})}
        text = json.dumps(header, sort_keys=True, ensure_ascii=False)
        writer.add_key_value_metadata({_KEY.decode(): text})
        writer.close()
        put_in_place(self._part, self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def put_in_place(part: Path, path: Path) -> None:
    """Rename ``part`` to ``path`` so that ``path`` is whole even after a power cut."""
    try:
        _sync(part)
        os.replace(part, path)
    except FileNotFoundError:
        # Another process wrote the same file and tidied up.
        if not path.exists():
            raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some file systems can't sync folders; the file itself must be.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed had not finished writing.

    For folders that hold all their files: a process that still writes one of them
    finds it in its place.
    """
    for pattern in (".tokens-*.part", f".{JOB_FILE}.*.part"):
        for part in folder.glob(pattern):
            part.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    put_in_place(part, path)


def shard_path(folder: str | Path, index: int) -> Path:
    """Where shard ``index`` of a store lies."""
    return Path(folder) / f"tokens-{index:05d}.parquet"


def read_header(path: str | Path) -> dict[str, Any]:
    """What a shard's metadata say: the fields of ``StoreInfo`` and what was added.

    Raises
    ------
    DsuError
        If the file is not a shard of a token store, or of a newer format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        text = (pq.read_metadata(path).metadata or {}).get(_KEY)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DsuError(f"{path}: not readable as Parquet ({reason})") from None
    if text is None:
        raise DsuError(f"{path}: a Parquet file, but not of a token store")
    header = json.loads(text)
    if header["format"] > FORMAT:
        raise DsuError(
            f"{path}: token store format {header['format']}, this version of the "
            f"package reads up to {FORMAT}; update it"
        )
    return header


def header_info(header: Mapping[str, Any]) -> StoreInfo:
    """The ``StoreInfo`` part of a shard's header."""
    known = {entry.name: header[entry.name] for entry in fields(StoreInfo)}
    return StoreInfo(**{**known, "sizes": tuple(known["sizes"])})
