"""A YAML file from elsewhere can't run code, and means what HyperPyYAML makes of it."""

import ast
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.inference.allowlist import (
    DENIED,
    FUNCTIONS,
    MODULES,
    PACKAGES,
    UnsafeYamlError,
    argument_problem,
    resolve_callable,
    resolve_class,
)
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.loading import arithmetic, load_yaml
from speechbrain_dsu.inference.safe_yaml import check_text, check_yaml
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import hparams_dir

UNSAFE = Path(__file__).parent.parent / "fixtures" / "unsafe"
SYSTEMS = sorted((hparams_dir() / "systems").rglob("*.yaml"))
FILES = sorted(path.name for path in UNSAFE.glob("*.yaml"))
# Harmless until references are followed: refused while building, not by the walk.
LATE = {
    "copy_bomb.yaml",
    "method_attribute.yaml",
    "path_by_reference.yaml",
    "power_bomb.yaml",
    "string_bomb.yaml",
    "tuple_in_pieces.yaml",
}


@pytest.fixture
def canary(tmp_path):
    """A file that appears if a fixture's payload runs."""
    return tmp_path / "canary"


def fixture_text(name, canary):
    return (UNSAFE / name).read_text().replace("CANARY", str(canary))


@pytest.mark.parametrize("name", FILES)
def test_refused_and_nothing_ran(name, canary, tmp_path):
    path = tmp_path / name
    path.write_text(fixture_text(name, canary))
    (tmp_path.parent / "outside.yaml").write_text("a: 1")
    with pytest.raises(UnsafeYamlError) as error:
        load_yaml(path.read_text(), name=str(path))
    assert f"{path}:" in str(error.value) and "refused" in str(error.value)
    if name not in LATE:
        with pytest.raises(UnsafeYamlError, match=r"refused: .*allow_unsafe_yaml"):
            check_yaml(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "name",
    ["apply_system", "python_apply", "applyref", "tuple_payload", "tuple_in_pieces"],
)
def test_the_payloads_are_live(name, canary, tmp_path):
    """Plain HyperPyYAML runs them: the refusals above are not about dead text."""
    (tmp_path / "x.yaml").write_text(fixture_text(f"{name}.yaml", canary))
    # A process of its own: strings in brackets are tuples only in its first file.
    code = "import sys, hyperpyyaml as h; h.load_hyperpyyaml(open(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "x.yaml")]
    subprocess.run(command, capture_output=True, check=False)
    assert canary.exists()


def test_tuples():
    text = """
    a: 3
    plain: (1, x, [2, 3])
    quoted: "(1, 2)"
    built: !ref (<a>, 4)
    marked: !tuple (5, 6)
    words: (a) and (b)
    """
    built = load_yaml(text)
    assert built["plain"] == (1, "x", [2, 3]) and built["quoted"] == "(1, 2)"
    assert built["built"] == (3, 4) and built["marked"] == (5, 6)
    assert built["words"] == load_hyperpyyaml(text)["words"]


def test_a_refusal_names_line_and_tag():
    with pytest.raises(UnsafeYamlError, match=r"x\.yaml:3: !new:subprocess\.Popen"):
        check_text("a: 1\nb: 2\nc: !new:subprocess.Popen [id]\n", "x.yaml")


