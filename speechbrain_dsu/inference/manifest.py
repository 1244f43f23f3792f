"""``manifest.json``: what a bundle says about itself, and its files' hashes."""

import json
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import hash_file, module_fingerprint

FORMAT = 1
MANIFEST = "manifest.json"
YAML_FILE = "hyperparams.yaml"
WEIGHTS = "model.safetensors"
PROBE_WAV = "probe.wav"
PROBE = "probe.safetensors"
CARD = "README.md"
LOADED = (YAML_FILE, WEIGHTS, PROBE_WAV, PROBE)
"""Files that loading reads; each must have the manifest's hash."""
FILES = (*LOADED, CARD, "LICENSE")
"""All that a bundle may hold beside its manifest."""
UNREAD = (".git", ".gitattributes", ".cache")
"""Left by git and the Hub's tools; never read."""

NUMBERS = ("sample_rate", "hop", "frame_rate", "codebook_sizes", "bitrate", "causal")
"""Manifest entries that are read from the tokenizer and compared on load."""


class Part(NamedTuple):
    """One line of ``verify_bundle``: a part, whether it is in order, why (not)."""

    part: str
    ok: bool
    why: str


def describe(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The numbers of a system's tokenizer, as far as it has them, and the fingerprint.

    Example
    -------
    >>> sorted(describe({"layer": nn.Linear(2, 1)}))
    ['fingerprint']
    """
    model = modules["tokenizer"] if "tokenizer" in modules else None
    found = {key: getattr(model, key) for key in NUMBERS if hasattr(model, key)}
    if "codebook_sizes" in found:
        found["codebook_sizes"] = [int(size) for size in found["codebook_sizes"]]
    if set(modules) == {"tokenizer"} and hasattr(model, "fingerprint"):
        return {**found, "fingerprint": model.fingerprint}
    return {**found, "fingerprint": module_fingerprint(nn.ModuleDict(modules))}


def versions() -> dict[str, str]:
    """Versions of what a system is built with."""
    found = {"python": platform.python_version()}
    for package in ("speechbrain_dsu", "speechbrain", "torch", "safetensors"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of each file of a bundle."""
    return {
        name: {
            "sha256": hash_file(folder / name),
            "bytes": (folder / name).stat().st_size,
        }
        for name in FILES
        if (folder / name).is_file()
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` in a stable form."""
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read and check the form of a bundle's manifest.

    Raises
    ------
    DsuError
        If there is none, or it names files that a bundle can't hold.

    Example
    -------
    >>> read_manifest(getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: ...: there is no manifest.json, ...
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise DsuError(
            f"{folder}: there is no {MANIFEST}, so this is not a bundle; make one with "
            "save_bundle or 'dsu export'"
        )
    if path.stat().st_size > 1 << 20:
        raise DsuError(f"{path}: larger than a manifest can be")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        files = dict(manifest["files"])
        entries = [(str(e["sha256"]), int(e["bytes"])) for e in files.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DsuError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if manifest.get("format") != FORMAT:
        raise DsuError(
            f"{path}: format {manifest.get('format')}, this version reads {FORMAT}; "
            "install the speechbrain_dsu it was made with"
        )
    foreign = [name for name in files if name not in FILES]
    if foreign:
        raise DsuError(
            f"{path}: names {foreign[0]!r}; a bundle holds only {list(FILES)}"
        )
    if not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest, _ in entries):
        raise DsuError(f"{path}: a hash is not a sha256")
    for name in (
        (YAML_FILE, PROBE_WAV, PROBE) if manifest.get("probe") else (YAML_FILE,)
    ):
        if name not in files:
            raise DsuError(f"{path}: {name} is not listed")
    return manifest


def check_files(folder: str | Path, manifest: Mapping[str, Any]) -> list[Part]:
    """Compare a folder with its manifest: missing, changed and foreign files."""
    folder = Path(folder)
    parts = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            parts.append(Part(name, False, "missing"))
            continue
        size = path.stat().st_size
        if size != entry["bytes"]:
            why = f"{size} bytes, the manifest says {entry['bytes']}"
            parts.append(Part(name, False, why))
            continue
        digest = hash_file(path)
        same = digest == entry["sha256"]
        why = digest if same else f"changed: sha256 {digest}, not {entry['sha256']}"
        parts.append(Part(name, same, why))
    for path in sorted(folder.iterdir()):
        if path.name not in (*manifest["files"], MANIFEST, *UNREAD):
            why = "not a part of the bundle (never opened): remove it"
            parts.append(Part(path.name, False, why))
    return parts


def check_licence(manifest: Mapping[str, Any]) -> Part:
    """Both licences must be stated: of the code and of the weights."""
    licence = manifest.get("licence")
    licence = licence if isinstance(licence, Mapping) else {}
    missing = [key for key in ("code", "weights") if not licence.get(key)]
    if missing:
        return Part("licence", False, f"not stated for the {' and the '.join(missing)}")
    return Part(
        "licence", True, f"code {licence['code']}, weights {licence['weights']}"
    )


def is_noncommercial(licence: str) -> bool:
    """Whether a licence's name says that commercial use is excluded.

    Example
    -------
    >>> is_noncommercial("CC-BY-NC-4.0"), is_noncommercial("Apache-2.0")
    (True, False)
    """
    return bool(re.search(r"(?i)\bnc\b|non[\s-]?commercial|research[\s-]only", licence))
