"""Time a part of the package beside its peers, in one process, runs interleaved."""

import argparse

from speechbrain_dsu.cli import common

HELP = "timings beside other packages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu bench``."""
    parser.add_argument("section", metavar="SECTION", help="e.g. kmeans")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes; the timings mean nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run a section and print its rows."""
    from speechbrain_dsu.evaluation.bench import run_bench

    rows = run_bench(args.section, args.quick, **parts(args.section))
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    common.print_table(names, cells, plain=False)
    common.write_result(args.json, rows)
    return 0


def parts(section: str) -> dict:
    """What a section times: evaluation may not import it, so it is handed over."""
    if section == "kmeans":
        from speechbrain_dsu.training.kmeans import fit_kmeans

        return {"fit": fit_kmeans}
    if section == "quantizer-choice":
        from speechbrain_dsu.lobes.features import MFCC, LogMel

        # Sizes that every block's groups divide.
        return {"features": {"MFCC": MFCC(n_mfcc=12), "log-mel": LogMel(n_mels=72)}}
    return {}


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
