#!/usr/bin/env python3
"""Recognise the sentences of Synth from units: the tokenizer is one line.

python train.py hparams/train_ctc_attention.yaml --data_folder=/path/to/Synth
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora.synth import prepare_synth
from speechbrain_dsu.inference import UnitTokenizer
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.asr import train_and_seal_asr
from speechbrain_dsu.training.experiment import experiment

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_synth, kwargs=hparams["prepare"])
        units = UnitTokenizer.from_hparams(
            hparams["tokenizer"], run_opts={"device": str(device)}
        )
        tokenizer = units.mods.tokenizer
        train_and_seal_asr(hparams, tokenizer, seal_system, flatten_yaml)
