"""Every YAML that ships loads, says what it is, and stays short."""

import re

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.loading import load_yaml
from speechbrain_dsu.utils.fingerprint import module_fingerprint
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir, shipped_bundles

BLOCKS = sorted((hparams_dir() / "blocks").rglob("*.yaml"))
SYSTEMS = sorted((hparams_dir() / "systems").rglob("*.yaml"))
SMALL_SSL = {"transformer": {"dim": 32, "layers": 7, "heads": 2, "ffn": 32}}
# Large systems are built small: what is compared is the YAML, not its sizes.
TINY = {
    "hubert_base": {"encoder": SMALL_SSL},
    "wav2vec2_base": {"encoder": SMALL_SSL},
    "soft_units": {"encoder": SMALL_SSL},
    "ssl_tokens": {
        "n_units": 4,
        "layers": [2, 1],
        "n_layers": 2,
        "dim": 32,
        "encoder_config": {
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "encoder": {"top_layer": 2},
    },
    "speechtokenizer": {"n_filters": 2, "dim": 16, "teacher_dim": 8},
    "neucodec": {"dim": 16, "channels": 16},
    "encodec_24khz": {"encoder": {"n_filters": 2}, "decoder": {"n_filters": 2}},
    "dac_16khz": {
        "dim": 16,
        "encoder": {"n_filters": 2},
        "decoder": {"channels": 32},
    },
}


def name(path):
    return str(path.relative_to(hparams_dir()))


def load(path, overrides=None):
    with open(path, encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


@pytest.mark.parametrize("path", BLOCKS, ids=name)
def test_a_block_is_one_object_that_refuses_a_misspelt_override(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    root = next(line for line in text.splitlines() if line and line[0] != "#")
    assert root.startswith("!new:"), f"{path}: the root of a block is an object"
    user = tmp_path / "user.yaml"
    user.write_text(f"block: !include:{path}\n    misspelt_option: 1\n")
    with pytest.raises((TypeError, ValueError), match="misspelt_option"):
        load(user)
    user.write_text(f"block: !include:{path}\n")
    assert isinstance(load(user)["block"], torch.nn.Module)


@pytest.mark.parametrize("path", SYSTEMS, ids=name)
def test_a_system_says_what_it_is_in_few_lines(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80, f"{path}: {len(lines)} lines"
    for key in ("title", "id", "family", "source", "checked"):
        assert any(re.match(rf"# {key}: \S", line) for line in lines), (path, key)
    family = next(line for line in lines if line.startswith("# family:")).split()[-1]
    assert family == path.parent.name


@pytest.mark.parametrize("path", SYSTEMS, ids=name)
def test_a_system_means_the_same_flat_and_safely_loaded(path):
    torch.manual_seed(0)
    tiny = TINY.get(path.stem)
    plain = load(path, tiny)["modules"]
    safe = load_yaml(flatten_yaml(path), tiny)["modules"]
    assert set(plain) == set(safe)
    for key, module in plain.items():
        safe[key].load_state_dict(module.state_dict())
        assert module_fingerprint(safe[key]) == module_fingerprint(module)


def test_ids_of_systems_are_unique():
    ids = [
        re.search(r"# id: (\S+)", path.read_text(encoding="utf-8")).group(1)
        for path in SYSTEMS
    ]
    assert len(ids) == len(set(ids)) > 0


def test_shipped_bundles_are_small_and_whole():
    from speechbrain_dsu.inference.bundles import verify_bundle

    assert {"dmel", "mfcc-k100", "logmel-k100"} <= set(shipped_bundles())
    for bundle in shipped_bundles():
        folder = bundles_dir() / bundle
        assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6
        parts = verify_bundle(folder)
        assert all(part.ok for part in parts), [p for p in parts if not p.ok]
