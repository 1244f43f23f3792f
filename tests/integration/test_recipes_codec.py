"""Codec recipes train: each YAML as it stands, its networks made small."""

from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.codec_recipe import train_codec
from speechbrain_dsu.utils.paths import bundles_dir

ROOT = Path(__file__).resolve().parents[2]
CPU = {"device": "cpu", "noprogressbar": True}
ITEMS = [AudioItem(f"clip{i}", str(bundles_dir() / "speech.wav")) for i in range(4)]
SEANET = {"n_filters": 2}
PERIOD = {"periods": [2], "channels": [4, 4]}
STFT = {"windows": [256], "channels": 2}
NARROW = {"channels": 16, "hidden": 16, "layers": 1}
TINY = {
    "LibriTTS/codec/hparams/train_encodec.yaml": {
        "system": {"encoder": SEANET, "decoder": SEANET, "quantizer": {"size": 16}},
        "judges": STFT,
    },
    "LibriTTS/codec/hparams/train_speechtokenizer.yaml": {
        "system": {"n_filters": 2, "dim": 16, "quantizer": {"size": 16}},
        "period": PERIOD,
        "scale": {"scales": 1, "channels": [16] * 7},
        "stft": STFT,
    },
    "VCTK/codec/hparams/train_dac.yaml": {
        "system": {
            "dim": 16,
            "encoder": SEANET,
            "decoder": {"channels": 32},
            "quantizer": {"size": 16},
        },
        "period": PERIOD,
        "stft": STFT,
    },
    "VCTK/codec/hparams/train_spectral_codec.yaml": {
        "system": {"encoder": NARROW, "decoder": NARROW},
        "period": PERIOD,
        "stft": STFT,
    },
    "Synth/codec/hparams/train_codec_16k.yaml": {
        "system": {"encoder": NARROW, "decoder": NARROW, "quantizer": {"size": 16}},
    },
}


@pytest.mark.parametrize("path", TINY)
def test_a_codec_recipe_trains_and_goes_on(path, tmp_path):
    given = {"data_folder": "/none", "output_folder": str(tmp_path), **TINY[path]}
    text = flatten_yaml(ROOT / "recipes" / path)
    # Three steps go through all phases of a training.
    text = text.replace("adversarial_from: 10000", "adversarial_from: 1")
    text = text.replace("quantize_from: 300", "quantize_from: 1")
    given |= {"batch_items": 2, "valid_seconds": 0.5, "seed": 1}
    given["data"] = {"segment_seconds": 0.4}

    def train(steps):
        hparams = load_hyperpyyaml(text, {**given, "steps": steps})
        return train_codec({**hparams, "run_opts": CPU}, ITEMS, ITEMS[:2])

    first = train(2)
    weights = {k: v.clone() for k, v in first.modules.codec.state_dict().items()}
    brain = train(3)
    assert first.optimizer_step == 2 and brain.optimizer_step == 3
    assert any(
        not torch.equal(v, weights[k])
        for k, v in brain.modules.codec.state_dict().items()
    )
    found = brain.stats["train"]
    if "discriminator" in brain.modules:
        assert {"adversarial", "features", "discriminator"} <= set(found)
    if "distillation" in brain.modules:
        assert 0.3 < found["distillation"] < 1.4
    assert set(brain.loss_weights) <= set(found)
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values())
