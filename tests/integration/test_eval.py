"""Evaluating a tokenizer over real speech, and sealing one without weights."""

import json

import pytest

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

DMEL = hparams_dir() / "systems" / "tokenizers" / "dmel.yaml"


@pytest.mark.slow
def test_dmel_stays_intelligible_through_griffin_lim(speech_data, tmp_path, capsys):
    pytest.importorskip("pystoi")
    wavs = sorted((speech_data / "LJSpeech-mini" / "wavs").glob("*.wav"))[::6]
    some = tmp_path / "some"
    some.mkdir()
    for wav in wavs:
        (some / wav.name).write_bytes(wav.read_bytes())
    out = tmp_path / "result.json"
    assert main(["eval", str(some), "--tokenizer", "dmel", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["stoi"]["n_scored"] == len(wavs) == 15
    assert result["stoi"]["mean"] >= 0.88
    assert result["nominal_bitrate"] == 25600
    assert 0 < result["entropy_bitrate"] < 25600


def test_a_bad_file_is_counted_and_the_rest_goes_on(tmp_path, capsys):
    (tmp_path / "good.wav").write_bytes((bundles_dir() / "speech.wav").read_bytes())
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    call = ["eval", str(tmp_path), "--tokenizer", "mfcc-k100"]
    assert main(call) == 1
    said = capsys.readouterr().out
    assert "bad.wav: " in said and "files           1" in said
    (tmp_path / "good.wav").unlink()
    assert main(call) == 2


def test_a_system_without_weights_is_sealed_from_its_yaml(tmp_path, capsys):
    out = tmp_path / "mine"
    assert main(["export", str(DMEL), str(out), "--licence", "none"]) == 0
    again = UnitTokenizer.from_hparams(out)
    assert again.fingerprint == UnitTokenizer.from_hparams("dmel").fingerprint
    weighty = DMEL.with_name("mfcc_kmeans.yaml")
    assert main(["export", str(weighty), str(tmp_path / "x")]) == 2
    assert "has weights" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
