"""Write down what is said in recordings, one line for each: its id, a tab, the text."""

import argparse
import sys
from pathlib import Path

from speechbrain_dsu.cli import common

HELP = "speech to text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu transcribe``."""
    common.add_source_arguments(parser)
    parser.add_argument(
        "--model",
        default="digits-asr",
        metavar="NAME",
        help="shipped name (digits-asr), bundle folder, or Hub id owner/name",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--out", help="file of the lines, instead of the screen")
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe; a recording that can't be read is named and left out."""
    from speechbrain_dsu.dataio.manifest import read_items
    from speechbrain_dsu.inference.asr import UnitASR
    from speechbrain_dsu.utils.audio import AudioError

    items = read_items(args.source, args.data_root, args.column)
    device = {"device": str(common.choose_device(args.device))}
    asr = UnitASR.from_hparams(args.model, args.revision, run_opts=device)
    lines, failed = [], 0
    for item in items:
        try:
            line = f"{item.id}\t{asr.transcribe_file(item.path)}"
        except AudioError as error:
            print(f"dsu: {error}", file=sys.stderr)
            failed += 1
            continue
        lines.append(line)
        if args.out is None:
            print(line, flush=True)
    if args.out is not None:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        print(f"{args.out}: {len(lines)} texts")
    return 1 if failed else 0
