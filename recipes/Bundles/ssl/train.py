#!/usr/bin/env python3
"""Train the encoder that comes with the package, and seal its units as bundles.

python train.py hparams/ssl-units.yaml --data_folder=/corpora --synth_folder=/synth
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.dataio.corpora.synth import prepare_synth
from speechbrain_dsu.dataio.training_data import mixed_items
from speechbrain_dsu.inference import save_bundle
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.ssl_recipe import pretrain_and_seal

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        found = {"train": {}, "valid": {}}
        hours = {"train": hparams["train"], "valid": hparams["valid"]}
        for name, options in hparams["prepare"].items():
            prepare = prepare_synth if name == "synth" else None
            run_on_main(prepare or getattr(corpora, f"prepare_{name}"), kwargs=options)
            for part in (part for part in hours if name in hours[part]):
                path = f"{options['save_folder']}/{part}.json"
                found[part][name] = corpora.read_manifest(path, options["data_folder"])
        data = [mixed_items(found[part], hours[part]) for part in hours]
        pretrain_and_seal(hparams, *data, device, save_bundle, flatten_yaml)
