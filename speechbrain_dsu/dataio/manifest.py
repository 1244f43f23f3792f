"""What to tokenize: a file, a folder, or a SpeechBrain manifest (JSON or CSV)."""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain_dsu.utils.audio import AUDIO_SUFFIXES
from speechbrain_dsu.utils.errors import DsuError

# JSON manifests have {data_root}, CSV ones $data_root; recipes also say data_folder.
_ROOT = re.compile(r"\{data_(?:root|folder)\}|\$data_(?:root|folder)\b")


@dataclass(frozen=True, order=True)
class AudioItem:
    """One utterance: an id and where its audio lies.

    Arguments
    ---------
    id : str
        Unique in its list.
    path : str
        Of the audio file.
    start : int
        First sample of the stretch, at the file's own rate.
    stop : int, optional
        Sample behind the last; None is the file's end.
    """

    id: str
    path: str
    start: int = 0
    stop: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the item is all of its file."""
        return self.start == 0 and self.stop is None


def read_items(
    source: str | Path, data_root: str | Path | None = None, column: str = "wav"
) -> list[AudioItem]:
    """The utterances of a file, folder or manifest, sorted by id.

    - An audio file is one item; its id is the name without suffix.
    - A folder is searched through, links followed, hidden files left out; the ids
      are paths in the folder without suffix (``speaker/take1``).
    - A ``.json`` or ``.csv`` file is a SpeechBrain manifest: one entry (row) per id
      (column ``ID``) with the audio's path under ``column``. A JSON entry may be
      SpeechBrain's ``{"file": ..., "start": ..., "stop": ...}``, and ``start`` and
      ``stop`` may be keys or columns beside the path; they count samples, as in
      SpeechBrain's ``read_audio``. Other keys (``duration`` and so on) are not used.

    Arguments
    ---------
    source : str or Path
        File, folder or manifest.
    data_root : str or Path, optional
        Replaces ``{data_root}`` (in CSV files ``$data_root``) in a manifest, also
        under the name ``data_folder``.
    column : str
        Key or column of the audio in a manifest.

    Returns
    -------
    list of AudioItem
        At least one.

    Raises
    ------
    DsuError
        If there is nothing at ``source`` or in it, an id occurs twice, or an entry
        can't be understood.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "b.wav").touch(), (folder / "a.FLAC").touch()
    (None, None)
    >>> [item.id for item in read_items(folder)]
    ['a', 'b']
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if path.is_dir():
        items = _from_folder(path)
    elif not path.exists():
        raise DsuError(f"{path}: no such file or folder")
    elif suffix == ".json":
        items = _from_json(path, data_root, column)
    elif suffix == ".csv":
        items = _from_csv(path, data_root, column)
    elif suffix in AUDIO_SUFFIXES:
        items = [AudioItem(path.stem, str(path))]
    else:
        raise DsuError(
            f"{path}: neither a manifest (.json, .csv) nor audio "
            f"({', '.join(AUDIO_SUFFIXES)})"
        )
    return sort_items(items, str(path))


def sort_items(items: Iterable[AudioItem], name: str = "the list") -> list[AudioItem]:
    """Items by id, each id once.

    Raises
    ------
    DsuError
        If an id occurs twice; the message names the files.
    """
    items = sorted(items, key=lambda item: item.id)
    for one, two in zip(items, items[1:], strict=False):
        if one.id == two.id:
            twice = sum(n > 1 for n in Counter(item.id for item in items).values())
            more = f" (and {twice - 1} more ids)" if twice > 1 else ""
            raise DsuError(
                f"{name}: the id '{one.id}' occurs twice, for {one.path} and "
                f"{two.path}{more}; ids must be unique"
            )
    return items


def hash_items(items: Sequence[AudioItem]) -> str:
    """Content hash of a list: ids, file names and stretches.

    Folders don't count: another machine may have the corpus elsewhere.
    """
    digest = hashlib.sha256()
    for item in items:
        row = [item.id, Path(item.path).name, item.start, item.stop]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _from_folder(folder: Path) -> list[AudioItem]:
    items, visited = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            # A link that leads back up would be walked for ever.
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            item_id = path.relative_to(folder).with_suffix("").as_posix()
            items.append(AudioItem(item_id, str(path)))
    if not items:
        raise DsuError(
            f"{folder}: no audio in this folder ({', '.join(AUDIO_SUFFIXES)})"
        )
    return items


def _from_json(path: Path, root: Any, column: str) -> list[AudioItem]:
    try:
        entries = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_unique
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DsuError(f"{path}: not valid JSON ({error})") from None
    except _RepeatedKeyError as error:
        raise DsuError(f"{path}: '{error}' occurs twice; ids must be unique") from None
    if not isinstance(entries, dict) or not entries:
        raise DsuError(
            f"{path}: must be a mapping from ids to entries, with one at least"
        )
    items = []
    for item_id, entry in entries.items():
        where = f"{path}: '{item_id}'"
        if not isinstance(entry, dict):
            raise DsuError(f"{where}: must be a mapping with the key '{column}'")
        items.append(_item(item_id, entry, column, root, where))
    return items


class _RepeatedKeyError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json keeps the last of two equal keys and says nothing.
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKeyError(Counter(k for k, _ in pairs).most_common(1)[0][0])
    return found


def _from_csv(path: Path, root: Any, column: str) -> list[AudioItem]:
    items = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = reader.fieldnames or []
            for name in ("ID", column):
                if name not in names:
                    raise DsuError(f"{path}: has no column '{name}', it has {names}")
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if None in row or None in row.values():
                    raise DsuError(
                        f"{where}: must have {len(names)} fields, as the head"
                    )
                items.append(_item(row["ID"], row, column, root, where))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DsuError(f"{path}: not valid CSV ({error})") from None
    if not items:
        raise DsuError(f"{path}: has no rows")
    return items


def _item(
    item_id: str, entry: Mapping[str, Any], column: str, root: Any, where: str
) -> AudioItem:
    if column not in entry:
        raise DsuError(f"{where}: has no '{column}', it has {sorted(entry)}")
    audio, bounds = entry[column], entry
    if isinstance(audio, dict):
        if "file" not in audio:
            raise DsuError(f"{where}: '{column}' has no 'file', it has {sorted(audio)}")
        audio, bounds = audio["file"], audio
    if not isinstance(audio, str) or not audio:
        raise DsuError(
            f"{where}: '{column}' must be the path of one file, got {audio!r}"
        )
    if not item_id:
        raise DsuError(f"{where}: the id is empty")
    if _ROOT.search(audio):
        if root is None:
            raise DsuError(
                f"{where}: {audio} needs a data_root (--data-root) to replace"
            )
        audio = _ROOT.sub(lambda match: str(root), audio)
    start = _samples(bounds.get("start"), "start", where) or 0
    stop = _samples(bounds.get("stop"), "stop", where)
    if stop is not None and stop <= start:
        raise DsuError(f"{where}: the stretch from {start} to {stop} is empty")
    return AudioItem(item_id, audio, start, stop)


def _samples(value: Any, name: str, where: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
        if number >= 0 and number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DsuError(f"{where}: {name} must be a number of samples, got {value!r}")
