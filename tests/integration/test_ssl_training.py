"""Every self-supervised system trains from its YAML; HuBERT's iterations end to end."""

import math
from functools import partial

import pytest
import torch

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.token_store import TokenStore
from speechbrain_dsu.inference import UnitTokenizer, save_bundle
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.lobes.features import MFCC
from speechbrain_dsu.lobes.perturbation import Perturbation
from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.tokenizers.features import FeatureTokenizer
from speechbrain_dsu.tokenizers.layers import layer_units
from speechbrain_dsu.training.ssl import pretrain
from speechbrain_dsu.training.ssl_recipe import build_system, pretrain_and_seal
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import hparams_dir

RATE = 16000
CPU = {"device": "cpu", "noprogressbar": True}
BODY = {"dim": 32, "layers": 2, "heads": 2, "ffn": 64, "positions": 8}
BODY |= {"position_groups": 4}
WAVE = {"channels": [16] * 7}
# Each system as it stands in its YAML, but small.
TINY = {
    "hubert_units": {"n_units": 12, "encoder": {"transformer": BODY}},
    "hubert_base": {
        "n_units": 12,
        "encoder": {"transformer": BODY, "front_end": WAVE},
    },
    "wav2vec2_base": {
        "encoder": {"transformer": BODY, "front_end": WAVE},
        "quantizer": {"dim": 16, "size": 20},
        "objective": {"dim": 16, "negatives": 10},
    },
    "vq_wav2vec_gumbel": {
        "front_end": {"channels": [16] * 8},
        "quantizer": {"dim": 16, "size": 20},
        "aggregator": {"dim": 16, "kernels": [2, 3]},
    },
    "vq_wav2vec_kmeans": {
        "front_end": {"channels": [16] * 8},
        "quantizer": {"dim": 16, "size": 20},
        "aggregator": {"dim": 16, "kernels": [2, 3]},
    },
    "apc": {"encoder": {"body": {"dim": 32, "n_layers": 1}}},
    "soft_units": {
        "n_units": 12,
        "encoder": {"transformer": BODY, "front_end": WAVE},
        "layers": {"layers": [1]},
    },
}
LABELLED = {"hubert_units", "hubert_base", "soft_units"}
SYSTEMS = sorted(path.stem for path in (hparams_dir() / "systems/ssl").glob("*.yaml"))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Utterances of five buzzing vowels of a fifth of a second each, by four voices."""
    folder = tmp_path_factory.mktemp("vowels")
    formants = [(300, 2300), (700, 1200), (500, 900), (350, 800), (600, 1800)]
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(16):
        pitch, tract = 90 + 40 * (index % 4), 0.9 + 0.07 * (index % 4)
        times = torch.arange(RATE // 5) / RATE
        parts = []
        for vowel in torch.randint(5, (8,), generator=generator).tolist():
            part = torch.zeros(len(times))
            for harmonic in range(1, int(4000 / pitch)):
                place = harmonic * pitch / tract
                gain = sum(1 / (1 + ((place - f) / 90) ** 2) for f in formants[vowel])
                part += gain * torch.sin(2 * math.pi * harmonic * pitch * times)
            parts.append(part / part.abs().max() * 0.3)
        wav = torch.cat(parts)
        wav += 0.003 * torch.randn(wav.shape, generator=generator)
        write_audio(folder / f"{index}.wav", wav, RATE)
        found.append(AudioItem(f"v/{index}", str(folder / f"{index}.wav")))
    return found


def mfcc_units(n_units=12):
    return FeatureTokenizer(MFCC(), KMeans(size=n_units, dim=39))


def build(name, overrides=(), file=None):
    system_file = file or f"systems/ssl/{name}.yaml"
    return build_system(flatten_yaml, system_file, {**TINY[name], **dict(overrides)})


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


OPTIONS = {
    "run_opts": CPU,
    "opt_class": adam,
    "batch_seconds": 13.0,
    "data": {"segment_seconds": 1.2},
    "seed": 3,
}


def losses_of(system, items, labels=None):
    """Mean of five draws of the objective over all items, in evaluation mode."""
    from speechbrain_dsu.utils.audio import read_audio

    wavs = torch.stack([read_audio(item.path)[0] for item in items])
    objective = system["modules"]["objective"].eval()
    torch.manual_seed(0)
    with torch.no_grad():
        found = [objective(wavs, None, labels).losses for _ in range(5)]
    weights = system["loss_weights"]
    return sum(float(sum(weights[k] * one[k] for k in one)) for one in found) / 5


def test_every_system_is_tried():
    assert set(TINY) == set(SYSTEMS)


# How far down the loss has to go; contrastive ones start with their easiest part.
FALLS = {"wav2vec2_base": 0.97, "vq_wav2vec_gumbel": 0.95, "vq_wav2vec_kmeans": 0.95}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_trains_from_its_yaml(name, items, tmp_path):
    iteration = {"epochs": 8}
    if name in LABELLED:
        iteration["labels"] = mfcc_units()
    trained = pretrain(
        partial(build, name), items, items[:4], tmp_path, [iteration], **OPTIONS
    )
    labels = None
    if name in LABELLED:
        store = TokenStore(tmp_path / "iteration1" / "labels")
        # Frame t of these encoders lies near label t.
        labels = torch.stack([store.codes(item.id)[:, 0] for item in items])
        frames = trained["encoder"].num_frames(8 * (RATE // 5))
        labels = labels[:, :frames]
    torch.manual_seed(OPTIONS["seed"] + 1)
    before = losses_of(build(name), items, labels)
    after = losses_of(trained, items, labels)
    assert after < FALLS.get(name, 0.9) * before, f"{before:.3f} -> {after:.3f}"


ITERATIONS = [
    {"labels": mfcc_units, "epochs": 5},
    {
        "labels": partial(layer_units, layers=[1], n_units=10),
        "overrides": {"n_units": 10},
        "epochs": 4,
        "warm_start": True,
        "schedule": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=3e-3),
        "steps": 7,
    },
]


def two_iterations(items, folder, max_minutes=None):
    iterations = [{**ITERATIONS[0], "labels": mfcc_units()}, ITERATIONS[1]]
    return pretrain(
        partial(build, "hubert_units"),
        items,
        items[:4],
        folder,
        iterations,
        ema_decay=0.9,
        perturb=Perturbation(),
        max_minutes=max_minutes,
        **{**OPTIONS, "data": {"segment_seconds": 1.2, "speeds": [0.9, 1.0, 1.1]}},
    )


def test_two_iterations_stopped_again_and_again_are_the_unbroken_run(items, tmp_path):
    whole = two_iterations(items, tmp_path / "whole")
    runs, system = 0, None
    while system is None:
        # Not a second: a run labels, or makes one step, and stops.
        system = two_iterations(items, tmp_path / "broken", max_minutes=0.0)
        runs += 1
    assert runs > 10
    one = whole["modules"]["objective"].state_dict()
    two = system["modules"]["objective"].state_dict()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert whole["modules"]["objective"].n_units == [10]


def test_labels_are_made_once_from_clean_speech(items, tmp_path):
    two_iterations(items, tmp_path)
    store = TokenStore(tmp_path / "iteration1" / "labels")
    files = {path: path.stat().st_mtime_ns for path in store.paths}
    two_iterations(items, tmp_path)
    assert files == {path: path.stat().st_mtime_ns for path in store.paths}
    assert set(store) == {item.id for item in items}


def test_a_first_iteration_can_not_take_units_of_an_encoder(items, tmp_path):
    with pytest.raises(DsuError, match="labels of the first iteration"):
        pretrain(
            partial(build, "hubert_units"),
            items,
            items,
            tmp_path,
            [ITERATIONS[1]],
            **OPTIONS,
        )


def test_an_encoder_becomes_bundles_that_load(items, tmp_path):
    hparams = {
        "output_folder": tmp_path,
        "seed": 1,
        "max_minutes": None,
        "run_opts": CPU,
        "system_file": "systems/ssl/hubert_units.yaml",
        "pretrain": {
            "iterations": [{"labels": mfcc_units(100), "epochs": 1}],
            "opt_class": adam,
        },
        "units": {
            "system_file": "systems/tokenizers/ssl_units.yaml",
            "layers": [2],
            "sizes": {"tiny": 20},
            "fit": {},
            "fit_items": 8,
            "seal": {
                "half": True,
                "licence": {"code": "Apache-2.0", "weights": "CC0-1.0"},
            },
            "about": {"training_data": "vowels", "language": "none"},
        },
    }
    data = items[:8], items[:2]
    pretrain_and_seal(hparams, *data, torch.device("cpu"), save_bundle, flatten_yaml)
    units = UnitTokenizer.from_hparams(
        tmp_path / "tiny" / "tiny", run_opts={"device": "cpu"}
    )
    codes = units.encode_file(items[0].path).codes
    assert units.codebook_sizes == (20,) and len(codes.unique()) > 3
    assert codes.shape[1] == units.mods.tokenizer.num_frames(8 * (RATE // 5))
