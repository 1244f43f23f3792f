"""What several subcommands need."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain_dsu.utils.errors import DsuError


def add_tokenizer_arguments(parser: argparse.ArgumentParser) -> None:
    """``--tokenizer``, ``--revision`` and ``--device``."""
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="NAME",
        help="shipped name, bundle folder, or Hub id owner/name",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1 ...; cuda if there is one, by default"
    )


def load_tokenizer(
    source: str, revision: str | None = None, device: str | None = None
) -> Any:
    """The tokenizer of a bundle, on its device, without SpeechBrain's interfaces."""
    from speechbrain_dsu.inference.bundles import load_bundle
    from speechbrain_dsu.inference.hub import find_bundle

    modules = load_bundle(find_bundle(source, revision)).modules
    if "tokenizer" not in modules:
        raise DsuError(f"'{source}' is no tokenizer, it holds {sorted(modules)}")
    return modules["tokenizer"].to(choose_device(device))


def choose_device(name: str | None) -> Any:
    """The torch device of a name; the best there is for None."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DsuError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DsuError(f"--device {name}: torch sees no CUDA device here")
    return device


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """``SOURCE`` and how to read it."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="audio file, folder, or SpeechBrain manifest (.json, .csv)",
    )
    parser.add_argument("--data-root", help="replaces {data_root} in a manifest")
    parser.add_argument(
        "--column", default="wav", help="key of the audio in a manifest (wav)"
    )


def share(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers.

    Example
    -------
    >>> share("0/4")
    (0, 4)
    """
    try:
        index, total = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be i/n, e.g. 0/4, not {text!r}"
        ) from None
    return index, total


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], plain: bool
) -> None:
    """Aligned columns, or tab-separated ones for other programs."""
    lines = [[str(cell) for cell in row] for row in [head, *rows]]
    if plain:
        for line in lines:
            print("\t".join(line))
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def write_result(path: str | None, content: Any) -> None:
    """Write what a measurement gave as JSON, if a file was asked for."""
    if path is None:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain)
    target.write_text(text + "\n", encoding="utf-8")
    print(f"written: {path}", file=sys.stderr)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
