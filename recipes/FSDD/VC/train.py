#!/usr/bin/env python3
"""Convert spoken digits to the voices of FSDD, over units: the tokenizer is one line.

python train.py hparams/train_units.yaml --data_folder=/path/to/fsdd
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora import prepare_fsdd, read_manifest
from speechbrain_dsu.inference import UnitTokenizer
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.vocoder import train_and_seal_vocoder

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_fsdd, kwargs=hparams["prepare"])
        parts = {
            part: read_manifest(path, hparams["data_folder"])
            for part, path in hparams["manifests"].items()
        }
        tokenizer = UnitTokenizer.from_hparams(hparams["tokenizer"]).mods.tokenizer
        train_and_seal_vocoder(hparams, parts, tokenizer, seal_system, flatten_yaml)
