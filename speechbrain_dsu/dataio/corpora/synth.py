"""Synthetic speech of any size, with aligned phones, by flite and espeak-ng.

https://github.com/festvox/flite and https://github.com/espeak-ng/espeak-ng
"""

import json
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

from speechbrain_dsu.dataio.corpora.layout import Layout, find_root, list_files
from speechbrain_dsu.dataio.corpora.manifests import (
    Gathered,
    Utterance,
    prepare,
    write_json,
)
from speechbrain_dsu.dataio.corpora.synth_engines import (
    SAMPLE_RATE,
    check_engines,
    say,
)
from speechbrain_dsu.dataio.corpora.synth_plan import FOLDERS, Chapter, Plan
from speechbrain_dsu.dataio.corpora.synth_text import transcript
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError

logger = logging.getLogger(__name__)

LANGUAGES = {"en": 0.8, "es": 0.08, "fr": 0.06, "de": 0.06}
"""Languages and shares by default."""

RECORD = "synth.json"
_VERSION = 1
_AHEAD = 64
_ADDED = ("digits", "digit_counts")
# What a manifest says of the speaker.
_ABOUT = {
    "spk_id": "id",
    "sex": "sex",
    "language": "language",
    "engine": "engine",
    "voice": "base",
}
_LAYOUT = Layout(
    "Synth",
    f"a folder that generate() has finished, with {RECORD} and {FOLDERS['train']}/",
    lambda folder: (folder / RECORD).is_file() and (folder / "SPEAKERS.TXT").is_file(),
)


def generate(
    out_dir: str | Path,
    hours: float = 1.0,
    seed: int = 1234,
    languages: Mapping[str, float] | None = None,
    voices: Sequence[str] | None = None,
    held_out: Sequence[str] = ("slt", "m3"),
    texts: Mapping[str, str | Path] | None = None,
    valid_utterances: int = 100,
    test_utterances: int = 60,
    pairs: int = 100,
    workers: int | None = None,
    digits: float | None = None,
    digit_counts: Sequence[int] | None = None,
) -> Path:
    """Generate a corpus of 16 kHz FLAC files in LibriSpeech's layout.

    The same options give the same files byte for byte (with the same versions of the
    synthesisers and of libsndfile), whatever the number of workers. A run that was
    killed goes on where it stopped, chapters of ten utterances being made whole or
    not at all; a run with more hours adds to what is there.

    Arguments
    ---------
    out_dir : str or Path
        Gets ``train-clean-100``, ``dev-clean``, ``test-clean`` and ``parallel``, each
        with ``speaker/chapter/speaker-chapter-0000.flac``, and a transcript file and
        a file of phones in each chapter.
    hours : float
        Of training speech; whole chapters, the fewest that reach it.
    seed : int
        Another seed is another corpus.
    languages : mapping, optional
        ``{language: share of train}`` of en, es, fr and de; ``LANGUAGES`` by default.
        The test set speaks the first.
    voices : sequence of str, optional
        Flite voices and espeak-ng variants (see ``synth_voices``); all by default.
    held_out : sequence of str
        Those that only the test set has.
    texts : mapping, optional
        ``{language: file}`` of own sentences, one a line, numbers in words; without it
        they are drawn from the package's own lexicon.
    valid_utterances, test_utterances, pairs : int
        Sizes of valid, of test for each held-out voice, and of parallel.
    workers : int, optional
        Utterances made at once; one per core by default.
    digits : float, optional
        Share of digit strings, 0.15 by default (half of parallel); 1: nothing else.
    digit_counts : (int, int), optional
        Fewest and most digits of a string; 3 and 8 by default.

    Returns
    -------
    Path
        ``out_dir``.

    Raises
    ------
    DsuError
        If a synthesiser is missing, an option makes no sense, or the folder holds a
        corpus of other options or of more hours.
    """
    plan = Plan(
        seed,
        dict(LANGUAGES if languages is None else languages),
        tuple(voices) if voices is not None else None,
        tuple(held_out),
        {name: str(path) for name, path in texts.items()} if texts else None,
        digits,
        tuple(digit_counts) if digit_counts is not None else None,
    )
    sizes = {
        "valid": valid_utterances,
        "test": test_utterances,
        "parallel": pairs,
    }
    if (
        not hours > 0
        or min(sizes.values()) < 0
        or (workers is not None and workers < 1)
    ):
        raise DsuError(
            f"hours={hours}, sizes={sizes}, workers={workers}: give hours and workers "
            "above 0, and sizes from 0"
        )
    check_engines(plan.engines())
    root = Path(out_dir)
    record = _open(root, plan, sizes, hours)
    parts = [plan.part(part, size) for part, size in sizes.items()]
    started = time.monotonic()
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        few = list(chain(*parts))
        made = list(zip(few, pool.map(partial(_make, root), few), strict=True))
        made += _make_train(pool, root, plan, hours * 3600)
    _remove_others(root, [chapter for chapter, _ in made])
    _write_speakers(root, made)
    write_json(root / RECORD, {**record, "hours": hours})
    total = sum(seconds for _, seconds in made) / 3600
    passed = (time.monotonic() - started) / 60
    logger.info("Synth: %.2f hours in %s, %.1f minutes", total, root, passed)
    return root


