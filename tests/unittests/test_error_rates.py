"""Error rates by another package; copies of recordings."""

import random

import pytest
import torch

from speechbrain_dsu.dataio.copies import at_speeds, in_noise, spoken_again
from speechbrain_dsu.evaluation.error_rates import error_rates
from speechbrain_dsu.inference import UnitTokenizer
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError


def test_error_rates_are_jiwers():
    jiwer = pytest.importorskip("jiwer")
    draw = random.Random(0)
    words = "zero one two three four five".split()
    said = [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(40)]
    found = [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(40)]
    found[:10] = said[:10]
    rates = error_rates(said, found)
    assert rates["WER"] == pytest.approx(100 * jiwer.wer(said, found))
    assert rates["CER"] == pytest.approx(100 * jiwer.cer(said, found))
    wrong = sum(a != b for a, b in zip(said, found, strict=True))
    assert rates["sentence errors"] == pytest.approx(100 * wrong / 40)


def test_one_output_for_all_shows():
    assert error_rates(["one", "two", "six"], ["one"] * 3)["distinct"] == 1 / 3
    with pytest.raises(DsuError, match="1 transcripts for 2"):
        error_rates(["one", "two"], ["one"])


def test_a_faster_copy_is_shorter_and_higher(tmp_path):
    rate = 8000
    tone = 0.3 * torch.sin(2 * torch.pi * 400 * torch.arange(rate) / rate)
    write_audio(tmp_path / "a.wav", tone, rate)
    entries = {"a": {"wav": str(tmp_path / "a.wav"), "duration": 1.0, "text": "x"}}
    found = at_speeds(entries, [100, 125, 80], tmp_path / "speeds")
    assert found["a"] == entries["a"] and found["a@80"]["text"] == "x"
    for speed in (125, 80):
        entry = found[f"a@{speed}"]
        wav, read_rate = read_audio(entry["wav"])
        assert read_rate == rate and entry["duration"] == len(wav) / rate
        assert len(wav) == rate * 100 // speed
        peak = int(torch.fft.rfft(wav).abs().argmax()) * rate / len(wav)
        assert abs(peak - 400 * speed / 100) < 2
    with pytest.raises(DsuError, match="speeds"):
        at_speeds(entries, [300], tmp_path)


def test_noise_is_as_loud_as_drawn_and_the_same_again(tmp_path):
    draw = torch.Generator().manual_seed(0)
    wav = 0.1 * torch.randn(16000, generator=draw)
    write_audio(tmp_path / "a.wav", wav, 8000)
    entries = {name: {"wav": str(tmp_path / "a.wav")} for name in "ab"}
    found = in_noise(entries, [6, 6], tmp_path / "one")
    wavs = [read_audio(entry["wav"])[0] for entry in found.values()]
    for noisy in wavs:
        # Noise at half the amplitude, and their sum scaled to keep it.
        clean = (noisy @ wav) / (wav @ wav) * wav
        ratio = 20 * (clean.std() / (noisy - clean).std()).log10()
        assert abs(ratio - 6) < 0.2
    assert not torch.equal(*wavs)
    again = in_noise(entries, [6, 6], tmp_path / "two")
    assert torch.equal(read_audio(again["b@noise6-6"]["wav"])[0], wavs[1])
    with pytest.raises(DsuError, match="noise"):
        in_noise(entries, [9, 3], tmp_path)


def test_what_is_spoken_again_is_the_decoders(speech_data, tmp_path):
    path = speech_data / "fsdd/recordings/3_lucas_9.wav"
    codec = UnitTokenizer.from_hparams("codec-1k")
    entries = {"a": {"wav": str(path), "text": "three"}}
    found = spoken_again(entries, {"codec-1k": codec}, tmp_path)["a@codec-1k"]
    wav, rate = read_audio(found["wav"])
    said, _ = codec.decode(codec.encode_file(path))
    assert rate == 16000 and found["text"] == "three"
    assert torch.allclose(wav, said[0], atol=1e-4)