def test_modules_that_are_not_listed_are_never_imported(tmp_path, monkeypatch, canary):
    (tmp_path / "sneaky.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsafeYamlError):
        load_yaml("a: !new:sneaky.Class")
    assert "sneaky" not in sys.modules and not canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "torch.nn.functional.relu",
        "torch.load",
        "torch.nn.modules.module.torch",
        "torch.nn.Module.load_state_dict",
        "torch.nn..Linear",
        ".torch.nn.Linear",
        "torch.nn.Linéar",
        "torch.nn.__class__",
        "torch.nn.Nothing",
        "torch.nn.DataParallel",
        "torch.nn.utils.rnn.PackedSequence",
        "speechbrain.lobes.models.transformer.TransformerASR"
        ".TransformerASRStreamingContext",
        "speechbrain.nnet.schedulers.NoamScheduler",
        "speechbrain.lobes.models.kmeans.MiniBatchKMeansSklearn",
        "speechbrain.lobes.models.fairseq_wav2vec.FairseqWav2Vec2",
        "speechbrain.inference.interfaces.Pretrained",
        "speechbrain.utils.parameter_transfer.Pretrainer",
        "speechbrain_dsu.utils.errors.DsuError",
        "speechbrain_dsu.inference.tokenizer.UnitTokenizer",
        "speechbrain_dsu.lobes.features.Path",
        "builtins.eval",
        "Linear",
    ],
)
def test_names_that_resolve_to_nothing(name):
    with pytest.raises(UnsafeYamlError):
        resolve_class(name, "x.yaml:1")


def test_names_that_resolve():
    names = [
        "torch.nn.Linear",
        "torch.nn.modules.linear.Linear",
        "speechbrain.nnet.CNN.Conv1d",
        "speechbrain.lobes.features.Fbank",
        "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN",
        "speechbrain_dsu.lobes.features.LogMel",
        "speechbrain_dsu.nnet.quantizers.clustering.KMeans",
        "speechbrain_dsu.tokenizers.features.FeatureTokenizer",
    ]
    for name in names:
        assert resolve_class(name, "x.yaml:1").__name__ == name.rpartition(".")[2]
    for name in FUNCTIONS:
        assert callable(resolve_callable(name, "x.yaml:1"))


def test_listed_speechbrain_modules_read_no_files():
    """The list was made by reading their source; a new release must not change that."""
    import importlib.util

    words = ("torch.load", "joblib", "pickle", "fetch(", "from_pretrained", "open(")
    for name in MODULES:
        if name != "torch.nn":
            source = Path(importlib.util.find_spec(name).origin).read_text()
            assert not [word for word in words if word in source], name


@pytest.mark.parametrize(
    "key, value",
    [
        ("source", "x"),
        ("save_path", "x"),
        ("cache_dir", "x"),
        ("trust_remote_code", True),
        ("auto_map", {"a": "b"}),
        ("x", "facebook/hubert-base-ls960"),
        ("x", "https://example.org/x"),
        ("x", "C:\\x"),
        ("x", "/etc/passwd"),
        ("x", ".."),
        ("x", "a/../b/c/d"),
        ("x", "weights.pkl"),
        ("x", [{"y": ("~/x",)}]),
    ],
)
def test_arguments_that_reach_outside(key, value):
    assert argument_problem(key, value)


def test_arguments_that_are_words_and_numbers():
    plain = {
        "norm": "layer_norm",
        "alphabet": ["/", ".", "a", "~", "-"],
        "source": None,
        "trust_remote_code": False,
        "_name_or_path": "",
        "dims": [1, 2.5, (3, 4)],
        "module": torch.nn.Linear(1, 1),
        "path": 3,
    }
    assert argument_problem(None, plain) is None


