#!/usr/bin/env python3
"""Fit the units that come with the package, on three corpora of equal weight.

python train.py hparams/mfcc-k100.yaml --data_folder=/path/to/corpora
"""

import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import ddp_init_group, infer_device, run_on_main

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.inference import save_bundle
from speechbrain_dsu.training.fit_tokenizer import fit_tokenizer
from speechbrain_dsu.utils.paths import hparams_dir

if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)
    train = {}
    for name, options in hparams["prepare"].items():
        run_on_main(getattr(corpora, f"prepare_{name}"), kwargs=options)
        path = f"{options['save_folder']}/train.json"
        train[name] = corpora.read_manifest(path, options["data_folder"])
    items = corpora.balanced_items(train, hparams["seconds"], hparams["seed"])
    tokenizer = hparams["system"]["tokenizer"].to(run_opts["device"] or infer_device())
    record = fit_tokenizer(tokenizer, items, **hparams["fit"])
    metrics = {"inertia per frame": record["inertia"], "frames": record["frames"]}
    hparams["bundle"]["about"]["metrics"] = metrics
    yaml = hparams_dir() / hparams["system_file"]
    run_on_main(save_bundle, [tokenizer.cpu()], {"yaml": yaml, **hparams["bundle"]})
