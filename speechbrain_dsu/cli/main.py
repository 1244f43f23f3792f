"""Entry point of the ``dsu`` command.

Nothing heavy is imported before a subcommand runs: help must come at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from speechbrain_dsu import __version__
from speechbrain_dsu.utils.errors import DsuError

COMMANDS = (
    "tokenize",
    "decode",
    "fit",
    "convert_kmeans",
    "list",
    "info",
    "verify",
    "export",
    "push",
    "demo",
    "transcribe",
    "say",
    "translate",
    "continue",
    "convert",
    "eval",
    "bench",
    "claim",
)
"""Modules of this folder; each has ``HELP``, ``add_arguments`` and ``run``."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands.

    Example
    -------
    >>> make_parser().parse_args(["list", "--plain"]).plain
    True
    """
    parser = argparse.ArgumentParser(
        prog="dsu", description="Discrete speech units: tokenize, fit, share, compare."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"speechbrain_dsu.cli.{name}")
        command = commands.add_parser(
            name.replace("_", "-"),
            help=module.HELP,
            description=(module.__doc__ or "").strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments
    ---------
    argv : sequence of str, optional
        Without the program's name; that of the process by default.

    Returns
    -------
    int
        0: all is well; 1: done, but something failed; 2: a mistake in the call;
        130: interrupted.

    Example
    -------
    >>> main(["info", "/no/such/bundle"])
    2
    """
    args = make_parser().parse_args(argv)
    try:
        code = args.run(args) or 0
        # A closed pipe shows when the buffer is written, at the latest here.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("dsu: interrupted", file=sys.stderr)
        return 130
    except (DsuError, OSError) as error:
        print(f"dsu: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
