"""Losses of codecs against slow references, and what padding may not do to them."""

import math

import pytest
import torch
from torch import nn

from speechbrain_dsu.nnet.losses.adversarial import (
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)
from speechbrain_dsu.nnet.losses.balancer import LossBalancer
from speechbrain_dsu.nnet.losses.distillation import (
    LevelDistillation,
    cosine_distillation,
)
from speechbrain_dsu.nnet.losses.spectral import SpectralLoss
from speechbrain_dsu.nnet.losses.waveform import WaveformLoss
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.utils.errors import DsuError

TERMS = [
    "mel",
    "log_mel",
    "log_mel_square",
    "magnitude",
    "log_magnitude",
    "convergence",
    "complex",
]


def slow_terms(estimate, target, window, n_mels, floor, compression):
    """One resolution, frame by frame, by the definition of the Fourier transform."""
    from torchaudio.functional import melscale_fbanks

    hop = window // 4
    taper = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    taper = torch.tensor(taper, dtype=torch.float64)
    times = torch.arange(window, dtype=torch.float64)
    bins = torch.arange(window // 2 + 1, dtype=torch.float64)
    waves = torch.exp(-2j * math.pi * bins[:, None] * times / window)

    def spectra(wav):
        edge = torch.zeros(window // 2, dtype=torch.float64)
        padded = torch.cat([edge, wav.double(), edge])
        return torch.stack(
            [
                waves @ (taper * padded[t * hop : t * hop + window]).to(waves.dtype)
                for t in range(1 + len(wav) // hop)
            ]
        )

    filters = melscale_fbanks(
        window // 2 + 1, 0.0, 8000.0, n_mels, 16000, "slaney", "slaney"
    ).double()
    pair = [spectra(estimate), spectra(target)]
    sizes = [spectrum.abs() for spectrum in pair]
    mels = [size @ filters for size in sizes]
    logs = [(mel + floor).log() for mel in mels]
    bent = [
        s * (n + floor) ** (compression - 1) for s, n in zip(pair, sizes, strict=True)
    ]
    difference = torch.view_as_real(bent[0] - bent[1]).abs()
    return {
        "mel": (mels[0] - mels[1]).abs().mean(),
        "log_mel": (logs[0] - logs[1]).abs().mean(),
        "log_mel_square": (logs[0] - logs[1]).square().mean(),
        "magnitude": (sizes[0] - sizes[1]).abs().mean(),
        "log_magnitude": ((sizes[0] + floor).log() - (sizes[1] + floor).log())
        .abs()
        .mean(),
        "convergence": (sizes[0] - sizes[1]).norm() / sizes[1].norm(),
        "complex": difference.mean(),
    }


def test_spectral_terms_equal_a_slow_reference():
    torch.manual_seed(0)
    estimate, target = torch.randn(2, 700) * 0.3
    found = SpectralLoss(
        16000,
        [128, 64],
        TERMS,
        n_mels=[20, 10],
        scale_weights=[1.0, 3.0],
        compression=0.4,
        floor=1e-3,
    )(estimate[None], target[None])
    first = slow_terms(estimate, target, 128, 20, 1e-3, 0.4)
    second = slow_terms(estimate, target, 64, 10, 1e-3, 0.4)
    for name in TERMS:
        expected = 0.25 * first[name] + 0.75 * second[name]
        assert float(found[name]) == pytest.approx(float(expected), rel=1e-4), name


def test_no_loss_sees_what_lies_behind_an_item():
    torch.manual_seed(0)
    loss = SpectralLoss(16000, [64], TERMS, n_mels=10)
    estimate, target = torch.randn(2, 2, 512)
    lens = torch.tensor([1.0, 0.5])
    before = {**loss(estimate, target, lens), **WaveformLoss()(estimate, target, lens)}
    estimate[1, 256:], target[1, 256:] = 7.0, torch.randn(256)
    after = {**loss(estimate, target, lens), **WaveformLoss()(estimate, target, lens)}
    assert before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )
    # Means over frames: 33 of the first item, 17 of the second.
    alone = [
        float(loss(estimate[i : i + 1, :n], target[i : i + 1, :n])["log_mel"])
        for i, n in ((0, 512), (1, 256))
    ]
    expected = (33 * alone[0] + 17 * alone[1]) / 50
    assert float(after["log_mel"]) == pytest.approx(expected, rel=1e-5)


def test_a_silent_estimate_still_gets_a_gradient():
    """A clamp before the logarithm would give none, and the model stays silent."""
    estimate = torch.full((1, 256), 1e-9).requires_grad_()
    loss = SpectralLoss(16000, [64], ["log_mel"], n_mels=10)
    loss(estimate, torch.randn(1, 256))["log_mel"].backward()
    assert float(estimate.grad.abs().max()) > 1e-3


def test_spectral_refuses_what_makes_no_sense():
    with pytest.raises(DsuError, match="log_mel"):
        SpectralLoss(16000, [64], ["logmel"])
    with pytest.raises(DsuError, match="2 n_mels"):
        SpectralLoss(16000, [64], ["mel"], n_mels=[4, 4])
    with pytest.raises(DsuError, match="80 mel channels"):
        SpectralLoss(16000, [64], ["mel"], n_mels=80)


def test_adversarial_values():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.5]])
    # relu(1 - real) + relu(1 + fake), and (1 - real)^2 + fake^2
    assert float(discriminator_loss([real], [fake])) == 0.25 + 0.75
    square = discriminator_loss([real], [fake], kind="least_squares")
    assert float(square) == (1 + 0.25) / 2 + (9 + 0.25) / 2
    assert float(generator_loss([fake])) == 1.25
    assert float(generator_loss([fake], kind="least_squares")) == (16 + 0.25) / 2
    # Every discriminator counts the same, whatever its size.
    both = generator_loss([fake, torch.zeros(1, 100)])
    assert float(both) == 1.25 / 2
    half = torch.tensor([0.5])
    assert float(generator_loss([fake], half)) == 3.0
    with pytest.raises(DsuError, match="wasserstein"):
        generator_loss([fake], kind="wasserstein")


