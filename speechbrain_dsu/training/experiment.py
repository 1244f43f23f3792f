"""What every recipe's script does around its own few lines."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
