#!/usr/bin/env python3
"""Self-supervised encoders on LibriSpeech: one script, a YAML for each system.

python train.py hparams/train_hubert.yaml --data_folder=/path/to/LibriSpeech
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora import prepare_librispeech
from speechbrain_dsu.dataio.manifest import read_items
from speechbrain_dsu.inference import save_bundle
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.ssl_recipe import pretrain_and_seal

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_librispeech, kwargs=hparams["prepare"])
        train = read_items(hparams["train_json"], hparams["data_folder"])
        valid = read_items(hparams["valid_json"], hparams["data_folder"])
        pretrain_and_seal(hparams, train, valid, device, save_bundle, flatten_yaml)
