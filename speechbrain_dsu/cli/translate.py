"""Translate recordings: a WAV file for each, and a line with its id, a tab, the text.

The text is what the model says that its speech says; models without text print the id
alone.
"""

import argparse
import sys
from pathlib import Path

from speechbrain_dsu.cli import common

HELP = "speech of one language to speech of another"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu translate``."""
    common.add_source_arguments(parser)
    parser.add_argument(
        "--model",
        default="digits-s2st",
        metavar="NAME",
        help="shipped name (digits-s2st), bundle folder, or Hub id owner/name",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--out", required=True, help="folder of the WAV files")
    parser.add_argument("--voice", help="of the vocoder, if not the model's own")
    parser.add_argument("--beams", type=int, help="of the search; 1: greedy")
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Translate; a recording that can't be read is named and left out."""
    from speechbrain_dsu.cli.decode import target
    from speechbrain_dsu.dataio.manifest import read_items
    from speechbrain_dsu.inference.translation import SpeechTranslator
    from speechbrain_dsu.utils.audio import AudioError

    items = read_items(args.source, args.data_root, args.column)
    device = {"device": str(common.choose_device(args.device))}
    translator = SpeechTranslator.from_hparams(
        args.model, args.revision, run_opts=device
    )
    options = {"voice": args.voice, "beams": args.beams}
    failed = 0
    for item in items:
        path = target(Path(args.out), item.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            text = translator.translate_file(item.path, path, **options)
        except AudioError as error:
            print(f"dsu: {error}", file=sys.stderr)
            failed += 1
            continue
        print(item.id if text is None else f"{item.id}\t{text}", flush=True)
    done = len(items) - failed
    print(f"{args.out}: {done} files at {translator.target_rate} Hz", file=sys.stderr)
    return 1 if failed else 0
