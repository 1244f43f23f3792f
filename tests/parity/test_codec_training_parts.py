"""Discriminators and losses against SpeechBrain's and EnCodec's."""

import pytest
import torch
from speechbrain.lobes.models import HifiGAN
from torch.nn.utils import parametrize

from speechbrain_dsu.lobes.discriminators.base import Discriminators
from speechbrain_dsu.lobes.discriminators.period import PeriodDiscriminator
from speechbrain_dsu.lobes.discriminators.scale import ScaleDiscriminator
from speechbrain_dsu.lobes.discriminators.stft import STFTDiscriminator
from speechbrain_dsu.nnet.losses.adversarial import (
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)
from speechbrain_dsu.nnet.losses.spectral import SpectralLoss


def convolutions(module):
    """Those that hold weights, in order."""
    kinds = torch.nn.Conv1d, torch.nn.Conv2d
    return [part for part in module.modules() if isinstance(part, kinds)]


def copy_weights(theirs, ours):
    for source, target in zip(convolutions(theirs), convolutions(ours), strict=True):
        assert parametrize.is_parametrized(target)
        with torch.no_grad():
            target.weight = source.weight.detach()
            target.bias.copy_(source.bias)


def assert_same(ours, scores, features, flat):
    for mine, score in zip(ours.scores, scores, strict=True):
        mine = mine.flatten(1) if flat else mine
        torch.testing.assert_close(mine, score, rtol=1e-4, atol=1e-4)
    for mine, layers in zip(ours.features, features, strict=True):
        # Their last "feature" is the score again, where they have that.
        for layer, other in zip(mine, layers[: len(mine)], strict=True):
            torch.testing.assert_close(layer, other, rtol=1e-4, atol=1e-4)


def test_period_discriminator_is_speechbrains():
    torch.manual_seed(0)
    theirs, ours = HifiGAN.DiscriminatorP(3).eval(), PeriodDiscriminator([3])
    copy_weights(theirs, ours)
    for layer in [*theirs.convs, theirs.conv_post]:
        layer.padding_mode = "constant"  # HiFi-GAN pads with zeros; theirs mirrors
    wav = torch.randn(2, 1, 500)
    with torch.no_grad():
        score, features = theirs(wav)
        assert_same(ours(wav.squeeze(1)), [score], [features], flat=True)


def test_scale_discriminator_is_speechbrains():
    torch.manual_seed(0)
    theirs, ours = HifiGAN.DiscriminatorS().eval(), ScaleDiscriminator(1)
    copy_weights(theirs, ours)
    wav = torch.randn(2, 1, 1000)
    with torch.no_grad():
        score, features = theirs(wav)
        assert_same(ours(wav.squeeze(1)), [score], [features], flat=True)
        # The second scale hears the first one's pooled signal.
        pooled = HifiGAN.MultiScaleDiscriminator().meanpools[0](wav)
        two = ScaleDiscriminator(2, [16] * 7)
        low = two.chains[1](pooled)[0]
        torch.testing.assert_close(two(wav.squeeze(1)).scores[1], low)


def test_stft_discriminator_is_encodecs():
    encodec = pytest.importorskip("encodec.msstftd")
    torch.manual_seed(0)
    theirs = encodec.MultiScaleSTFTDiscriminator(
        4, n_ffts=[128, 64], hop_lengths=[32, 16], win_lengths=[128, 64]
    ).eval()
    ours = STFTDiscriminator([128, 64], channels=4)
    copy_weights(theirs, ours)
    wav = torch.randn(2, 1, 2000)
    with torch.no_grad():
        for part, chain, window in zip(
            theirs.discriminators, ours.chains, ours.windows, strict=True
        ):
            # They don't pad, we do: put the padding there, and compare the rest.
            edge = window // 2
            padded = torch.nn.functional.pad(wav, (edge, edge))
            score, features = part(padded)
            mine, layers = chain(ours._maps(wav.squeeze(1), window))
            torch.testing.assert_close(mine, score.squeeze(1), rtol=1e-4, atol=1e-4)
            for layer, other in zip(layers, features, strict=True):
                torch.testing.assert_close(layer, other, rtol=1e-4, atol=1e-4)


def test_bands_cut_the_spectrum_and_discriminators_join():
    torch.manual_seed(0)
    judge = STFTDiscriminator([64], channels=2, bands=[0.0, 0.25, 1.0])
    maps = judge._maps(torch.randn(1, 400), 64)
    verdict = Discriminators([judge, PeriodDiscriminator([2], [4])])(
        torch.randn(1, 400)
    )
    assert len(verdict.scores) == len(verdict.features) == 3
    low, _ = judge.chains[0](maps[..., : round(0.25 * 33)])
    torch.manual_seed(0)
    judge = STFTDiscriminator([64], channels=2, bands=[0.0, 0.25, 1.0])
    assert low.shape[1] == verdict.scores[0].shape[1] == maps.shape[2]


def test_losses_are_speechbrains_per_discriminator():
    torch.manual_seed(0)
    real, fake = torch.randn(2, 3, 4, 10)
    hinge = HifiGAN.HingeDLoss()(fake, real)[0]
    assert torch.isclose(discriminator_loss([real], [fake]), hinge)
    square = HifiGAN.MSEDLoss()(fake, real)[0]
    found = discriminator_loss([real], [fake], kind="least_squares")
    assert torch.isclose(found, square)
    found = generator_loss([fake], kind="least_squares")
    assert torch.isclose(found, HifiGAN.MSEGLoss()(fake))
    # Theirs is not relative to the features' size.
    theirs = HifiGAN.MelganFeatureLoss()([[fake]], [[real]]) / real.abs().mean()
    assert torch.isclose(feature_matching_loss([[real]], [[fake]]), theirs)


def test_log_mel_is_speechbrains():
    torch.manual_seed(0)
    # Silent at both ends, where the two pad differently; loud, for the floor.
    pair = torch.nn.functional.pad(100 * torch.randn(2, 1, 8000), (1024, 1024))
    theirs = HifiGAN.L1SpecLoss(16000, 256, 1024, 80, 1024, 513, 0.0, 8000.0)
    ours = SpectralLoss(16000, [1024], ["log_mel"], n_mels=80)
    value = ours(pair[0], pair[1])["log_mel"]
    assert float(value) == pytest.approx(float(theirs(pair[0], pair[1])), rel=2e-3)
