"""What all prepare functions share: splits, durations, manifests, the skip test."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechbrain_dsu.dataio.corpora.layout import FoundFile
from speechbrain_dsu.utils.audio import AudioError, audio_info
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import hash_file

logger = logging.getLogger(__name__)

RECORD = "prepared.json"
"""Beside the manifests: what they were made from, and what was left out."""

SPLITS = ("train", "valid", "test")
_VERSION = 1
_NAMED = 5
_READERS = 8


@dataclass(frozen=True)
class Utterance:
    """One recording of a corpus before its header was read.

    Arguments
    ---------
    id : str
        Unique in the corpus.
    wav : str
        Path relative to the corpus's root, with ``/``.
    fields : dict
        What goes into the manifest beside ``wav`` and ``duration``.
    """

    id: str
    wav: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Gathered:
    """What a corpus's folder gave: its utterances, and why others are not there."""

    utterances: list[Utterance]
    left_out: list[str] = field(default_factory=list)


def prepare(
    corpus: str,
    root: Path,
    save_folder: str | Path,
    files: Sequence[FoundFile],
    options: Mapping[str, Any],
    gather: Callable[[], Gathered],
    split: Callable[[list[Utterance]], Mapping[str, list[Utterance]]],
) -> dict[str, Path]:
    """Write a corpus's manifests unless the same inputs gave them before.

    Arguments
    ---------
    corpus : str
        Its name.
    root : Path
        Its folder; ``{data_root}`` in the manifests.
    save_folder : str or Path
        Where the manifests go. One folder holds one corpus.
    files : sequence of FoundFile
        Every file that the manifests depend on.
    options : mapping
        Every option that they depend on, as plain values.
    gather : callable
        Gives the utterances; called only when there is something to do.
    split : callable
        Utterances to ``{manifest name: utterances}``.

    Returns
    -------
    dict
        ``{manifest name: path}``.

    Raises
    ------
    DsuError
        If no utterance is usable, or the folder holds another corpus's manifests.
    """
    save_folder = Path(save_folder)
    record = _read_record(save_folder, corpus)
    key = _fingerprint(corpus, options, files)
    if record.get("fingerprint") == key and _unchanged(save_folder, record):
        logger.info("%s: prepared before in %s", corpus, save_folder)
        _report(corpus, record["left_out"], record["found"], save_folder)
        return {name: save_folder / f"{name}.json" for name in record["manifests"]}
    gathered = gather()
    _check_ids(corpus, gathered.utterances)
    durations, bad = _durations(root, gathered.utterances)
    left_out = [*gathered.left_out, *bad]
    found = len(gathered.utterances) + len(gathered.left_out)
    kept = [u for u in gathered.utterances if u.id in durations]
    if not kept:
        raise DsuError(
            f"{corpus}: none of {found} utterances in {root} is usable, e.g. "
            f"{left_out[0] if left_out else 'there is none'}"
        )
    save_folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, part in split(kept).items():
        paths[name] = save_folder / f"{name}.json"
        write_json(paths[name], _entries(part, durations))
    _report(corpus, left_out, found, save_folder)
    _finish(save_folder, corpus, key, options, record, paths, left_out, found)
    return paths


