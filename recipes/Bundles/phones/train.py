#!/usr/bin/env python3
"""Train the phone encoder that comes with the package, and seal its units as a bundle.

python train.py hparams/phone-k500.yaml --data_folder=/corpora --synth_folder=/synth
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.dataio.corpora.synth import prepare_synth
from speechbrain_dsu.dataio.corpora.synth_words import pronunciations
from speechbrain_dsu.dataio.training_data import mixed_items
from speechbrain_dsu.inference import UnitTokenizer, save_bundle
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.experiment import experiment
from speechbrain_dsu.training.phones import train_phones
from speechbrain_dsu.training.ssl_recipe import seal_units
from speechbrain_dsu.training.systems import build_system

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        found = {}
        for name, options in hparams["prepare"].items():
            prepare = prepare_synth if name == "synth" else None
            run_on_main(prepare or getattr(corpora, f"prepare_{name}"), kwargs=options)
            path = f"{options['save_folder']}/train.json"
            entries = corpora.read_manifest(path, options["data_folder"])
            out = hparams["held_out_speaker"]
            found[name] = {k: e for k, e in entries.items() if e["spk_id"] != out}
        spoken = hparams["language"]
        aligned = {k: e for k, e in found["synth"].items() if e["language"] == spoken}
        start = UnitTokenizer.from_hparams(hparams["start"]).mods.tokenizer
        given = aligned, found["fsdd"], pronunciations, flatten_yaml
        encoder = train_phones(hparams, *given, start.features.encoder)
        if encoder is not None:
            train = mixed_items(found, hparams["centres"], hparams["seed"])
            seal_units(
                hparams,
                encoder,
                train,
                device,
                save_bundle,
                lambda file, overrides: build_system(flatten_yaml, file, overrides),
            )