def test_feature_matching_is_relative_to_the_features():
    torch.manual_seed(0)
    real = [[torch.randn(2, 3, 8), torch.randn(2, 5, 4, 2)]]
    fake = [[layer + 0.1 * torch.randn_like(layer) for layer in real[0]]]
    slow = [
        float((a - b).abs().sum() / a.abs().sum())
        for a, b in zip(real[0], fake[0], strict=True)
    ]
    value = feature_matching_loss(real, fake)
    assert float(value) == pytest.approx(sum(slow) / 2, rel=1e-5)
    larger = [[100 * layer for layer in real[0]]], [[100 * layer for layer in fake[0]]]
    assert float(feature_matching_loss(*larger)) == pytest.approx(float(value))
    lens = torch.tensor([1.0, 0.5])
    masked = feature_matching_loss(real, fake, lens)
    fake[0][0][1, :, 4:] = 1e6
    assert torch.equal(feature_matching_loss(real, fake, lens), masked)


def test_balancer_equals_its_definition_over_steps():
    torch.manual_seed(0)
    weights, decay = {"a": 2.0, "b": 1.0, "late": 5.0}, 0.9
    balancer = LossBalancer(weights, total_norm=3.0, decay=decay)
    model = nn.Linear(4, 6)
    sums, totals = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)
    for step in range(4):
        inputs = torch.randn(2, 4)
        output = model(inputs)
        losses = {"a": 1e4 * output.square().sum(), "b": 1e-3 * output[:, 0].sum()}
        if step > 1:
            losses["late"] = output.abs().sum()
        model.zero_grad()
        balancer(losses, output).backward()
        total = sum(weights[name] for name in losses)
        pull = torch.zeros_like(output)
        for name in losses:
            value = model(inputs)
            again = {
                "a": lambda y: 1e4 * y.square().sum(),
                "b": lambda y: 1e-3 * y[:, 0].sum(),
                "late": lambda y: y.abs().sum(),
            }[name](value)
            (gradient,) = torch.autograd.grad(again, value)
            sums[name] = decay * sums[name] + float(gradient.norm(dim=1).mean())
            totals[name] = decay * totals[name] + 1
            pull += 3 * weights[name] / total * gradient * totals[name] / sums[name]
        expected = torch.autograd.grad(model(inputs), model.weight, pull)[0]
        torch.testing.assert_close(model.weight.grad, expected)


