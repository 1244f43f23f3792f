"""What the scripts of ssl recipes share: train an encoder, seal units of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.training.fit_tokenizer import fit_tokenizer
from speechbrain_dsu.training.ssl import pretrain, some_recordings
from speechbrain_dsu.training.systems import Flatten, build_system
from speechbrain_dsu.utils.paths import hparams_dir

# What a tokenizer that was trained inside an objective does not need any more.
_TRAINING_KEYS = ("modules", "objective", "loss_weights", "aggregator")
_TOKENIZER_ALONE = "\nmodules:\n    tokenizer: !ref <tokenizer>\n"


def pretrain_and_seal(
    hparams: dict[str, Any],
    train: Sequence[AudioItem],
    valid: Sequence[AudioItem],
    device: torch.device,
    seal: Callable[..., Any],
    flatten: Flatten,
) -> None:
    """Train the system of an ssl recipe, and write tokenizers of it as bundles.

    Arguments
    ---------
    hparams : dict
        ``system_file`` below the package's ``hparams``; ``pretrain``, arguments of
        ``training.ssl.pretrain``; ``output_folder``, ``seed``, ``max_minutes``; where
        the system has a tokenizer of its own, ``bundle``, arguments of
        ``save_bundle`` (and perhaps another ``system_file``); where units of layers are
        to be fitted, ``units``, see ``seal_units``.
    train, valid : sequence of AudioItem
        The data.
    device : torch.device
        Where to train.
    seal : callable
        ``inference.save_bundle``.
    flatten : callable
        ``inference.flatten.flatten_yaml``.
    """
    from speechbrain.utils.distributed import run_on_main

    build = partial(build_system, flatten)
    system = pretrain(
        lambda overrides, file=None: build(file or hparams["system_file"], overrides),
        train,
        valid,
        hparams["output_folder"],
        run_opts=hparams["run_opts"],
        device=device,
        seed=hparams["seed"],
        max_minutes=hparams["max_minutes"],
        **hparams["pretrain"],
    )
    if system is None:
        return
    if "bundle" in hparams:
        options = dict(hparams["bundle"])
        path = hparams_dir() / options.pop("system_file", hparams["system_file"])
        options["yaml"] = flatten(path, drop=_TRAINING_KEYS) + _TOKENIZER_ALONE
        run_on_main(seal, [system["tokenizer"].cpu()], options)
    if "units" in hparams:
        seal_units(hparams, system["encoder"], train, device, seal, build)


def seal_units(
    hparams: dict[str, Any],
    encoder: torch.nn.Module,
    train: Sequence[AudioItem],
    device: torch.device,
    seal: Callable[..., Any],
    build: Callable[[str, Mapping[str, Any]], dict[str, Any]],
) -> None:
    """Fit units to layers of a trained encoder, one bundle for each number of units.

    Arguments
    ---------
    hparams : dict
        ``units``: the tokenizers' ``system_file``, ``layers``, ``sizes`` (number of
        units by the bundle's name), ``fit_items`` (how many recordings k-means sees),
        ``fit`` (arguments of ``fit_tokenizer``), ``seal`` (arguments of
        ``save_bundle``) and ``about``, for its card; ``output_folder``, ``seed``.
    encoder : nn.Module
        That ``system_file`` builds, too.
    train : sequence of AudioItem
        What k-means sees.
    device : torch.device
        Where to fit.
    seal : callable
        ``inference.save_bundle``.
    build : callable
        System file and overrides to what they build.
    """
    from speechbrain.utils.distributed import run_on_main

    units, layers = hparams["units"], list(hparams["units"]["layers"])
    some = some_recordings(train, units["fit_items"])
    top = encoder.up_to(max(layers))
    for name, n_units in units["sizes"].items():
        folder = Path(hparams["output_folder"]) / name
        overrides = {"n_units": n_units, "layers": layers}
        tokenizer = build(units["system_file"], overrides)["tokenizer"].to(device)
        tokenizer.features.encoder.load_state_dict(top.state_dict())
        place = {"checkpoint": folder / "kmeans", "seed": hparams["seed"]}
        record = fit_tokenizer(tokenizer, some, progress=False, **place, **units["fit"])
        metrics = {"inertia per frame": record["inertia"], "frames": record["frames"]}
        layer = ", ".join(str(layer) for layer in layers)
        about = {"layer": layer, "metrics": metrics, **units["about"]}
        options = {**units["seal"], "about": about, "overrides": overrides}
        options |= {"yaml": hparams_dir() / units["system_file"], "out": folder / name}
        run_on_main(seal, [tokenizer.cpu()], options)
