#!/usr/bin/env python3
"""Fit units on LibriSpeech: the result is a bundle that ``from_hparams`` loads.

python train.py hparams/train_mfcc.yaml --data_folder=/path/to/LibriSpeech
"""

import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import ddp_init_group, infer_device, run_on_main

from speechbrain_dsu.dataio.corpora import prepare_librispeech
from speechbrain_dsu.dataio.manifest import read_items
from speechbrain_dsu.inference import save_bundle
from speechbrain_dsu.training.fit_tokenizer import fit_tokenizer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import hparams_dir

if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)
    run_on_main(prepare_librispeech, kwargs=hparams["prepare"])
    items = read_items(hparams["train_json"], hparams["data_folder"])
    if "pretrained" in hparams:
        source, target = hparams["pretrained"], hparams["system"]["encoder"]
        if source.extra_repr() != target.extra_repr():
            raise DsuError(f"pretrained is {source}, the system's encoder {target}")
        target.load_state_dict(source.state_dict())
    tokenizer = hparams["system"]["tokenizer"].to(run_opts["device"] or infer_device())
    record = fit_tokenizer(tokenizer, items, **hparams["fit"])
    metrics = {"inertia per frame": record["inertia"], "frames": record["frames"]}
    hparams["bundle"]["about"]["metrics"] = metrics
    yaml = hparams_dir() / hparams["system_file"]
    run_on_main(save_bundle, [tokenizer.cpu()], {"yaml": yaml, **hparams["bundle"]})
