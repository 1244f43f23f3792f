"""VCTK (Yamagishi et al., 2019): 110 English speakers, 48 kHz, CC BY 4.0.

https://doi.org/10.7488/ds/2645
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechbrain_dsu.dataio.corpora.layout import (
    FoundFile,
    Layout,
    find_file,
    find_root,
    list_files,
)
from speechbrain_dsu.dataio.corpora.manifests import (
    Gathered,
    Utterance,
    prepare,
    split_by_share,
)
from speechbrain_dsu.utils.errors import DsuError

_SPEAKER = re.compile(r"[ps]\d+")
_NAME = re.compile(r"([ps]\d+)_(\d+)(?:_mic\d)?")


@dataclass(frozen=True)
class _Release:
    """Where a release keeps its audio, and how the names of one microphone end."""

    audio: str
    suffix: str


_RELEASES = (
    _Release("wav48_silence_trimmed", "_mic{mic}.flac"),
    _Release("wav48", ".wav"),
    _Release("", ".wav"),
)


def _release_of(folder: Path) -> _Release | None:
    for release in _RELEASES:
        place = folder / release.audio
        if place.is_dir() and (release.audio or _has_speakers(place)):
            return release
    return None


def _has_speakers(folder: Path) -> bool:
    return any(_SPEAKER.fullmatch(p.name) for p in folder.iterdir() if p.is_dir())


def _is_root(folder: Path) -> bool:
    # The speakers' folders of a full release are not a release of their own.
    inside = folder.name in ("wav48_silence_trimmed", "wav48", "txt")
    return not inside and _release_of(folder) is not None


_LAYOUT = Layout(
    "VCTK",
    "a folder with wav48_silence_trimmed/p225/p225_001_mic1.flac (0.92), "
    "wav48/p225/p225_001.wav (0.80) or p225/p225_001.wav, and txt/ beside it",
    _is_root,
)


def prepare_vctk(
    data_folder: str | Path,
    save_folder: str | Path,
    split_ratio: Sequence[float] = (80, 10, 10),
    split_by: Literal["speaker", "utterance"] = "speaker",
    mic: int = 1,
    seed: int = 1234,
    skip_prep: bool = False,
) -> dict[str, Path]:
    """Write ``train.json``, ``valid.json`` and ``test.json`` of VCTK.

    An entry has ``wav``, ``duration`` in seconds, ``spk_id``, ``sex`` and ``accent``
    (None without speaker-info.txt) and ``text`` (None without a file in ``txt``, as
    for speaker p315 in every release). Nothing is done when the same files and
    options gave these manifests before.

    Arguments
    ---------
    data_folder : str or Path
        Release 0.92 (``wav48_silence_trimmed``), release 0.80 (``wav48``), or a
        folder of speakers' folders.
    save_folder : str or Path
        Where the manifests go.
    split_ratio : sequence of float
        Percentages for train, valid and test. There is no official split.
    split_by : "speaker" or "utterance"
        Whether the parts share no speaker, or utterances are drawn one by one. The
        speakers read common texts (001 to 024), so that texts are shared either way.
    mic : int
        1 or 2, the microphone of release 0.92.
    seed : int
        Another seed is another split.
    skip_prep : bool
        Do nothing.

    Returns
    -------
    dict
        ``{"train": path, ...}``; empty with ``skip_prep``.

    Raises
    ------
    DsuError
        If the folder is not VCTK, an option makes no sense, or nothing is usable.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> root = getfixture("tmp_path")
    >>> (root / "p225").mkdir()
    >>> write_audio(root / "p225" / "p225_001.wav", torch.zeros(4800), 48000)
    >>> paths = prepare_vctk(root, root / "out", [100, 0, 0])
    >>> print(paths["train"].read_text())
    {
      "p225_001": {
        "wav": "{data_root}/p225/p225_001.wav",
        "duration": 0.1,
        "spk_id": "p225",
        "sex": null,
        "accent": null,
        "text": null
      }
    }
    <BLANKLINE>
    """
    if skip_prep:
        return {}
    if split_by not in ("speaker", "utterance") or mic not in (1, 2):
        raise DsuError(
            f"VCTK: split_by={split_by!r}, mic={mic}: take 'speaker' or 'utterance', "
            "and microphone 1 or 2"
        )
    root = find_root(data_folder, _LAYOUT)
    release = _release_of(root)
    suffix = release.suffix.format(mic=mic)
    audio = list_files(root, release.audio, (suffix,))
    texts = list_files(root, "txt", (".txt",)) if (root / "txt").is_dir() else []
    tables = find_file(root, "speaker-info.txt")
    group = (lambda u: u.fields["spk_id"]) if split_by == "speaker" else None
    return prepare(
        "VCTK",
        root,
        save_folder,
        [*audio, *texts, *tables],
        {
            "split_ratio": list(split_ratio),
            "split_by": split_by,
            "mic": mic,
            "seed": seed,
        },
        lambda: _gather(root, audio, texts, tables),
        lambda items: split_by_share(items, split_ratio, seed, group),
    )


def _gather(
    root: Path,
    audio: Sequence[FoundFile],
    texts: Sequence[FoundFile],
    tables: Sequence[FoundFile],
) -> Gathered:
    transcripts = {
        file.stem: " ".join((root / file.path).read_text("utf-8").split())
        for file in texts
    }
    about = _speakers(root / tables[0].path) if tables else {}
    gathered = Gathered([])
    for file in audio:
        match = _NAME.fullmatch(file.stem)
        if not match:
            gathered.left_out.append(f"{root / file.path}: not named speaker_number")
            continue
        name = f"{match[1]}_{match[2]}"
        sex, accent = about.get(match[1], (None, None))
        fields = {"spk_id": match[1], "sex": sex, "accent": accent}
        gathered.utterances.append(
            Utterance(name, file.path, {**fields, "text": transcripts.get(name)})
        )
    return gathered


def _speakers(path: Path) -> Mapping[str, tuple[str | None, str | None]]:
    """Sex and accent by speaker; lines are ``id age sex accent region``.

    Release 0.80 writes the ids without their ``p``.
    """
    found = {}
    for line in path.read_text("utf-8").split("\n"):
        parts = line.split()
        if len(parts) < 3 or parts[2] not in ("M", "F"):
            continue
        name = f"p{parts[0]}" if parts[0].isdigit() else parts[0]
        found[name] = parts[2], parts[3] if len(parts) > 3 else None
    return found
