"""What LibriSpeech and LibriTTS share: parts, chapters of speakers, SPEAKERS.TXT."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
"""Parts of both corpora, each a folder and an archive of its own."""

DEFAULT_SPLITS = {
    "train": ("train-clean-100",),
    "valid": ("dev-clean",),
    "test": ("test-clean",),
}

Texts = Mapping[str, Mapping[str, Any]]
"""What is said, by the utterance's id: manifest fields, ``text`` among them."""


@dataclass(frozen=True)
class Release:
    """How a corpus of these parts names its files.

    Arguments
    ---------
    corpus : str
        Its name.
    audio : str
        How the names of its recordings end.
    texts : tuple of str
        How the names of its transcripts end.
    named : str
        What an utterance's id is made of, beginning with speaker and chapter and
        joined by one character, e.g. "speaker-chapter-utterance".
    read_texts : callable
        Root and found transcripts to ``Texts``.
    """

    corpus: str
    audio: str
    texts: tuple[str, ...]
    named: str
    read_texts: Callable[[Path, Sequence[FoundFile]], Texts]

    @property
    def layout(self) -> Layout:
        """For messages about a folder that is not this corpus."""
        return Layout(
            self.corpus,
            f"the folder {self.corpus} with train-clean-100/<speaker>/<chapter>/"
            f"*{self.audio}, dev-clean ...",
            lambda folder: any((folder / name).is_dir() for name in FOLDERS),
        )

    def split_name(self, stem: str) -> list[str] | None:
        """Speaker, chapter and the rest of an id; None if it is none."""
        joint = self.named.removeprefix("speaker")[0]
        parts = stem.split(joint)
        return parts if len(parts) == len(self.named.split(joint)) else None


def prepare_parts(
    release: Release,
    data_folder: str | Path,
    save_folder: str | Path,
    splits: Mapping[str, Sequence[str]] | None,
) -> dict[str, Path]:
    """Write the manifests of a corpus that comes in these parts.

    Arguments
    ---------
    release : Release
        Which corpus.
    data_folder, save_folder : str or Path
        Where it is, and where the manifests go.
    splits : mapping or None
        ``{manifest name: folders}``; ``DEFAULT_SPLITS`` by default.

    Returns
    -------
    dict
        ``{manifest name: path}``.

    Raises
    ------
    DsuError
        If the folder is not this corpus, a part is missing or not unpacked, a folder
        is in two manifests, or nothing is usable.
    """
    splits = {k: list(v) for k, v in (splits or DEFAULT_SPLITS).items()}
    folders = [folder for part in splits.values() for folder in part]
    if not folders or len(set(folders)) < len(folders):
        raise DsuError(
            f"{release.corpus}: splits={splits}: give every manifest folders, and "
            "every folder to one manifest"
        )
    root = find_root(data_folder, release.layout)
    check_parts(root, folders, release.corpus)
    audio = [f for name in folders for f in list_files(root, name, (release.audio,))]
    texts = [f for name in folders for f in list_files(root, name, release.texts)]
    # LibriTTS writes the ending small.
    tables = find_file(root, "SPEAKERS.TXT") or find_file(root, "SPEAKERS.txt")
    return prepare(
        release.corpus,
        root,
        save_folder,
        [*audio, *texts, *tables],
        {"splits": splits},
        lambda: _gather(release, root, audio, texts, tables),
        lambda items: _by_folder(items, splits),
    )


def _gather(
    release: Release,
    root: Path,
    audio: Sequence[FoundFile],
    texts: Sequence[FoundFile],
    tables: Sequence[FoundFile],
) -> Gathered:
    sexes = _sexes(root / tables[0].path) if tables else {}
    said = release.read_texts(root, texts)
    gathered = Gathered([])
    for file in audio:
        parts = release.split_name(file.stem)
        if parts is None:
            gathered.left_out.append(f"{root / file.path}: not named {release.named}")
        elif file.stem not in said:
            gathered.left_out.append(f"{root / file.path}: has no transcript")
        else:
            fields = {
                "spk_id": parts[0],
                "chapter": parts[1],
                "sex": sexes.get(parts[0]),
                **said[file.stem],
            }
            gathered.utterances.append(Utterance(file.stem, file.path, fields))
    missing = sorted(set(said) - {file.stem for file in audio})
    gathered.left_out += [f"{name}: has a transcript and no file" for name in missing]
    return gathered


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
