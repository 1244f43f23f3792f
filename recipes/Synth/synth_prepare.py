"""A corpus of synthetic speech and its manifests, by one command.

The work is done in ``speechbrain_dsu.dataio.corpora.synth``.
"""

import argparse
import logging
import sys
from pathlib import Path

from speechbrain_dsu.dataio.corpora.synth import LANGUAGES, generate, prepare_synth
from speechbrain_dsu.utils.errors import DsuError

__all__ = ["generate", "prepare_synth"]


def _pair(value: str) -> tuple[str, str]:
    name, _, rest = value.partition("=")
    if not rest:
        raise argparse.ArgumentTypeError(f"{value!r}: write language=value")
    return name, rest


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder of the corpus")
    parser.add_argument("--manifests", help="their folder (default: OUT/manifests)")
    parser.add_argument("--hours", type=float, default=1.0, help="of training speech")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument(
        "--languages",
        nargs="+",
        type=_pair,
        default=list(LANGUAGES.items()),
        metavar="en=0.8",
        help="language=share of train, the test set's language first",
    )
    parser.add_argument("--voices", nargs="+", help="flite voices, espeak-ng variants")
    parser.add_argument("--held_out", nargs="*", default=["slt", "m3"])
    parser.add_argument(
        "--texts",
        nargs="+",
        type=_pair,
        default=[],
        metavar="en=FILE",
        help="own lines",
    )
    parser.add_argument("--valid_utterances", type=int, default=100)
    parser.add_argument("--test_utterances", type=int, default=60, help="per voice")
    parser.add_argument("--pairs", type=int, default=100, help="Spanish and English")
    parser.add_argument("--digits", type=float, help="share of digit strings")
    parser.add_argument("--digit_counts", nargs=2, type=int, help="fewest, most digits")
    parser.add_argument("--workers", type=int, help="default: one per core")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Generate, then write the manifests."""
    options = vars(_arguments(argv))
    out = Path(options.pop("out"))
    manifests = options.pop("manifests") or out / "manifests"
    options["languages"] = {k: float(v) for k, v in options["languages"]}
    options["texts"] = dict(options["texts"])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        generate(out, **options)
        for name, path in prepare_synth(out, manifests).items():
            print(f"{name}: {path}")
    except DsuError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
