#!/usr/bin/env python3
"""Fit units on the spoken digits: the result is a bundle that ``from_hparams`` loads.

python train.py hparams/train_mfcc.yaml --data_folder=/path/to/free-spoken-digit-dataset
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora import prepare_fsdd
from speechbrain_dsu.dataio.manifest import read_items
from speechbrain_dsu.inference import save_bundle
from speechbrain_dsu.training.experiment import experiment, fit_and_seal

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_fsdd, kwargs=hparams["prepare"])
        items = read_items(hparams["train_json"], hparams["data_folder"])
        fit_and_seal(hparams, items, device, save_bundle)
