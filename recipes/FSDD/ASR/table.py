#!/usr/bin/env python3
"""The recogniser of train_ctc.yaml on several inputs, one line apart, as a table.

python table.py hparams/train_ctc.yaml --data_folder=/path/to/free-spoken-digit-dataset
"""

import sys
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from speechbrain_dsu.dataio.corpora import prepare_fsdd_strings
from speechbrain_dsu.inference import UnitTokenizer
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.asr import table_row, train_and_seal_asr
from speechbrain_dsu.training.experiment import experiment

INPUTS = "dmel:frames dmel phone-k500 ssl-k500 mfcc-k100 codec-16k".split()
SPEAKERS = "george jackson lucas nicolas yweweler".split()
ROWS = [(name, None) for name in INPUTS] + [("dmel", one) for one in SPEAKERS]

if __name__ == "__main__":
    out, known = Path("results/FSDD/ASR/table"), {}
    for name, speaker in ROWS:
        tokenizer, _, feed = name.partition(":")
        row = [f"--tokenizer={tokenizer}", f"--feed={feed or 'units'}"]
        row += [f"--held_out_speaker={speaker or 'null'}"]
        row += [f"--output_folder={out}/{tokenizer}-{feed or 'units'}-{speaker}"]
        row += [f"--manifests={out}/manifests", f"--token_folder={out}/tokens"]
        # What the command says counts.
        values = dict(option.split("=", 1) for option in [*row, *sys.argv[2:]])
        argv = [f"{key}={value}" for key, value in values.items()]
        with experiment([sys.argv[1], *argv]) as (hparams, device):
            run_on_main(prepare_fsdd_strings, kwargs=hparams["prepare"])
            units = UnitTokenizer.from_hparams(
                hparams["tokenizer"], run_opts={"device": str(device)}
            )
            results = train_and_seal_asr(
                hparams,
                units.mods.tokenizer,
                seal_system,
                flatten_yaml,
                known.setdefault(name, {}),
            )
            print(table_row(name, speaker, results), flush=True)
