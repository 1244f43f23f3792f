"""Finding a corpus on disk, and saying what is wrong when it is not there."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speechbrain_dsu.utils.errors import DsuError

_ARCHIVES = (".tar.bz2", ".tar.gz", ".tgz", ".zip", ".tar", ".tar.xz")
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """How a corpus looks on disk.

    Arguments
    ---------
    corpus : str
        Its name, for messages.
    expected : str
        The layout in words, for messages.
    is_root : callable
        Whether a folder is the corpus's root.
    """

    corpus: str
    expected: str
    is_root: Callable[[Path], bool]


def find_root(data_folder: str | Path, layout: Layout) -> Path:
    """The corpus's root folder, which must be the one that was given.

    Arguments
    ---------
    data_folder : str or Path
        What the user gave.
    layout : Layout
        What it has to be.

    Returns
    -------
    Path
        ``data_folder`` as a Path.

    Raises
    ------
    DsuError
        Naming the layout expected and what was found: nothing, an empty folder, an
        archive that was not unpacked, or the root one folder up or down.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "LJSpeech-1.1" / "wavs").mkdir(parents=True)
    >>> layout = Layout("LJSpeech", "wavs/*.wav", lambda p: (p / "wavs").is_dir())
    >>> find_root(folder, layout)
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: LJSpeech: ... one level down: pass ...
    """
    folder = Path(data_folder)
    if folder.is_dir() and layout.is_root(folder):
        return folder
    found = _what_is_there(folder, layout)
    raise DsuError(
        f"{layout.corpus}: data_folder={str(folder)!r} {found}; expected "
        f"{layout.expected}"
    )


def _what_is_there(folder: Path, layout: Layout) -> str:
    if folder.is_file():
        if folder.name.endswith(_ARCHIVES):
            return "is an archive: unpack it and pass the folder"
        return "is a file, not a folder"
    if not folder.exists():
        return "does not exist"
    names = sorted(os.listdir(folder))
    for name in names:
        if _looks_right(folder / name, layout):
            return f"has the corpus one level down: pass {str(folder / name)!r}"
    for parent in list(folder.resolve().parents)[:2]:
        if _looks_right(parent, layout):
            return f"is inside the corpus: pass {str(parent)!r}"
    archives = [name for name in names if name.endswith(_ARCHIVES)]
    if archives:
        return f"holds the archive {archives[0]}, not unpacked: unpack it there"
    if not names:
        return "is empty"
    return f"holds {_some(names)}"


def _looks_right(folder: Path, layout: Layout) -> bool:
    try:
        return folder.is_dir() and layout.is_root(folder)
    except OSError:
        # A neighbour that may not be read is not what we look for.
        return False


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_parts(root: Path, wanted: list[str], corpus: str) -> None:
    """Check that subfolders are there.

    Raises
    ------
    DsuError
        Naming the first missing one and those that are there.
    """
    for name in wanted:
        if (root / name).is_dir():
            continue
        there = sorted(p.name for p in root.iterdir() if p.is_dir())
        packed = [p.name for p in root.iterdir() if p.name.startswith(f"{name}.")]
        hint = f"; {packed[0]} is not unpacked" if packed else ""
        raise DsuError(
            f"{corpus}: there is no folder {name!r} in {root}{hint}; there are "
            f"{_some(there) or 'none'}"
        )


@dataclass(frozen=True)
class FoundFile:
    """A file of a corpus: path relative to the root (``/``), bytes, mtime in ns."""

    path: str
    size: int
    modified: int

    @property
    def stem(self) -> str:
        """The file's name without folders and suffix."""
        return self.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def find_file(root: Path, name: str) -> list[FoundFile]:
    """The one file ``root / name`` in a list, which is empty without it."""
    path = root / name
    if not path.is_file():
        return []
    return [FoundFile(name, path.stat().st_size, path.stat().st_mtime_ns)]


def list_files(root: Path, folder: str, suffixes: tuple[str, ...]) -> list[FoundFile]:
    """Files below ``root / folder`` whose names end in one of ``suffixes``.

    Hidden files (macOS leaves ``._x.wav`` beside ``x.wav``) are passed over.

    Arguments
    ---------
    root : Path
        The corpus.
    folder : str
        A folder in it; ``""`` for the whole.
    suffixes : tuple of str
        Endings of the wanted names.

    Returns
    -------
    list of FoundFile
        Sorted by path.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "a").mkdir()
    >>> _ = (root / "a" / "x.txt").write_text("x")
    >>> [file.path for file in list_files(root, "", (".txt",))]
    ['a/x.txt']
    """
    found, todo = [], [root / folder if folder else root]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    todo.append(Path(entry.path))
                elif entry.name.endswith(suffixes):
                    stat = entry.stat()
                    path = Path(entry.path).relative_to(root).as_posix()
                    found.append(FoundFile(path, stat.st_size, stat.st_mtime_ns))
    return sorted(found, key=lambda file: file.path)
