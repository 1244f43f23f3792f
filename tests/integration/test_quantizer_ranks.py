"""Two ranks learn what one rank learns from the joined batch, and nobody waits."""

import copy

import pytest
import torch

from helpers.ranks import mine, on_two_ranks
from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.composed import Projected
from speechbrain_dsu.nnet.quantizers.composed_additive import AdditiveVQ
from speechbrain_dsu.nnet.quantizers.grouped import GroupedVQ
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.nnet.quantizers.statistics import paused

DIM, STEPS = 6, 6
QUANTIZERS = {
    "vq": lambda: Codebook(8, DIM, decay=0.8, revive_below=0.3),
    "gradient": lambda: Codebook(8, DIM, update="gradient", decay=0.8),
    "random start": lambda: Codebook(8, DIM, kmeans_start=False, decay=0.8),
    "sphere": lambda: Codebook(8, DIM, metric="sphere", decay=0.8),
    "rvq": lambda: ResidualVQ(3, 8, DIM, decay=0.8, revive_below=0.3),
    "factorised": lambda: Projected(Codebook(8, 3, decay=0.8), DIM),
    "grouped": lambda: GroupedVQ(2, 8, DIM, decay=0.8),
    "additive": lambda: AdditiveVQ(2, 8, DIM),
}


def batches():
    """Joined batches of four items; the frames move, so that codes die."""
    generator = torch.Generator().manual_seed(3)
    lens = [torch.tensor([1.0, 0.6, 0.3, 1.0]), torch.tensor([0.5, 1.0, 0.0, 0.0])]
    for step in range(STEPS):
        latents = torch.randn(4, 10, DIM, generator=generator) + step
        yield latents, lens[step % 2]


def build(name, rank=0):
    # Ranks that were seeded differently must agree from the first step on; layers
    # are synchronised by DistributedDataParallel, not by the quantizer.
    torch.manual_seed(rank if name != "factorised" else 0)
    return QUANTIZERS[name]().train()


def learned(quantizer):
    return {k: v for k, v in quantizer.state_dict().items() if "project" not in k}


def work(rank, folder):
    """One rank: items 2 * rank and 2 * rank + 1 of every batch."""
    states = {}
    for name in QUANTIZERS:
        quantizer = build(name, rank)
        for latents, lens in batches():
            quantizer(latents[mine(rank)], lens[mine(rank)])
        states[name] = learned(quantizer)
    return {**states, "hang": never_waits(rank)}


def never_waits(rank):
    """What may differ between ranks: depth, sizes, evaluation, surplus batches."""
    torch.manual_seed(rank)
    quantizer = ResidualVQ(3, 8, DIM, dropout=1.0, decay=0.5, revive_below=0.5)
    for step in range(4):
        frames = 30 if rank == 0 else 7 * step  # once none at all
        quantizer.train()(torch.randn(1, frames, DIM))
        if rank == 0:
            quantizer.eval()(torch.randn(1, 9, DIM))
    if rank == 1:
        with paused():
            quantizer.train()(torch.randn(2, 5, DIM))
        frozen = copy.deepcopy(quantizer).freeze().train()
        frozen(torch.randn(2, 5, DIM))
    return learned(quantizer)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_two_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_two_ranks_learn_what_one_learns_from_the_joined_batch(name, ranks):
    quantizer = build(name)
    for latents, lens in batches():
        quantizer(latents, lens)
    expected = learned(quantizer)
    for state in (ranks[0][name], ranks[1][name]):
        assert set(state) == set(expected)
        for key in expected:
            torch.testing.assert_close(state[key], expected[key], rtol=1e-5, atol=1e-5)
    draws = [value for key, value in expected.items() if key.endswith("draws")]
    starts = 0 if name == "random start" else 1
    if name in ("vq", "rvq"):
        assert max(draws) > starts, "no code was revived: the test shows too little"


def test_ranks_may_differ_in_what_they_hold_and_do(ranks):
    one, other = (states["hang"] for states in ranks)
    for key in one:
        torch.testing.assert_close(one[key], other[key])
