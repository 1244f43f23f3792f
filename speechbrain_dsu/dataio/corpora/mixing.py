"""Several corpora as one list of recordings in which each has the same weight."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from speechbrain_dsu.dataio.corpora.manifests import seeded_rank
from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.utils.errors import DsuError


def read_manifest(path: str | Path, data_folder: str | Path) -> dict[str, dict]:
    """A manifest with its paths filled in, as SpeechBrain reads it.

    Arguments
    ---------
    path : str or Path
        A JSON manifest.
    data_folder : str or Path
        What ``{data_root}`` stands for.

    Returns
    -------
    dict
        ``{id: entry}``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.json"
    >>> _ = path.write_text('{"a": {"wav": "{data_root}/a.wav", "duration": 1.0}}')
    >>> read_manifest(path, "/corpus")["a"]["wav"]
    '/corpus/a.wav'
    """
    from speechbrain.dataio.dataio import load_data_json

    return load_data_json(str(path), {"data_root": str(data_folder)})


def balanced_items(
    corpora: Mapping[str, Mapping[str, Mapping[str, Any]]],
    seconds: float | None = None,
    seed: int = 1234,
) -> list[AudioItem]:
    """Recordings such that every corpus has about the same seconds.

    Each corpus is drawn from in a seeded order, whole utterances at a time, until
    ``seconds`` are full; a corpus that has less starts again from its first file, so
    that its files occur several times (for clustering: weigh more).

    Arguments
    ---------
    corpora : mapping
        ``{name: manifest}`` as from ``read_manifest``.
    seconds : float, optional
        Per corpus; what the smallest corpus has, if not given.
    seed : int
        Another seed draws other utterances.

    Returns
    -------
    list of AudioItem
        With ids ``corpus/utterance``, and ``corpus/utterance#2`` and so on for
        further turns.

    Raises
    ------
    DsuError
        If a corpus has no audio, or ``seconds`` is not positive.

    Example
    -------
    >>> long = {f"u{i}": {"wav": f"l{i}.wav", "duration": 2.0} for i in range(9)}
    >>> short = {"a": {"wav": "a.wav", "duration": 1.0}}
    >>> for item in balanced_items({"long": long, "short": short}, seconds=2):
    ...     print(item.id, item.path)
    long/u2 l2.wav
    short/a a.wav
    short/a#2 a.wav
    """
    totals = {
        name: sum(entry["duration"] for entry in manifest.values())
        for name, manifest in corpora.items()
    }
    empty = [name for name, total in totals.items() if not total > 0]
    if empty or not totals:
        raise DsuError(f"no audio to balance: corpora without any: {empty or 'all'}")
    target = min(totals.values()) if seconds is None else seconds
    if not target > 0:
        raise DsuError(f"seconds={seconds}: give a positive number of seconds")
    return [
        item
        for name, manifest in corpora.items()
        for item in _draw(name, manifest, target, seed)
    ]


def _draw(
    corpus: str, manifest: Mapping[str, Mapping[str, Any]], target: float, seed: int
) -> list[AudioItem]:
    """Utterances in seeded order until ``target`` is nearest."""
    order = sorted(manifest, key=lambda name: seeded_rank(f"{corpus}/{name}", seed))
    drawn, total = [], 0.0
    for turn in count(1):
        suffix = f"#{turn}" if turn > 1 else ""
        for name in order:
            length = manifest[name]["duration"]
            # Stops on the side that is nearer, so that corpora of long and of short
            # utterances come out alike.
            if total + length / 2 > target:
                return drawn
            drawn.append(AudioItem(f"{corpus}/{name}{suffix}", manifest[name]["wav"]))
            total += length
    return drawn
