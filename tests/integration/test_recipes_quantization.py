"""Recipes are listed, complete and consistent; those that fit units really run.

The rows of ``tests/recipes/<Dataset>.csv`` are SpeechBrain's, with ``{Dataset}`` for
a small corpus in the dataset's layout and ``{out}`` for an output folder.
"""

import csv
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.utils.audio import read_audio, write_audio

ROOT = Path(__file__).resolve().parents[2]
LISTS = sorted((ROOT / "tests" / "recipes").glob("*.csv"))
YAMLS = sorted((ROOT / "recipes").glob("*/*/**/hparams/*.yaml"))
COLUMNS = (
    "Task,Dataset,Script_file,Hparam_file,Data_prep_file,Readme_file,Result_url,"
    "HF_repo,test_debug_flags,test_debug_checks"
)


def read_rows():
    rows = []
    for path in LISTS:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            assert ",".join(reader.fieldnames) == COLUMNS, path
            rows += [{**row, "list": path.stem} for row in reader]
    return rows


ROWS = read_rows()
# A row with {a model} needs weights that are not at hand.
UNITS = [
    row
    for row in ROWS
    if "/quantization/" in row["Script_file"] and "_ssl." not in row["Hparam_file"]
]
each_row = pytest.mark.parametrize(
    "row", ROWS, ids=[row["Hparam_file"].removeprefix("recipes/") for row in ROWS]
)


def test_every_recipe_is_listed_once():
    listed = [row["Hparam_file"] for row in ROWS]
    assert sorted(listed) == [p.relative_to(ROOT).as_posix() for p in YAMLS]
    datasets = {p.relative_to(ROOT / "recipes").parts[0] for p in YAMLS}
    assert datasets == {path.stem for path in LISTS}


@each_row
def test_the_files_of_a_row_exist(row):
    assert row["list"] == row["Dataset"] == Path(row["Hparam_file"]).parts[1]
    for column in ("Script_file", "Hparam_file", "Data_prep_file", "Readme_file"):
        assert not row[column] or (ROOT / row[column]).is_file(), row[column]
    assert row["test_debug_flags"] and "file_exists=[" in row["test_debug_checks"]
    readme = (ROOT / row["Readme_file"]).read_text("utf-8")
    assert Path(row["Hparam_file"]).name in readme, "the README does not name the YAML"
    for column in ("Result_url", "HF_repo"):
        assert row[column] in readme


def with_procedures(script):
    """A script and the functions of ``training`` that do its work, other modules'
    that they call included."""
    text, todo, done = script, set(procedures(script)), set()
    while todo:
        name, function = todo.pop()
        done.add((name, function))
        module = importlib.import_module(f"speechbrain_dsu.training.{name}")
        found = getattr(module, function)
        if not inspect.isfunction(found):
            continue
        source = inspect.getsource(found)
        text += source
        own = dict(inspect.getmembers(module, inspect.isfunction))
        called = {k for k in own if re.search(rf"\b{k}\(", source)}
        todo |= {
            (own[k].__module__.removeprefix("speechbrain_dsu.training."), k)
            for k in called
            if own[k].__module__.startswith("speechbrain_dsu.training.")
        } - done
    return text


def procedures(script):
    """What a script imports from ``training``: (module, name)."""
    pattern = r"speechbrain_dsu\.training\.(\w+) import (.+)"
    for name, wanted in re.findall(pattern, script):
        for function in wanted.split(", "):
            yield name, function


@each_row
def test_the_yaml_is_short_and_all_of_it_is_used(row):
    path = ROOT / row["Hparam_file"]
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 40
    script = with_procedures((ROOT / row["Script_file"]).read_text("utf-8"))
    for key in re.findall(r"^([a-z]\w*):", text, re.MULTILINE):
        used = f'hparams["{key}"]' in script or re.search(rf"<{key}[>\[.]", text)
        assert used, f"{key} is used neither in the YAML nor by the script"
    keys = re.findall(r'hparams\["(\w+)"\]', script)
    flags = re.findall(r"--(\w+)=", row["test_debug_flags"])
    optional = re.findall(r'"(\w+)" in hparams', script)
    there = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    # SpeechBrain's run options come from the command line alone.
    assert {*keys, *flags} - {*optional, "run_opts"} <= there


