"""Free Spoken Digit Dataset (Jackson et al.): English digits, 8 kHz, CC BY-SA 4.0.

https://github.com/Jakobovski/free-spoken-digit-dataset
"""

import re
from collections.abc import Sequence
from pathlib import Path

from speechbrain_dsu.dataio.corpora.layout import (
    FoundFile,
    Layout,
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

WORDS = "zero one two three four five six seven eight nine".split()
"""The spoken word of each digit."""

TEST_TAKES = range(5)
"""The official test set: the first five takes of every digit by every speaker."""

_NAME = re.compile(r"(\d)_([^_]+)_(\d+)")
_LAYOUT = Layout(
    "FSDD",
    "the folder free-spoken-digit-dataset with recordings/0_jackson_0.wav ...",
    lambda folder: (folder / "recordings").is_dir(),
)


def prepare_fsdd(
    data_folder: str | Path,
    save_folder: str | Path,
    held_out_speaker: str | None = None,
    valid_percent: float = 10,
    seed: int = 1234,
    skip_prep: bool = False,
) -> dict[str, Path]:
    """Write ``train.json``, ``valid.json`` and ``test.json`` of FSDD.

    An entry has ``wav``, ``duration`` in seconds, ``spk_id``, ``digit`` (0 to 9),
    ``take`` and ``text`` (the spoken word). Nothing is done when the same files and
    options gave these manifests before.

    Arguments
    ---------
    data_folder : str or Path
        The folder with ``recordings``.
    save_folder : str or Path
        Where the manifests go.
    held_out_speaker : str, optional
        Test on all recordings of this speaker and train on the others (leave one
        speaker out) instead of the official split, whose test set is takes 0 to 4.
    valid_percent : float
        Share of the recordings outside the test set that goes to ``valid``.
    seed : int
        Chooses ``valid``.
    skip_prep : bool
        Do nothing.

    Returns
    -------
    dict
        ``{"train": path, ...}``; empty with ``skip_prep``.

    Raises
    ------
    DsuError
        If the folder is not FSDD, has no such speaker, or nothing in it is usable.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> root = getfixture("tmp_path")
    >>> (root / "recordings").mkdir()
    >>> for take in (4, 5):
    ...     path = root / "recordings" / f"7_lucas_{take}.wav"
    ...     write_audio(path, torch.zeros(4000), 8000)
    >>> paths = prepare_fsdd(root, root / "out", valid_percent=0)
    >>> sorted(paths)
    ['test', 'train']
    >>> print(paths["test"].read_text())
    {
      "7_lucas_4": {
        "wav": "{data_root}/recordings/7_lucas_4.wav",
        "duration": 0.5,
        "spk_id": "lucas",
        "digit": 7,
        "take": 4,
        "text": "seven"
      }
    }
    <BLANKLINE>
    """
    if skip_prep:
        return {}
    root = find_root(data_folder, _LAYOUT)
    files = list_files(root, "recordings", (".wav",))
    speakers = {match[2] for file in files if (match := _NAME.fullmatch(file.stem))}
    if held_out_speaker is not None and held_out_speaker not in speakers:
        raise DsuError(
            f"FSDD: held_out_speaker={held_out_speaker!r} is not among the speakers "
            f"{sorted(speakers)} of {root}"
        )
    return prepare(
        "FSDD",
        root,
        save_folder,
        files,
        {
            "held_out_speaker": held_out_speaker,
            "valid_percent": valid_percent,
            "seed": seed,
        },
        lambda: _gather(root, files),
        lambda items: _split(items, held_out_speaker, valid_percent, seed),
    )


def _gather(root: Path, files: Sequence[FoundFile]) -> Gathered:
    gathered = Gathered([])
    for file in files:
        match = _NAME.fullmatch(file.stem)
        if not match:
            gathered.left_out.append(
                f"{root / file.path}: not named digit_speaker_take"
            )
            continue
        digit, take = int(match[1]), int(match[3])
        fields = {"spk_id": match[2], "digit": digit, "take": take}
        gathered.utterances.append(
            Utterance(file.stem, file.path, {**fields, "text": WORDS[digit]})
        )
    return gathered


def _split(
    utterances: Sequence[Utterance],
    held_out: str | None,
    valid_percent: float,
    seed: int,
) -> dict[str, list[Utterance]]:
    def in_test(utterance: Utterance) -> bool:
        if held_out is not None:
            return utterance.fields["spk_id"] == held_out
        return utterance.fields["take"] in TEST_TAKES

    rest = [u for u in utterances if not in_test(u)]
    shares = [100 - valid_percent, valid_percent, 0]
    return {
        **split_by_share(rest, shares, seed),
        "test": [u for u in utterances if in_test(u)],
    }
