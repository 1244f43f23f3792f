#!/usr/bin/env python3
"""Say sentences as the generated voices of Synth do: the tokenizer is one line.

python train.py hparams/sentences_tts.yaml --data_folder=/path/to/Synth
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora.synth import prepare_synth
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.translation import load_parts
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.tts import train_and_seal_tts

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        run_on_main(prepare_synth, kwargs=hparams["prepare"])
        names = hparams["tokenizer"], hparams["vocoder"], hparams["judge"]
        parts = load_parts(*names, device)
        train_and_seal_tts(hparams, parts, seal_system, flatten_yaml)