def _open(root: Path, plan: Plan, sizes: Mapping[str, int], hours: float) -> dict:
    """Claim the folder for these options; clear away what a killed run left."""
    # Options left alone are not named: later releases can add more of them.
    options = asdict(plan)
    for name in _ADDED:
        if options[name] is None:
            del options[name]
    # Through JSON and back, as it will be read next time.
    record = json.loads(
        json.dumps({"version": _VERSION, "plan": options, "sizes": sizes})
    )
    root.mkdir(parents=True, exist_ok=True)
    path = root / RECORD
    if not path.is_file():
        if any(root.iterdir()):
            raise DsuError(f"{root} is neither empty nor a synthetic corpus")
        write_json(path, record)
        return record
    old = json.loads(path.read_text("utf-8"))
    if {key: old.get(key) for key in record} != record:
        raise DsuError(f"{root} holds a corpus of other options, see {path}")
    if hours < old.get("hours", 0):
        raise DsuError(
            f"hours={hours}: {root} holds {old['hours']} hours already; take another "
            "folder for fewer"
        )
    for left in root.glob("*/*/.part-*"):
        shutil.rmtree(left)
    return record


def _make_train(
    pool: ThreadPoolExecutor, root: Path, plan: Plan, seconds: float
) -> list[tuple[Chapter, float]]:
    """The first training chapters that reach ``seconds``; a few more are made."""
    chapters = plan.train()
    ahead: deque[tuple[Chapter, Future[float]]] = deque()
    made: list[tuple[Chapter, float]] = []
    total = 0.0
    while total < seconds:
        while len(ahead) <= _AHEAD:
            chapter = next(chapters)
            ahead.append((chapter, pool.submit(_make, root, chapter)))
        chapter, future = ahead.popleft()
        made.append((chapter, future.result()))
        total += made[-1][1]
    for _, future in ahead:
        future.cancel()
    wait([future for _, future in ahead])
    return made


def _make(root: Path, chapter: Chapter) -> float:
    """Make a chapter's folder unless it is there; its seconds."""
    folder = root / chapter.path
    table = f"{chapter.name}.phones.json"
    if not folder.is_dir():
        part = folder.with_name(f".part-{chapter.number}-{os.getpid()}")
        part.mkdir(parents=True, exist_ok=True)
        entries, texts = {}, []
        for index, line in enumerate(chapter.lines):
            name = f"{chapter.name}-{index:04d}"
            spoken = say(chapter.speaker, line.text, line.speed)
            write_audio(part / f"{name}.flac", spoken.wav, SAMPLE_RATE)
            text = transcript(line.text)
            texts.append(f"{name} {text.upper()}\n")
            entries[name] = {
                "text": text,
                "content": line.content,
                "phones": " ".join(spoken.phones),
                "phone_ends": " ".join(
                    f"{end / SAMPLE_RATE:.6f}".rstrip("0") for end in spoken.ends
                ),
            }
        (part / f"{chapter.name}.trans.txt").write_text("".join(texts), "utf-8")
        about = {key: getattr(chapter.speaker, name) for key, name in _ABOUT.items()}
        write_json(part / table, {"speaker": about, "utterances": entries})
        part.rename(folder)
    utterances = json.loads((folder / table).read_text("utf-8"))["utterances"]
    return sum(float(u["phone_ends"].split()[-1]) for u in utterances.values())


def _remove_others(root: Path, chapters: Sequence[Chapter]) -> None:
    """Remove what this or a killed run made ahead and the corpus doesn't need."""
    wanted = {root / chapter.path for chapter in chapters}
    for folder in root.glob(f"{FOLDERS['train']}/*/*"):
        if folder not in wanted:
            shutil.rmtree(folder)
    for speaker in root.glob(f"{FOLDERS['train']}/*"):
        if not any(speaker.iterdir()):
            speaker.rmdir()


