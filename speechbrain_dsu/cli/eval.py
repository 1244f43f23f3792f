"""Say what tokenizers keep and cost over a corpus, side by side.

Bit rates and usage always; phones (PNMI, purity, ABX) where there are alignments,
speakers where they are known, stability under small changes, and for what decodes
STOI, PESQ, mel distance, pitch and speaker similarity. Exit status: 0 all well, 1
some file failed, 2 a mistake in the call.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from speechbrain_dsu.cli import common
from speechbrain_dsu.utils.errors import DsuError

HELP = "what tokenizers keep and cost over a corpus, in one table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu eval``."""
    parser.add_argument(
        "bundles",
        nargs="*",
        metavar="BUNDLE",
        help="shipped name, bundle folder, or Hub id owner/name; several compare",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="audio file, folder, or SpeechBrain manifest (.json, .csv)",
    )
    parser.add_argument("--data-root", help="replaces {data_root} in a manifest")
    parser.add_argument(
        "--column", default="wav", help="key of the audio in a manifest (wav)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="N utterances, spread")
    parser.add_argument(
        "--alignments",
        metavar="PATH",
        help="table with utterance, start, end, phone; or a folder of TextGrids "
        "(default: phones in the manifest)",
    )
    parser.add_argument(
        "--speakers",
        metavar="PATH",
        help="table with utterance, speaker; or a regular expression for ids "
        "(default: spk_id in the manifest)",
    )
    parser.add_argument("--baselines", metavar="LIST", help="e.g. codec2:1300,opus")
    parser.add_argument(
        "--codebooks", metavar="LIST", help="first K codebooks, e.g. 1,2,4 (all)"
    )
    parser.add_argument(
        "--parts",
        metavar="LIST",
        help="of units, abx, speakers, stability, resynthesis (all)",
    )
    parser.add_argument(
        "--speaker-encoder", metavar="FOLDER", help="SpeechBrain EncoderClassifier"
    )
    parser.add_argument(
        "--allow-unsafe-yaml",
        action="store_true",
        help="run the speaker encoder's YAML though it names what is not listed",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    common.add_device_argument(parser)
    parser.add_argument("--json", metavar="FILE", help="write the whole report there")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print one row per system."""
    from speechbrain_dsu.evaluation.comparison import compare, table
    from speechbrain_dsu.evaluation.parts import PARTS, Settings

    if not args.bundles and not args.baselines:
        raise DsuError("nothing to evaluate: name a bundle, or --baselines")
    more = {}
    if args.speaker_encoder:
        more["embed_speaker"] = _speaker_encoder(
            args.speaker_encoder, args.allow_unsafe_yaml
        )
    parts = args.parts.split(",") if args.parts else PARTS
    settings = Settings(parts=parts, seed=args.seed, **more)
    utterances = _utterances(args)
    systems, missing = _systems(args)
    for line in missing:
        print(f"skipped: {line}", file=sys.stderr)
    result = compare(systems, utterances, settings)
    result["missing"] = missing
    print("\n".join(table(result)))
    _print_notes(result)
    common.write_result(args.json, result)
    failed = any(row["failed"] for row in result["systems"].values())
    return 1 if failed else 0


def _systems(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What to evaluate by name, and the baselines that aren't installed."""
    from speechbrain_dsu.evaluation.classic import make_classic

    books = [None]
    if args.codebooks:
        words = args.codebooks.split(",")
        if not all(word.isdigit() and int(word) for word in words):
            raise DsuError(f"--codebooks {args.codebooks}: give numbers, e.g. 1,2,4")
        books = [int(word) for word in words]
    systems: dict[str, Any] = {}
    for bundle in args.bundles:
        tokenizer = common.load_tokenizer(bundle, args.revision, args.device)
        total = len(tokenizer.codebook_sizes)
        for count in sorted({min(k or total, total) for k in books}):
            name = f"{bundle} k={count}" if args.codebooks else bundle
            systems[name] = tokenizer, count
    missing = []
    for name in args.baselines.split(",") if args.baselines else ():
        try:
            codec = make_classic(name)
        except DsuError as error:
            if not str(error).startswith("no command"):
                raise
            missing.append(f"{name}: {error}")
            continue
        systems[codec.name] = codec, None
    return systems, missing


def _utterances(args: argparse.Namespace) -> list[Any]:
    """The corpus with what is known of phones and speakers."""
    from speechbrain_dsu.dataio.manifest import read_items
    from speechbrain_dsu.evaluation.labels import find_phones, find_speakers
    from speechbrain_dsu.evaluation.parts import Utterance

    items = read_items(args.data, args.data_root, args.column)
    if args.limit is not None:
        if args.limit < 1:
            raise DsuError(f"--limit {args.limit}: at least 1")
        count = min(args.limit, len(items))
        items = [items[k * len(items) // count] for k in range(count)]
    ids = [item.id for item in items]
    phones = find_phones(ids, args.data, args.alignments)
    speakers = find_speakers(ids, args.data, args.speakers)
    return [
        Utterance(x.id, x.path, x.start, x.stop, speakers.get(x.id), phones.get(x.id))
        for x in items
    ]


def _speaker_encoder(folder: str, allow_unsafe_yaml: bool) -> Any:
    """``encode_batch`` of a SpeechBrain encoder; its YAML is checked before it runs."""
    from speechbrain_dsu.inference.allowlist import UnsafeYamlError
    from speechbrain_dsu.inference.safe_yaml import check_yaml

    path = Path(folder) / "hyperparams.yaml"
    if not path.is_file():
        raise DsuError(f"--speaker-encoder {folder}: there is no {path}")
    if not allow_unsafe_yaml:
        try:
            check_yaml(path)
        except UnsafeYamlError as error:
            reason = str(error).split(" refused: ")[0]
            raise DsuError(
                f"{reason} is refused: add --allow-unsafe-yaml if you trust whoever "
                "wrote this file to run code here"
            ) from None
    from speechbrain.inference.classifiers import EncoderClassifier

    # Published ones name their own Hub page there: take what lies in the folder.
    text = path.read_text(encoding="utf-8")
    named = any(line.startswith("pretrained_path:") for line in text.splitlines())
    overrides = {"pretrained_path": folder} if named else {}
    found = EncoderClassifier.from_hparams(folder, savedir=folder, overrides=overrides)
    return found.encode_batch


def _print_notes(result: dict[str, Any]) -> None:
    """What was skipped and what failed, once per reason."""
    lines: dict[str, list[str]] = {}
    for name, row in result["systems"].items():
        for part, reason in row["skipped"].items():
            lines.setdefault(f"{part} skipped: {reason}", []).append(name)
        for metric, found in row.get("resynthesis", {}).items():
            for reason, count in found["reasons"].items():
                lines.setdefault(f"{metric}: {count} failed: {reason}", []).append(name)
        if row["failed"]:
            lines.setdefault(f"{len(row['failed'])} files failed", []).append(name)
    for line, names in lines.items():
        print(f"{', '.join(names)}: {line}")