def test_balanced_shares_do_not_depend_on_the_losses_scale():
    balancer = LossBalancer({"a": 3.0, "b": 1.0})
    output = torch.randn(2, 8, requires_grad=True)
    big = 1e6 * output[:, :4].sum()
    balancer({"a": big, "b": 1e-6 * output[:, 4:].sum()}, output).backward()
    norms = output.grad[:, :4].norm(), output.grad[:, 4:].norm()
    assert float(norms[0] / norms[1]) == pytest.approx(3.0, rel=1e-4)
    value = balancer.eval()({"a": big}, output)
    assert float(value.detach()) == pytest.approx(float(big.detach()), rel=1e-4)
    with pytest.raises(DsuError, match="weights for a, b; got c"):
        balancer({"c": big}, output)


def slow_cosine(student, teacher, counts, axis):
    """SpeechTokenizer's losses with loops."""
    values = []
    for one, other, count in zip(student, teacher, counts, strict=True):
        one, other = one[:count].double(), other[:count].double()
        if axis == "dimension":
            one, other = one.t(), other.t()
        for left, right in zip(one, other, strict=True):
            cosine = float(left @ right / (left.norm() * right.norm()))
            values.append(-math.log(1 / (1 + math.exp(-cosine))))
    return sum(values) / len(values)


@pytest.mark.parametrize("axis", ["dimension", "time"])
def test_distillation_equals_a_slow_reference(axis):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 7, 5)
    lens = torch.tensor([1.0, 4 / 7])
    found = cosine_distillation(student, teacher, lens, axis)
    assert float(found) == pytest.approx(
        slow_cosine(student, teacher, [7, 4], axis), rel=1e-5
    )


def test_the_two_axes_differ_as_they_should():
    """A channel that is constant over frames is right on one axis only."""
    teacher = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    scaled = teacher * torch.tensor([1.0, -1.0])  # one channel turned round
    best, worst = math.log1p(math.exp(-1)), math.log1p(math.e)
    value = float(cosine_distillation(scaled, teacher, axis="dimension"))
    assert value == pytest.approx((best + worst) / 2)
    louder = teacher * torch.tensor([[[1.0], [5.0]]])  # one frame louder
    assert float(cosine_distillation(louder, teacher, axis="time")) == pytest.approx(
        best
    )


def test_distillation_teaches_the_chosen_levels_only():
    torch.manual_seed(0)
    quantizer = ResidualVQ(3, size=8, dim=4, update="gradient")
    latents = torch.randn(1, 6, 4, requires_grad=True)
    codes = quantizer(latents).codes
    distil = LevelDistillation(dim=4, teacher_dim=5, levels=2)
    teacher = torch.randn(1, 6, 5, requires_grad=True)
    loss = distil(quantizer, latents, codes, teacher)["distillation"]
    # The value is that of the first two codebooks, projected.
    chosen = distil.project(quantizer.decode(codes[..., :2]))
    assert float(loss) == pytest.approx(float(cosine_distillation(chosen, teacher)))
    loss.backward()
    assert teacher.grad is None and float(latents.grad.abs().sum()) > 0
    touched = [level.vectors.grad is not None for level in quantizer.levels]
    assert touched == [True, True, False]
    with pytest.raises(DsuError, match="frame rates"):
        distil(quantizer, latents, codes, torch.randn(1, 12, 5))
