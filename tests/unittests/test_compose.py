"""Systems of several bundles: parts keep what they are, and are found at any depth."""

import pytest
import torch
from torch import nn

from speechbrain_dsu.inference.bundles import load_bundle
from speechbrain_dsu.inference.compose import compose_yaml, seal_system
from speechbrain_dsu.inference.loading import load_yaml
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.utils.errors import DsuError

SYSTEM = """
size: 3
units: ""
layer: !new:torch.nn.Linear
    in_features: 2
    out_features: !ref <size>
modules:
    layer: !ref <layer>
"""
LICENCE = {"code": "Apache-2.0", "weights": "CC0-1.0"}


@pytest.fixture
def system(tmp_path):
    path = tmp_path / "system.yaml"
    path.write_text(SYSTEM)
    return path


def seal(system, tokenizer, out, **options):
    modules = {"layer": nn.Linear(2, 5), "tokenizer": tokenizer}
    return modules, seal_system(
        modules,
        out,
        system,
        {"tokenizer": "mfcc-k100"},
        {"size": 5, "units": tokenizer.fingerprint},
        licence=LICENCE,
        interface="",
        **options,
    )


def test_one_folder_holds_all_parts(system, tmp_path):
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    modules, folder = seal(system, tokenizer, tmp_path / "whole")
    bundle = load_bundle(folder)
    assert bundle.modules["tokenizer"].fingerprint == tokenizer.fingerprint
    assert bundle.hparams["units"] == tokenizer.fingerprint
    wav = 0.1 * torch.randn(1, 8000)
    codes = bundle.modules["tokenizer"].encode(wav).codes
    assert codes.equal(tokenizer.encode(wav).codes)
    weight = bundle.modules["layer"].weight
    assert weight.equal(modules["layer"].weight)


def test_a_part_of_a_part_is_found(system, tmp_path):
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    _, inner = seal(system, tokenizer, tmp_path / "inner")
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        "size: 1\nhead: !new:torch.nn.Linear [1, 1]\nmodules: {head: !ref <head>}"
    )
    text = compose_yaml(outer, {"layer": inner, "tokenizer": inner}, keys=["units"])
    built = load_yaml(text)
    assert set(built["modules"]) == {"head", "layer", "tokenizer"}
    assert built["modules"]["layer"].out_features == 5, "the part's own size"
    assert built["size"] == 1 and built["units"] == tokenizer.fingerprint


def test_a_wrong_weight_of_a_part_is_refused(system, tmp_path):
    from safetensors.torch import load_file, save_file

    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    _, folder = seal(system, tokenizer, tmp_path / "whole")
    state = load_file(folder / "model.safetensors")
    state["layer.weight"] += 1
    save_file(state, folder / "model.safetensors")
    with pytest.raises(DsuError, match="model.safetensors"):
        load_bundle(folder)
    with pytest.raises(DsuError, match="fingerprint"):
        from speechbrain_dsu.inference import bundles

        bundles._check_description(load_bundle(folder, verify="none"))


def test_what_is_missing_is_named(system, tmp_path):
    with pytest.raises(DsuError, match="dmel: has no module 'vocoder'"):
        compose_yaml(system, {"vocoder": "dmel"})
    system.write_text(SYSTEM + "    tokenizer: !ref <layer>\n")
    with pytest.raises(DsuError, match="has a module 'tokenizer' already"):
        compose_yaml(system, {"tokenizer": "dmel"})
    with pytest.raises(DsuError, match="no key 'sice'"):
        compose_yaml(system, {}, {"sice": 1})


def test_half_precision_leaves_the_parts_as_they_are(system, tmp_path):
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    modules, folder = seal(system, tokenizer, tmp_path / "whole", half=True)
    bundle = load_bundle(folder)
    assert bundle.modules["tokenizer"].fingerprint == tokenizer.fingerprint
    kept, given = bundle.modules["layer"].weight, modules["layer"].weight
    assert not kept.equal(given) and kept.equal(given.half().float())
