"""Bundles: what was saved loads equal; what does not belong together does not load."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from speechbrain_dsu.inference import bundles as bundles_module
from speechbrain_dsu.inference import manifest as mf
from speechbrain_dsu.inference.bundles import load_bundle, save_bundle, verify_bundle
from speechbrain_dsu.inference.loading import load_yaml
from speechbrain_dsu.inference.probe import compare
from speechbrain_dsu.inference.weights import load_strict, read_state, state_of
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.fingerprint import hash_file, module_fingerprint

LICENCE = {"code": "Apache-2.0", "weights": "CC0-1.0"}
YAML = """# MFCC-like k-means, tiny
n_mels: 12
features: !new:speechbrain_dsu.lobes.features.LogMel
  sample_rate: 8000
  hop: 80
  n_mels: !ref <n_mels>
quantizer: !new:speechbrain_dsu.nnet.quantizers.clustering.KMeans
  size: 24
  dim: !ref <n_mels>
tokenizer: !new:speechbrain_dsu.tokenizers.features.FeatureTokenizer
  features: !ref <features>
  quantizer: !ref <quantizer>
modules:
  tokenizer: !ref <tokenizer>
"""


def make_tokenizer(seed=0, text=YAML):
    tokenizer = load_yaml(text)["tokenizer"]
    generator = torch.Generator().manual_seed(seed)
    shape = tokenizer.quantizer.centers.shape
    centers = torch.randn(shape, generator=generator) * 2 - 6
    tokenizer.quantizer.set_centers(centers)
    return tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    about = {"training_data": "none", "language": ["en"], "layer": 3}
    return save_bundle(make_tokenizer(), folder, YAML, licence=LICENCE, about=about)


@pytest.fixture
def folder(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "tiny"))


def edit_manifest(folder, **entries):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(entries)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rehash(folder, **entries):
    edit_manifest(folder, files=mf.file_entries(folder), **entries)


def wav(seconds=1.0, rate=8000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, int(seconds * rate), generator=generator) * 0.1


def test_loaded_equals_saved(folder):
    tokenizer = make_tokenizer()
    bundle = load_bundle(folder)
    loaded = bundle.modules["tokenizer"]
    assert torch.equal(loaded.encode(wav()).codes, tokenizer.encode(wav()).codes)
    assert loaded.fingerprint == tokenizer.fingerprint == bundle.manifest["fingerprint"]
    assert not loaded.training
    assert {p.name for p in folder.iterdir()} == {
        "hyperparams.yaml",
        "model.safetensors",
        "manifest.json",
        "probe.wav",
        "probe.safetensors",
        "README.md",
    }
    parts = verify_bundle(folder)
    assert all(part.ok for part in parts), parts
    assert {"licence", "probe", "fingerprint", "model.safetensors"} <= {
        part.part for part in parts
    }


def test_manifest_says_what_users_ask(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    expected = {
        "format": 1,
        "name": "tiny",
        "kind": "tokenizer",
        "interface": "speechbrain_dsu.inference.tokenizer.UnitTokenizer",
        "sample_rate": 8000,
        "hop": 80,
        "frame_rate": 100.0,
        "codebook_sizes": [24],
        "layer": 3,
        "language": ["en"],
        "licence": LICENCE,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["bitrate"] == pytest.approx(100 * 4.585, rel=1e-3)
    assert "torch" in manifest["versions"]
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hash_file(folder / name)
    card = (folder / "README.md").read_text()
    for text in ("license: cc0-1.0", "library_name: speechbrain", "100 frames per"):
        assert text in card


def test_a_bundle_is_the_same_twice(source, tmp_path):
    about = {"training_data": "none", "language": ["en"], "layer": 3, "name": "tiny"}
    again = save_bundle(
        make_tokenizer(), tmp_path / "x", YAML, licence=LICENCE, about=about
    )
    for path in source.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_no_state_no_weights_file(tmp_path):
    text = "modules: {layer: !new:torch.nn.ReLU {}}"
    folder = save_bundle(
        {"layer": nn.ReLU()}, tmp_path / "b", text, licence=LICENCE, interface=""
    )
    assert not (folder / "model.safetensors").exists()
    assert isinstance(load_bundle(folder).modules["layer"], nn.ReLU)
    assert all(part.ok for part in verify_bundle(folder))


def test_half_precision_is_cast_back(tmp_path):
    folder = save_bundle(
        make_tokenizer(), tmp_path / "h", YAML, licence=LICENCE, half=True
    )
    stored = load_file(folder / "model.safetensors")
    assert stored["tokenizer.quantizer.centers"].dtype == torch.float16
    loaded = load_bundle(folder).modules["tokenizer"]
    assert loaded.quantizer.centers.dtype == torch.float32
    rounded = make_tokenizer().quantizer.centers.half().float()
    assert torch.equal(loaded.quantizer.centers, rounded)


def test_half_keeps_what_would_overflow():
    layer = nn.Linear(1, 1)
    layer.weight.data.fill_(1e6)
    state = state_of({"a": layer}, half=True)
    assert state["a.weight"].dtype == torch.float32
    assert state["a.bias"].dtype == torch.float16


def test_saving_checks_what_it_saves(tmp_path):
    out = tmp_path / "b"
    other = YAML.replace("hop: 80", "hop: 100")
    with pytest.raises(DsuError, match="another system: hop is 100"):
        save_bundle(make_tokenizer(), out, other, licence=LICENCE)
    with pytest.raises(DsuError, match="do not fit: .*centers"):
        text = YAML.replace("size: 24", "size: 25")
        save_bundle(make_tokenizer(), out, text, licence=LICENCE)
    with pytest.raises(DsuError, match="licence not stated for the weights"):
        save_bundle(make_tokenizer(), out, YAML, licence={"code": "MIT"})
    with pytest.raises(DsuError, match="refused"):
        text = YAML + "x: !apply:os.getcwd []\n"
        save_bundle(make_tokenizer(), out, text, licence=LICENCE)
    with pytest.raises(DsuError, match="modules are"):
        save_bundle({"codec": make_tokenizer()}, out, YAML, licence=LICENCE)
    with pytest.raises(DsuError, match="no entry 'licens'"):
        save_bundle(make_tokenizer(), out, YAML, licence=LICENCE, about={"licens": 1})
    assert not out.exists() and not list(tmp_path.iterdir())


def test_never_half_written_and_never_over_something_else(folder, monkeypatch):
    with pytest.raises(DsuError, match="overwrite=True"):
        save_bundle(make_tokenizer(), folder, YAML, licence=LICENCE)
    before = (folder / "manifest.json").read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(bundles_module.mf, "write_manifest", fail)
        with pytest.raises(OSError):
            save_bundle(
                make_tokenizer(1), folder, YAML, licence=LICENCE, overwrite=True
            )
    assert (folder / "manifest.json").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    save_bundle(make_tokenizer(1), folder, YAML, licence=LICENCE, overwrite=True)
    assert load_bundle(folder).modules["tokenizer"].fingerprint == (
        make_tokenizer(1).fingerprint
    )
    documents = folder.parent / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("x")
    with pytest.raises(DsuError, match="not a bundle"):
        save_bundle(make_tokenizer(), documents, YAML, licence=LICENCE, overwrite=True)
    assert (documents / "thesis.txt").exists()


def test_from_a_system_file_with_blocks(tmp_path):
    (tmp_path / "mel.yaml").write_text(
        "!new:speechbrain_dsu.lobes.features.LogMel\n"
        "sample_rate: 16000\nhop: 80\nn_mels: 80\n"
    )
    text = YAML.replace(
        "!new:speechbrain_dsu.lobes.features.LogMel", "!include:mel.yaml"
    )
    (tmp_path / "system.yaml").write_text(text)
    folder = save_bundle(
        make_tokenizer(),
        tmp_path / "out",
        tmp_path / "system.yaml",
        licence=LICENCE,
        overrides={"n_mels": 12},
    )
    (tmp_path / "mel.yaml").unlink()
    assert load_bundle(folder).hparams["n_mels"] == 12


# What must not load. Each case names the part that is wrong.


class Payload:
    """A pickle that leaves a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "name",
    ["x.pt", "model.ckpt", "kmeans.pkl", "kmeans.joblib", "custom.py", "model.bin"],
)
def test_foreign_files_are_refused_unread(folder, tmp_path, name):
    canary = tmp_path / "canary"
    if name.endswith(".py"):
        (folder / name).write_text(f"open({str(canary)!r}, 'w')")
    elif name.endswith((".pt", ".ckpt")):
        torch.save(Payload(canary), folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Payload(canary)))
    for verify in ("probe", "hash", "none"):
        with pytest.raises(DsuError, match=f"{name}: not a part of the bundle"):
            load_bundle(folder, verify=verify)
    wrong = [part.part for part in verify_bundle(folder) if not part.ok]
    assert wrong == [name]
    # Naming it in the manifest does not help.
    entry = {"sha256": hash_file(folder / name), "bytes": 1}
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files={**files, name: entry})
    with pytest.raises(DsuError, match="a bundle holds only"):
        load_bundle(folder)
    assert not canary.exists()


