"""Scenes of the demo: each model gets what it takes, and what it gives is shown."""

from types import SimpleNamespace

import pytest
import torch

from speechbrain_dsu.evaluation import demo_models
from speechbrain_dsu.evaluation.demo_models import SAID, play_models
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError


@pytest.fixture
def clips(tmp_path, monkeypatch):
    for name in ("digits.wav", "digits-es.wav", "mine.wav"):
        write_audio(tmp_path / name, 0.1 * torch.randn(800), 8000)
    monkeypatch.setattr(demo_models, "bundles_dir", lambda: tmp_path)
    return tmp_path


def speech(size):
    return SimpleNamespace(
        wavs=torch.zeros(1, 1000), lens=torch.tensor([size / 1000]), texts=["seven"]
    )


class Reader:
    def transcribe_file(self, path):
        return f"read {path.name}"


class Sayer:
    voices, speech_rate = ("ann", "bob", "cid"), 8000

    def __init__(self):
        self.asked = []

    def say_batch(self, texts, voice):
        self.asked.append((texts, voice))
        return speech(500)


class Translator:
    target_rate = 8000

    def translate_batch(self, wavs, sample_rate):
        assert wavs.shape == (1, 800) and sample_rate == 8000
        return speech(1000)


class Converter:
    voices, output_rate = ("ann",), 8000

    def convert_batch(self, wavs, voice, sample_rate):
        self.seen = wavs.shape[1]
        return wavs, torch.ones(1)


def test_every_model_does_its_part(clips):
    sayer = Sayer()
    models = {
        "r": Reader(),
        "s": sayer,
        "t": Translator(),
        "c": Converter(),
        "n": object(),
    }
    scenes = play_models(models, None)
    assert [scene.model for scene in scenes] == ["r", "s", "s", "t", "c"]
    assert scenes[0].found == "read digits.wav" and scenes[0].heard
    assert sayer.asked == [([SAID], "ann"), ([SAID], "bob")]
    assert scenes[1].given == SAID and scenes[1].made != scenes[3].made
    assert scenes[3].found == "seven"


def test_the_users_recording_is_converted_up_to_a_length(clips, monkeypatch):
    monkeypatch.setattr(demo_models, "MAX_SECONDS", 0.05)
    converter = Converter()
    (scene,) = play_models({"c": converter}, clips / "mine.wav")
    assert converter.seen == 400 and "mine.wav" in scene.command


def test_a_model_that_fails_says_why_and_the_others_go_on(clips):
    class Broken(Reader):
        def transcribe_file(self, path):
            raise DsuError("no ears")

    scenes = play_models({"b": Broken(), "r": Reader()}, None)
    assert [scene.found for scene in scenes] == ["no ears", "read digits.wav"]
