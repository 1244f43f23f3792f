#!/usr/bin/env python3
"""Train a codec on generated speech.

python train.py hparams/train_codec_16k.yaml --data_folder=/path/to/Synth
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora.synth import prepare_synth
from speechbrain_dsu.dataio.manifest import read_items
from speechbrain_dsu.inference import UnitTokenizer, save_bundle
from speechbrain_dsu.training.codec_recipe import train_and_seal_codec
from speechbrain_dsu.training.experiment import experiment

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_synth, kwargs=hparams["prepare"])
        folder = hparams["data_folder"]
        train = read_items(hparams["train_json"], folder)
        valid = read_items(hparams["valid_json"], folder)
        released = UnitTokenizer.from_hparams
        train_and_seal_codec(hparams, train, valid, save_bundle, released)
