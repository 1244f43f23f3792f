"""LibriTTS (Zen et al., 2019): 585 hours of English audiobooks, 24 kHz, CC BY 4.0.

https://www.openslr.org/60; LibriTTS-R (https://www.openslr.org/141) has its layout.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain_dsu.dataio.corpora.layout import FoundFile
from speechbrain_dsu.dataio.corpora.libri import Release, Texts, prepare_parts

_NORMALISED, _ORIGINAL = ".normalized.txt", ".original.txt"


def prepare_libritts(
    data_folder: str | Path,
    save_folder: str | Path,
    splits: Mapping[str, Sequence[str]] | None = None,
    skip_prep: bool = False,
) -> dict[str, Path]:
    """Write the manifests of LibriTTS or LibriTTS-R.

    An entry has ``wav``, ``duration`` in seconds, ``spk_id``, ``chapter``, ``sex``
    ("M", "F" or None, from SPEAKERS.txt), ``text`` (normalised, from
    ``.normalized.txt``) and ``text_raw`` (from ``.original.txt``, None without it).
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
        If the folder is not LibriTTS, a part is missing or not unpacked, or nothing
        in it is usable.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> root = getfixture("tmp_path")
    >>> chapter = root / "dev-clean" / "84" / "121123"
    >>> chapter.mkdir(parents=True)
    >>> name = "84_121123_000007_000001"
    >>> write_audio(chapter / f"{name}.wav", torch.zeros(12000), 24000)
    >>> _ = (chapter / f"{name}.normalized.txt").write_text("Go on, Doctor.")
    >>> _ = (chapter / f"{name}.original.txt").write_text("Go on, Dr.")
    >>> paths = prepare_libritts(root, root / "out", {"valid": ["dev-clean"]})
    >>> print(paths["valid"].read_text())
    {
      "84_121123_000007_000001": {
        "wav": "{data_root}/dev-clean/84/121123/84_121123_000007_000001.wav",
        "duration": 0.5,
        "spk_id": "84",
        "chapter": "121123",
        "sex": null,
        "text": "Go on, Doctor.",
        "text_raw": "Go on, Dr."
      }
    }
    <BLANKLINE>
    """
    if skip_prep:
        return {}
    return prepare_parts(_RELEASE, data_folder, save_folder, splits)


def _read_texts(root: Path, texts: Sequence[FoundFile]) -> Texts:
    """One file per utterance and kind of text."""
    kinds: dict[str, dict[str, str]] = {_NORMALISED: {}, _ORIGINAL: {}}
    for file in texts:
        path = root / file.path
        ending = next(kind for kind in kinds if path.name.endswith(kind))
        text = " ".join(path.read_text("utf-8").split())
        kinds[ending][path.name.removesuffix(ending)] = text
    originals = kinds[_ORIGINAL]
    return {
        name: {"text": text, "text_raw": originals.get(name)}
        for name, text in kinds[_NORMALISED].items()
    }


_RELEASE = Release(
    "LibriTTS",
    ".wav",
    (_NORMALISED, _ORIGINAL),
    "speaker_chapter_paragraph_sentence",
    _read_texts,
)
