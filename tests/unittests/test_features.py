"""Front ends against slow references; a frame depends on its own window only."""

import math

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.lobes.features import MFCC, LogMel, mean_and_std
from speechbrain_dsu.lobes.vocoders.griffin_lim import GriffinLim
from speechbrain_dsu.utils.errors import DsuError

FRONT_ENDS = {
    "log-mel": lambda: LogMel(hop=200),
    "log-mel utterance": lambda: LogMel(hop=200, normalize="utterance"),
    "mfcc": lambda: MFCC(normalize=None),
    "mfcc utterance": lambda: MFCC(normalize="utterance"),
}


def noise(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_log_mel_equals_torchaudio():
    ours = LogMel(power=2.0)
    theirs = torchaudio.transforms.MelSpectrogram(
        16000, 1024, 800, 200, n_mels=80, power=2.0, pad_mode="constant",
        norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    wav = noise(8000).unsqueeze(0)
    expected = theirs(wav).clamp(min=1e-5).log().transpose(1, 2)
    assert torch.allclose(ours(wav), expected, atol=1e-4)


def test_log_mel_equals_a_slow_transform():
    """Frame 3 by the definition: window, zero-pad, sum of exponentials, filters."""
    features = LogMel(n_mels=8, hop=100, win=200, n_fft=256, f_min=300.0)
    wav = noise(1000).double()
    start = 3 * 100 - 128
    n = torch.arange(256)
    window = torch.zeros(256, dtype=torch.float64)
    window[28:228] = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(200) / 200)
    piece = wav[start : start + 256] * window
    spectrum = torch.stack(
        [
            (piece * torch.exp(-2j * math.pi * k * n / 256)).sum().abs()
            for k in range(129)
        ]
    )
    expected = (spectrum @ features.filters.double()).clamp(min=1e-5).log()
    found = features(wav.float().unsqueeze(0))[0, 3]
    assert torch.allclose(found.double(), expected, atol=1e-4)


def test_deltas_against_a_loop():
    features = MFCC(n_mfcc=4, deltas=2, delta_win=5, normalize=None)
    frames = features(noise(6400).unsqueeze(0))[0]
    base, total = frames[:, :4], len(frames)
    for t in range(total):
        slope = torch.zeros(4)
        for k in (1, 2):
            slope += k * (base[min(t + k, total - 1)] - base[max(t - k, 0)])
        assert torch.allclose(frames[t, 4:8], slope / 10, atol=1e-4)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_padded_batch_equals_single_items(name):
    features = FRONT_ENDS[name]()
    lengths = [16000, 9001, 640, 1]
    wavs = torch.full((4, 16000), 7.0)  # what lies behind an end must not matter
    for row, n in enumerate(lengths):
        wavs[row, :n] = noise(n, seed=row)
    before = wavs.clone()
    batch = features(wavs, torch.tensor(lengths))
    for row, n in enumerate(lengths):
        alone = features(wavs[row : row + 1, :n])[0]
        assert len(alone) == features.num_frames(n)
        assert torch.allclose(batch[row, : len(alone)], alone, atol=2e-4)
    assert torch.equal(wavs, before)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5000), name=st.sampled_from(sorted(FRONT_ENDS)))
def test_num_frames_is_what_comes_out(n, name):
    features = FRONT_ENDS[name]()
    assert features(noise(n).unsqueeze(0)).shape == (
        1,
        features.num_frames(n),
        features.dim,
    )


@pytest.mark.parametrize("name", ["log-mel", "mfcc"])
def test_receptive_field_is_exact(name):
    """A sample moves exactly the frames whose field it is in."""
    features = FRONT_ENDS[name]()
    left, right = features.receptive_field
    wav = noise(12000)
    at = 6007
    other = wav.clone()
    other[at] += 1.0
    moved = (features(wav[None]) != features(other[None])).any(-1)[0].nonzero()
    first, last = moved.min().item(), moved.max().item()
    hop = features.hop
    inside = [
        t
        for t in range(features.num_frames(12000))
        if t * hop - left <= at < t * hop + right
    ]
    assert inside[0] <= first and last <= inside[-1]
    # Windows end in zeros, so the first and last frame inside may stay as they are.
    slack = 2 + (features.n_fft - features.win) // 2 // hop
    assert first - inside[0] <= slack and inside[-1] - last <= slack


def test_utterance_statistics_are_those_of_valid_frames():
    frames = torch.randn(2, 50, 3)
    frames[1, 20:] = 1e6
    mean, std = mean_and_std(frames, torch.tensor([50, 20]))
    assert torch.allclose(mean[1, 0], frames[1, :20].mean(0), atol=1e-5)
    assert torch.allclose(std[1, 0], frames[1, :20].std(0, correction=0), atol=1e-5)


def test_silence_stays_finite():
    assert MFCC(normalize="utterance")(torch.zeros(1, 4000)).isfinite().all()


def test_global_statistics_are_applied_and_saved():
    features = LogMel(normalize="global")
    raw = LogMel()(noise(4000)[None])
    features.set_statistics(torch.full((80,), 2.0), torch.full((80,), 4.0))
    assert torch.allclose(features(noise(4000)[None]), (raw - 2) / 4, atol=1e-5)
    assert set(features.state_dict()) == {"mean", "std"}
    with pytest.raises(DsuError, match="std must be positive"):
        features.set_statistics(torch.zeros(80), torch.zeros(80))
    with pytest.raises(DsuError, match="takes no global statistics"):
        LogMel().set_statistics(torch.zeros(80), torch.ones(80))


@pytest.mark.parametrize(
    "bad", [{"hop": 0}, {"win": 2000}, {"f_max": 9000}, {"normalize": "batch"}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(DsuError):
        LogMel(**bad)


def test_griffin_lim_restores_the_magnitudes():
    """A tone comes back at its frequency and level; no random start."""
    features = LogMel()
    wav = 0.3 * torch.sin(2 * math.pi * 440 * torch.arange(16000) / 16000)[None]
    vocoder = GriffinLim(features)
    again = vocoder(features(wav))
    assert torch.equal(again, vocoder(features(wav)))
    assert again.shape == wav.shape
    peak = torch.fft.rfft(again[0]).abs().argmax().item()
    assert abs(peak - 440) <= 15
    assert abs(again[0, 4000:12000].square().mean().sqrt() - 0.3 / 2**0.5) < 0.05


def test_griffin_lim_refuses_what_it_cannot_invert():
    with pytest.raises(DsuError, match="power=1"):
        GriffinLim(LogMel(power=2.0))
    with pytest.raises(DsuError, match="MFCC"):
        GriffinLim(MFCC())
