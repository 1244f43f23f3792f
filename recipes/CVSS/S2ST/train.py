#!/usr/bin/env python3
r"""Translate speech to speech: the tokenizer of the target is one line.

python train.py hparams/train_s2ut.yaml --data_folder=/path/to/cv-corpus-4/es \
    --target_folder=/path/to/cvss_c_es_en
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.translation import load_parts
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.translation import train_and_seal_translation

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(hparams["prepare"])
        names = hparams["tokenizer"], hparams["vocoder"], hparams["judge"]
        parts = load_parts(*names, device)
        train_and_seal_translation(hparams, parts, seal_system, flatten_yaml)
