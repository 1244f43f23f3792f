"""Codebook monitor and token edits."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.evaluation.health import CodebookMonitor
from speechbrain_dsu.nnet.quantizers.base import Quantized
from speechbrain_dsu.nnet.quantizers.finite import FSQ
from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
from speechbrain_dsu.tokens.edits import (
    bit_channel,
    from_bits,
    from_gray,
    residue_table,
    residues,
    to_bits,
    to_gray,
    with_residues,
)
from speechbrain_dsu.utils.errors import DsuError


def test_health_of_what_was_counted():
    monitor = CodebookMonitor([4, 4], names=["semantic", "acoustic"])
    codes = torch.tensor([0, 1, 2, 3] * 4 + [0] * 16).view(2, 16, 1).repeat(1, 1, 2)
    codes[..., 1] = 2
    usage = tuple(
        torch.bincount(column.flatten(), minlength=4) for column in codes.unbind(2)
    )
    monitor.update(Quantized(codes, codes.float(), {}, usage))
    first, second = monitor.report()
    assert (first.name, first.frames, first.dead, first.used) == (
        "semantic",
        32,
        0,
        1.0,
    )
    shares = torch.tensor([20, 4, 4, 4]) / 32
    expected = torch.special.entr(shares).sum().exp().item()
    assert first.perplexity == pytest.approx(expected, rel=1e-5)
    assert second.perplexity == 1 and second.dead == 3
    assert monitor.alarms() == [
        "acoustic: collapsed, perplexity 1.0 of 4, 3 of 4 ids dead"
    ]
    monitor.reset()
    assert monitor.report()[0].frames == 0 and not monitor.alarms()


def test_a_few_frames_raise_no_alarm():
    monitor = CodebookMonitor([1024])
    monitor.count([torch.bincount(torch.zeros(50).long(), minlength=1024)])
    assert not monitor.alarms()
    with pytest.raises(DsuError, match="usage 0"):
        monitor.count([torch.zeros(7)])


def test_error_falls_codebook_by_codebook_over_valid_frames():
    quantizer = UniformBins(3, 64, -4.0, 4.0)
    latents = torch.randn(2, 40, 3, generator=torch.manual_seed(0)) - 1
    lens = torch.tensor([1.0, 0.5])
    latents[1, 20:] = 1e6
    monitor = CodebookMonitor(quantizer.codebook_sizes)
    monitor.update(quantizer(latents, lens), latents, quantizer, lens)
    errors = [health.error for health in monitor.report()]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01
    valid = torch.cat([latents[0], latents[1, :20]])[None]
    decoded = quantizer.decode(quantizer.encode(valid, 2))
    expected = (decoded - valid).square().sum() / valid.square().sum()
    assert errors[1] == pytest.approx(expected.item(), rel=1e-5)
    assert monitor.stats()["error 1"] == errors[1]


def test_one_line_per_epoch_names_the_codebook(caplog):
    monitor = CodebookMonitor([4, 4])
    monitor.count([torch.tensor([9, 9, 9, 9]), torch.tensor([36, 0, 0, 0])])
    with caplog.at_level(logging.INFO):
        monitor.log(7)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "epoch 7" in record.message and "ALARM codebook 1" in record.message


@given(st.lists(st.integers(0, 2**20 - 1), min_size=1))
def test_bits_and_gray_codes_are_undone(values):
    codes = torch.tensor(values)
    assert torch.equal(from_bits(to_bits(codes, 20)), codes)
    assert torch.equal(from_gray(to_gray(codes)), codes)


def test_neighbours_differ_by_one_gray_bit():
    gray = to_bits(to_gray(torch.arange(256)), 8)
    assert ((gray[1:] != gray[:-1]).sum(1) == 1).all()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_what_arrives_is_a_code(levels, gray, flip):
    size = 1
    for count in levels:
        size *= count
    codes = torch.randint(size, (2, 20, 2))
    arrived = bit_channel(codes, levels, flip, gray)
    assert 0 <= arrived.min() and arrived.max() < size
    if flip == 0:
        assert torch.equal(arrived, codes)


def test_bits_flip_as_often_as_asked():
    codes = torch.randint(1024, (1, 20_000, 1), generator=torch.manual_seed(0))
    arrived = bit_channel(codes, [1024], 0.1, generator=torch.manual_seed(1))
    flipped = to_bits(codes ^ arrived, 10).float().mean().item()
    assert flipped == pytest.approx(0.1, abs=0.005)
    with pytest.raises(DsuError, match="outside 0 to 511"):
        bit_channel(codes, [512], 0.1)


def test_gray_levels_soften_a_flip():
    """The mean step of a channel of FSQ is smaller when digits are Gray-coded."""
    fsq = FSQ([8] * 4)
    codes = torch.randint(4096, (1, 5000, 1), generator=torch.manual_seed(0))

    def distance(gray):
        arrived = bit_channel(codes, [8] * 4, 0.02, gray, torch.manual_seed(1))
        return (fsq.decode(arrived) - fsq.decode(codes)).abs().mean()

    plain, gray = distance(False), distance(True)
    assert 0 < gray < plain * 1.05


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_residues_are_written_to_the_nearest_code(modulus, seed):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(23, 3, generator=generator)
    codes = torch.randint(23, (2, 30), generator=generator)
    wanted = torch.randint(-1, modulus, (2, 30), generator=generator)
    before = codes.clone()
    marked = with_residues(codes, wanted, centers, modulus)
    written = wanted >= 0
    assert torch.equal(residues(marked, modulus)[written], wanted[written])
    assert torch.equal(marked[~written], codes[~written])
    assert torch.equal(codes, before)
    for old, new, digit in zip(
        codes[written], marked[written], wanted[written], strict=True
    ):
        allowed = torch.arange(int(digit), 23, modulus)
        distances = (centers[allowed] - centers[old]).square().sum(1)
        step = (centers[new] - centers[old]).square().sum()
        assert step <= distances.min() + 1e-6


def test_residues_near_what_was_quantized():
    centers = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    latents = torch.tensor([[[1.4], [1.4]]])
    codes, wanted = torch.tensor([[1, 1]]), torch.tensor([[0, 1]])
    marked = with_residues(codes, wanted, centers, latents=latents)
    assert marked.tolist() == [[2, 1]]
    assert residue_table(centers)[1].tolist() == [0, 1]
    with pytest.raises(DsuError, match="-1 to 1"):
        with_residues(codes, wanted + 1, centers)
