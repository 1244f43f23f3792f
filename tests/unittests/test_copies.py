"""Copies of recordings: speeds, noise, bandwidth, spoken again."""

import pytest
import torch

from speechbrain_dsu.dataio.copies import (
    at_rate,
    at_speeds,
    copies_of,
    in_noise,
    spoken_again,
)
from speechbrain_dsu.inference import UnitTokenizer
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError


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


def test_narrower_copies_lose_what_is_above_and_narrow_recordings_stay(tmp_path):
    for rate in (8000, 16000):
        time = torch.arange(rate) / rate
        tones = [torch.sin(2 * torch.pi * hertz * time) for hertz in (1000, 6000)]
        wav = 0.2 * (tones[0] if rate == 8000 else tones[0] + tones[1])
        write_audio(tmp_path / f"{rate}.wav", wav, rate)
    entries = {
        str(rate): {"wav": str(tmp_path / f"{rate}.wav"), "duration": 1.0, "text": "x"}
        for rate in (8000, 16000)
    }
    found = at_rate(entries, 8000, tmp_path / "narrow")
    assert list(found) == list(entries) and found["8000"] == entries["8000"]
    wav, rate = read_audio(found["16000"]["wav"])
    assert rate == 8000 and found["16000"]["duration"] == 1.0
    # What is left is the low tone; the high one has not come back as an alias (2 kHz).
    low = read_audio(entries["8000"]["wav"])[0]
    assert (wav - low)[400:-400].abs().max() < 0.01


def test_a_recipes_copies_are_those_it_names(tmp_path):
    write_audio(tmp_path / "a.wav", 0.1 * torch.randn(16000), 16000)
    entries = {"a": {"wav": str(tmp_path / "a.wav"), "duration": 1.0, "text": "x"}}
    options = {"noise": [5, 30], "max_rate": 8000}
    found = copies_of(entries, [100, 80], options, tmp_path)
    assert sorted(found) == ["a", "a@80", "a@noise5-30"]
    assert all(read_audio(entry["wav"])[1] == 8000 for entry in found.values())
    with pytest.raises(DsuError, match="copies: 'nosie'.*max_rate, noise, through"):
        copies_of(entries, [100], {"nosie": [5, 30]}, tmp_path)