@pytest.mark.parametrize("writer", [torch.save, lambda x, p: p.write_bytes(x)])
def test_a_pickle_in_the_place_of_weights(folder, tmp_path, writer):
    canary = tmp_path / "canary"
    payload = Payload(canary) if writer is torch.save else pickle.dumps(Payload(canary))
    writer(payload, folder / "model.safetensors")
    rehash(folder)
    with pytest.raises(DsuError, match="not a safetensors file"):
        load_bundle(folder)
    assert not canary.exists()


def test_a_changed_byte(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DsuError, match=r"model\.safetensors: changed: sha256"):
        load_bundle(folder)
    with pytest.raises(DsuError, match="changed"):
        load_bundle(folder, verify="hash")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "hyperparams.yaml", "probe.wav", "probe.safetensors"]
)
def test_a_missing_part(folder, name):
    (folder / name).unlink()
    for verify in ("probe", "none"):
        with pytest.raises(DsuError, match=f"{name}.*missing"):
            load_bundle(folder, verify=verify)
    assert name in [part.part for part in verify_bundle(folder) if not part.ok]


def test_no_manifest(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(DsuError, match="not a bundle"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"files": {"a": 1}}', '{"files": {}, "format": 2}', "\x00"],
)
def test_a_damaged_manifest(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DsuError, match="manifest.json"):
        load_bundle(folder)
    assert [part.ok for part in verify_bundle(folder)] == [False]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", ".git/config"])
