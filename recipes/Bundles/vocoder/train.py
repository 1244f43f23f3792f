#!/usr/bin/env python3
"""Train the vocoder of units that comes with the package, and seal it as a bundle.

python train.py hparams/unit-vocoder.yaml --data_folder=/corpora --synth_folder=/synth
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.dataio.corpora.synth import prepare_synth
from speechbrain_dsu.inference import UnitTokenizer
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.vocoder import train_and_seal_vocoder

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        parts = {"train": {}, "valid": {}, "test": {}}
        for name, options in hparams["prepare"].items():
            prepare = prepare_synth if name == "synth" else None
            run_on_main(prepare or getattr(corpora, f"prepare_{name}"), kwargs=options)
            for part in hparams["parts"][name]:
                path = f"{options['save_folder']}/{part}.json"
                entries = corpora.read_manifest(path, options["data_folder"])
                for turn in range(hparams["turns"][name] if part == "train" else 1):
                    parts[part] |= {
                        f"{name}/{key}#{turn}": entry for key, entry in entries.items()
                    }
        tokenizer = UnitTokenizer.from_hparams(hparams["tokenizer"]).mods.tokenizer
        train_and_seal_vocoder(hparams, parts, tokenizer, seal_system, flatten_yaml)