def test_includes_stay_inside(tmp_path, canary):
    inside = tmp_path / "inside"
    (inside / "blocks").mkdir(parents=True)
    (tmp_path / "secret.yaml").write_text("!new:torch.nn.Identity")
    (inside / "blocks" / "good.yaml").write_text("!new:torch.nn.Identity")
    (inside / "blocks" / "bad.yaml").write_text(f"!apply:os.system ['touch {canary}']")
    main = inside / "main.yaml"
    main.write_text("a: !include:blocks/good.yaml\nb: !include:blocks/good.yaml\n")
    check_yaml(main)
    main.write_text("a: !include:blocks/bad.yaml\n")
    with pytest.raises(UnsafeYamlError, match=r"bad\.yaml:1: !apply:os\.system"):
        check_yaml(main)
    main.write_text("a: !include:link.yaml\n")
    (inside / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(UnsafeYamlError, match="leads out of"):
        check_yaml(main)
    (inside / "folder").symlink_to(tmp_path)
    main.write_text("a: !include:folder/secret.yaml\n")
    with pytest.raises(UnsafeYamlError, match="leads out of"):
        check_yaml(main)
    main.write_text("a: !include:main.yaml\n")
    with pytest.raises(UnsafeYamlError, match="includes itself"):
        check_yaml(main)
    main.write_text("a: !include:blocks/none.yaml\n")
    with pytest.raises(DsuError, match="there is no file"):
        check_yaml(main)
    # A block below may not climb out either, but may name a neighbour.
    (inside / "blocks" / "up.yaml").write_text("x: !include:../main.yaml")
    main.write_text("a: !include:blocks/up.yaml\n")
    with pytest.raises(UnsafeYamlError, match="beside or below"):
        check_yaml(main)
    # With a root of its own, `..` counts by where it leads.
    main.write_text("a: 1\n")
    check_yaml(inside / "blocks" / "up.yaml", root=inside)
    with pytest.raises(UnsafeYamlError, match="leads out of"):
        check_yaml(inside / "blocks" / "up.yaml", root=inside / "blocks")
    assert not canary.exists()


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_our_own_systems_pass(path):
    check_yaml(path, root=hparams_dir())
    assert check_text(flatten_yaml(path))


def constructors():
    """``__init__`` of every class of ours that a bundle may build."""
    package = Path(__file__).parent.parent.parent
    for room in PACKAGES:
        if not room.startswith("speechbrain_dsu."):
            continue
        for path in sorted((package / room.replace(".", "/")).rglob("*.py")):
            name = ".".join(path.relative_to(package).with_suffix("").parts)
            if any(f"{name}.".startswith(f"{denied}.") for denied in DENIED):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    for part in node.body:
                        if getattr(part, "name", "") == "__init__":
                            yield f"{name}.{node.name}", part


def test_our_constructors_read_no_files():
    """Parts of a bundle get settings, not sources: see ``argument_problem``."""
    readers = {"open", "load", "from_pretrained", "load_file", "hf_hub_download"}
    seen = 0
    for name, init in constructors():
        seen += 1
        for argument in (*init.args.args, *init.args.kwonlyargs):
            assert not argument_problem(argument.arg, "x"), (name, argument.arg)
        calls = [node.func for node in ast.walk(init) if isinstance(node, ast.Call)]
        names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
        assert not names & readers, (name, names & readers)
    assert seen > 5


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "empty"),
        ("a: [1", "not valid YAML"),
        ("a: 1\na: 2", "twice"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("[1, 2]", "top level"),
        ("a: !PLACEHOLDER", "left to you"),
        ("a: !ref <b>", "no key 'b'"),
        ("a: !ref <b>\nb: !ref <a>", "leads back"),
        ("a: !ref 1 // <b>\nb: 0", "zero"),
        ("l: !new:torch.nn.Linear {in_features: 1}", r"x\.yaml:1: .*out_features"),
        ("l: !new:torch.nn.Identity\na: !ref <l.nothing>", "no attribute nothing"),
        ("a: !!int x", "x.yaml:1"),
        ("[" * 100 + "]" * 100, "nesting|not valid|empty"),
    ],
)
def test_mistakes_are_one_line_with_a_place(text, message):
    with pytest.raises(DsuError, match=message) as error:
        load_yaml(text, name="x.yaml")
    assert str(error.value).startswith("x.yaml") and "\n" not in str(error.value)


