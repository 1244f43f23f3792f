"""Check a published system's claim on a small scale: shown or not shown, with numbers.

'dsu list' gives the ids.
"""

import argparse

from speechbrain_dsu.cli import common

HELP = "check a published claim"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu claim``."""
    parser.add_argument("id", metavar="ID", type=int, help="of the system")
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    parser.add_argument("--data", metavar="DIR", help="speech ($DSU_SPEECH_DATA)")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")


def run(args: argparse.Namespace) -> int:
    """Run the claim's check and print it."""
    from speechbrain_dsu.evaluation.claims import format_claim, run_claim

    result = run_claim(args.id, args.quick, args.data)
    print(format_claim(result))
    common.write_result(args.json, result)
    return 0