def _write_speakers(root: Path, made: Sequence[tuple[Chapter, float]]) -> None:
    """SPEAKERS.TXT: ``id | sex | subset | minutes | name``."""
    minutes: dict[tuple[str, str], float] = {}
    sexes = {}
    for chapter, seconds in made:
        key = (chapter.speaker.id, FOLDERS[chapter.part])
        minutes[key] = minutes.get(key, 0) + seconds / 60
        sexes[chapter.speaker.id] = chapter.speaker.sex
    lines = [
        f"{name} | {sexes[name]} | {folder} | {length:.2f} | {name}\n"
        for (name, folder), length in sorted(minutes.items())
    ]
    part = root / f".SPEAKERS.TXT.part-{os.getpid()}"
    part.write_text("".join([";ID | SEX | SUBSET | MINUTES | NAME\n", *lines]), "utf-8")
    part.replace(root / "SPEAKERS.TXT")


def prepare_synth(
    data_folder: str | Path, save_folder: str | Path, skip_prep: bool = False
) -> dict[str, Path]:
    """Write ``train.json``, ``valid.json``, ``test.json`` and ``parallel.json``.

    An entry has ``wav``, ``duration`` in seconds, ``spk_id``, ``sex``, ``language``,
    ``engine``, ``voice`` (what is held out as a whole), ``text`` (lower case, no
    punctuation), ``content`` (equal texts and translations share it), ``phones``
    (separated by spaces, ``sil`` for pauses) and ``phone_ends`` (seconds, in the same
    order; the last one is the duration). Nothing is done when the same files gave
    these manifests before.

    Arguments
    ---------
    data_folder : str or Path
        A folder that ``generate`` has finished.
    save_folder : str or Path
        Where the manifests go.
    skip_prep : bool
        Do nothing.

    Returns
    -------
    dict
        ``{"train": path, ...}``; empty with ``skip_prep``.

    Raises
    ------
    DsuError
        If the folder is not such a corpus, or nothing in it is usable.
    """
    if skip_prep:
        return {}
    root = find_root(data_folder, _LAYOUT)
    folders = {part: name for part, name in FOLDERS.items() if (root / name).is_dir()}
    listed = {
        part: list_files(root, name, (".flac", ".phones.json"))
        for part, name in folders.items()
    }
    return prepare(
        "Synth",
        root,
        save_folder,
        [file for files in listed.values() for file in files],
        {},
        lambda: _gather(root, [f.path for files in listed.values() for f in files]),
        lambda items: {
            part: [item for item in items if item.wav.startswith(f"{name}/")]
            for part, name in folders.items()
        },
    )


def _gather(root: Path, paths: Sequence[str]) -> Gathered:
    gathered = Gathered([])
    for path in paths:
        if not path.endswith(".json"):
            continue
        folder = path.rsplit("/", 1)[0]
        table = json.loads((root / path).read_text("utf-8"))
        for name, fields in table["utterances"].items():
            gathered.utterances.append(
                Utterance(name, f"{folder}/{name}.flac", {**table["speaker"], **fields})
            )
    return gathered


def aligned_phones(entry: Mapping[str, str]) -> list[tuple[float, float, str]]:
    """The phones of a manifest's entry: start and end in seconds, phone.

    Arguments
    ---------
    entry : mapping
        With ``phones`` and ``phone_ends``.

    Returns
    -------
    list of tuple

    Example
    -------
    >>> aligned_phones({"phones": "sil n oʊ", "phone_ends": "0.1 0.18 0.4"})
    [(0.0, 0.1, 'sil'), (0.1, 0.18, 'n'), (0.18, 0.4, 'oʊ')]
    """
    ends = [float(end) for end in entry["phone_ends"].split()]
    phones = entry["phones"].split()
    return list(zip([0.0, *ends[:-1]], ends, phones, strict=True))


def pairs_of(
    manifest: Mapping[str, Mapping], source: str = "es", target: str = "en"
) -> list[tuple[str, str]]:
    """Ids of the two sides of a parallel manifest.

    Arguments
    ---------
    manifest : mapping
        ``{id: entry}`` as ``read_manifest`` gives it.
    source, target : str
        Languages.

    Returns
    -------
    list of tuple
        ``(source id, target id)`` with the same content, by source id.

    Example
    -------
    >>> sides = {"a-1-0000": "es", "b-2-0000": "en"}
    >>> pairs_of({k: {"content": "d.3", "language": v} for k, v in sides.items()})
    [('a-1-0000', 'b-2-0000')]
    """
    targets: dict[str, list[str]] = {}
    for name, entry in sorted(manifest.items()):
        if entry["language"] == target:
            targets.setdefault(entry["content"], []).append(name)
    return [
        (name, targets[entry["content"]].pop(0))
        for name, entry in sorted(manifest.items())
        if entry["language"] == source and targets.get(entry["content"])
    ]
