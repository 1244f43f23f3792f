"""List the systems that come with the package, or the bundles that are ready to use.

A system is a YAML file; a bundle is a system with its weights.
"""

import argparse
from collections.abc import Sequence

from speechbrain_dsu.cli import common

HELP = "systems and ready bundles"
_FIELDS = ("family", "id", "title", "source", "checked")
_WIDTH = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu list``."""
    parser.add_argument("--bundles", action="store_true", help="ready bundles only")
    parser.add_argument("--family", help="only this family of systems")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="for programs: systems tab-separated, bundles one name per line",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    if args.bundles:
        _bundles(args.plain)
        return 0
    rows = []
    for path, header in read_systems():
        row = [path, *(header.get(name, "") for name in _FIELDS)]
        if args.family in (None, header.get("family")):
            rows.append(row if args.plain else [_short(cell) for cell in row])
    common.print_table(("file", *_FIELDS), rows, args.plain)
    return 0


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def read_systems() -> list[tuple[str, dict[str, str]]]:
    """Each system's file, relative to the systems folder, and its header.

    Example
    -------
    >>> dict(read_systems())["tokenizers/dmel.yaml"]["title"]
    'dMel'
    """
    from speechbrain_dsu.utils.paths import hparams_dir

    root = hparams_dir() / "systems"
    found = []
    for path in sorted(root.rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        header = {}
        for line in lines:
            name, colon, value = line.removeprefix("#").strip().partition(":")
            if not line.startswith("#") or not colon:
                break
            header[name.strip()] = value.strip()
        found.append((path.relative_to(root).as_posix(), header))
    return found


def _bundles(plain: bool) -> None:
    import json

    from speechbrain_dsu.utils.paths import bundles_dir, shipped_bundles

    if plain:
        print("\n".join(shipped_bundles()))
        return
    rows = []
    for name in shipped_bundles():
        text = (bundles_dir() / name / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text)
        bitrate = manifest.get("bitrate")
        rows.append(
            [
                name,
                manifest["kind"],
                manifest.get("sample_rate", ""),
                manifest.get("frame_rate", ""),
                shorten_sizes(manifest.get("codebook_sizes", [])),
                "" if bitrate is None else f"{bitrate:.0f}",
                manifest.get("licence", {}).get("weights", ""),
            ]
        )
    head = "bundle kind hertz frames/s codebooks bit/s licence".split()
    common.print_table(head, rows, plain=False)


def shorten_sizes(sizes: Sequence[int]) -> str:
    """Codebook sizes for people.

    Example
    -------
    >>> shorten_sizes([16] * 80), shorten_sizes([500, 100])
    ('80 x 16', '500 + 100')
    """
    if len(set(sizes)) == 1:
        return f"{len(sizes)} x {sizes[0]}"
    return " + ".join(map(str, sizes))
