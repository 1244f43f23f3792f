"""Scores against outsiders and laws; failures are counted, never silent."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.evaluation.resynthesis import (
    MEL_FLOOR_DB,
    Scores,
    align,
    log_mel_db,
    mel_distance,
    score,
    stoi,
    summarize,
)
from speechbrain_dsu.utils.audio import read_audio, resample
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir


@pytest.fixture(scope="module")
def speech():
    return read_audio(bundles_dir() / "speech.wav", 16000)[0]


def noisy(wav, decibels, seed=0):
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(seed))
    scale = wav.square().mean().sqrt() / 10 ** (decibels / 20)
    return wav + scale * noise


def test_stoi_is_pystoi_at_its_own_rate(speech):
    pystoi = pytest.importorskip("pystoi")
    wav = resample(speech, 16000, 10000)
    other = noisy(wav, 5)
    expected = pystoi.stoi(wav.numpy(), other.numpy(), 10000)
    assert stoi(wav, 10000, other, 10000) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_stoi_at_any_rate_agrees_with_pystois_own_resampling(speech, rate):
    pystoi = pytest.importorskip("pystoi")
    wav = resample(speech, 16000, rate)
    other = noisy(wav, 0)
    expected = pystoi.stoi(wav.double().numpy(), other.double().numpy(), rate)
    assert stoi(wav, rate, other, rate) == pytest.approx(expected, abs=0.01)


def test_stoi_falls_with_noise_and_not_with_level(speech):
    pytest.importorskip("pystoi")
    clean = stoi(speech, 16000, speech * 0.1, 16000)
    levels = [stoi(speech, 16000, noisy(speech, x), 16000) for x in (20, 5, -5)]
    assert clean == pytest.approx(1, abs=1e-6)
    assert 1 > levels[0] > levels[1] > levels[2] > 0


def test_a_wrong_rate_does_not_go_unnoticed(speech):
    right = score(speech, 16000, resample(speech, 16000, 24000), 24000)
    wrong = score(speech, 16000, resample(speech, 16000, 24000), 16000)
    assert right["mel_l1"] < 1 < 8 < wrong["mel_l1"]
    if right["stoi"] is not None:
        assert right["stoi"] > 0.99 and wrong["stoi"] < 0.4


def test_log_mel_against_a_slow_reference(speech):
    """Frame by frame in numpy, filters as triangles on Slaney's scale."""
    wav = speech[8000:12000].numpy().astype(np.float64)
    found = log_mel_db(speech[8000:12000])
    assert found.shape == (26, 80)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(wav, 256)

    def mel(hertz):
        linear = 3 * hertz / 200
        log = 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4)
        return np.where(hertz < 1000, linear, log)

    def hertz(mels):
        return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))

    edges = hertz(np.linspace(0, mel(8000.0), 82))
    bins = np.arange(257) * 16000 / 512
    for t in (0, 7, 25):
        # The window lies in the middle of the transform.
        cut = padded[t * 160 :][56 : 56 + 400] * window
        power = np.abs(np.fft.rfft(np.pad(cut, 56))) ** 2 / (window.sum() / 2) ** 2
        for k in (0, 20, 79):
            low, mid, high = edges[k : k + 3]
            rise, fall = (bins - low) / (mid - low), (high - bins) / (high - mid)
            energy = (power * np.clip(np.minimum(rise, fall), 0, None)).sum()
            expected = max(10 * np.log10(energy + 1e-30), MEL_FLOOR_DB)
            assert float(found[t, k]) == pytest.approx(expected, abs=0.02)


def test_mel_distance_counts_decibels_of_level():
    wav = 0.3 * torch.randn(32000, generator=torch.Generator().manual_seed(0))
    assert mel_distance(wav, 16000, wav, 16000) == (0, 0)
    l1, l2 = mel_distance(wav, 16000, wav / 2, 16000)
    assert l1 == pytest.approx(6.0206, abs=1e-3) == l2
    # Silence is at the floor, however silent.
    assert mel_distance(wav * 1e-6, 16000, wav * 0, 16000)[0] == 0


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from([8000, 16000, 22050]),
    st.sampled_from([8000, 16000, 24000]),
)
@settings(max_examples=40, deadline=None)
def test_alignment_keeps_the_common_stretch(n_first, n_second, first, second):
    one, two = torch.ones(n_first), torch.ones(n_second)
    a, b = align(one, first, two, second, 16000)
    size = min(-(-n_first * 16000 // first), -(-n_second * 16000 // second))
    assert len(a) == len(b) == size
    assert torch.equal(a, resample(one, first, 16000)[:size])
    assert len(one) == n_first and len(two) == n_second


def test_longer_and_shorter_decoders_score_the_same(speech):
    cut = speech[: len(speech) - 150]
    longer = torch.cat([speech, torch.ones(999)])
    assert mel_distance(speech, 16000, longer, 16000) == (0, 0)
    assert mel_distance(speech, 16000, cut, 16000) == (0, 0)


def test_what_cannot_be_scored_is_none_with_its_reason(speech):
    pytest.importorskip("pystoi")
    silent = score(torch.zeros(16000), 16000, speech[:16000], 16000)
    assert silent["stoi"] is None and "silent" in silent.reasons["stoi"]
    short = score(speech[8000:9000], 16000, speech[8000:9000], 16000)
    assert short["stoi"] is None and "384 ms" in short.reasons["stoi"]
    assert short["mel_l1"] == 0
    # Long enough, but not of speech: pystoi would return 1e-5.
    burst = torch.zeros(16000)
    burst[5000:7000] = speech[8000:10000]
    burst = score(burst, 16000, burst, 16000)
    assert burst["stoi"] is None and "384 ms" in burst.reasons["stoi"]
    empty = score(speech, 16000, speech[:0], 16000)
    assert "decoded holds no samples" in empty.reasons["mel_l1"]
    broken = score(speech, 16000, speech * float("nan"), 16000)
    assert set(broken.values.values()) == {None}


def test_a_missing_package_is_named(speech, monkeypatch):
    monkeypatch.setitem(sys.modules, "pystoi", None)
    found = score(speech, 16000, speech, 16000)
    assert found["stoi"] is None and found["mel_l2"] == 0
    assert "speechbrain_dsu[eval]" in found.reasons["stoi"]


def test_summary_counts_failures():
    scores = [Scores({"stoi": v, "mel_l1": 1.0}) for v in (0.5, 1.0)]
    scores += [Scores({"stoi": None, "mel_l1": 4.0}, {"stoi": "too short"})] * 3
    found = summarize(scores)
    assert found["stoi"]["mean"] == 0.75
    assert (found["stoi"]["n_scored"], found["stoi"]["n_failed"]) == (2, 3)
    assert found["stoi"]["reasons"] == {"too short": 3}
    assert found["mel_l1"]["mean"] == pytest.approx(14 / 5)
    assert summarize([]) == {}


def test_wrong_shapes_are_named():
    with pytest.raises(DsuError, match=r"decoded must be .*\[1, 9\]"):
        align(torch.zeros(9), 8000, torch.zeros(1, 9), 8000, 8000)
