#!/usr/bin/env python3
"""Train a language model of speech on LibriSpeech.

python train.py hparams/train_gslm.yaml --data_folder=/path/to/LibriSpeech
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora import prepare_librispeech, read_manifest
from speechbrain_dsu.inference import UnitTokenizer, flatten_yaml
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.lm import train_and_seal_lm

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_librispeech, kwargs=hparams["prepare"])
        folder = hparams["data_folder"]
        manifests = {
            "train": read_manifest(hparams["train_json"], folder),
            "valid": read_manifest(hparams["valid_json"], folder),
            "test": read_manifest(hparams["test_json"], folder),
        }
        tokenizer = UnitTokenizer.from_hparams(hparams["tokenizer"]).mods.tokenizer
        train_and_seal_lm(hparams, tokenizer, manifests, flatten_yaml, seal_system)
