"""Every shipped tokenizer goes through every task's script: one line changes.

The scripts and their flags are those of ``tests/recipes``; only ``--tokenizer`` is
another one. A run trains some steps, tests, and seals a bundle, which is loaded.
"""

import csv
import ctypes.util
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from speechbrain_dsu.dataio.corpora import synth
from speechbrain_dsu.inference import load_bundle
from speechbrain_dsu.utils.paths import shipped_bundles

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "asr": "FSDD/ASR/hparams/train_ctc.yaml",
    "tts": "FSDD/TTS/hparams/digits_tts.yaml",
    "vc": "FSDD/VC/hparams/train_units.yaml",
    "lm": "Synth/LM/hparams/train_gslm.yaml",
    "s2st": "Synth/S2ST/hparams/train_s2ut.yaml",
}
SYNTHESISERS = shutil.which("flite") and ctypes.util.find_library("espeak-ng")


def row_of(yaml):
    with open(ROOT / "tests" / "recipes" / f"{yaml.split('/')[0]}.csv") as file:
        rows = {row["Hparam_file"]: row for row in csv.DictReader(file)}
    return rows[f"recipes/{yaml}"]


@pytest.fixture(scope="module")
def folders(speech_data, tmp_path_factory):
    """Some recordings of every digit by every speaker; generated speech in pairs."""
    root = tmp_path_factory.mktemp("any")
    recordings = root / "fsdd" / "recordings"
    recordings.mkdir(parents=True)
    for take in (0, 5, 6):
        for path in (speech_data / "fsdd" / "recordings").glob(f"*_{take}.wav"):
            shutil.copyfile(path, recordings / path.name)
    if SYNTHESISERS:
        few = {
            "languages": {"en": 0.6, "es": 0.4},
            "valid_utterances": 12,
            "test_utterances": 4,
            "pairs": 60,
        }
        synth.generate(root / "synth", 0.01, **few, workers=2)
    return {"FSDD": root / "fsdd", "Synth": root / "synth"}


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", shipped_bundles("tokenizer"))
@pytest.mark.parametrize("task", TASKS)
def test_one_line_changes(task, tokenizer, folders, tmp_path, monkeypatch):
    if task in ("lm", "s2st") and not SYNTHESISERS:
        pytest.skip("needs the Debian packages flite and espeak-ng")
    row = row_of(TASKS[task])
    flags = row["test_debug_flags"].format(out=tmp_path, **folders).split()
    flags = [flag for flag in flags if not flag.startswith("--tokenizer=")]
    flags += [f"--tokenizer={tokenizer}", "--device=cpu"]
    script = str(ROOT / row["Script_file"])
    monkeypatch.setattr(sys, "argv", [script, str(ROOT / row["Hparam_file"]), *flags])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(script, run_name="__main__")
    sealed = sorted(tmp_path.glob("**/manifest.json"))
    assert sealed, "no bundle was sealed"
    for manifest in sealed:
        assert load_bundle(manifest.parent).manifest["kind"] != "tokenizer"
