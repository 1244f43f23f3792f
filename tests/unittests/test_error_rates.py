"""Error rates by another package; copies at other speeds."""

import random

import pytest
import torch

from speechbrain_dsu.dataio.speeds import at_speeds
from speechbrain_dsu.evaluation.error_rates import error_rates
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
