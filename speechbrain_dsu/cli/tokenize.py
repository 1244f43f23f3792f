"""Tokenize a file, a folder or a manifest into a token store.

Run the same command again to finish a job that was stopped. To share one job among
n workers run it n times with --shard 0/n to --shard n-1/n; the files come out the
same. Exit status: 0 all well, 1 some file failed, 2 a mistake in the call.

With --stream, samples come from standard input (SOURCE is -; a WAV, or raw PCM at the
stated --rate), and a JSON line per frame goes to standard output as soon as the frame
is known.
"""

import argparse

from speechbrain_dsu.cli import common
from speechbrain_dsu.utils.errors import DsuError

HELP = "speech to a token store, resumable"
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu tokenize``."""
    common.add_source_arguments(parser)
    common.add_tokenizer_arguments(parser)
    parser.add_argument("--out", help="folder of the token store")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="standard input to JSON lines; SOURCE is -",
    )
    parser.add_argument("--rate", type=int, metavar="HZ", help="of raw samples")
    parser.add_argument(
        "--format", choices=["s16le", "f32le"], default="s16le", help="of raw samples"
    )
    parser.add_argument(
        "--shard", type=common.share, default=(0, 1), metavar="I/N", help="my share"
    )
    parser.add_argument(
        "--shard-items", type=int, default=1000, metavar="N", help="items per file"
    )
    parser.add_argument(
        "--codebooks", type=int, metavar="K", help="keep the first K codebooks"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="reading threads")
    parser.add_argument(
        "--long-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="longer files are read piece by piece (60)",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="do shards with failures again"
    )


def run(args: argparse.Namespace) -> int:
    """Run the job and print what came of it."""
    if args.stream:
        return _stream(args)
    if args.out is None:
        raise DsuError("--out is missing: the folder of the token store")
    from speechbrain_dsu.dataio.manifest import read_items
    from speechbrain_dsu.dataio.tokenize import tokenize_corpus

    # What can be wrong with the source is found before a model is loaded.
    items = read_items(args.source, args.data_root, args.column)
    tokenizer = common.load_tokenizer(args.tokenizer, args.revision, args.device)
    result = tokenize_corpus(
        items,
        tokenizer,
        args.out,
        name=args.tokenizer,
        shard=args.shard,
        shard_items=args.shard_items,
        n_codebooks=args.codebooks,
        workers=args.workers,
        long_seconds=args.long_seconds,
        retry_failed=args.retry_failed,
    )
    _print(result, tokenizer.sample_rate)
    return 1 if result.failed else 0


def _stream(args: argparse.Namespace) -> int:
    from speechbrain_dsu.cli.stream import run_stream

    if args.source != "-" or args.out is not None:
        raise DsuError(
            "--stream reads standard input: SOURCE is - and there's no --out"
        )
    if args.rate is not None and args.rate < 1:
        raise DsuError(f"--rate {args.rate} must be positive, in hertz")
    tokenizer = common.load_tokenizer(args.tokenizer, args.revision, args.device)
    run_stream(tokenizer, args.rate, args.format, args.codebooks)
    return 0


def _print(result, sample_rate: int) -> None:
    print(
        f"{result.out}: {result.items} utterances, {result.hours:.3f} hours, "
        f"{result.tokens} tokens, {result.bitrate:.0f} bit/s"
    )
    print(
        f"this run: {result.new_seconds / 3600:.3f} hours in {result.run_seconds:.1f} s"
        f" ({result.real_time:.0f} x real time)"
    )
    for rate, files in sorted(result.resampled.items()):
        print(f"resampled: {files} files from {rate} Hz to {sample_rate} Hz")
    if result.silent:
        print(f"silent: {len(result.silent)} files, tokenized all the same")
    for entry in result.failed[:_SHOWN]:
        print(f"failed: {entry['reason']}")
    if len(result.failed) > _SHOWN:
        print(f"failed: and {len(result.failed) - _SHOWN} more, see _summary.json")
    if result.failed:
        print(f"{len(result.failed)} files failed; once mended, add --retry-failed")
    if not result.finished:
        print(
            f"{result.shards_done} of {result.shards} shards of this share are done; "
            "other shares are not"
        )
