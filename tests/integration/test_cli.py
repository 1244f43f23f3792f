"""The ``dsu`` command: every subcommand, every exit status, no tracebacks."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_dsu.cli import main as main_module
from speechbrain_dsu.cli.list import read_systems
from speechbrain_dsu.cli.main import COMMANDS, main
from speechbrain_dsu.dataio.token_store import TokenStore
from speechbrain_dsu.inference.bundles import load_bundle
from speechbrain_dsu.utils.audio import audio_info, read_audio
from speechbrain_dsu.utils.paths import shipped_bundles

ROOT = Path(__file__).resolve().parent.parent.parent
SYSTEM = """
# title: Two-codebook toy
features: !new:speechbrain_dsu.lobes.features.LogMel
    sample_rate: 16000
    hop: 320
    n_mels: 20
    win: 400
    n_fft: 512
    normalize: global
n_units: 8
quantizer: !new:speechbrain_dsu.nnet.quantizers.clustering.KMeans
    size: !ref <n_units>
    dim: 10
    groups: 2
tokenizer: !new:speechbrain_dsu.tokenizers.features.FeatureTokenizer
    features: !ref <features>
    quantizer: !ref <quantizer>
modules:
    tokenizer: !ref <tokenizer>
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "wavs"
    (folder / "s").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for n in range(6):
        data = generator.normal(size=6000 + 500 * n) * 0.1
        soundfile.write(folder / "s" / f"{n}.wav", data, 16000)
    return folder


