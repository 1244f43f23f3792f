"""Evaluating tokenizers over speech by the command, and sealing one without weights."""

import json

import pytest
import torch

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

DMEL = hparams_dir() / "systems" / "tokenizers" / "dmel.yaml"


@pytest.fixture
def corpus(tmp_path):
    """Two halves of a clip, as of two speakers, and their phones."""
    wav, rate = read_audio(bundles_dir() / "speech.wav")
    lines = ["utterance,start,end,phone"]
    for k in range(4):
        folder = tmp_path / "corpus" / f"p{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        write_audio(folder / f"u{k}.wav", wav[k * rate : k * rate + rate], rate)
        lines += [f"u{k},{t / 10},{t / 10 + 0.1},{'ab'[t % 2]}" for t in range(10)]
    (tmp_path / "phones.csv").write_text("\n".join(lines))
    return tmp_path / "corpus"


@pytest.mark.slow
def test_dmel_stays_intelligible_through_griffin_lim(speech_data, tmp_path, capsys):
    pytest.importorskip("pystoi")
    wavs = sorted((speech_data / "LJSpeech-mini" / "wavs").glob("*.wav"))[::6]
    some = tmp_path / "some"
    some.mkdir()
    for wav in wavs:
        (some / wav.name).write_bytes(wav.read_bytes())
    out = tmp_path / "result.json"
    call = ["eval", "dmel", "--data", str(some), "--json", str(out)]
    assert main([*call, "--parts", "resynthesis"]) == 0
    result = json.loads(out.read_text())["systems"]["dmel"]
    stoi = result["resynthesis"]["stoi"]
    assert stoi["n_scored"] == len(wavs) == 15
    assert stoi["mean"] >= 0.88
    assert stoi["interval"][0] < stoi["mean"] < stoi["interval"][1]
    assert result["nominal_bitrate"] == 25600
    assert 0 < result["entropy_bitrate"] < 25600


def test_one_call_compares_and_says_what_it_used(corpus, tmp_path, capsys):
    out = tmp_path / "report.json"
    call = ["eval", "mfcc-k100", "dmel", "--data", str(corpus), "--speakers", "^p."]
    call += ["--alignments", str(tmp_path / "phones.csv"), "--json", str(out)]
    call += ["--parts", "units,abx,speakers", "--codebooks", "1"]
    assert main(call) == 0
    said = capsys.readouterr().out.splitlines()
    report = json.loads(out.read_text())
    assert said[0].split()[:4] == ["system", "bit/s", "coded", "used"]
    # 50 frames of 100 units are 332 bit/s; one channel of dMel is 80 frames of 16.
    assert [line.split()[0] for line in said[1:3]] == ["dmel", "mfcc-k100"]
    assert report["data"]["with_phones"] == 4 and report["data"]["speakers"] == 2
    found = report["systems"]["mfcc-k100 k=1"]
    assert found["units"]["codebooks"][0]["phones"] == 2
    assert found["abx"]["angular"]["across"]["triples"] > 0
    assert found["speakers"]["items"] == 4 and found["skipped"] == {}
    first = out.read_bytes()
    assert main(call) == 0 and out.read_bytes() == first


