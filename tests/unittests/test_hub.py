"""Systems by name, folder and Hub id: offline, without links, token in each request."""

import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from torch import nn

from speechbrain_dsu.inference import UnitTokenizer, hub
from speechbrain_dsu.inference.bundles import save_bundle
from speechbrain_dsu.inference.card import make_card
from speechbrain_dsu.inference.hub import (
    cached_bundle,
    fetch_bundle,
    find_bundle,
    is_repo_id,
    push_bundle,
)
from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.inference.loading import load_yaml
from speechbrain_dsu.utils.audio import read_audio, resample, write_audio
from speechbrain_dsu.utils.errors import DsuError

LICENCE = {"code": "Apache-2.0", "weights": "Apache-2.0"}
YAML = """
features: !new:speechbrain_dsu.lobes.features.LogMel
  sample_rate: 8000
  hop: 80
  n_mels: 12
tokenizer: !new:speechbrain_dsu.tokenizers.features.FeatureTokenizer
  features: !ref <features>
  quantizer: !new:speechbrain_dsu.nnet.quantizers.clustering.KMeans
    size: 24
    dim: 12
modules:
  tokenizer: !ref <tokenizer>
"""
DMEL = """
precision: fp16
device: cuda:7
features: !new:speechbrain_dsu.lobes.features.LogMel
  sample_rate: 8000
  hop: 80
  n_mels: 20
tokenizer: !new:speechbrain_dsu.tokenizers.features.FeatureTokenizer
  features: !ref <features>
  quantizer: !new:speechbrain_dsu.nnet.quantizers.scalar.UniformBins [20, 16, -9, 1]
  vocoder: !new:speechbrain_dsu.lobes.vocoders.griffin_lim.GriffinLim
    features: !ref <features>
    n_iter: 2
modules:
  tokenizer: !ref <tokenizer>
"""
COMMITS = {"main": "a" * 40, "v1": "b" * 40}
CPU = {"device": "cpu"}


def make_bundle(out, seed):
    tokenizer = load_yaml(YAML)["tokenizer"]
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(1, 24, 12, generator=generator) * 2 - 6
    tokenizer.quantizer.set_centers(centers)
    return save_bundle(tokenizer, out, YAML, licence=LICENCE)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {name: make_bundle(root / name, i) for i, name in enumerate(["one", "two"])}


@pytest.fixture(scope="module")
def dmel_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("shipped")
    save_bundle(load_yaml(DMEL)["tokenizer"], home / "dmel", DMEL, licence=LICENCE)
    return home


@pytest.fixture
def shipped(dmel_home, monkeypatch):
    monkeypatch.setattr(hub, "bundles_dir", lambda: dmel_home)
    monkeypatch.setattr(hub, "shipped_bundles", lambda: ["dmel"])
    return dmel_home


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("DSU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None
    )

    def refuse(*args, **kwargs):
        raise OSError("symbolic link privilege not held")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)


class StubHub:
    """The Hub's client with the arguments that its versions 0.x to 2.x have in common.

    An argument that was removed (``use_auth_token``, ``local_dir_use_symlinks``,
    ``resume_download``) raises TypeError as it does there.
    """

    def __init__(self, folders, monkeypatch):
        self.folders, self.requests = folders, []
        stub = self

        class HfApi:
            def __init__(self, endpoint=None, token=None):
                pass

            def repo_info(self, repo_id, *, revision=None, token=None):
                stub.note("repo_info", token, repo_id, revision)
                return SimpleNamespace(sha=COMMITS[revision])

            def hf_hub_download(
                self, repo_id, filename, *, revision=None, local_dir=None, token=None
            ):
                stub.note("download", token, filename, revision)
                (Path(local_dir) / ".cache" / "huggingface").mkdir(
                    parents=True, exist_ok=True
                )
                shutil.copy(stub.folders[repo_id] / filename, local_dir)
                return str(Path(local_dir) / filename)

            def create_repo(self, repo_id, *, token=None, private=None, exist_ok=False):
                stub.note("create", token, repo_id, private)

            def upload_folder(
                self, *, repo_id, folder_path, allow_patterns, commit_message, token
            ):
                stub.note("upload", token, repo_id, sorted(allow_patterns))
                return SimpleNamespace(oid="c" * 40)

        monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)

    def note(self, what, token, *details):
        self.requests.append((what, token, *details))


