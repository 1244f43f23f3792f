"""Speech of one speaker in the voice of another: a file, a folder or a manifest.

With --judge nothing is written: a recogniser reads what is converted to every voice,
and a probe trained on real recordings (--known) tells whose voice it is. SOURCE is
then a manifest with texts and speakers that nothing was trained on.
"""

import argparse
import sys
from pathlib import Path

from speechbrain_dsu.cli import common
from speechbrain_dsu.utils.errors import DsuError

HELP = "speech in another voice"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu convert``."""
    common.add_source_arguments(parser)
    parser.add_argument(
        "--model",
        default="digits-vc",
        metavar="NAME",
        help="shipped name (digits-vc), bundle folder, or Hub id owner/name",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--voice", help="? lists the voices")
    parser.add_argument(
        "--flat", action="store_true", help="without the source's pitch contour"
    )
    parser.add_argument("--out", help="folder of the WAV files")
    parser.add_argument(
        "--judge", metavar="NAME", help="recogniser that reads it: digits-asr"
    )
    parser.add_argument(
        "--known", metavar="MANIFEST", help="of real recordings of the voices"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="judge N recordings")
    parser.add_argument("--json", metavar="FILE", help="write the judgement there")
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Convert; a recording that can't be read is named and left out."""
    from tqdm import tqdm

    from speechbrain_dsu.cli.decode import target
    from speechbrain_dsu.dataio.manifest import read_items
    from speechbrain_dsu.inference.voice_conversion import VoiceConverter
    from speechbrain_dsu.utils.audio import AudioError

    if args.judge is not None:
        return _judge(args)
    items = read_items(args.source, args.data_root, args.column)
    device = {"device": str(common.choose_device(args.device))}
    converter = VoiceConverter.from_hparams(args.model, args.revision, run_opts=device)
    if args.voice == "?":
        print("\n".join(converter.voices))
        return 0
    if args.out is None:
        raise DsuError("--out is missing: the folder of the WAV files")
    out, failed = Path(args.out), 0
    for item in tqdm(items, unit="file", disable=None):
        path = target(out, item.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            converter.convert_file(item.path, args.voice, path, not args.flat)
        except AudioError as error:
            print(f"dsu: {error}", file=sys.stderr)
            failed += 1
    done = len(items) - failed
    print(f"{out}: {done} files at {converter.output_rate} Hz, voice {args.voice}")
    return 1 if failed else 0


def _judge(args: argparse.Namespace) -> int:
    from speechbrain_dsu.dataio.corpora import read_manifest
    from speechbrain_dsu.evaluation.conversion import SpeakerProbe, conversion_report
    from speechbrain_dsu.inference.asr import UnitASR
    from speechbrain_dsu.inference.voice_conversion import VoiceConverter

    if args.known is None or args.data_root is None:
        raise DsuError("--judge needs --known and --data-root")
    device = {"device": str(common.choose_device(args.device))}
    converter = VoiceConverter.from_hparams(args.model, args.revision, run_opts=device)
    recogniser = UnitASR.from_hparams(args.judge, run_opts=device)
    probe = SpeakerProbe(read_manifest(args.known, args.data_root))

    def convert(wav, rate, voice):
        made, _ = converter.convert_batch(
            wav[None], voice, sample_rate=rate, contours=not args.flat
        )
        return made[0].cpu(), converter.output_rate

    def transcribe(wav, rate):
        return recogniser.transcribe_batch(wav[None], sample_rate=rate)[0]

    voices = [voice for voice in converter.voices if voice in probe.speakers]
    if args.voice is not None:
        voices = [voice for voice in voices if voice == args.voice]
    if not voices:
        raise DsuError(f"--known has none of the voices {', '.join(converter.voices)}")
    entries = read_manifest(args.source, args.data_root)
    rows = conversion_report(convert, transcribe, probe, entries, voices, args.limit)
    names = ["to", "items", "content", "speaker", "source"]
    cells = [
        [*[r[n] for n in names[:2]], *[f"{r[n]:.3f}" for n in names[2:]]] for r in rows
    ]
    common.print_table(names, cells, plain=False)
    common.write_result(args.json, rows)
    return 0
