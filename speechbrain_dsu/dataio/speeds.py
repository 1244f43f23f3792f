"""Copies of recordings at other speeds: more voices and tempos to train on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain_dsu.utils.audio import audio_info, read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample


def at_speeds(
    entries: Mapping[str, Mapping[str, Any]],
    speeds: Sequence[int],
    folder: str | Path,
) -> dict[str, dict[str, Any]]:
    """Entries of a manifest, again for every speed.

    Pitch and formants move with the tempo, as for a shorter or taller speaker (Ko et
    al., "Audio Augmentation for Speech Recognition", 2015). Copies are made before
    tokens are: whatever the tokenizer, it hears them as recordings. SpeechBrain's
    ``SpeedPerturb`` changes batches in training, whose tokens could not be kept.

    Arguments
    ---------
    entries : mapping
        Id to entry with ``wav`` and ``duration``.
    speeds : sequence of int
        In percent; 100 is the recording itself.
    folder : str or Path
        Gets the copies; those that are there stay.

    Returns
    -------
    dict
        Entries with ids like ``name@110``, and those at 100 as they are.

    Raises
    ------
    DsuError
        If a speed isn't between 50 and 200.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.zeros(1600), 16000)
    >>> entries = {"a": {"wav": str(folder / "a.wav"), "duration": 0.1}}
    >>> found = at_speeds(entries, [100, 125], folder / "speeds")
    >>> sorted(found), found["a@125"]["duration"]
    (['a', 'a@125'], 0.08)
    """
    wrong = [speed for speed in speeds if not 50 <= speed <= 200]
    if wrong or not speeds:
        raise DsuError(f"speeds={list(speeds)}: percent between 50 and 200")
    found: dict[str, dict[str, Any]] = {}
    for speed in speeds:
        for name, entry in entries.items():
            if speed == 100:
                found[name] = dict(entry)
                continue
            path = Path(folder) / str(speed) / f"{name}.wav"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                wav, rate = read_audio(entry["wav"])
                write_audio(path, resample(wav, speed, 100), rate)
            info = audio_info(path)
            seconds = info.n_samples / info.sample_rate
            found[f"{name}@{speed}"] = {
                **entry,
                "wav": str(path),
                "duration": seconds,
            }
    return found
