"""Publish a bundle on the Hugging Face Hub; every part is verified first.

Log in with 'hf auth login' before, or set HF_TOKEN.
"""

import argparse

HELP = "publish a bundle on the Hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu push``."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("repo", metavar="REPO", help="owner/name")
    parser.add_argument("--dry-run", action="store_true", help="send nothing")
    parser.add_argument(
        "--public", action="store_true", help="if the repository is new, make it public"
    )


def run(args: argparse.Namespace) -> int:
    """Push, or say what would be pushed."""
    from speechbrain_dsu.inference.hub import push_bundle

    push_bundle(args.bundle, args.repo, args.dry_run, private=not args.public)
    return 0
