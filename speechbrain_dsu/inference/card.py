"""The README of a published bundle: what the Hub shows and what users ask first."""

import json
from collections.abc import Mapping
from typing import Any

_HEADER = """---
license: {license}
{license_name}language:
{languages}
library_name: speechbrain
tags:
{tags}
---
"""
_HUB_LICENCES = (
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 "
    "cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 cc0-1.0 mpl-2.0 gpl-3.0 lgpl-3.0 openrail"
).split()


def make_card(manifest: Mapping[str, Any], repo_id: str | None = None) -> str:
    """Markdown with a YAML header, from a bundle's manifest alone.

    Arguments
    ---------
    manifest : mapping
        As in ``manifest.json``.
    repo_id : str, optional
        Hub id for the loading example; the bundle's name otherwise.

    Returns
    -------
    str
        The card.

    Example
    -------
    >>> card = make_card({"name": "dmel", "licence": {"weights": "Apache-2.0"}})
    >>> "library_name: speechbrain" in card, "license: apache-2.0" in card
    (True, True)
    """
    weights = str((manifest.get("licence") or {}).get("weights") or "")
    known = weights.lower() in _HUB_LICENCES
    languages = manifest.get("language") or []
    languages = [languages] if isinstance(languages, str) else languages
    tags = ["speechbrain", "speechbrain_dsu", "speech", "discrete-units"]
    tags += [manifest["kind"]] if manifest.get("kind") else []
    header = _HEADER.format(
        license=weights.lower() if known else "other",
        license_name="" if known else f"license_name: {json.dumps(weights)}\n",
        languages="\n".join(f"- {json.dumps(str(x))}" for x in languages)
        or "- multilingual",
        tags="\n".join(f"- {json.dumps(str(tag))}" for tag in tags),
    )
    parts = [header, f"# {manifest.get('name', '')}\n", _facts(manifest)]
    parts.append(_loading(manifest, repo_id or str(manifest.get("name", ""))))
    if manifest.get("metrics"):
        parts.append(_table("Metrics", manifest["metrics"]))
    parts.append(_table("Files (sha256)", _hashes(manifest)))
    return "\n".join(part for part in parts if part)


def _facts(manifest: Mapping[str, Any]) -> str:
    licence = manifest.get("licence") or {}
    sizes = manifest.get("codebook_sizes") or []
    rows = {
        "Kind": manifest.get("kind"),
        "Sample rate": _number(manifest.get("sample_rate"), "Hz"),
        "Frame rate": _number(manifest.get("frame_rate"), "frames per second"),
        "Codebooks": f"{len(sizes)} of sizes {_sizes(sizes)}" if sizes else None,
        "Bit rate": _number(manifest.get("bitrate"), "bit/s"),
        "Causal": manifest.get("causal"),
        "Layer": manifest.get("layer"),
        "Normalisation": manifest.get("normalisation"),
        "Training data": manifest.get("training_data"),
        "Licence of the code": licence.get("code"),
        "Licence of the weights": licence.get("weights"),
        "Fingerprint": manifest.get("fingerprint"),
    }
    return _table("What it is", {k: v for k, v in rows.items() if v is not None})


def _number(value: Any, unit: str) -> str | None:
    return None if value is None else f"{value:g} {unit}"


def _sizes(sizes: list[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else ", ".join(map(str, sizes))


def _hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    # The card can't hold its own hash.
    files = manifest.get("files") or {}
    return {n: f["sha256"] for n, f in files.items() if n != "README.md"}


def _table(title: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"## {title}\n", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _loading(manifest: Mapping[str, Any], source: str) -> str:
    module, _, name = str(
        manifest.get("interface") or "speechbrain_dsu.inference.tokenizer.UnitTokenizer"
    ).rpartition(".")
    use = ""
    if name == "UnitTokenizer":
        use = '\ntokens = system.encode_file("speech.flac")  # [1, frames, codebooks]'
    return (
        "## Loading\n\n```python\n"
        f"from {module} import {name}\n\n"
        f'system = {name}.from_hparams("{source}"){use}\n'
        "```\n\nNothing in this bundle runs code: the YAML is checked against a list\n"
        "of classes, the weights are safetensors. Loading recomputes the probe clip\n"
        "and refuses parts that do not belong together.\n"
    )
