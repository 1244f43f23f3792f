"""A codec's bundle on the command line: streams from standard input, ONNX graphs."""

import io
import json
import sys
import types

import pytest
import torch

from contract.tokenizers_codecs import build_codec, codec_yaml
from speechbrain_dsu.cli.main import main
from speechbrain_dsu.inference.bundles import save_bundle
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.paths import bundles_dir

CLIP = bundles_dir() / "speech.wav"
LICENCE = {"code": "Apache-2.0", "weights": "CC0-1.0"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec") / "bundle"
    yaml = codec_yaml("codec_16k")
    return save_bundle(
        build_codec("codec_16k"), folder, yaml, licence=LICENCE, probe=CLIP
    )


def stdin(monkeypatch, data):
    fake = types.SimpleNamespace(buffer=io.BytesIO(data))
    monkeypatch.setattr(sys, "stdin", fake)


def test_lines_of_a_stream_are_the_tokens_of_the_file(bundle, monkeypatch, capsys):
    units = UnitTokenizer.from_hparams(bundle, run_opts={"device": "cpu"})
    stdin(monkeypatch, CLIP.read_bytes())
    words = ["tokenize", "-", "--stream", "--device", "cpu", "--codebooks", "3"]
    assert main([*words, "--tokenizer", str(bundle)]) == 0
    captured = capsys.readouterr()
    assert "look-ahead 0 ms, the tokens of one pass" in captured.err
    lines = [json.loads(line) for line in captured.out.splitlines()]
    wav, rate = read_audio(CLIP)
    codes = units.encode_batch(wav.unsqueeze(0), sample_rate=rate, n_codebooks=3).codes
    found = torch.tensor([line["codes"] for line in lines])
    if rate == units.sample_rate:
        assert torch.equal(found, codes[0])
    else:  # resampled in pieces: ties under another rounding
        assert (found == codes[0]).float().mean() > 0.99
    stream, decoding = units.stream(sample_rate=rate), units.decode_stream()
    parts = [stream.push(part) for part in wav.split(4000)] + [stream.flush()]
    audio = torch.cat([*(decoding.push(part) for part in parts), decoding.flush()])
    assert len(audio) == units.num_samples(len(found))


@pytest.mark.parametrize(
    "words, data, expected",
    [
        (["-", "--stream"], b"\0" * 8, "give the rate of raw samples by --rate"),
        (["-", "--stream", "--rate", "0"], b"", "--rate 0 must be positive"),
        (["x.wav", "--stream"], b"", "SOURCE is -"),
        (["x.wav"], b"", "--out is missing"),
    ],
)
def test_mistakes_are_one_line(words, data, expected, bundle, monkeypatch, capsys):
    stdin(monkeypatch, data)
    assert main(["tokenize", *words, "--tokenizer", str(bundle)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


def test_graphs_of_a_bundle(bundle, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["export", "--onnx", str(bundle), str(tmp_path / "graphs")]) == 0
    names = [line.rsplit("/")[-1] for line in capsys.readouterr().out.splitlines()]
    assert names == ["encoder.onnx", "quantizer.onnx", "decoder.onnx", "codec.json"]
    assert main(["export", "--onnx", "dmel", str(tmp_path / "graphs")]) == 2
    assert "is no codec" in capsys.readouterr().err
