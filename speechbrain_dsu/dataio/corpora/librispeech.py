"""LibriSpeech (Panayotov et al., 2015): 960 hours of English audiobooks, CC BY 4.0.

https://www.openslr.org/12
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain_dsu.dataio.corpora.layout import FoundFile
from speechbrain_dsu.dataio.corpora.libri import Release, Texts, prepare_parts


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
    return prepare_parts(_RELEASE, data_folder, save_folder, splits)


def _read_texts(root: Path, texts: Sequence[FoundFile]) -> Texts:
    """One table per chapter; its lines are an id and what is said."""
    found = {}
    for file in texts:
        for line in (root / file.path).read_text("utf-8").split("\n"):
            name, _, text = line.strip().partition(" ")
            if name:
                found[name] = {"text": text}
    return found


_RELEASE = Release(
    "LibriSpeech", ".flac", (".trans.txt",), "speaker-chapter-utterance", _read_texts
)
