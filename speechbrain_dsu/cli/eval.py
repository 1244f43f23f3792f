"""Say what a tokenizer keeps and costs over a corpus.

Bit rates, usage of the codebooks, and, if it decodes, STOI and mel distance. Exit
status: 0 all well, 1 some file failed, 2 a mistake in the call.
"""

import argparse
import json
from typing import Any

from speechbrain_dsu.cli import common

HELP = "rates and reconstruction over a corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu eval``."""
    common.add_source_arguments(parser)
    common.add_tokenizer_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the result there")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print one fact per line."""
    from speechbrain_dsu.dataio.manifest import read_items
    from speechbrain_dsu.evaluation.corpus import evaluate_corpus

    tokenizer = common.load_tokenizer(args.tokenizer, args.revision, args.device)
    items = read_items(args.source, args.data_root, args.column)
    result = evaluate_corpus(tokenizer, [item.path for item in items])
    for name, value in result.items():
        print(f"{name:<16}{_show(value)}")
    common.write_result(args.json, result)
    return 1 if result["failed"] else 0


def _show(value: Any) -> str:
    if isinstance(value, dict) and value.get("mean") is not None:
        return f"{value['mean']:.3f} ({value['n_scored']} files)"
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, default=str)
