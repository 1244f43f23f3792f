"""Listen to what tokenizers keep: one HTML page with audio, pictures and numbers."""

import argparse

from speechbrain_dsu.cli import common

HELP = "hear and see what tokenizers keep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu demo``."""
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="a recording; a shipped one by default"
    )
    parser.add_argument("--out", default="demo-output", help="folder of the page")
    parser.add_argument(
        "--tokenizer",
        action="append",
        metavar="NAME",
        help="may be given several times; all shipped bundles by default",
    )
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Make the page and print its table."""
    from speechbrain_dsu.evaluation.demo import run_demo
    from speechbrain_dsu.evaluation.report import format_table
    from speechbrain_dsu.utils.paths import shipped_bundles

    names = args.tokenizer or shipped_bundles("tokenizer")
    tokenizers = {
        name: common.load_tokenizer(name, device=args.device) for name in names
    }
    models = {} if args.tokenizer else _models(args.device)
    rows = run_demo(args.file, args.out, tokenizers, models=models)
    print(format_table(rows))
    print(f"page: {args.out}/index.html")
    return 0


def _models(device: str | None) -> dict:
    """Interfaces of the shipped models on units, by name."""
    from speechbrain_dsu import inference
    from speechbrain_dsu.utils.paths import shipped_bundles

    options = {"device": str(common.choose_device(device))}
    classes = {
        "asr": "UnitASR",
        "tts": "UnitTTS",
        "s2st": "SpeechTranslator",
        "vc": "VoiceConverter",
    }
    return {
        name: getattr(inference, interface).from_hparams(name, run_opts=options)
        for kind, interface in classes.items()
        for name in shipped_bundles(kind)
    }
