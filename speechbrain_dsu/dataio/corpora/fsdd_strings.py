"""Strings of spoken digits: recordings of FSDD put one after another."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.dataio.corpora.fsdd import WORDS, prepare_fsdd
from speechbrain_dsu.dataio.corpora.manifests import write_json
from speechbrain_dsu.dataio.corpora.mixing import read_manifest
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import hash_file

RATE = 8000
_RECORD = "strings.json"


def prepare_fsdd_strings(
    data_folder: str | Path,
    save_folder: str | Path,
    counts: Mapping[str, int],
    digits: Sequence[int] = (1, 5),
    pause: Sequence[float] = (0.03, 0.2),
    held_out_speaker: str | None = None,
    seed: int = 1234,
) -> dict[str, Path]:
    """Write strings of digits, each by one speaker, and their manifests.

    The recordings of a part of ``prepare_fsdd`` make the strings of that part, so no
    recording is on two sides. An entry has ``wav``, ``duration``, ``spk_id``,
    ``digits`` ("3 1 4") and ``text`` ("three one four"). Nothing is done when the same
    recordings and options gave these strings before.

    Arguments
    ---------
    data_folder : str or Path
        See ``prepare_fsdd``.
    save_folder : str or Path
        Gets the audio (8 kHz WAV) below ``strings``, and ``train.json`` and so on; it
        is what ``{data_root}`` stands for.
    counts : mapping
        How many strings of ``train``, ``valid``, ``test``.
    digits : (int, int)
        Fewest and most digits of a string.
    pause : (float, float)
        Seconds of faint noise between two digits, drawn for each.
    held_out_speaker : str, optional
        See ``prepare_fsdd``.
    seed : int
        Of what is drawn.

    Returns
    -------
    dict
        ``{"train": path, ...}``.

    Raises
    ------
    DsuError
        If a part has no recordings, or the folder is not FSDD.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "recordings").mkdir()
    >>> for digit in (1, 7):
    ...     path = root / "recordings" / f"{digit}_lucas_9.wav"
    ...     write_audio(path, 0.1 * torch.randn(2000), 8000)
    >>> paths = prepare_fsdd_strings(root, root / "out", {"train": 3}, digits=(2, 2))
    >>> entries = read_manifest(paths["train"], root / "out")
    >>> len(entries), len(entries["train-00000"]["digits"].split())
    (3, 2)
    """
    save_folder = Path(save_folder)
    single = prepare_fsdd(
        data_folder, save_folder / "single", held_out_speaker, seed=seed
    )
    record = {
        "manifests": {name: hash_file(path) for name, path in single.items()},
        "counts": dict(counts),
        "digits": list(digits),
        "pause": list(pause),
        "seed": seed,
    }
    paths = {name: save_folder / f"{name}.json" for name in counts}
    if _read(save_folder / _RECORD) == record and all(
        p.is_file() for p in paths.values()
    ):
        return paths
    for name, count in counts.items():
        if name not in single:
            raise DsuError(f"FSDD: part '{name}' has no recordings: {sorted(single)}")
        takes = by_speaker(read_manifest(single[name], data_folder))
        draw = random.Random(f"{seed}:{name}")
        entries = {}
        for number in range(count):
            key = f"{name}-{number:05}"
            speaker = draw.choice(sorted(takes))
            chosen = draw.choices(takes[speaker], k=draw.randint(*digits))
            wav = _join([entry["wav"] for entry in chosen], pause, draw)
            place = f"strings/{name}/{key}.wav"
            (save_folder / place).parent.mkdir(parents=True, exist_ok=True)
            write_audio(save_folder / place, wav, RATE)
            entries[key] = {
                "wav": f"{{data_root}}/{place}",
                "duration": len(wav) / RATE,
                "spk_id": speaker,
                "digits": " ".join(str(entry["digit"]) for entry in chosen),
                "text": " ".join(WORDS[entry["digit"]] for entry in chosen),
            }
        write_json(paths[name], entries)
    write_json(save_folder / _RECORD, record)
    return paths


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def by_speaker(entries: Mapping[str, dict]) -> dict[str, list[dict]]:
    """Entries of each speaker, in the order of their ids."""
    found: dict[str, list[dict]] = {}
    for name in sorted(entries):
        found.setdefault(entries[name]["spk_id"], []).append(entries[name])
    return found


def _join(paths: Sequence[str], pause: Sequence[float], draw: random.Random) -> Tensor:
    """Recordings with pauses of noise: digital silence would give the seams away."""
    parts: list[Tensor] = []
    for path in paths:
        if parts:
            length = round(draw.uniform(*pause) * RATE)
            noise = torch.Generator().manual_seed(draw.randrange(2**31))
            parts.append(1e-4 * torch.randn(length, generator=noise))
        parts.append(read_audio(path, RATE)[0])
    return torch.cat(parts)
