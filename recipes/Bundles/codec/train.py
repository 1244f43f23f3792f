#!/usr/bin/env python3
"""Train the codecs that come with the package, and seal them as bundles.

python train.py hparams/codec-16k.yaml --data_folder=/corpora --synth_folder=/synth
"""

import sys

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.dataio.corpora.synth import prepare_synth
from speechbrain_dsu.dataio.training_data import mixed_items
from speechbrain_dsu.inference import UnitTokenizer, save_bundle
from speechbrain_dsu.training.codec_recipe import train_and_seal_codec
from speechbrain_dsu.training.experiment import experiment

if __name__ == "__main__":
    with experiment(sys.argv[1:]) as (hparams, device):
        parts = {"train": {}, "valid": {}}
        hours = {"train": hparams["train"], "valid": hparams["valid"]}
        for name, options in hparams["prepare"].items():
            prepare = prepare_synth if name == "synth" else None
            run_on_main(prepare or getattr(corpora, f"prepare_{name}"), kwargs=options)
            for part, found in parts.items():
                if name in hours[part]:
                    path = f"{options['save_folder']}/{part}.json"
                    found[name] = corpora.read_manifest(path, options["data_folder"])
        train, valid = (mixed_items(parts[part], hours[part]) for part in parts)
        released = UnitTokenizer.from_hparams
        train_and_seal_codec(hparams, train, valid, save_bundle, released)
