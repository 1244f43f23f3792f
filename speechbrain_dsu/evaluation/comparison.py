"""Several tokenizers and codecs over one corpus: one report, one table."""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from speechbrain_dsu.evaluation.corpus import evaluate_classic, evaluate_corpus
from speechbrain_dsu.evaluation.parts import Settings, Utterance
from speechbrain_dsu.evaluation.report import align_columns
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import hash_file

_PACKAGES = ("speechbrain_dsu", "speechbrain", "torch", "torchaudio", "pystoi", "pesq")
# Bit rates within a quarter of each other are compared side by side.
_SAME_RATE = 1.25

_COLUMNS: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("bit/s", ("nominal_bitrate",), ".0f"),
    ("coded", ("entropy_bitrate",), ".0f"),
    ("used", ("usage",), ".2f"),
    ("PNMI", ("units", "codebooks", 0, "pnmi"), ".3f"),
    ("floor", ("units", "codebooks", 0, "pnmi_floor"), ".3f"),
    ("ABX", ("abx", "identity", "within", "error"), ".3f"),
    ("ABX across", ("abx", "identity", "across", "error"), ".3f"),
    ("phone", ("units", "phone_probe", "accuracy"), ".3f"),
    ("speaker", ("speakers", "accuracy"), ".3f"),
    ("UER noise", ("stability", "noise 20 dB", "frames"), ".3f"),
    ("UER shift", ("stability", "shift 10 ms", "frames"), ".3f"),
    ("STOI", ("resynthesis", "stoi", "mean"), ".3f"),
    ("PESQ", ("resynthesis", "pesq", "mean"), ".2f"),
    ("mel dB", ("resynthesis", "mel_l1", "mean"), ".2f"),
    ("F0 cents", ("resynthesis", "f0_rmse_cents", "mean"), ".0f"),
    ("voice", ("resynthesis", "speaker_similarity", "mean"), ".3f"),
    ("MFCC", ("resynthesis", "mfcc_similarity", "mean"), ".3f"),
)


def compare(
    systems: Mapping[str, tuple[Any, int | None]],
    utterances: Sequence[Utterance],
    settings: Settings | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Evaluate systems over the same utterances with the same settings.

    Arguments
    ---------
    systems : mapping of str to (object, int or None)
        By the name to show: a tokenizer and how many of its codebooks to use (None:
        all), or a codec of ``evaluation.classic`` and None.
    utterances : sequence of Utterance
        The corpus.
    settings : Settings, optional
        Parts and limits.
    report : callable
        Takes one line per file that failed.

    Returns
    -------
    dict
        ``data`` (number, content hash, hours of what was scored), ``versions``,
        ``settings`` and ``systems``. It holds no times and no paths: the same input
        gives the same report.

    Raises
    ------
    DsuError
        If there is no system, or one can use no file.
    """
    if not systems:
        raise DsuError("nothing to compare: name a bundle or a baseline")
    settings = Settings() if settings is None else settings
    utterances = sorted(utterances, key=lambda item: item.id)
    found = {}
    for name, (system, books) in systems.items():
        if hasattr(system, "run"):
            found[name] = evaluate_classic(system, utterances, settings, report)
        else:
            found[name] = evaluate_corpus(system, utterances, settings, books, report)
    return {
        "data": {
            "utterances": len(utterances),
            "hash": hash_data(utterances),
            "with_phones": sum(x.alignment is not None for x in utterances),
            "speakers": len({x.speaker for x in utterances} - {None}),
        },
        "versions": _versions(),
        "settings": {
            "parts": list(settings.parts),
            "seed": settings.seed,
            "codebooks": settings.codebooks,
            "abx_tokens": settings.abx_tokens,
            "abx_speakers": settings.abx_speakers,
            "probe_frames": settings.probe_frames,
            "stability_utterances": settings.stability_utterances,
        },
        "systems": found,
    }


def hash_data(utterances: Sequence[Utterance]) -> str:
    """Content hash of what is evaluated on: audio, stretches, speakers and phones.

    Folders and file names don't count; a file that can't be read counts as missing.
    """
    digest = hashlib.sha256()
    files: dict[str, str] = {}
    for item in utterances:
        if item.path not in files:
            try:
                files[item.path] = hash_file(item.path)
            except OSError:
                files[item.path] = "missing"
        row = [item.id, files[item.path], item.start, item.stop, item.speaker]
        if (said := item.alignment) is not None:
            row += [said.starts.tolist(), said.ends.tolist(), said.phones]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def table(result: Mapping[str, Any]) -> list[str]:
    """A comparison as lines: by bit rate, an empty line where it jumps.

    Systems whose nominal rates are within a quarter of their neighbour's stand
    together. Columns that nobody has are left out.

    Arguments
    ---------
    result : mapping
        As of ``compare``.

    Returns
    -------
    list of str
        To print.

    Example
    -------
    >>> rows = {"a": 1000.0, "b": 1100.0, "c": 4000.0}
    >>> systems = {name: {"nominal_bitrate": rate} for name, rate in rows.items()}
    >>> print("\\n".join(table({"systems": systems})))
    system  bit/s
    a        1000
    b        1100
    <BLANKLINE>
    c        4000
    """
    systems = sorted(
        result["systems"].items(),
        key=lambda pair: (pair[1]["nominal_bitrate"], pair[0]),
    )
    cells = [
        [_cell(row, keys, form) for _, row in systems] for _, keys, form in _COLUMNS
    ]
    kept = [k for k, column in enumerate(cells) if any(column)]
    lines = [["system", *(_COLUMNS[k][0] for k in kept)]]
    for i, (name, _) in enumerate(systems):
        lines.append([name, *(cells[k][i] or "-" for k in kept)])
    printed = align_columns(lines, right=range(1, len(kept) + 1))
    out, before = printed[:1], None
    for (_, row), line in zip(systems, printed[1:], strict=True):
        rate = row["nominal_bitrate"]
        if before is not None and rate > _SAME_RATE * before:
            out.append("")
        out.append(line)
        before = rate
    return out


def _cell(row: Any, keys: Sequence[Any], form: str) -> str:
    for key in keys:
        try:
            row = row[key]
        except (KeyError, IndexError):
            return ""
    return "" if row is None else format(row, form)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