def _read_record(save_folder: Path, corpus: str) -> dict[str, Any]:
    try:
        record = json.loads((save_folder / RECORD).read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    other = record.get("corpus")
    if other != corpus:
        raise DsuError(
            f"{save_folder} holds the manifests of {other}: give {corpus} a "
            "save_folder of its own"
        )
    return record


def _fingerprint(corpus: str, options: Mapping, files: Sequence[FoundFile]) -> str:
    listing = [[file.path, file.size, file.modified] for file in files]
    inputs = [_VERSION, corpus, dict(options), listing]
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _unchanged(save_folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the manifests are still those that were written."""
    paths = {save_folder / f"{k}.json": v for k, v in record["manifests"].items()}
    return all(path.is_file() and hash_file(path) == v for path, v in paths.items())


def _check_ids(corpus: str, utterances: Iterable[Utterance]) -> None:
    seen: dict[str, str] = {}
    for utterance in utterances:
        if utterance.id in seen:
            raise DsuError(
                f"{corpus}: the id {utterance.id} stands for {seen[utterance.id]} "
                f"and for {utterance.wav}"
            )
        seen[utterance.id] = utterance.wav


def _durations(
    root: Path, utterances: Sequence[Utterance]
) -> tuple[dict[str, float], list[str]]:
    """Seconds by id from the headers, and the reasons why some have none."""

    def read(utterance: Utterance) -> float | str:
        try:
            info = audio_info(root / utterance.wav)
        except AudioError as error:
            return str(error)
        return info.n_samples / info.sample_rate

    # Headers of 280,000 files: most of the time is spent waiting for the disk.
    with ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(read, utterances))
    pairs = list(zip(utterances, results, strict=True))
    durations = {u.id: r for u, r in pairs if not isinstance(r, str)}
    return durations, [r for r in results if isinstance(r, str)]


def _entries(
    utterances: Sequence[Utterance], durations: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    return {
        u.id: {
            "wav": "{data_root}/" + _escaped(u.wav),
            "duration": round(durations[u.id], 6),
            **{key: _escaped(value) for key, value in u.fields.items()},
        }
        for u in sorted(utterances, key=lambda u: u.id)
    }


def _escaped(value: Any) -> Any:
    """SpeechBrain formats every string of a manifest: braces have to be doubled."""
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}")
    return value


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _finish(
    save_folder: Path,
    corpus: str,
    key: str,
    options: Mapping[str, Any],
    old: Mapping[str, Any],
    paths: Mapping[str, Path],
    left_out: list[str],
    found: int,
) -> None:
    """Remove manifests that these options do not give; record what was done, last."""
    for name in old.get("manifests", {}):
        if name not in paths:
            (save_folder / f"{name}.json").unlink(missing_ok=True)
    record = {
        "corpus": corpus,
        "fingerprint": key,
        "options": dict(options),
        "manifests": {name: hash_file(path) for name, path in paths.items()},
        "found": found,
        "left_out": left_out,
    }
    write_json(save_folder / RECORD, record)


def _report(corpus: str, left_out: list[str], found: int, save_folder: Path) -> None:
    if not left_out:
        return
    more = len(left_out) - _NAMED
    logger.warning(
        "%s: %d of %d utterances left out: %s%s",
        corpus,
        len(left_out),
        found,
        "; ".join(left_out[:_NAMED]),
        f" and {more} more, see {save_folder / RECORD}" if more > 0 else "",
    )


def split_by_share(
    utterances: Sequence[Utterance],
    shares: Sequence[float],
    seed: int,
    group: Callable[[Utterance], str] | None = None,
) -> dict[str, list[Utterance]]:
    """Split at random but for good: into train, valid and test by percentages.

    The order comes from a hash of the seed and the utterance's (or group's) own
    name, so that it is the same on every machine, and one more or one missing file
    moves nobody but those at the borders.

    Arguments
    ---------
    utterances : sequence of Utterance
        All of them.
    shares : sequence of float
        Three percentages that add up to 100. A part with a share above zero gets at
        least one utterance (or group) where there are enough.
    seed : int
        Another seed is another split.
    group : callable, optional
        Utterances with the same value (e.g. speaker) stay together.

    Returns
    -------
    dict
        ``train``, ``valid``, ``test``, without the parts whose share is zero.

    Raises
    ------
    DsuError
        If the shares are not three numbers that add up to 100.

    Example
    -------
    >>> items = [Utterance(str(i), f"{i}.wav") for i in range(10)]
    >>> parts = split_by_share(items, [80, 10, 10], seed=1)
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 8, 'valid': 1, 'test': 1}
    """
    shares = [float(share) for share in shares]
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 100) > 1e-6:
        raise DsuError(
            f"split_ratio={shares}: give three percentages for train, valid and "
            "test that add up to 100"
        )
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(group(utterance) if group else utterance.id, []).append(
            utterance
        )
    order = sorted(groups, key=lambda name: (seeded_rank(name, seed), name))
    sizes = _sizes(len(order), shares)
    parts, start = {}, 0
    for name, share, size in zip(SPLITS, shares, sizes, strict=True):
        chosen = order[start : start + size]
        start += size
        if share > 0:
            parts[name] = [item for one in chosen for item in groups[one]]
    return parts


def seeded_rank(name: str, seed: int) -> str:
    """A place in a random order that depends on the seed and the name alone."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _sizes(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers near the shares that add up to ``total``."""
    sizes = [round(total * share / 100) for share in shares]
    if total >= sum(share > 0 for share in shares):
        sizes = [max(n, int(s > 0)) for n, s in zip(sizes, shares, strict=True)]
    # What rounding made too many or too few goes to the largest part.
    largest = max(range(3), key=lambda i: (sizes[i], shares[i]))
    sizes[largest] += total - sum(sizes)
    return sizes
