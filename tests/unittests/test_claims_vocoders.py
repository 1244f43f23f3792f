"""Claim 43: what is measured answers to what was made, and a quick run repeats."""

import math

import pytest
import torch

from speechbrain_dsu.evaluation.claims import run_claim
from speechbrain_dsu.evaluation.claims.common import Digit, seeded
from speechbrain_dsu.evaluation.claims.speech_resynthesis import (
    Item,
    Units,
    _pitch_error,
    fitted,
    judge,
    make_vocoder,
    rates_add_up,
    train,
)
from speechbrain_dsu.utils.audio import write_audio


def tone(hertz, seconds=0.5, rate=16000):
    steps = torch.arange(round(seconds * rate)) / rate
    return sum(torch.sin(2 * math.pi * k * hertz * steps) / k for k in (1, 2, 3)) * 0.2


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory):
    """Digits are lengths of silence, speakers are pitches."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "fsdd" / "recordings").mkdir(parents=True)
    for speaker, hertz in (("ann", 220), ("bob", 110), ("cid", 150)):
        for digit in range(2):
            for take in range(4):
                wav = torch.cat([tone(hertz + take), torch.zeros(1600 * digit)])
                path = folder / "fsdd/recordings" / f"{digit}_{speaker}_{take}.wav"
                write_audio(path, wav + 1e-3 * torch.randn(len(wav)), 16000)
    return folder


def test_a_quick_run_gives_all_rows(toy_data):
    result = run_claim(43, True, toy_data)
    assert [row["condition"] for row in result["rows"]] == [
        "pitch error",
        "true speaker",
        "next speaker",
        "digit error",
        "digit error",
    ]
    assert all(result["laws"].values())
    for row in result["rows"]:
        assert all(math.isfinite(row[key]) for key in ("baseline", "system", "spread"))


def test_the_pitch_error_counts_voicing_and_distance():
    low, high = tone(110), tone(150)
    assert _pitch_error(low, low) == 0
    assert _pitch_error(low, tone(115)) < 0.1
    assert _pitch_error(low, high) > 0.8
    assert _pitch_error(low, torch.zeros_like(low)) > 0.8


def test_a_trained_vocoder_speaks_as_the_speaker_that_is_put_in():
    torch.manual_seed(0)
    digits = [
        Digit(digit, speaker, tone(hertz, 0.3 + 0.2 * digit) + 1e-3 * torch.randn(1))
        for speaker, hertz in (("ann", 230.0), ("bob", 110.0))
        for digit in (0, 1)
        for _ in range(4)
    ]
    with seeded(0) as generator:
        units = Units(digits * 10, generator)
        model = make_vocoder("+ speaker", ["ann", "bob"])
        items = []
        for digit in digits:
            codes = units(digit.frames)
            wav = fitted(digit.frames, len(codes), 320)
            contours = model.follow(wav[None], len(codes))
            contours = {name: contour[0] for name, contour in contours.items()}
            # The same units for both: only the voice tells them apart.
            items.append(Item(torch.zeros_like(codes), wav, contours, digit.speaker))
        train(model, items, 150, generator)
        units.centers = units.centers[:1].expand(100, -1).contiguous()
        parts = model, units, digits, digits, ["ann", "bob"]
        own, swapped = judge(*parts, swap=False), judge(*parts, swap=True)
    assert own["true speaker"] > 0.9 and swapped["next speaker"] > 0.9
    assert own["next speaker"] < 0.1 and swapped["true speaker"] < 0.1
    assert rates_add_up(model, units, digits)