@pytest.fixture(scope="module")
def bundle(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    (folder / "toy.yaml").write_text(SYSTEM)
    call = ["fit", "kmeans", str(corpus), "--features", str(folder / "toy.yaml")]
    call += ["--size", "5", "--out", str(folder / "toy"), "--licence", "CC0-1.0"]
    assert main(call) == 0
    return folder / "toy"


def mistake(capsys, *call: str) -> str:
    """The one line of a call that can't work."""
    capsys.readouterr()
    assert main(list(call)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("dsu: ") and printed.err.count("\n") == 1
    assert not printed.out
    return printed.err.strip()


def test_help_needs_nothing_heavy():
    """Not even of a subcommand; heavy is what takes longer than help may."""
    code = (
        "import sys\n"
        "from speechbrain_dsu.cli.main import COMMANDS, main\n"
        "for call in [[], *([name.replace('_', '-')] for name in COMMANDS)]:\n"
        "    try: main([*call, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'speechbrain', 'soundfile', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and done.stderr.strip() == "[]"
    for name in COMMANDS:
        assert f"usage: dsu {name.replace('_', '-')}" in done.stdout


def test_closed_pipe_ends_quietly():
    done = subprocess.run(
        f"{sys.executable} -m speechbrain_dsu.cli list --plain | true",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == ""


@pytest.mark.parametrize("call", [[], ["nonsense"], ["tokenize"], ["list", "--x"]])
def test_usage_errors(call, capsys):
    with pytest.raises(SystemExit) as ended:
        main(call)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_interrupt(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("speechbrain_dsu.cli.list.run", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "dsu: interrupted\n"


def test_bugs_keep_their_traceback(monkeypatch):
    def broken(*args):
        raise TypeError("a bug")

    monkeypatch.setattr("speechbrain_dsu.cli.list.run", broken)
    with pytest.raises(TypeError):
        main(["list"])


def test_tokenize_decode_info(corpus, tmp_path, capsys):
    out, wavs = tmp_path / "tokens", tmp_path / "wavs"
    assert (
        main(["tokenize", str(corpus), "--tokenizer", "dmel", "--out", str(out)]) == 0
    )
    printed = capsys.readouterr().out
    assert "6 utterances" in printed and "x real time" in printed
    assert "bit/s" in printed and "hours" in printed
    store = TokenStore(out)
    assert list(store) == [f"s/{n}" for n in range(6)]
    assert store.info.tokenizer == "dmel"
    assert main(["info", str(out)]) == 0
    assert "utterances      6\n" in capsys.readouterr().out
    call = ["decode", str(out), "--tokenizer", "dmel", "--out", str(wavs)]
    assert main(call) == 0
    for n in range(6):
        # As long as the recording, but for the part of a hop that makes no frame.
        lost = 6000 + 500 * n - audio_info(wavs / "s" / f"{n}.wav").n_samples
        assert 0 <= lost < 200
    assert read_audio(wavs / "s" / "0.wav")[0].abs().max() > 0.01
    assert main([*call[:-1], str(tmp_path / "one"), "--ids", "s/3"]) == 0
    assert [p.name for p in (tmp_path / "one").rglob("*.wav")] == ["3.wav"]


def test_shares_equal_one_run(corpus, tmp_path):
    call = ["tokenize", str(corpus), "--tokenizer", "dmel", "--shard-items", "2"]
    for share in ("1/2", "0/2"):
        assert main([*call, "--out", str(tmp_path / "two"), "--shard", share]) == 0
    assert main([*call, "--out", str(tmp_path / "one")]) == 0
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 5


def test_failed_file_gives_status_one(corpus, tmp_path, capsys):
    manifest = tmp_path / "m.csv"
    manifest.write_text("ID,wav\na,$data_root/s/0.wav\nb,$data_root/nope.wav\n")
    call = ["tokenize", str(manifest), "--tokenizer", "dmel", "--out"]
    call += [str(tmp_path / "t"), "--data-root", str(corpus)]
    for again in ([], [], ["--retry-failed"]):
        capsys.readouterr()
        assert main([*call, *again]) == 1
        assert f"failed: {corpus}/nope.wav: no such file" in capsys.readouterr().out
    assert list(TokenStore(tmp_path / "t")) == ["a"]


def test_mistakes_are_one_line(corpus, bundle, tmp_path, capsys):
    out = str(tmp_path / "t")
    base = ["tokenize", str(corpus), "--out", out, "--tokenizer"]
    assert "no such file or folder" in mistake(
        capsys, "tokenize", "/nope", "--tokenizer", "dmel", "--out", out
    )
    assert "'nope' is no shipped bundle" in mistake(capsys, *base, "nope")
    assert "--device warp" in mistake(capsys, *base, "dmel", "--device", "warp")
    assert "asked of 80" in mistake(capsys, *base, "dmel", "--codebooks", "81")
    assert "count from 0" in mistake(capsys, *base, "dmel", "--shard", "2/2")
    assert main([*base, "dmel"]) == 0
    assert "another tokenizer" in mistake(capsys, *base, str(bundle))
    assert "no vocoder" in mistake(
        capsys, "decode", out, "--tokenizer", str(bundle), "--out", out
    )
    assert "no utterance 'x'" in mistake(
        capsys, "decode", out, "--tokenizer", "dmel", "--out", out, "--ids", "x"
    )
    assert "no such token store" in mistake(
        capsys, "decode", "/nope", "--tokenizer", "dmel", "--out", out
    )
    assert "there is no manifest.json" in mistake(capsys, "info", str(tmp_path))


def test_ids_cannot_lead_out_of_the_folder(tmp_path):
    from speechbrain_dsu.cli.decode import target
    from speechbrain_dsu.utils.errors import DsuError

    for item in ("../x", "a/../../x", "/etc/x"):
        with pytest.raises(DsuError, match="leads out"):
            target(tmp_path / "out", item)


def test_fit_gives_a_bundle_that_tokenizes(bundle, corpus, tmp_path, capsys):
    loaded = load_bundle(bundle)
    tokenizer = loaded.modules["tokenizer"]
    assert tokenizer.codebook_sizes == (5, 5)
    frames = torch.cat(
        [
            tokenizer.features.frames(read_audio(path)[0][None])[0]
            for path in sorted(corpus.rglob("*.wav"))
        ]
    )
    assert torch.allclose(tokenizer.features.mean, frames.mean(0), atol=1e-4)
    std = frames.std(0, unbiased=False)
    assert torch.allclose(tokenizer.features.std, std, rtol=1e-3)
    assert loaded.manifest["licence"]["weights"] == "CC0-1.0"
    assert "6 recordings" in loaded.manifest["training_data"]
    assert (bundle.parent / "toy.fit" / "record.json").is_file()
    call = ["tokenize", str(corpus), "--tokenizer", str(bundle), "--out"]
    assert main([*call, str(tmp_path / "t")]) == 0
    codes = torch.cat(
        [tokens.codes[0] for tokens in TokenStore(tmp_path / "t").values()]
    )
    assert codes.unique().numel() == 5
    assert main(["verify", str(bundle)]) == 0
    assert main(["info", str(bundle)]) == 0
    assert "2 x 5" in capsys.readouterr().out


def test_same_seed_fits_the_same_units(bundle, corpus, tmp_path):
    call = ["fit", "kmeans", str(corpus), "--size", "5", "--out"]
    call += [str(tmp_path / "b"), "--features", str(bundle.parent / "toy.yaml")]
    assert main(call) == 0
    one, two = (load_bundle(path) for path in (bundle, tmp_path / "b"))
    assert one.manifest["fingerprint"] == two.manifest["fingerprint"]


def test_fit_mistakes(bundle, corpus, tmp_path, capsys):
    call = ["fit", "kmeans", str(corpus), "--features"]
    out = ["--out", str(tmp_path / "b")]
    assert "neither a file nor a system" in mistake(capsys, *call, "nope", *out)
    assert "can't be fitted" in mistake(capsys, *call, "dmel", *out)
    toy = str(bundle.parent / "toy.yaml")
    assert "add --overwrite" in mistake(capsys, *call, toy, "--out", str(bundle))
    assert "take no pretrained model" in mistake(
        capsys, *call, toy, *out, "--encoder", "x"
    )


def test_verify_tells_a_changed_bundle(bundle, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    with open(copy / "hyperparams.yaml", "a") as file:
        file.write("# one more line\n")
    assert main(["verify", str(copy)]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_push_without_sending(bundle, capsys):
    assert main(["push", str(bundle), "me/units", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed and "nothing was sent" in printed
    assert "not a Hub id" in mistake(capsys, "push", str(bundle), "units", "--dry-run")


def test_export_of_a_run(bundle, tmp_path, capsys):
    """A SpeechBrain checkpoint becomes a bundle with the same tokens."""
    from speechbrain.utils.checkpoints import Checkpointer

    tokenizer = load_bundle(bundle).modules["tokenizer"]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(SYSTEM.replace("n_units: 8", "n_units: 5"))
    saver = Checkpointer(folder / "save", {"tokenizer": tokenizer})
    saver.save_checkpoint(meta={"loss": 1.0})
    with torch.no_grad():
        tokenizer.quantizer.centers.add_(1)
    saver.save_checkpoint(meta={"loss": 2.0})
    changed = tokenizer.fingerprint
    call = ["export", str(folder)]
    assert main([*call, str(tmp_path / "last")]) == 0
    assert load_bundle(tmp_path / "last").manifest["fingerprint"] == changed
    assert main([*call, str(tmp_path / "best"), "--min-key", "loss"]) == 0
    best = load_bundle(tmp_path / "best").manifest["fingerprint"]
    assert best == load_bundle(bundle).manifest["fingerprint"]
    assert "exists" in mistake(capsys, *call, str(tmp_path / "best"))
    assert "no such folder" in mistake(
        capsys, "export", str(bundle), str(tmp_path / "x")
    )


def test_convert_kmeans(tmp_path, capsys):
    cluster = pytest.importorskip("sklearn.cluster")
    from safetensors.torch import load_file

    frames = np.random.default_rng(0).normal(size=(100, 4))
    model = cluster.KMeans(3, n_init=1, random_state=0).fit(frames)
    (tmp_path / "k.pkl").write_bytes(pickle.dumps(model))
    call = ["convert-kmeans", str(tmp_path / "k.pkl"), "--out", str(tmp_path / "k.st")]
    assert "--trust-pickle" in mistake(capsys, *call)
    assert not (tmp_path / "k.st").exists()
    assert main([*call, "--trust-pickle"]) == 0
    centers = load_file(tmp_path / "k.st")["centers"][0].numpy()
    assert np.allclose(centers, model.cluster_centers_, atol=1e-6)


def test_list_shows_every_system_with_a_whole_header(capsys):
    assert main(["list", "--plain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    systems = read_systems()
    assert len(lines) == len(systems) + 1
    files = {p.name for p in (ROOT / "hparams" / "systems").rglob("*.yaml")}
    assert {Path(path).name for path, _ in systems} == files
    for path, header in systems:
        missing = {"title", "id", "source", "family", "checked"} - set(header)
        assert not missing, f"{path} lacks {missing}"
        assert header["family"] == Path(path).parts[0]
    assert main(["list", "--family", "tokenizers"]) == 0
    assert "dMel" in capsys.readouterr().out


def test_list_bundles(capsys):
    assert main(["list", "--bundles"]) == 0
    assert "80 x 16" in capsys.readouterr().out
    assert main(["list", "--bundles", "--plain"]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == shipped_bundles()


def test_demo(tmp_path, capsys):
    out = tmp_path / "page"
    assert main(["demo", "--out", str(out), "--tokenizer", "dmel"]) == 0
    assert "dmel" in capsys.readouterr().out
    assert (out / "index.html").stat().st_size > 10_000


def test_bench_writes_its_rows(tmp_path, monkeypatch, capsys):
    from speechbrain_dsu.evaluation import bench

    rows = [{"case": "a", "ratio": 1.23456, "peer": "p"}, {"case": "b", "more": 2}]
    taken = {}

    def run_bench(section, quick, **parts):
        taken.update(section=section, quick=quick, parts=sorted(parts))
        return rows

    monkeypatch.setattr(bench, "run_bench", run_bench)
    path = tmp_path / "new" / "rows.json"
    assert main(["bench", "kmeans", "--quick", "--json", str(path)]) == 0
    assert taken == {"section": "kmeans", "quick": True, "parts": ["fit"]}
    assert "1.235" in capsys.readouterr().out
    assert json.loads(path.read_text()) == rows
    monkeypatch.undo()
    assert "no benchmark section" in mistake(capsys, "bench", "nothing")


def test_claim_mistakes(monkeypatch, capsys):
    monkeypatch.delenv("DSU_SPEECH_DATA", raising=False)
    assert "no claim with the id 12345" in mistake(capsys, "claim", "12345")
    assert "--data" in mistake(capsys, "claim", "95")


def test_module_and_installed_command_are_one():
    assert main_module.make_parser().prog == "dsu"
    text = (ROOT / "setup.py").read_text()
    assert "dsu = speechbrain_dsu.cli.main:main" in text
