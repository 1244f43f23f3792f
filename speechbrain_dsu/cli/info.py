"""Say what a bundle or a token store is."""

import argparse
from pathlib import Path

from speechbrain_dsu.cli.list import shorten_sizes

HELP = "what a bundle or a token store is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu info``."""
    parser.add_argument(
        "what", metavar="WHAT", help="bundle (name, folder, Hub id) or token store"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")


def run(args: argparse.Namespace) -> int:
    """Print one fact per line."""
    path = Path(args.what)
    is_store = path.suffix == ".parquet" or any(path.glob("*.parquet"))
    for name, value in (_store(path) if is_store else _bundle(args)).items():
        if value not in (None, "", [], {}):
            print(f"{name:<16}{value}")
    return 0


def _bundle(args: argparse.Namespace) -> dict:
    from speechbrain_dsu.inference.hub import find_bundle
    from speechbrain_dsu.inference.manifest import read_manifest

    folder = find_bundle(args.what, args.revision)
    manifest = read_manifest(folder)
    licence = manifest.get("licence", {})
    bitrate = manifest.get("bitrate")
    facts = {
        "name": manifest.get("name"),
        "folder": folder,
        "kind": manifest.get("kind"),
        "sample rate": _with(manifest.get("sample_rate"), "Hz"),
        "frame rate": _with(manifest.get("frame_rate"), "frames/s"),
        "codebooks": shorten_sizes(manifest.get("codebook_sizes", [])),
        "bit rate": _with(bitrate and f"{bitrate:.1f}", "bit/s"),
        "causal": manifest.get("causal"),
        "fingerprint": manifest.get("fingerprint"),
        "interface": manifest.get("interface"),
        "licence": ", ".join(f"{of}: {name}" for of, name in licence.items()),
    }
    for name in ("layer", "normalisation", "training_data", "language"):
        facts[name.replace("_", " ")] = manifest.get(name)
    for name, value in (manifest.get("metrics") or {}).items():
        facts[name] = value
    facts["bytes"] = sum(entry["bytes"] for entry in manifest["files"].values())
    return facts


def _with(value, unit: str) -> str | None:
    return None if value is None else f"{value} {unit}"


def _store(path: Path) -> dict:
    from speechbrain_dsu.dataio.token_store import TokenStore

    store = TokenStore(path, partial=True)
    info, rows = store.info, store.manifest().values()
    return {
        "store": path,
        "utterances": len(store),
        "hours": f"{sum(row['duration'] for row in rows) / 3600:.3f}",
        "frames": sum(row["frames"] for row in rows),
        "codebooks": shorten_sizes(list(info.sizes)),
        "frame rate": f"{info.frame_rate} frames/s",
        "sample rate": f"{info.sample_rate} Hz",
        "tokenizer": info.tokenizer,
        "fingerprint": info.fingerprint,
        "files": len(store.paths),
        "version": info.version,
    }
