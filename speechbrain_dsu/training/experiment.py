"""What every recipe's script does around its own few lines."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.training.fit_tokenizer import fit_tokenizer
from speechbrain_dsu.utils.paths import hparams_dir


@contextmanager
def experiment(argv: Sequence[str]) -> Iterator[tuple[dict[str, Any], torch.device]]:
    """Parse SpeechBrain's command line, load the YAML, make the output folder.

    Under torchrun the processes join at the start and part in order at the end:
    without that, one that ends late can abort when the first is gone.

    Arguments
    ---------
    argv : sequence of str
        As after the script's name: ``hparams.yaml --key=value ...``.

    Yields
    ------
    hparams : dict
        What the YAML builds, and SpeechBrain's ``run_opts``.
    device : torch.device
        The one asked for, or the best there is.
    """
    import speechbrain as sb
    from hyperpyyaml import load_hyperpyyaml
    from speechbrain.utils.distributed import (
        ddp_init_group,
        infer_device,
        run_on_main,
    )

    hparams_file, run_opts, overrides = sb.parse_arguments(list(argv))
    ddp_init_group(run_opts)
    try:
        with open(hparams_file, encoding="utf-8") as file:
            hparams = {"run_opts": run_opts, **load_hyperpyyaml(file, overrides)}
        folder = hparams["output_folder"]
        sb.create_experiment_directory(folder, hparams_file, overrides)
        # SpeechBrain keeps the file that called it, which is this one.
        script = getattr(sys.modules["__main__"], "__file__", None)
        if script is not None:
            run_on_main(shutil.copy, [script, folder])
        yield hparams, torch.device(run_opts["device"] or infer_device())
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def fit_and_seal(
    hparams: dict[str, Any],
    items: Iterable[AudioItem],
    device: torch.device,
    seal: Callable[..., Any],
) -> None:
    """Fit the units of a quantization recipe and write them as a bundle.

    Arguments
    ---------
    hparams : dict
        ``system`` with ``tokenizer``, its ``system_file`` below the package's
        ``hparams``, and the arguments ``fit`` and ``bundle``.
    items : iterable of AudioItem
        The training data.
    device : torch.device
        Where to fit.
    seal : callable
        ``inference.save_bundle``.
    """
    from speechbrain.utils.distributed import run_on_main

    tokenizer = hparams["system"]["tokenizer"].to(device)
    record = fit_tokenizer(tokenizer, items, **hparams["fit"])
    metrics = {"inertia per frame": record["inertia"], "frames": record["frames"]}
    bundle = dict(hparams["bundle"])
    bundle["about"] = {**bundle["about"], "metrics": metrics}
    bundle["yaml"] = hparams_dir() / hparams["system_file"]
    run_on_main(seal, [tokenizer.cpu()], bundle)


def pretrain_and_seal(
    hparams: dict[str, Any],
    train: Sequence[AudioItem],
    valid: Sequence[AudioItem],
    device: torch.device,
    seal: Callable[..., Any],
    flatten: Callable[[Path], str],
) -> None:
    """Train the encoder of an ssl recipe, and write units of it as bundles.

    Arguments
    ---------
    hparams : dict
        ``system_file`` below the package's ``hparams``, ``pretrain`` (arguments of
        ``training.ssl.pretrain``), ``max_minutes``, and, where there are bundles,
        ``bundles``: their ``system_file``, ``units`` (number by name), ``fit`` and
        ``seal`` (arguments of ``fit_tokenizer`` and ``save_bundle``), with ``layers``
        and ``fit_items`` beside it.
    train, valid : sequence of AudioItem
        The data.
    device : torch.device
        Where to train.
    seal : callable
        ``inference.save_bundle``.
    flatten : callable
        ``inference.flatten_yaml``.
    """
    from speechbrain.utils.distributed import run_on_main

    from speechbrain_dsu.training.ssl import pretrain, some_recordings

    folder = Path(hparams["output_folder"])
    build = partial(build_system, flatten)
    system = pretrain(
        partial(build, hparams["system_file"]),
        train,
        valid,
        folder,
        run_opts=hparams["run_opts"],
        device=device,
        seed=hparams["seed"],
        max_minutes=hparams["max_minutes"],
        **hparams["pretrain"],
    )
    if system is None or "bundles" not in hparams:
        return
    bundles = hparams["bundles"]
    some = some_recordings(train, hparams["fit_items"])
    for name, n_units in bundles["units"].items():
        overrides = {"n_units": n_units, "layers": hparams["layers"]}
        tokenizer = build(bundles["system_file"], overrides)["tokenizer"]
        top = system["encoder"].up_to(max(hparams["layers"]))
        tokenizer.features.encoder.load_state_dict(top.state_dict())
        options = {"checkpoint": folder / name / "kmeans", "seed": hparams["seed"]}
        record = fit_tokenizer(
            tokenizer.to(device), some, progress=False, **options, **bundles["fit"]
        )
        options = dict(bundles["seal"])
        layers = ", ".join(str(layer) for layer in hparams["layers"])
        about = {"layer": layers, "metrics": {"frames": record["frames"]}}
        options["about"] = {**about, **options["about"]}
        options["yaml"] = hparams_dir() / bundles["system_file"]
        options["overrides"], options["out"] = overrides, folder / name / name
        run_on_main(seal, [tokenizer.cpu()], options)


def build_system(
    flatten: Callable[[Path], str],
    system_file: str,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a system's YAML builds.

    Arguments
    ---------
    flatten : callable
        ``inference.flatten_yaml``: overrides then reach into included blocks.
    system_file : str
        Below the package's ``hparams``, e.g. "systems/ssl/hubert_small.yaml".
    overrides : mapping, optional
        New values for its keys.

    Returns
    -------
    dict
        By the YAML's keys.
    """
    from hyperpyyaml import load_hyperpyyaml

    text = flatten(hparams_dir() / system_file)
    return load_hyperpyyaml(text, dict(overrides or {}))
