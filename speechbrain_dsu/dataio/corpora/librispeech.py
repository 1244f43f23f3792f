"""LibriSpeech (Panayotov et al., 2015): 960 hours of English audiobooks, CC BY 4.0.

https://www.openslr.org/12
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain_dsu.dataio.corpora.layout import (
    FoundFile,
    Layout,
    check_parts,
    find_file,
    find_root,
    list_files,
)
from speechbrain_dsu.dataio.corpora.manifests import Gathered, Utterance, prepare
from speechbrain_dsu.utils.errors import DsuError

FOLDERS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)
"""Parts of the corpus, each a folder and an archive of its own."""

DEFAULT_SPLITS = {
    "train": ("train-clean-100",),
    "valid": ("dev-clean",),
    "test": ("test-clean",),
}

_LAYOUT = Layout(
    "LibriSpeech",
    "the folder LibriSpeech with train-clean-100/<speaker>/<chapter>/*.flac, "
    "dev-clean ...",
    lambda folder: any((folder / name).is_dir() for name in FOLDERS),
)


def prepare_librispeech(
    data_folder: str | Path,
    save_folder: str | Path,
    splits: Mapping[str, Sequence[str]] | None = None,
    skip_prep: bool = False,
) -> dict[str, Path]:
    """Write the manifests of LibriSpeech.

    An entry has ``wav``, ``duration`` in seconds, ``spk_id``, ``chapter``, ``sex``
    ("M", "F" or None, from SPEAKERS.TXT) and ``text`` (upper case, as published).
    Nothing is done when the same files and options gave these manifests before.

    Arguments
    ---------
    data_folder : str or Path
        The folder with ``train-clean-100``, ``dev-clean`` ...; only the parts that
        ``splits`` names have to be there.
    save_folder : str or Path
        Where the manifests go.
    splits : mapping, optional
        ``{manifest name: folders}``; by default ``train-clean-100``, ``dev-clean``
        and ``test-clean`` as ``train``, ``valid`` and ``test``.
    skip_prep : bool
        Do nothing.

    Returns
    -------
    dict
        ``{"train": path, ...}``; empty with ``skip_prep``.

    Raises
    ------
    DsuError
        If the folder is not LibriSpeech, a part is missing or not unpacked, or
        nothing in it is usable.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> root = getfixture("tmp_path")
    >>> chapter = root / "dev-clean" / "84" / "121123"
    >>> chapter.mkdir(parents=True)
    >>> write_audio(chapter / "84-121123-0000.flac", torch.zeros(8000), 16000)
    >>> _ = (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO ON")
    >>> paths = prepare_librispeech(root, root / "out", {"valid": ["dev-clean"]})
    >>> print(paths["valid"].read_text())
    {
      "84-121123-0000": {
        "wav": "{data_root}/dev-clean/84/121123/84-121123-0000.flac",
        "duration": 0.5,
        "spk_id": "84",
        "chapter": "121123",
        "sex": null,
        "text": "GO ON"
      }
    }
    <BLANKLINE>
    """
    if skip_prep:
        return {}
    splits = {k: list(v) for k, v in (splits or DEFAULT_SPLITS).items()}
    folders = [folder for part in splits.values() for folder in part]
    if not folders or len(set(folders)) < len(folders):
        raise DsuError(
            f"LibriSpeech: splits={splits}: give every manifest folders, and every "
            "folder to one manifest"
        )
    root = find_root(data_folder, _LAYOUT)
    check_parts(root, folders, "LibriSpeech")
    audio = [file for name in folders for file in list_files(root, name, (".flac",))]
    texts = [f for name in folders for f in list_files(root, name, (".trans.txt",))]
    info = root / "SPEAKERS.TXT"
    tables = find_file(root, info.name)
    return prepare(
        "LibriSpeech",
        root,
        save_folder,
        [*audio, *texts, *tables],
        {"splits": splits},
        lambda: _gather(root, audio, texts, _sexes(info) if tables else {}),
        lambda items: _by_folder(items, splits),
    )


def _gather(
    root: Path,
    audio: Sequence[FoundFile],
    texts: Sequence[FoundFile],
    sexes: Mapping[str, str],
) -> Gathered:
    transcripts = _transcripts(root, texts)
    gathered = Gathered([])
    for file in audio:
        parts = file.stem.split("-")
        if len(parts) != 3:
            gathered.left_out.append(
                f"{root / file.path}: not named speaker-chapter-utterance"
            )
        elif file.stem not in transcripts:
            gathered.left_out.append(f"{root / file.path}: has no transcript")
        else:
            fields = {
                "spk_id": parts[0],
                "chapter": parts[1],
                "sex": sexes.get(parts[0]),
                "text": transcripts[file.stem],
            }
            gathered.utterances.append(Utterance(file.stem, file.path, fields))
    missing = sorted(set(transcripts) - {file.stem for file in audio})
    gathered.left_out += [f"{name}: has a transcript and no file" for name in missing]
    return gathered


def _transcripts(root: Path, texts: Sequence[FoundFile]) -> dict[str, str]:
    found = {}
    for file in texts:
        for line in (root / file.path).read_text("utf-8").split("\n"):
            name, _, text = line.strip().partition(" ")
            if name:
                found[name] = text
    return found


def _sexes(path: Path) -> dict[str, str]:
    """Sex by speaker; lines are ``id | sex | subset | minutes | name``, ``;`` notes."""
    found = {}
    for line in path.read_text("utf-8").split("\n"):
        parts = [part.strip() for part in line.split("|")]
        if len(parts) >= 2 and not line.startswith(";") and parts[1] in ("M", "F"):
            found[parts[0]] = parts[1]
    return found


def _by_folder(
    utterances: Sequence[Utterance], splits: Mapping[str, Sequence[str]]
) -> dict[str, list[Utterance]]:
    name_of = {folder: name for name, part in splits.items() for folder in part}
    parts: dict[str, list[Utterance]] = {name: [] for name in splits}
    for utterance in utterances:
        # A folder may be named by a path ("clean/train"): the longest prefix counts.
        folders = [f for f in name_of if utterance.wav.startswith(f"{f}/")]
        parts[name_of[max(folders, key=len)]].append(utterance)
    return parts