@pytest.fixture
def stub(published, monkeypatch):
    folders = {"me/one": published["one"], "me/two": published["two"]}
    return StubHub(folders, monkeypatch)


def test_fetch_sends_the_token_each_time_and_asks_for_listed_files_only(stub):
    folder = fetch_bundle("me/one", token="hf_secret")
    assert folder.name == COMMITS["main"]
    assert {request[1] for request in stub.requests} == {"hf_secret"}
    files = json.loads((folder / "manifest.json").read_text())["files"]
    asked = [request[2] for request in stub.requests if request[0] == "download"]
    assert asked[0] == "manifest.json" and sorted(asked[1:]) == sorted(files)
    # Everything at the one commit, whatever the branch does meanwhile.
    assert {r[3] for r in stub.requests if r[0] == "download"} == {COMMITS["main"]}
    assert not (folder / ".cache").exists()
    assert not [path for path in folder.iterdir() if path.is_symlink()]


def test_second_load_asks_nothing(stub):
    first = UnitTokenizer.from_hparams("me/one", run_opts=CPU, token="t")
    stub.requests.clear()
    second = UnitTokenizer.from_hparams("me/one", run_opts=CPU)
    by_commit = UnitTokenizer.from_hparams("me/one", COMMITS["main"], run_opts=CPU)
    assert stub.requests == []
    assert first.fingerprint == second.fingerprint == by_commit.fingerprint
    fetch_bundle("me/one", refresh=True)
    assert stub.requests


def test_one_cache_two_models_and_two_revisions(stub, published, tmp_path):
    cache = tmp_path / "one-savedir"
    one, two = (
        UnitTokenizer.from_hparams(name, run_opts=CPU, cache_dir=cache)
        for name in ("me/one", "me/two")
    )
    wav = torch.randn(1, 8000) * 0.1
    assert not torch.equal(one.encode_batch(wav).codes, two.encode_batch(wav).codes)
    stub.folders["me/one"] = published["two"]
    new = UnitTokenizer.from_hparams("me/one", "v1", run_opts=CPU, cache_dir=cache)
    assert new.folder.name == COMMITS["v1"] and new.fingerprint == two.fingerprint
    old = UnitTokenizer.from_hparams("me/one", run_opts=CPU, cache_dir=cache)
    assert old.fingerprint == one.fingerprint


