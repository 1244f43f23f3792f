"""Fit a tokenizer to your own recordings and seal it as a bundle."""

import argparse
from pathlib import Path

from speechbrain_dsu.cli import common
from speechbrain_dsu.cli.list import shorten_sizes
from speechbrain_dsu.utils.errors import DsuError

HELP = "fit a tokenizer to recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dsu fit``."""
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    kmeans = kinds.add_parser(
        "kmeans",
        help="k-means units",
        description="Fit k-means units. A run that was stopped goes on when the same "
        "command is given again.",
    )
    common.add_source_arguments(kmeans)
    kmeans.add_argument(
        "--features",
        required=True,
        metavar="SYSTEM",
        help="system file (hparams/systems/tokenizers/*.yaml) or its name",
    )
    kmeans.add_argument("--out", required=True, help="folder of the bundle")
    kmeans.add_argument("--size", type=int, metavar="K", help="number of units")
    kmeans.add_argument(
        "--encoder", metavar="MODEL", help="pretrained SSL model, folder or Hub id"
    )
    kmeans.add_argument("--seed", type=int, default=0)
    kmeans.add_argument("--epochs", type=int, default=1, help="online passes (1)")
    kmeans.add_argument("--full-epochs", type=int, default=0, help="Lloyd passes (0)")
    kmeans.add_argument("--workers", type=int, default=2, help="reading threads (2)")
    kmeans.add_argument("--checkpoint", metavar="DIR", help="state (OUT.fit)")
    kmeans.add_argument(
        "--licence", default="unspecified", help="of the fitted weights (SPDX name)"
    )
    kmeans.add_argument("--language", help="of the recordings, for the card")
    kmeans.add_argument("--overwrite", action="store_true", help="replace a bundle")
    common.add_device_argument(kmeans)


def run(args: argparse.Namespace) -> int:
    """Read, fit, seal, print."""
    from speechbrain_dsu.dataio.manifest import read_items
    from speechbrain_dsu.inference.bundles import save_bundle
    from speechbrain_dsu.training.fit_tokenizer import fit_tokenizer

    items = read_items(args.source, args.data_root, args.column)
    out = Path(args.out)
    if out.exists() and not args.overwrite:
        raise DsuError(f"{out} exists; add --overwrite to replace it")
    text, tokenizer = _build(args.features, args.size, args.encoder)
    tokenizer.to(common.choose_device(args.device))
    checkpoint = args.checkpoint or out.with_name(f"{out.name}.fit")
    record = fit_tokenizer(
        tokenizer,
        items,
        seed=args.seed,
        epochs=args.epochs,
        full_epochs=args.full_epochs,
        checkpoint=checkpoint,
        workers=args.workers,
    )
    used = len(items) - len(record["data"]["failed"])
    about = {
        "training_data": f"{Path(args.source).name}: {used} recordings, "
        f"{record['frames']} frames, list {record['data']['hash'][:12]}",
        "metrics": {
            "inertia per frame": round(record["inertia"], 4),
            "seed": args.seed,
            "passes": f"{args.epochs} online, {args.full_epochs} full",
        },
    }
    if args.language:
        about["language"] = args.language
    save_bundle(
        tokenizer.cpu(),
        out,
        text,
        licence={"code": "Apache-2.0", "weights": args.licence},
        about=about,
        overwrite=args.overwrite,
    )
    print(f"{out}: {shorten_sizes(tokenizer.codebook_sizes)} units")
    print(f"inertia per frame {record['inertia']:.4f}; record in {checkpoint}")
    return 1 if record["data"]["failed"] else 0


def _build(system: str, size: int | None, encoder: str | None) -> tuple:
    """Flat YAML text and tokenizer of a system file."""
    from speechbrain_dsu.inference.flatten import flatten_yaml
    from speechbrain_dsu.inference.loading import load_yaml

    path = find_system(system)
    text = flatten_yaml(path, None if size is None else {"n_units": size})
    tokenizer = load_yaml(text, name=path.name).get("modules", {}).get("tokenizer")
    if tokenizer is None:
        raise DsuError(f"{path}: there is no modules: tokenizer: in it")
    features = tokenizer.features
    needs = any(True for _ in features.parameters())
    if needs and encoder is None:
        raise DsuError(f"{path}: its features need weights, give --encoder MODEL")
    if encoder is not None:
        _load_encoder(features, encoder)
    return text, tokenizer


def _load_encoder(features, source: str) -> None:
    target = getattr(features, "encoder", None)
    if not hasattr(target, "from_pretrained"):
        raise DsuError(f"--encoder {source}: these features take no pretrained model")
    loaded = type(target).from_pretrained(source, top_layer=target.top_layer)
    if loaded.extra_repr() != target.extra_repr():
        raise DsuError(
            f"--encoder {source}: another model than the system's: "
            f"{loaded.extra_repr()}, not {target.extra_repr()}"
        )
    target.load_state_dict(loaded.state_dict())


def find_system(name: str) -> Path:
    """A system file by path or by its name in ``hparams/systems``.

    Example
    -------
    >>> find_system("mfcc-kmeans").name
    'mfcc_kmeans.yaml'
    """
    from speechbrain_dsu.utils.paths import hparams_dir

    if Path(name).is_file():
        return Path(name)
    files = {path.stem: path for path in (hparams_dir() / "systems").rglob("*.yaml")}
    found = files.get(name.replace("-", "_"))
    if found is None:
        raise DsuError(
            f"'{name}' is neither a file nor a system; 'dsu list' shows those there are"
        )
    return found