def test_prepare_scripts_only_hand_on():
    for name in ("LJSpeech", "LibriSpeech", "LibriTTS", "FSDD", "VCTK"):
        path = ROOT / "recipes" / name / f"{name.lower()}_prepare.py"
        scope: dict = {}
        exec(compile(path.read_text("utf-8"), path, "exec"), scope)
        function = f"prepare_{name.lower()}"
        assert scope[function] is getattr(corpora, function)
        assert "def " not in path.read_text("utf-8")


def copy_some(source: Path, out: Path, pattern: str, every: int) -> None:
    for path in sorted(source.glob(pattern))[::every]:
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def librispeech_from(source: Path, out: Path) -> None:
    """A tree in LibriSpeech's layout: FLAC at 16 kHz in three parts."""
    names = [p.stem for p in sorted((source / "wavs").glob("*.wav"))]
    parts = {"train-clean-100": 19, "dev-clean": 84, "test-clean": 61}
    for turn, (part, speaker) in enumerate(parts.items()):
        chapter = out / part / str(speaker) / "198"
        chapter.mkdir(parents=True)
        lines = []
        for index, name in enumerate(names[turn::3]):
            wav, rate = read_audio(source / "wavs" / f"{name}.wav", 16000)
            write_audio(chapter / f"{speaker}-198-{index:04}.flac", wav, rate)
            lines.append(f"{speaker}-198-{index:04} TEXT")
        text = "\n".join(lines) + "\n"
        (chapter / f"{speaker}-198.trans.txt").write_text(text)


@pytest.fixture(scope="module")
def folders(speech_data, tmp_path_factory):
    """Small corpora by dataset name, in the datasets' layouts."""
    root = tmp_path_factory.mktemp("corpora")
    some = root / "some"
    copy_some(speech_data, some, "LJSpeech-mini/wavs/*.wav", 6)
    copy_some(speech_data, some, "LJSpeech-mini/metadata.csv", 1)
    copy_some(speech_data, some, "VCTK-mini/*/*.wav", 3)
    copy_some(speech_data, some, "fsdd/recordings/*.wav", 25)
    librispeech_from(some / "LJSpeech-mini", root / "LibriSpeech")
    return {
        "LJSpeech": some / "LJSpeech-mini",
        "FSDD": some / "fsdd",
        "LibriSpeech": root / "LibriSpeech",
        "Bundles": some,
    }


def run(row, folders, out, launcher=(), flags=()):
    """Run a row from a foreign folder and check its files; the tail of its output."""
    wanted = row["test_debug_flags"].format(out=out, **folders).split()
    command = [sys.executable, *launcher, ROOT / row["Script_file"]]
    command += [ROOT / row["Hparam_file"], *wanted, "--device=cpu", *flags]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [str(part) for part in command],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    files = re.search(r"file_exists=\[(.*?)\]", row["test_debug_checks"])[1]
    for name in files.split(","):
        assert (out / name).is_file(), name
    return done.stdout + done.stderr


def bundle_of(row, out):
    name = re.search(r"([^,\[]+)/manifest\.json", row["test_debug_checks"])[1]
    return out / name


def load(row, out):
    from speechbrain_dsu.inference import UnitTokenizer

    return UnitTokenizer.from_hparams(bundle_of(row, out), run_opts={"device": "cpu"})


def training_files(out):
    """Audio of the train manifests, through the options that were recorded."""
    text = (out / "hyperparams.yaml").read_text("utf-8")
    prepare = load_hyperpyyaml(text)["prepare"]
    parts = [prepare] if "save_folder" in prepare else list(prepare.values())
    found = []
    for part in parts:
        path = Path(part["save_folder"]) / "train.json"
        entries = corpora.read_manifest(path, part["data_folder"])
        found += [entry["wav"] for entry in entries.values()]
    return found


def inertia(frames, centers):
    return torch.cdist(frames, centers).square().amin(1).mean().item()