def test_a_manifest_that_reaches_out(folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files={**files, name: files["probe.wav"]})
    with pytest.raises(DsuError, match="a bundle holds only"):
        load_bundle(folder)


def test_swapped_centroids_with_recomputed_hashes(folder):
    other = make_tokenizer(seed=7)
    save_file(state_of({"tokenizer": other}), folder / "model.safetensors")
    rehash(folder)
    with pytest.raises(DsuError, match="probe's codes differ"):
        load_bundle(folder)
    with pytest.raises(DsuError, match="manifest says fingerprint"):
        load_bundle(folder, verify="hash")
    # Even a publisher who also renews the fingerprint is caught by the probe.
    rehash(folder, fingerprint=other.fingerprint)
    load_bundle(folder, verify="hash")
    with pytest.raises(DsuError, match="probe's codes differ"):
        load_bundle(folder)
    wrong = [part.part for part in verify_bundle(folder) if not part.ok]
    assert wrong == ["probe"]


def test_another_setting_with_recomputed_hashes(folder):
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text().replace("hop: 80", "hop: 100"))
    rehash(folder)
    with pytest.raises(DsuError, match="probe's codes are"):
        load_bundle(folder)


def test_a_wrong_fingerprint(folder):
    edit_manifest(folder, fingerprint="0" * 64)
    with pytest.raises(DsuError, match="manifest says fingerprint 000"):
        load_bundle(folder)


def test_a_manifest_for_another_config(folder):
    edit_manifest(folder, codebook_sizes=[1024] * 8)
    with pytest.raises(DsuError, match="manifest says codebook_sizes"):
        load_bundle(folder)


def test_one_percent_is_the_limit():
    kept = {"codes": torch.zeros(1, 100, 2, dtype=torch.int64)}
    found = {"codes": kept["codes"].clone()}
    found["codes"][0, :2, 0] = 1
    assert "1.00% differ" in compare(found, kept, "x")
    found["codes"][0, 2, 0] = 1
    with pytest.raises(DsuError, match="1.5% of the probe's codes differ"):
        compare(found, kept, "x")
    with pytest.raises(DsuError, match="differ"):
        compare({"a": torch.full((3,), torch.nan)}, {"a": torch.ones(3)}, "x")


