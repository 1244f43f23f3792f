"""Pairs of recordings that say the same in two languages, from parallel corpora.

A pair manifest has one entry for a pair: ``wav`` and ``source_text`` of the source,
``target_wav`` and ``text`` of the target, ``duration`` (of the source, seconds). Paths
of the source begin with ``{data_root}``; those of the target are relative
to a folder of their own. A target that is put together has a list of recordings.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from speechbrain_dsu.dataio.corpora.fsdd import WORDS, prepare_fsdd
from speechbrain_dsu.dataio.corpora.fsdd_strings import RATE, by_speaker
from speechbrain_dsu.dataio.corpora.manifests import write_json
from speechbrain_dsu.dataio.corpora.mixing import read_manifest
from speechbrain_dsu.dataio.corpora.synth import pairs_of, prepare_synth
from speechbrain_dsu.dataio.corpora.synth_text import part_of
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError

_DATA = "{data_root}"


def read_pairs(
    path: str | Path, data_folder: str | Path, target_folder: str | Path
) -> dict[str, dict]:
    """A pair manifest with its paths filled in.

    Arguments
    ---------
    path : str or Path
        The manifest.
    data_folder, target_folder : str or Path
        What ``{data_root}`` stands for, and where the targets are.

    Returns
    -------
    dict
        ``{id: entry}``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.json"
    >>> _ = path.write_text('{"a": {"wav": "{data_root}/a", "target_wav": "x"}}')
    >>> read_pairs(path, "/es", "/en")["a"]
    {'wav': '/es/a', 'target_wav': '/en/x'}
    """
    entries = read_manifest(path, data_folder)
    for entry in entries.values():
        target = entry["target_wav"]
        if isinstance(target, str):
            entry["target_wav"] = f"{target_folder}/{target}"
        else:
            entry["target_wav"] = [f"{target_folder}/{path}" for path in target]
    return entries


def prepare_synth_pairs(
    data_folder: str | Path, save_folder: str | Path, source: str = "es"
) -> dict[str, Path]:
    """Pair manifests of the parallel part of a generated corpus, English as target.

    The parts are those of the contents, see ``synth_text``: no translation is on two
    sides.

    Arguments
    ---------
    data_folder : str or Path
        A folder that ``synth.generate`` has finished; that of the targets, too.
    save_folder : str or Path
        Where the manifests go.
    source : str
        Language of the source.

    Returns
    -------
    dict
        ``{"train": path, "valid": path, "test": path}``.

    Raises
    ------
    DsuError
        If there are no pairs.
    """
    save_folder = Path(save_folder)
    prepared = prepare_synth(data_folder, save_folder / "synth")
    if "parallel" not in prepared:
        raise DsuError(f"{data_folder}: no parallel speech, generate it with pairs=")
    # The root stays as it is written in the file.
    both = read_manifest(prepared["parallel"], _DATA)
    parts: dict[str, dict[str, dict]] = {"train": {}, "valid": {}, "test": {}}
    for one, two in pairs_of(both, source, "en"):
        target = both[two]["wav"].removeprefix(f"{_DATA}/")
        entry = _pair(both[one], target, both[two]["text"])
        parts[part_of(both[one]["content"])][one] = entry
    return _write(parts, save_folder)


def prepare_digit_pairs(
    data_folder: str | Path,
    target_folder: str | Path,
    save_folder: str | Path,
    language: str = "es",
    speaker: str = "jackson",
    takes: int = 5,
    pause: float = 0.1,
    seed: int = 1234,
    skip: Sequence[str] = (),
) -> dict[str, Path]:
    """Generated digit strings of a language beside the same digits by a real speaker.

    A target is a list of recordings, one for each digit, with half a pause of faint
    noise on either side: so few recordings have to be turned into units once. Those of
    train and valid are the first takes of FSDD's training part; the fewer, the less has
    a model to guess. Those of test are of its test part.

    Arguments
    ---------
    data_folder : str or Path
        A generated corpus (``synth.generate`` with ``digits``); entries that are no
        digit strings are left out.
    target_folder : str or Path
        FSDD.
    save_folder : str or Path
        Gets the recordings of digits (8 kHz WAV) below ``targets`` and the manifests;
        it is the folder of the targets.
    language : str
        Of the source.
    speaker : str
        Of FSDD.
    takes : int
        Recordings of each digit.
    pause : float
        Seconds between two digits.
    seed : int
        Of what is drawn.
    skip : sequence of str
        Recordings of FSDD not to take ("5_jackson_7"): mumbled ones, or such that do
        not come through the units whole.

    Returns
    -------
    dict
        ``{"train": path, "valid": path, "test": path}``.

    Raises
    ------
    DsuError
        If there is no such speaker, or a part has no digit strings.
    """
    save_folder = Path(save_folder)
    heard = prepare_synth(data_folder, save_folder / "synth")
    said = prepare_fsdd(target_folder, save_folder / "fsdd", seed=seed)
    parts: dict[str, dict[str, dict]] = {}
    for part, place in (("train", "train"), ("valid", "train"), ("test", "test")):
        voices = by_speaker(read_manifest(said[place], target_folder))
        if speaker not in voices:
            raise DsuError(f"FSDD: no speaker '{speaker}', there are {sorted(voices)}")
        good = [e for e in voices[speaker] if Path(e["wav"]).stem not in skip]
        chosen = _takes(good, takes, pause, save_folder, seed)
        draw = random.Random(f"{seed}:{part}")
        parts[part] = {}
        for name, entry in sorted(read_manifest(heard[part], _DATA).items()):
            kind, *digits = entry["content"].split(".")
            if kind != "d" or entry["language"] != language:
                continue
            wavs = [draw.choice(chosen[int(digit)]) for digit in digits]
            text = " ".join(WORDS[int(digit)] for digit in digits)
            parts[part][name] = _pair(entry, wavs, text)
        if not parts[part]:
            raise DsuError(f"{data_folder}: {part} has no digit strings of {language}")
    return _write(parts, save_folder)


def _takes(
    entries: Sequence[Mapping], takes: int, pause: float, folder: Path, seed: int
) -> dict[int, list[str]]:
    """The first takes of each digit, written with silence around them."""
    found: dict[int, list[str]] = {}
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    silence = round(pause / 2 * RATE)
    for entry in entries:
        of_digit = found.setdefault(entry["digit"], [])
        if len(of_digit) == takes:
            continue
        place = f"targets/{Path(entry['wav']).stem}.wav"
        # Digital silence would give the seams away.
        noise = torch.Generator().manual_seed(seed + len(of_digit))
        edges = 1e-4 * torch.randn(2, silence, generator=noise)
        wav = torch.cat([edges[0], read_audio(entry["wav"], RATE)[0], edges[1]])
        write_audio(folder / place, wav, RATE)
        of_digit.append(place)
    return found


def _pair(source: Mapping, target_wav: str | list[str], text: str) -> dict:
    return {
        "wav": source["wav"],
        "duration": source["duration"],
        "spk_id": source["spk_id"],
        "source_text": source["text"],
        "target_wav": target_wav,
        "text": text,
    }


def _write(parts: Mapping[str, Mapping], folder: Path) -> dict[str, Path]:
    paths = {}
    for name, entries in parts.items():
        if not entries:
            raise DsuError(f"{folder}: no pairs for {name}")
        paths[name] = folder / f"{name}.json"
        write_json(paths[name], entries)
    return paths
