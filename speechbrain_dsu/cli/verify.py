"""Check every part of a bundle: files, hashes, licences, YAML, weights, probe.

Exit status: 0 if all is in order, 1 if something is not.
"""

import argparse

HELP = "check every part of a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu verify``."""
    parser.add_argument("bundle", metavar="BUNDLE", help="name, folder or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")


def run(args: argparse.Namespace) -> int:
    """Print a line per part."""
    from speechbrain_dsu.inference.bundles import verify_bundle
    from speechbrain_dsu.inference.hub import find_bundle

    parts = verify_bundle(find_bundle(args.bundle, args.revision))
    for name, ok, why in parts:
        print(f"{'ok   ' if ok else 'WRONG'}  {name:<22}  {why}")
    return 0 if all(part.ok for part in parts) else 1