SAME = """
# What our system files are made of.
a: 3
b: !ref <a> * 2 + 1
c: !ref <a> / 2
d: 1e-3
e: !ref <d> * <a>
f: (1, 2)
i: {j: [1, {k: yes}], l: null, m: ~}
n: !ref <i[j]>
o: !copy <i>
p: text with <b>
q: !ref <a>_<d>/x
r: '007'
s: 007
t: True
u: !ref -<a>
v: !ref <a> ** 2 % 5
w: !ref <a>
x: 2.50
y: !ref <x>
z: "16000"
__gone: 5
layer: !new:torch.nn.Linear
  in_features: !ref <a>
  out_features: !ref <b>
twin: !ref <layer>
copy: !copy <layer>
size: !ref <layer.out_features>
call: !new:torch.nn.Linear [2, !ref <a>]
act: !name:torch.nn.LeakyReLU
  negative_slope: 0.2
relu: !name:torch.nn.functional.relu
bare: !new:torch.nn.ReLU
nested: !new:speechbrain.nnet.containers.Sequential
  one: !new:torch.nn.Linear {in_features: 7, out_features: 2}
  two: !ref <nested[one]>
modules: {layer: !ref <layer>, twin: !ref <twin>}
"""


def test_means_the_same_as_hyperpyyaml():
    ours = load_yaml(SAME, overrides={"a": 4, "i": {"l": 9}})
    theirs = load_hyperpyyaml(SAME, overrides={"a": 4, "i": {"l": 9}})
    assert list(ours) == list(theirs)
    for key in ours:
        if key not in ("act", "relu"):
            assert type(ours[key]) is type(theirs[key]), key
            assert repr(ours[key]) == repr(theirs[key]), key
    assert ours["act"].keywords == theirs["act"].keywords
    assert ours["act"].func is theirs["act"].func and ours["relu"] is theirs["relu"]
    for found in (ours, theirs):
        assert found["twin"] is found["layer"] is found["modules"]["layer"]
        assert found["copy"] is not found["layer"]
        assert found["nested"].one is found["nested"].two
        assert found["n"] is found["i"]["j"]


def random_reference(rng):
    """Two values and an expression over them, as YAML."""
    values = [
        rng.choice(
            [
                str(rng.randint(-99, 99)),
                f"{rng.uniform(-9, 9):.3g}",
                rng.choice(["true", "null", "yes", "x", "1_0", "0x1f", "'5'", "1e5"]),
                repr("".join(rng.choices("abc, _/*+-.07eE", k=rng.randint(0, 5)))),
            ]
        )
        for _ in range(2)
    ]
    pieces = [*"+-*/%.1 a", " + ", " * ", " // ", "<a>", "<b>", "<a>", "<b>", "2"]
    expression = "".join(rng.choices(pieces, k=rng.randint(1, 6)))
    return f"a: {values[0]}\nb: {values[1]}\nc: !ref '{expression}'\n"


# Not with hypothesis: it looks through all loaded modules for constants and trips
# over those that SpeechBrain loads lazily.
def test_references_mean_the_same():
    rng, compared = random.Random(0), 0
    for _ in range(600):
        text = random_reference(rng)
        try:
            theirs = load_hyperpyyaml(text)
        except Exception:
            # What HyperPyYAML can't load, a published file doesn't hold.
            continue
        try:
            ours = load_yaml(text)
        except UnsafeYamlError as error:
            assert "too large" in str(error), text
            continue
        assert repr(ours) == repr(theirs), text
        compared += 1
    assert compared > 300


def test_arithmetic_is_numbers_only():
    assert arithmetic("2 + 3 * 4", "") == 14
    assert arithmetic("[].__class__", "") == "[].__class__"
    assert arithmetic("__import__('os').getcwd()", "") == "__import__('os').getcwd()"
    assert arithmetic("'a' * 1000000000", "") == "'a' * 1000000000"
    for bomb in ("9**9**9**9", "1e300 * 1e300", "10 ** 65"):
        with pytest.raises(UnsafeYamlError):
            arithmetic(bomb, "x.yaml:1")


