"""Seal a training run as a bundle that from_hparams, tokenize and push take.

RUN is the output folder of a recipe: hyperparams.yaml with a 'modules' mapping, and
checkpoints in save/, in which each module has a file <name>.ckpt. A system without
weights needs no run: give its YAML file.

With --onnx, RUN is a codec's bundle (a folder or a shipped name), and its encoder,
quantizer and decoder are written to DIR as ONNX graphs.

With --training-state, DIR gets what others need to go on with RUN's training: weights,
discriminators and optimisers, which finetune_from takes.
"""

import argparse
from pathlib import Path

from speechbrain_dsu.utils.errors import DsuError

HELP = "a training run to a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu export``."""
    parser.add_argument(
        "run_folder", metavar="RUN", help="output folder of a recipe, or a YAML"
    )
    parser.add_argument("out", metavar="DIR", help="folder of the bundle")
    parser.add_argument(
        "--system", metavar="YAML", help="system file (RUN/hyperparams.yaml)"
    )
    parser.add_argument("--min-key", help="take the checkpoint where it is lowest")
    parser.add_argument("--max-key", help="take the checkpoint where it is highest")
    parser.add_argument(
        "--licence", default="unspecified", help="of the weights (SPDX name)"
    )
    parser.add_argument("--training-data", help="for the card")
    parser.add_argument("--language", help="for the card")
    parser.add_argument("--half", action="store_true", help="store float16 weights")
    parser.add_argument(
        "--onnx", action="store_true", help="a codec's bundle to ONNX graphs"
    )
    parser.add_argument(
        "--training-state",
        action="store_true",
        help="discriminators and optimisers for fine-tuning; no bundle",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle")


def run(args: argparse.Namespace) -> int:
    """Load the checkpoint strictly and seal it; or write a bundle's graphs."""
    if args.onnx:
        return _export_onnx(args)
    if args.training_state:
        return _export_state(args)
    from speechbrain_dsu.inference.bundles import save_bundle
    from speechbrain_dsu.inference.flatten import flatten_yaml
    from speechbrain_dsu.inference.loading import load_yaml

    folder = Path(args.run_folder)
    is_run = folder.suffix not in (".yaml", ".yml")
    path = Path(args.system or (folder / "hyperparams.yaml" if is_run else folder))
    if not path.is_file():
        raise DsuError(f"{path}: no such file; name the system with --system")
    text = flatten_yaml(path)
    modules = load_yaml(text, name=str(path)).get("modules")
    if not modules:
        raise DsuError(f"{path}: has no 'modules' mapping")
    source = _load_run(folder, modules, args) if is_run else _weightless(path, modules)
    given = {"training_data": args.training_data, "language": args.language}
    save_bundle(
        modules,
        args.out,
        text,
        licence={"code": "Apache-2.0", "weights": args.licence},
        about={key: value for key, value in given.items() if value},
        half=args.half,
        overwrite=args.overwrite,
    )
    print(f"{args.out}: from {source}")
    return 0


def _export_onnx(args: argparse.Namespace) -> int:
    from speechbrain_dsu.cli.common import load_tokenizer
    from speechbrain_dsu.integrations.onnx.export import export_onnx

    if args.system or args.half:
        raise DsuError("--onnx takes a bundle as it is: no --system, no --half")
    tokenizer = load_tokenizer(args.run_folder, device="cpu")
    for path in export_onnx(tokenizer, args.out):
        print(path)
    return 0


def _export_state(args: argparse.Namespace) -> int:
    from speechbrain_dsu.training.finetune import export_state

    given = (args.system, args.half, args.min_key, args.max_key)
    if any(given):
        raise DsuError(
            "--training-state takes the checkpoint of the lowest loss as it is: no "
            "--system, --half, --min-key or --max-key"
        )
    found = export_state(
        Path(args.run_folder) / "save", args.out, overwrite=args.overwrite
    )
    print(f"{args.out}: from {found.path}")
    return 0


def _load_run(folder: Path, modules: dict, args: argparse.Namespace) -> Path:
    checkpoint = _checkpoint(folder, args.min_key, args.max_key)
    for name, module in modules.items():
        _load(module, name, checkpoint)
    return checkpoint


def _weightless(path: Path, modules: dict) -> Path:
    for name, module in modules.items():
        if module.state_dict():
            raise DsuError(
                f"{path}: '{name}' has weights; export the run that has them"
            )
    return path


def _checkpoint(folder: Path, min_key: str | None, max_key: str | None) -> Path:
    from speechbrain.utils.checkpoints import Checkpointer

    save = folder / "save"
    if not save.is_dir():
        raise DsuError(f"{save}: no such folder; is {folder} the output of a recipe?")
    found = Checkpointer(save).find_checkpoint(min_key=min_key, max_key=max_key)
    if found is None:
        key = min_key or max_key
        raise DsuError(
            f"{save}: no checkpoint" + (f" with the key '{key}'" * bool(key))
        )
    return Path(found.path)


def _load(module, name: str, checkpoint: Path) -> None:
    import torch

    if not module.state_dict():
        return
    path = checkpoint / f"{name}.ckpt"
    if not path.is_file():
        there = sorted(file.stem for file in checkpoint.glob("*.ckpt"))
        raise DsuError(f"{checkpoint}: no '{name}.ckpt', there are {there}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DsuError(f"{path}: does not fit: {str(error).splitlines()[-1]}") from None
