"""Perturbed inputs keep what labels depend on: time, silence, the caller's tensor."""

import pytest
import torch

from speechbrain_dsu.lobes.perturbation import Perturbation
from speechbrain_dsu.utils.errors import DsuError


@pytest.fixture
def wavs():
    torch.manual_seed(0)
    wavs = torch.randn(3, 16000) * torch.tensor([[0.01], [0.1], [1.0]])
    wavs[0, 8000:] = 0
    return wavs


LENS = torch.tensor([0.5, 1.0, 1.0])


def test_padding_stays_zero_and_the_input_is_not_changed(wavs):
    before = wavs.clone()
    out = Perturbation(noise_probability=1.0)(wavs, LENS)
    assert torch.equal(wavs, before)
    assert bool((out[0, 8000:] == 0).all()) and bool((out[0, :8000] != 0).all())


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_the_level_that_was_asked_for_whatever_the_loudness(wavs, snr):
    perturb = Perturbation(noise_probability=1.0, snr=(snr, snr), equalizer=0.0)
    noise = perturb(wavs, LENS) - wavs
    for index, size in enumerate([8000, 16000, 16000]):
        power = wavs[index, :size].square().mean() / noise[index, :size].square().mean()
        # The noise was scaled over the padded length: coloured noise is not level.
        assert abs(10 * power.log10() - snr) < 1.0


def test_noise_comes_to_the_share_of_items_that_was_asked_for():
    wavs = torch.randn(400, 320)
    perturb = Perturbation(noise_probability=0.25, equalizer=0.0)
    touched = (perturb(wavs, torch.ones(400)) != wavs).any(1).float().mean()
    assert 0.18 < touched < 0.32


def test_the_equaliser_moves_nothing_in_time():
    clicks = torch.zeros(50, 4000)
    clicks[:, 2000] = 1.0
    out = Perturbation(noise_probability=0.0, equalizer=6.0)(clicks, torch.ones(50))
    assert bool((out.abs().argmax(1) == 2000).all())
    # Symmetric about the click: no phase, hence no delay at any frequency.
    left, right = out[:, 1900:2000].flip(1), out[:, 2001:2101]
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)


def test_the_equaliser_is_smooth_and_differs_between_items():
    clicks = torch.zeros(20, 4000)
    clicks[:, 0] = 1.0
    out = Perturbation(noise_probability=0.0, equalizer=4.0)(clicks, torch.ones(20))
    gains = 20 * torch.fft.rfft(out).abs().log10()
    assert 2.0 < gains.std(0).mean() < 6.0
    assert gains.diff(dim=1).abs().max() < 1.0, "decibels from bin to bin"


def test_narrow_items_have_nothing_above_their_band_and_all_below_it():
    torch.manual_seed(0)
    wavs = torch.randn(300, 1600)
    band = {"band_probability": 0.5, "band": (0.2, 0.25)}
    perturb = Perturbation(noise_probability=1.0, equalizer=0.0, **band)
    gains = torch.fft.rfft(perturb(wavs, torch.ones(300))).abs()
    # The slope is 0.025 wide, half of it on either side of the drawn frequency.
    places = torch.linspace(0, 0.5, gains.shape[1])
    above = gains[:, places > 0.264].amax(1)
    narrow = above < 1e-3
    assert 0.4 < narrow.float().mean() < 0.6
    assert bool((above[~narrow] > 1).all())
    clean = Perturbation(noise_probability=0.0, equalizer=0.0, **band)
    below = torch.fft.rfft(clean(wavs, torch.ones(300)))[:, places < 0.186]
    torch.testing.assert_close(
        below, torch.fft.rfft(wavs)[:, places < 0.186], atol=1e-3, rtol=1e-3
    )


def test_it_is_drawn_from_torchs_generator(wavs):
    perturb = Perturbation()
    torch.manual_seed(5)
    one = perturb(wavs, LENS)
    torch.manual_seed(5)
    assert torch.equal(one, perturb(wavs, LENS))
    assert not torch.equal(one, perturb(wavs, LENS))


def test_wrong_options_are_named():
    with pytest.raises(DsuError, match="noise_probability=2"):
        Perturbation(noise_probability=2)
    with pytest.raises(DsuError, match="band_probability=0.5, band=\\(0.2, 0.7\\)"):
        Perturbation(band_probability=0.5, band=(0.2, 0.7))
    with pytest.raises(DsuError, match="snr"):
        Perturbation(snr=(10.0, 5.0))
