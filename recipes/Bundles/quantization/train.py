#!/usr/bin/env python3
"""Fit the units that come with the package, on three corpora of equal weight.

python train.py hparams/mfcc-k100.yaml --data_folder=/path/to/corpora
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.inference import save_bundle
from speechbrain_dsu.training.experiment import experiment, fit_and_seal

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        train = {}
        for name, options in hparams["prepare"].items():
            run_on_main(getattr(corpora, f"prepare_{name}"), kwargs=options)
            path = f"{options['save_folder']}/train.json"
            train[name] = corpora.read_manifest(path, options["data_folder"])
        items = corpora.balanced_items(train, hparams["seconds"], hparams["seed"])
        fit_and_seal(hparams, items, device, save_bundle)