def test_unsafe_yaml_in_a_bundle(folder, tmp_path, caplog):
    canary = tmp_path / "canary"
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text() + f"run: !apply:os.system ['touch {canary}']\n")
    rehash(folder)
    for verify in ("probe", "hash", "none"):
        with pytest.raises(DsuError, match=r"hyperparams\.yaml:\d+: !apply:os\.system"):
            load_bundle(folder, verify=verify)
    assert not [part for part in verify_bundle(folder) if part.part == "probe"]
    assert not canary.exists()
    with caplog.at_level(logging.WARNING):
        load_bundle(folder, allow_unsafe_yaml=True)
    assert canary.exists() and "may run any code" in caplog.text


def test_includes_in_a_bundle(folder, tmp_path):
    (tmp_path / "x.yaml").write_text("!new:torch.nn.Identity")
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text() + "x: !include:../x.yaml\n")
    rehash(folder)
    with pytest.raises(DsuError, match="one flat file"):
        load_bundle(folder)


def test_licences(folder, caplog):
    edit_manifest(folder, licence={"code": "MIT", "weights": "CC-BY-NC-4.0"})
    with caplog.at_level(logging.WARNING):
        load_bundle(folder)
    assert "non-commercial use (CC-BY-NC-4.0)" in caplog.text
    edit_manifest(folder, licence={"code": "MIT"})
    assert [p.part for p in verify_bundle(folder) if not p.ok] == ["licence"]


def test_a_real_clip_as_probe(tmp_path):
    write_audio(tmp_path / "a.wav", wav(5.0, 16000)[0], 16000)
    folder = save_bundle(
        make_tokenizer(),
        tmp_path / "b",
        YAML,
        licence=LICENCE,
        probe=tmp_path / "a.wav",
    )
    codes = read_state(folder / "probe.safetensors")["codes"]
    assert codes.shape == (1, make_tokenizer().num_frames(24000), 1)
    assert codes.unique().numel() > 1


# Weights.


def test_strict_loading_lists_the_keys():
    layer = nn.Linear(2, 3)
    before = module_fingerprint(layer)
    good = state_of({"a": layer})
    bad = {"a.weight": good["a.weight"], "b.bias": good["a.bias"]}
    with pytest.raises(DsuError, match=r"missing: a\.bias; unexpected: b\.bias"):
        load_strict({"a": layer}, bad, "x")
    bad = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(DsuError, match=r"a\.weight is \[2, 3\], not \[3, 2\]"):
        load_strict({"a": layer}, bad, "x")
    with pytest.raises(DsuError, match=r"a\.bias is torch\.int64"):
        load_strict({"a": layer}, bad, "x")
    assert module_fingerprint(layer) == before


def test_both_spellings_of_weight_normalisation():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = nn.utils.weight_norm(nn.Conv1d(3, 4, 5))
    new = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 5))
    x = torch.randn(1, 3, 20)
    assert not torch.allclose(old(x), new(x))
    load_strict({"a": new}, state_of({"a": old}), "x")
    assert torch.equal(old(x), new(x))
    new.bias.data.add_(1)
    load_strict({"a": old}, state_of({"a": new}), "x")
    assert torch.equal(old(x), new(x))


def test_shared_weights_come_back(tmp_path):
    text = (
        "layer: !new:torch.nn.Linear [2, 2]\n"
        "modules: {a: !ref <layer>, b: !ref <layer>}\n"
    )
    layer = nn.Linear(2, 2)
    folder = save_bundle(
        {"a": layer, "b": layer}, tmp_path / "b", text, licence=LICENCE, interface=""
    )
    modules = load_bundle(folder).modules
    assert modules["a"] is modules["b"]
    assert torch.equal(modules["a"].weight, layer.weight)


def test_the_interface_of_a_manifest_is_not_a_way_in(folder, tmp_path, monkeypatch):
    (tmp_path / "sneaky.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "modules: {layer: !new:torch.nn.ReLU {}}"
    bundle = save_bundle(
        {"layer": nn.ReLU()}, tmp_path / "b", text, licence=LICENCE, interface=""
    )
    for name in ("probe.wav", "probe.safetensors"):
        shutil.copy(folder / name, bundle / name)
    rehash(bundle, probe=True, interface="sneaky.Class")
    with pytest.raises(DsuError, match="not one of speechbrain_dsu"):
        load_bundle(bundle)
    assert not (tmp_path / "canary").exists()
