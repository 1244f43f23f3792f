"""Two ranks and one with the joined batch: growth, usage counts, online clusters."""

import pytest
import torch

from helpers.ranks import mine, on_two_ranks
from speechbrain_dsu.evaluation.health import CodebookMonitor
from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.growing import GrowingCodebook
from speechbrain_dsu.nnet.quantizers.online import OnlineClusters

DIM, STEPS = 4, 6
# Rank 1 holds no valid frame at all in the second batch.
LENS = [torch.tensor([1.0, 0.6, 0.3, 1.0]), torch.tensor([0.5, 1.0, 0.0, 0.0])]


def batches(dim=DIM):
    """Joined batches of four items; the frames move, so that codes die."""
    generator = torch.Generator().manual_seed(5)
    for step in range(STEPS):
        yield torch.randn(4, 10, dim, generator=generator) + step, LENS[step % 2]


def grown(rank):
    """Entries after each batch: some of it stops at max_new, some at the threshold."""
    book = GrowingCodebook(size=40, dim=DIM, threshold=2.5, max_new=4).train()
    counts = []
    for latents, lens in batches():
        book(latents[mine(rank)], lens[mine(rank)])
        counts.append(int(book.entries))
    return {"vectors": book.vectors.detach().clone(), "counts": torch.tensor(counts)}


def grown_directly(rank):
    """`grow` itself, with frames of unequal number and once with none on a rank."""
    book = GrowingCodebook(size=9, dim=DIM, threshold=1.0, max_new=5)
    frames = torch.randn(30, DIM, generator=torch.Generator().manual_seed(8))
    added = []
    for first, second in ((7, 30), (0, 20), (30, 30)):
        parts = frames[:first], frames[first:second]
        own = frames[:second] if rank is None else parts[rank]
        added.append(book.grow(own))
    return {"vectors": book.vectors.detach().clone(), "added": torch.tensor(added)}


def clustered(rank):
    # Ranks that were seeded differently must agree from the first step on.
    torch.manual_seed(rank or 0)
    clusters = OnlineClusters(
        layers=2, size=6, dim=DIM // 2, decay=0.7, revive_below=0.3
    ).train()
    for latents, lens in batches():
        clusters(latents[mine(rank)], lens[mine(rank)])
    return dict(clusters.state_dict())


def monitored(rank):
    """Counts and errors after `synchronise`."""
    torch.manual_seed(0)
    codebook = Codebook(8, DIM, kmeans_start=False).eval()
    monitor = CodebookMonitor(codebook.codebook_sizes)
    for latents, lens in batches():
        latents, lens = latents[mine(rank)], lens[mine(rank)]
        with torch.no_grad():
            monitor.update(codebook(latents, lens), latents, codebook, lens)
    monitor.synchronise()
    (health,) = monitor.report()
    values = [health.frames, health.dead, health.used, health.perplexity, health.error]
    return {"health": torch.tensor(values, dtype=torch.float64)}


CASES = {
    "growing": grown,
    "grow": grown_directly,
    "online": clustered,
    "monitor": monitored,
}


def work(rank, folder):
    """One rank: items 2 * rank and 2 * rank + 1 of every batch."""
    return {name: case(rank) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_two_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_find_what_one_finds_in_the_joined_batch(name, ranks):
    expected = CASES[name](None)
    for state in (ranks[0][name], ranks[1][name]):
        assert set(state) == set(expected)
        for key in expected:
            torch.testing.assert_close(state[key], expected[key], rtol=1e-5, atol=1e-5)


def test_the_cases_show_something():
    """Growth that meets both its limits, a code revived, frames on both ranks."""
    counts = grown(None)["counts"].tolist()
    steps = [b - a for a, b in zip([0, *counts], counts, strict=False)]
    assert 4 in steps and min(steps) < 4 and counts[-1] < 40
    added = grown_directly(None)["added"].tolist()
    assert sum(added) == 9 and added[0] == 5
    draws = [int(v) for k, v in clustered(None).items() if k.endswith("draws")]
    assert max(draws) > 0
    alone = [monitored(rank)["health"][0] for rank in (0, 1)]
    assert min(alone) > 0 and sum(alone) == monitored(None)["health"][0]
