"""Take the centres out of a pickled scikit-learn KMeans, once, into safetensors."""

import argparse

HELP = "scikit-learn k-means to safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu convert-kmeans``."""
    parser.add_argument("pickle", metavar="FILE", help="joblib or pickle file")
    parser.add_argument("--out", required=True, help="safetensors file to write")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="loading a pickle runs the code in it; say that you trust this one",
    )


def run(args: argparse.Namespace) -> int:
    """Convert and print what was found."""
    from speechbrain_dsu.integrations.sklearn.convert import convert_kmeans
    from speechbrain_dsu.utils.errors import DsuError

    if not args.trust_pickle:
        raise DsuError(
            f"{args.pickle} is a pickle: loading it runs any code that is in it; if "
            "you trust where it comes from, add --trust-pickle"
        )
    found = convert_kmeans(args.pickle, args.out, trust_pickle=True)
    print(f"{args.out}: {found['size']} centres of dimension {found['dim']}")
    return 0
