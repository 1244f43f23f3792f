"""LJSpeech (Ito and Johnson, 2017): 24 hours of one English reader, public domain.

https://keithito.com/LJ-Speech-Dataset
"""

from collections.abc import Sequence
from pathlib import Path

from speechbrain_dsu.dataio.corpora.layout import (
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

_LAYOUT = Layout(
    "LJSpeech",
    "the folder LJSpeech-1.1 with metadata.csv and wavs/LJ001-0001.wav ...",
    lambda folder: (folder / "metadata.csv").is_file() and (folder / "wavs").is_dir(),
)


def prepare_ljspeech(
    data_folder: str | Path,
    save_folder: str | Path,
    split_ratio: Sequence[float] = (80, 10, 10),
    seed: int = 1234,
    skip_prep: bool = False,
) -> dict[str, Path]:
    """Write ``train.json``, ``valid.json`` and ``test.json`` of LJSpeech.

    An entry has ``wav``, ``duration`` in seconds, ``spk_id``, ``sex``, ``text``
    (normalised) and ``text_raw``. Nothing is done when the same files and options
    gave these manifests before.

    Arguments
    ---------
    data_folder : str or Path
        The folder with ``metadata.csv`` and ``wavs``; any part of LJSpeech-1.1 will
        do, utterances without a file are left out and named.
    save_folder : str or Path
        Where the manifests go.
    split_ratio : sequence of float
        Percentages of utterances for train, valid and test. There is no official
        split.
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
        If the folder is not LJSpeech, or nothing in it is usable.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> (folder / "wavs").mkdir()
    >>> write_audio(folder / "wavs" / "LJ001-0001.wav", torch.zeros(22050), 22050)
    >>> _ = (folder / "metadata.csv").write_text("LJ001-0001|Mr. X|Mister X")
    >>> paths = prepare_ljspeech(folder, folder / "manifests", [100, 0, 0])
    >>> print(paths["train"].read_text())
    {
      "LJ001-0001": {
        "wav": "{data_root}/wavs/LJ001-0001.wav",
        "duration": 1.0,
        "spk_id": "LJ",
        "sex": "F",
        "text": "Mister X",
        "text_raw": "Mr. X"
      }
    }
    <BLANKLINE>
    """
    if skip_prep:
        return {}
    root = find_root(data_folder, _LAYOUT)
    wavs = list_files(root, "wavs", (".wav",))
    return prepare(
        "LJSpeech",
        root,
        save_folder,
        [*find_file(root, "metadata.csv"), *wavs],
        {"split_ratio": list(split_ratio), "seed": seed},
        lambda: _gather(root, {wav.stem for wav in wavs}),
        lambda items: split_by_share(items, split_ratio, seed),
    )


def _gather(root: Path, stems: set[str]) -> Gathered:
    """Utterances of ``metadata.csv``; what lacks a file there or a line in it."""
    gathered = Gathered([])
    for number, line in enumerate(_lines(root / "metadata.csv"), start=1):
        # No csv module: the texts hold unbalanced quotes.
        name, *texts = line.split("|")
        if len(texts) not in (1, 2):
            raise DsuError(
                f"{root / 'metadata.csv'}, line {number}: expected "
                f"'id|text|normalised text', got {line[:60]!r}"
            )
        wav = f"wavs/{name}.wav"
        if name not in stems:
            gathered.left_out.append(f"{root / wav}: no such file")
            continue
        fields = {"spk_id": "LJ", "sex": "F", "text": texts[-1] or texts[0]}
        gathered.utterances.append(
            Utterance(name, wav, {**fields, "text_raw": texts[0]})
        )
    listed = {utterance.id for utterance in gathered.utterances}
    gathered.left_out += [
        f"{root / 'wavs' / name}.wav: not in metadata.csv"
        for name in sorted(stems - listed)
    ]
    return gathered


def _lines(path: Path) -> list[str]:
    # Not splitlines: that breaks at characters which texts may hold.
    lines = path.read_text("utf-8-sig").split("\n")
    return [line.rstrip("\r") for line in lines if line.strip()]