def test_overrides_are_checked_and_must_match(canary):
    text = "a: 1\nlayer: !new:torch.nn.Linear {in_features: 1, out_features: 1}"
    built = load_yaml(text, overrides="layer: {in_features: 5}\na: !ref <layer.bias>")
    assert built["layer"].in_features == 5 and built["a"] is built["layer"].bias
    with pytest.raises(DsuError, match=r"no key 'b'.*\['a', 'layer'\]"):
        load_yaml(text, overrides={"b": 2})
    with pytest.raises(UnsafeYamlError):
        load_yaml(text, overrides=f"a: !apply:os.system ['touch {canary}']")
    with pytest.raises(DsuError, match="mapping"):
        load_yaml(text, overrides={"a": {"b": 1}})
    assert not canary.exists()


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_yaml("layer: !new:torch.nn.Linear [3, 3]")
    assert torch.equal(before, torch.get_rng_state())


SYSTEM = """# A system
size: 6
__seed: !apply:torch.manual_seed [1]
mid: !include:blocks/mid.yaml
  act: !include:blocks/act.yaml
    negative_slope: 0.5
inner: !include:blocks/inner.yaml
  in_features: !ref <size> // 2
table: !include:blocks/table.yaml
listed:
  - !include:blocks/inner.yaml
    in_features: 9
  - !include:blocks/inner.yaml
modules:
  mid: !ref <mid>
  first: !ref <mid.first>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables: {a: !ref <mid>}
"""
BLOCKS = {
    "inner": "!new:torch.nn.Linear\nin_features: 2\n"
    "out_features: !ref <in_features> * 2\nbias: True\n",
    "act": "# leaky\n!new:torch.nn.LeakyReLU\nnegative_slope: 0.1\n",
    "table": "x: 4\ny: {z: !ref <x> + 1}\nw: !ref <y[z]>\n",
    "mid": "# Two layers.\n!new:speechbrain.nnet.containers.Sequential\n"
    "first: !include:inner.yaml\n  in_features: 4\n"
    "second: !new:torch.nn.Linear\n  in_features: !ref <first[out_features]>\n"
    "  out_features: !ref <first.out_features>\n",
}


@pytest.fixture
def system(tmp_path):
    (tmp_path / "blocks").mkdir()
    for name, text in BLOCKS.items():
        (tmp_path / "blocks" / f"{name}.yaml").write_text(text)
    (tmp_path / "system.yaml").write_text(SYSTEM)
    return tmp_path / "system.yaml"


@pytest.mark.parametrize("overrides", [{}, {"size": 8, "mid": {"act": {}}}])
def test_flat_means_the_same_as_with_includes(system, overrides):
    flat = flatten_yaml(system, overrides)
    assert "!include" not in flat and "pretrainer" not in flat and "seed" not in flat
    with open(system) as file:
        whole = load_hyperpyyaml(file, overrides)
    del whole["pretrainer"]
    for loaded in (load_yaml(flat), load_hyperpyyaml(flat)):
        assert list(loaded) == list(whole)
        assert {k: repr(v) for k, v in loaded.items()} == {
            k: repr(v) for k, v in whole.items()
        }
        assert loaded["modules"]["first"] is loaded["mid"].first
    check_yaml(system.parent / "blocks" / "mid.yaml")


def test_references_of_a_flat_file_still_steer(system):
    flat = flatten_yaml(system)
    built = load_yaml(flat, {"size": 20, "table": {"x": 10}})
    assert built["inner"].in_features == 10 and built["inner"].out_features == 20
    assert built["table"] == {"x": 10, "y": {"z": 11}, "w": 11}


def test_flatten_mistakes(system, tmp_path):
    with pytest.raises(DsuError, match="no key 'nothing'"):
        flatten_yaml(system, {"nothing": 1})
    with pytest.raises(DsuError, match="no such YAML"):
        flatten_yaml(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("a: !include:a.yaml")
    with pytest.raises(DsuError, match="includes itself"):
        flatten_yaml(tmp_path / "a.yaml")


def test_hyperpyyaml_works_with_the_installed_ruamel():
    """ruamel.yaml 0.19 breaks HyperPyYAML; our loader must not share its fate."""
    assert load_hyperpyyaml("a: !new:collections.Counter")["a"] == {}
    source = Path(load_yaml.__code__.co_filename).read_text()
    assert "import load_hyperpyyaml" not in source