def slow_unless_first(rows):
    return [
        pytest.param(
            row,
            marks=[pytest.mark.slow] if i else [],
            id=row["Hparam_file"].removeprefix("recipes/"),
        )
        for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize("row", slow_unless_first(UNITS))
def test_a_recipe_fits_units(row, folders, tmp_path):
    out = tmp_path / "out"
    run(row, folders, out)
    units = load(row, out)
    tokenizer = units.mods.tokenizer
    files = training_files(out)
    codes = torch.cat([units.encode_file(path).codes[0] for path in files])
    for column, size in zip(codes.T, units.codebook_sizes, strict=True):
        assert len(column.unique()) == size, "units that no training frame has"
    wavs = [read_audio(path, units.sample_rate)[0] for path in files]
    with torch.no_grad():
        frames = torch.cat([tokenizer.features(wav[None])[0] for wav in wavs])
    generator = torch.Generator().manual_seed(0)
    slices = frames.unflatten(1, (len(units.codebook_sizes), -1)).unbind(1)
    for part, centers in zip(slices, tokenizer.quantizer.centers, strict=True):
        fitted = inertia(part, centers)
        assert fitted < 0.75 * inertia(part, part.mean(0, keepdim=True))
        drawn = torch.randperm(len(part), generator=generator)[: len(centers)]
        assert fitted < 0.9 * inertia(part, part[drawn]), "no better than any frames"


def fitted_state(row, out):
    from safetensors.torch import load_file

    return load_file(bundle_of(row, out) / "model.safetensors")


@pytest.fixture
def lj_logmel():
    name = "recipes/LJSpeech/quantization/hparams/train_logmel.yaml"
    return next(row for row in UNITS if row["Hparam_file"] == name)


@pytest.mark.slow
def test_a_recipe_run_again_and_on_two_ranks_gives_the_same(
    lj_logmel, folders, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    run(lj_logmel, folders, one)
    before = fitted_state(lj_logmel, one)
    said = run(lj_logmel, folders, one)
    assert "prepared before" in said
    again = fitted_state(lj_logmel, one)
    assert all(torch.equal(before[name], again[name]) for name in before)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run(lj_logmel, folders, two, launcher, ["--distributed_backend=gloo"])
    ranks = fitted_state(lj_logmel, two)
    for name, tensor in before.items():
        torch.testing.assert_close(ranks[name], tensor, rtol=1e-3, atol=1e-3)


TINY_SSL = """
data_folder: !PLACEHOLDER
output_folder: !PLACEHOLDER
train_json: !ref <output_folder>/manifests/train.json
prepare:
    data_folder: !ref <data_folder>
    save_folder: !ref <output_folder>/manifests
pretrained: !apply:{encoder}.from_pretrained
    source: {source}
    top_layer: 2
system_file: systems/tokenizers/ssl_tokens.yaml
system: !include:{system}
    n_units: 8
    layers: [2, 1]
    n_layers: 2
    dim: 16
    encoder_config: {config}
    encoder: {{top_layer: 2}}
fit: {{full_epochs: 4, epochs: 0}}
bundle:
    out: !ref <output_folder>/bundle
    overrides:
        n_units: 8
        layers: [2, 1]
        n_layers: 2
        dim: 16
        encoder_config: {config}
        encoder: {{top_layer: 2}}
    licence: {{code: Apache-2.0, weights: Apache-2.0}}
    about: {{layer: "2, 1"}}
"""


@pytest.mark.slow
def test_units_of_a_tiny_self_supervised_model(folders, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"num_conv_pos_embedding_groups": 2, "conv_dim": [16] * 7}
    config = transformers.WavLMConfig(
        hidden_size=16,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        **sizes,
    )
    torch.manual_seed(0)
    source, out = tmp_path / "wavlm", tmp_path / "out"
    transformers.WavLMModel(config).save_pretrained(source)
    (source / "preprocessor_config.json").write_text('{"do_normalize": true}')
    encoder = "speechbrain_dsu.integrations.transformers.ssl.TransformersEncoder"
    system = ROOT / "hparams" / "systems" / "tokenizers" / "ssl_tokens.yaml"
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(
        TINY_SSL.format(encoder=encoder, source=source, system=system, config=sizes)
    )
    row = {
        "Script_file": "recipes/LibriSpeech/quantization/train.py",
        "Hparam_file": str(yaml),
        "test_debug_flags": "--data_folder={LibriSpeech} --output_folder={out}",
        "test_debug_checks": "file_exists=[bundle/manifest.json]",
    }
    run(row, folders, out)
    units = load(row, out)
    assert units.codebook_sizes == (8, 8)
    published = transformers.WavLMModel.from_pretrained(source).state_dict()
    ours = units.mods.tokenizer.features.encoder.model.state_dict()
    name = "feature_projection.projection.weight"
    torch.testing.assert_close(ours[name], published[name])
    codes = torch.cat([units.encode_file(f).codes[0] for f in training_files(out)])
    assert all(len(column.unique()) == 8 for column in codes.T)


def test_a_wrong_folder_is_named(folders, tmp_path):
    row = UNITS[0]
    folders = dict.fromkeys(folders, "/nowhere/corpus")
    with pytest.raises(
        AssertionError, match="data_folder=./nowhere/corpus.*does not exist"
    ):
        run(row, folders, tmp_path / "out")