def test_a_manifest_brings_phones_and_speakers(corpus, tmp_path, capsys):
    entries = {
        f"u{k}": {
            "wav": f"{{data_root}}/p{k % 2}/u{k}.wav",
            "spk_id": f"p{k % 2}",
            "phones": "a b sil",
            "phone_ends": "0.3 0.8 1.0",
        }
        for k in range(4)
    }
    manifest, out = tmp_path / "m.json", tmp_path / "r.json"
    manifest.write_text(json.dumps(entries))
    call = ["eval", "mfcc-k100", "--data", str(manifest), "--data-root", str(corpus)]
    assert main([*call, "--parts", "units,speakers", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["data"]["with_phones"] == 4
    # Pauses are no phones.
    assert found["systems"]["mfcc-k100"]["units"]["codebooks"][0]["frames"] == 4 * 40


def test_a_missing_baseline_is_skipped_and_named(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    call = ["eval", "mfcc-k100", "--data", str(corpus), "--parts", "speakers"]
    out = tmp_path / "r.json"
    assert main([*call, "--baselines", "opus", "--json", str(out)]) == 0
    assert "apt-get install opus-tools" in capsys.readouterr().err
    assert "opus: no command" in json.loads(out.read_text())["missing"][0]
    assert main([*call, "--baselines", "mp3"]) == 2


@pytest.mark.parametrize(
    "more, said",
    [
        (["--parts", "speed"], "no part speed"),
        (["--codebooks", "x"], "give numbers"),
        (["--limit", "0"], "at least 1"),
        (["--speakers", "nobody"], "in no utterance's id"),
        (["--speaker-encoder", "none"], "there is no none/hyperparams.yaml"),
    ],
)
def test_mistakes_are_one_line(corpus, capsys, more, said):
    call = ["eval", "mfcc-k100", "--data", str(corpus), "--parts", "speakers"]
    assert main([*call, *more]) == 2
    assert said in capsys.readouterr().err


def test_nothing_to_evaluate(corpus, capsys):
    assert main(["eval", "--data", str(corpus)]) == 2
    assert "name a bundle" in capsys.readouterr().err


def test_a_bad_file_is_counted_and_the_rest_goes_on(tmp_path, capsys):
    (tmp_path / "good.wav").write_bytes((bundles_dir() / "speech.wav").read_bytes())
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    call = ["eval", "mfcc-k100", "--data", str(tmp_path), "--parts", "speakers"]
    assert main(call) == 1
    said = capsys.readouterr().out
    assert "bad.wav: " in said and "1 files failed" in said
    (tmp_path / "good.wav").unlink()
    assert main(call) == 2


def test_a_speaker_encoder_is_speechbrains(corpus, tmp_path, capsys):
    """A tiny ECAPA folder in SpeechBrain's form: run only once it is trusted."""
    folder, out = tmp_path / "encoder", tmp_path / "r.json"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(ENCODER)
    torch.manual_seed(0)
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    sizes = [8, 8, 8, 8, 24]
    model = ECAPA_TDNN(20, lin_neurons=6, channels=sizes, attention_channels=4)
    torch.save(model.state_dict(), folder / "embedding_model.ckpt")
    labels = "'ann' => 0\n'bob' => 1\n================\n'starting_index' => 0\n"
    (folder / "label_encoder.txt").write_text(labels)
    call = ["eval", "dmel", "--data", str(corpus), "--limit", "2"]
    call += ["--parts", "resynthesis", "--json", str(out)]
    call += ["--speaker-encoder", str(folder)]
    assert main(call) == 2
    assert "InputNormalization is refused: add" in capsys.readouterr().err
    assert main([*call, "--allow-unsafe-yaml"]) == 0
    scores = json.loads(out.read_text())["systems"]["dmel"]["resynthesis"]
    assert scores["speaker_similarity"]["n_scored"] == 2
    assert "mfcc_similarity" not in scores


ENCODER = """
pretrained_path: speechbrain/not-to-be-asked
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 20
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 20
    channels: [8, 8, 8, 8, 24]
    attention_channels: 4
    lin_neurons: 6
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 6
    out_neurons: 2
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def test_a_system_without_weights_is_sealed_from_its_yaml(tmp_path, capsys):
    out = tmp_path / "mine"
    assert main(["export", str(DMEL), str(out), "--licence", "none"]) == 0
    again = UnitTokenizer.from_hparams(out)
    assert again.fingerprint == UnitTokenizer.from_hparams("dmel").fingerprint
    weighty = DMEL.with_name("mfcc_kmeans.yaml")
    assert main(["export", str(weighty), str(tmp_path / "x")]) == 2
    assert "has weights" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
