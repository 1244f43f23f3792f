#!/usr/bin/env python3
"""Fit units on LibriSpeech: the result is a bundle that ``from_hparams`` loads.

python train.py hparams/train_mfcc.yaml --data_folder=/path/to/LibriSpeech
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora import prepare_librispeech
from speechbrain_dsu.dataio.manifest import read_items
from speechbrain_dsu.inference import save_bundle
from speechbrain_dsu.training.experiment import experiment, fit_and_seal
from speechbrain_dsu.utils.errors import DsuError

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_librispeech, kwargs=hparams["prepare"])
        items = read_items(hparams["train_json"], hparams["data_folder"])
        if "pretrained" in hparams:
            source, target = hparams["pretrained"], hparams["system"]["encoder"]
            if source.extra_repr() != target.extra_repr():
                raise DsuError(f"pretrained is {source}, the system's encoder {target}")
            target.load_state_dict(source.state_dict())
        fit_and_seal(hparams, items, device, save_bundle)