def test_a_file_changed_on_the_way(stub, published, tmp_path):
    bad = Path(shutil.copytree(published["one"], tmp_path / "bad"))
    data = bytearray((bad / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (bad / "model.safetensors").write_bytes(data)
    stub.folders["me/one"] = bad
    with pytest.raises(DsuError, match=r"model\.safetensors: changed"):
        fetch_bundle("me/one")
    assert cached_bundle("me/one") is None
    home = tmp_path / "cache" / "me--one"
    assert list(home.iterdir()) == []


def test_a_damaged_copy_is_named_and_repaired(stub):
    folder = fetch_bundle("me/one")
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DsuError, match=r"model\.safetensors: 1 bytes"):
        UnitTokenizer.from_hparams("me/one", run_opts=CPU)
    fetch_bundle("me/one", refresh=True)
    UnitTokenizer.from_hparams("me/one", run_opts=CPU)


def test_a_manifest_that_names_code(stub, published, tmp_path):
    bad = Path(shutil.copytree(published["one"], tmp_path / "bad"))
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["files"]["custom.py"] = manifest["files"]["README.md"]
    (bad / "manifest.json").write_text(json.dumps(manifest))
    (bad / "custom.py").write_text("raise SystemExit")
    stub.folders["me/one"] = bad
    with pytest.raises(DsuError, match="a bundle holds only"):
        fetch_bundle("me/one")
    assert "custom.py" not in [request[2] for request in stub.requests]


def test_offline_without_a_copy_says_where_it_looked(shipped, tmp_path):
    """With the real client and no network."""
    with pytest.raises(DsuError) as error:
        UnitTokenizer.from_hparams("nobody/nothing", run_opts=CPU)
    message = str(error.value)
    for part in ("nobody/nothing", "main", "dmel", str(tmp_path / "cache"), "network"):
        assert part in message
    assert "\n" not in message
    with pytest.raises(DsuError, match=r"shipped bundle \(dmel\), no folder .*owner/"):
        UnitTokenizer.from_hparams("dmell")


def test_the_hubs_own_cache_is_used(published, tmp_path, monkeypatch):
    snapshot = tmp_path / "hf" / ("d" * 40)
    shutil.copytree(published["one"], snapshot)

    def cached(repo_id, filename, cache_dir=None, revision=None, repo_type=None):
        return str(snapshot / filename) if repo_id == "me/one" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert fetch_bundle("me/one").name == "d" * 40
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(DsuError):
        fetch_bundle("me/one", cache_dir=tmp_path / "other")


@pytest.mark.parametrize(
    "name", ["../x", "a/..", "a/b/c", "/a/b", "a", "a--b/c", "a/b\n", "~/a", ""]
)
def test_names_that_are_no_hub_ids(name):
    assert not is_repo_id(name)
    with pytest.raises(DsuError):
        fetch_bundle(name)


def test_order_of_places(shipped, published, tmp_path, monkeypatch, stub):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(published["one"], tmp_path / "dmel")
    shutil.copytree(published["one"], tmp_path / "me" / "two")
    assert find_bundle("dmel") == shipped / "dmel"
    assert find_bundle("./dmel") == Path("dmel")
    assert find_bundle("me/two") == Path("me/two")
    assert stub.requests == []
    assert find_bundle("me/one").name == COMMITS["main"]


def test_push(stub, published, tmp_path):
    folder = Path(shutil.copytree(published["one"], tmp_path / "one"))
    lines = []
    assert push_bundle(folder, "me/new", dry_run=True, report=lines.append) is None
    assert stub.requests == []
    card = (folder / "README.md").read_text()
    assert 'from_hparams("me/new")' in card and "license: apache-2.0" in card
    assert [line for line in lines if line.startswith("model.safetensors")]
    commit = push_bundle(folder, "me/new", token="hf_secret", report=lines.append)
    assert commit == "c" * 40
    assert stub.requests[0] == ("create", "hf_secret", "me/new", True)
    names = sorted(path.name for path in folder.iterdir())
    assert stub.requests[1] == ("upload", "hf_secret", "me/new", names)
    # The new card is in the manifest: the folder is whole, and stays pushable.
    UnitTokenizer.from_hparams(folder, run_opts=CPU)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(DsuError, match="notes.txt.*nothing was sent"):
        push_bundle(folder, "me/new")
    assert len(stub.requests) == 2


def test_card_of_a_licence_the_hub_does_not_know():
    card = make_card({"name": "x", "licence": {"weights": "My own"}, "language": []})
    assert 'license: other\nlicense_name: "My own"' in card
    import yaml

    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "speechbrain" and "speech" in header["tags"]


# The interface.


def test_what_is_missing_is_named():
    class Needy(Interface):
        MODULES_NEEDED = ["encoder", "decoder"]
        HPARAMS_NEEDED = ["size"]

    modules = {"encoder": nn.Identity(), "decodr": nn.Identity()}
    with pytest.raises(DsuError, match=r"module 'decoder' and has \['decodr', 'enc"):
        Needy(modules, {})
    modules["decoder"] = nn.Identity()
    with pytest.raises(DsuError, match=r"hyperparameter 'size' and has \['sice'\]"):
        Needy(modules, {"sice": 1})
    needy = Needy(modules, {"size": 1, "sample_rate": 22050}, run_opts=CPU)
    assert needy.hparams.size == 1 and needy.sample_rate == 22050


def test_the_yaml_does_not_steer_the_machine(shipped):
    units = UnitTokenizer.from_hparams("dmel", run_opts=CPU)
    assert units.device == "cpu" and units.precision == "fp32"
    assert not hasattr(units.hparams, "precision")


def test_files_are_read_at_the_tokenizers_rate(shipped, tmp_path):
    units = UnitTokenizer.from_hparams("dmel", run_opts=CPU)
    wav = torch.randn(48000, generator=torch.Generator().manual_seed(0)) * 0.1
    write_audio(tmp_path / "a.wav", wav, 48000)
    assert units.load_audio(tmp_path / "a.wav").shape == (8000,)
    tokens = units.encode_file(tmp_path / "a.wav")
    assert tokens.codes.shape == (1, units.num_frames(8000), 20)
    wav, _ = read_audio(tmp_path / "a.wav")
    batch = units(wav.unsqueeze(0), sample_rate=48000)
    at_rate = units.encode_batch(resample(wav, 48000, 8000).unsqueeze(0))
    assert torch.equal(tokens.codes, batch.codes)
    assert torch.equal(tokens.codes, at_rate.codes)
    with pytest.raises(DsuError, match=r"none\.wav"):
        units.encode_file(tmp_path / "none.wav")


def test_decode_refuses_foreign_tokens(shipped, published, tmp_path):
    units = UnitTokenizer.from_hparams("dmel", run_opts=CPU)
    other = UnitTokenizer.from_hparams(published["one"], run_opts=CPU)
    wav = torch.randn(2, 4000) * 0.1
    tokens = units.encode_batch(wav, torch.tensor([1.0, 0.5]))
    wavs, lens = units.decode(tokens)
    assert len(wavs) == 2 and lens[1] < 1
    units.decode_file(tokens[1], tmp_path / "out.wav")
    written, rate = read_audio(tmp_path / "out.wav")
    assert rate == 8000 and len(written) == units.num_samples(int(tokens.counts[1]))
    with pytest.raises(DsuError, match="one item"):
        units.decode_file(tokens, tmp_path / "out.wav")
    with pytest.raises(DsuError) as error:
        units.decode(other.encode_batch(wav))
    assert units.fingerprint[:12] in str(error.value)
    assert other.fingerprint[:12] in str(error.value)


def test_properties_are_the_tokenizers(shipped):
    units = UnitTokenizer.from_hparams("dmel", run_opts=CPU)
    tokenizer = units.mods.tokenizer
    names = (
        "sample_rate hop frame_rate codebook_sizes bitrate fingerprint has_decoder"
    ).split()
    for name in names:
        assert getattr(units, name) == getattr(tokenizer, name), name
    assert torch.equal(units.frame_times(999), tokenizer.frame_times(999))
    tokens = units.encode_batch(torch.randn(1, 999))
    assert torch.equal(units.embed(tokens), tokenizer.embed(tokens))


def test_pickles_and_moves(shipped):
    units = UnitTokenizer.from_hparams("dmel", run_opts=CPU)
    again = pickle.loads(pickle.dumps(units))
    wav = torch.randn(1, 3000) * 0.1
    assert torch.equal(units.encode_batch(wav).codes, again.encode_batch(wav).codes)
    assert again.fingerprint == units.fingerprint
    with again.inference_ctx:
        pass
    state = units.to("meta").state_dict()
    assert all(tensor.device.type == "meta" for tensor in state.values())


RECIPE = """
tokenizer: !apply:speechbrain_dsu.inference.tokenizer.UnitTokenizer.from_hparams
    source: dmel
    run_opts: {device: cpu}
"""


def tokenize_with(units):
    import speechbrain as sb

    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("tokens")
    def tokenize(path):
        return units.encode_file(path).codes[0]

    return tokenize


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_recipe(shipped, tmp_path, workers):
    import speechbrain as sb

    units = load_hyperpyyaml(RECIPE)["tokenizer"]
    data = {}
    for index, seconds in enumerate((0.5, 1.0, 0.25)):
        path = tmp_path / f"{index}.wav"
        write_audio(path, torch.randn(int(8000 * seconds)) * 0.1, 8000)
        data[str(index)] = {"wav": str(path)}
    dataset = sb.dataio.dataset.DynamicItemDataset(data)
    dataset.add_dynamic_item(tokenize_with(units))
    dataset.set_output_keys(["id", "tokens"])
    options = {"batch_size": 3, "num_workers": workers}
    (batch,) = sb.dataio.dataloader.make_dataloader(dataset, **options)
    codes, lens = batch.tokens
    assert codes.shape == (3, 101, 20) and codes.dtype == torch.int64
    assert torch.equal(codes[1], units.encode_file(data["1"]["wav"]).codes[0])
    assert (lens * 101).round().int().tolist() == [51, 101, 26]
