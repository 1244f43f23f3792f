"""Samplers have the distribution they name; loops and caps are found."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.decoders.repetition import (
    LoopDetector,
    distinct_ngrams,
    distinct_ratio,
)
from speechbrain_dsu.decoders.rules import LengthCap
from speechbrain_dsu.decoders.sampling import Greedy, Sampling
from speechbrain_dsu.utils.errors import DsuError

P = [0.4, 0.05, 0.3, 0.1, 0.15]


def by_hand(chances, temperature=1.0, top_k=None, top_p=None):
    """The definition, in plain numbers."""
    weights = [c ** (1 / temperature) for c in chances]
    weights = [w / sum(weights) for w in weights]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept = order[: top_k or len(order)]
    total = sum(weights[i] for i in kept)
    weights = [w / total if i in kept else 0.0 for i, w in enumerate(weights)]
    if top_p is not None:
        mass, kept = 0.0, []
        for i in order:
            if mass < top_p - 1e-9:
                kept.append(i)
            mass += weights[i]
        total = sum(weights[i] for i in kept)
        weights = [w / total if i in kept else 0.0 for i, w in enumerate(weights)]
    return torch.tensor(weights, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    temperature=st.floats(0.3, 3),
    top_k=st.none() | st.integers(1, 6),
    top_p=st.none() | st.floats(0.05, 1),
)
def test_what_is_drawn_from_is_the_definition(temperature, top_k, top_p):
    logits = torch.tensor(P, dtype=torch.float64).log() + 3
    found = Sampling(temperature, top_k, top_p).probabilities(logits)
    assert torch.allclose(found, by_hand(P, temperature, top_k, top_p), atol=1e-9)


def test_draws_have_that_distribution():
    sampler = Sampling(generator=torch.Generator().manual_seed(0))
    n = 100_000
    chances = torch.tensor(P, dtype=torch.float64)
    counts = sampler.draw(chances.expand(n, 5)).bincount(minlength=5)
    chi = ((counts - n * chances) ** 2 / (n * chances)).sum()
    assert chi < 18.5  # 4 degrees of freedom: exceeded once in a thousand


def test_an_id_without_mass_is_never_drawn():
    sampler, chances = Sampling(), torch.tensor([0, 0.3, 0, 0.7, 0]).double()

    def edges(shape, device):
        return torch.tensor([0.0, 1 - 1e-16]).double().expand(*shape)

    sampler.uniform = edges
    assert sampler.draw(chances.expand(2, 5)).tolist() == [1, 3]


def test_greedy_takes_the_likeliest_and_as_distribution_too():
    logits = torch.tensor([[[0.1, 0.9, 0.9]]])
    assert Greedy()(logits).item() == 1
    assert Greedy().probabilities(logits).tolist() == [[[0, 1, 0]]]


def test_generators_of_their_own_make_items_independent():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    logits = torch.randn(3, 2, 50)
    together = Sampling(generator=generators(1, 2, 3))
    first = together(logits)
    together.select(torch.tensor([2]))
    second = together(logits[2:])
    alone = Sampling(generator=generators(3))
    assert torch.equal(alone(logits[2:]), first[2:])
    assert torch.equal(alone(logits[2:]), second)
    with pytest.raises(DsuError, match="1 generators for a batch of 3"):
        alone(logits)


def slow_loop(ids, span, period):
    """Whether the last ``span`` ids repeat with some period."""
    for n in range(1, period + 1):
        tail = ids[-span:]
        if len(tail) == span and all(tail[i] == tail[i - n] for i in range(n, span)):
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(
    start=st.lists(st.integers(0, 2), max_size=6),
    loop=st.lists(st.integers(0, 2), min_size=1, max_size=4),
)
def test_loops_are_found_when_they_are_long_enough(start, loop):
    ids = (start + 8 * loop)[:20]
    detector = LoopDetector(span=8, period=3)
    for n in range(1, len(ids) + 1):
        found = bool(detector(torch.tensor([[ids[n - 1]]])))
        assert found == slow_loop(ids[:n], 8, 3)


def test_loops_belong_to_items():
    detector = LoopDetector(span=4, period=1)
    for step in range(3):
        detector(torch.tensor([[7, 1], [step, 1]]))
    detector.select(torch.tensor([1, 0]))
    assert detector(torch.tensor([[9, 1], [7, 1]])).tolist() == [False, True]


def test_ratios_of_different_sequences():
    a, b = torch.tensor([1, 2]), torch.tensor([[1], [2]])
    assert distinct_ratio([a, a, b, a + 1]) == 3 / 4
    assert distinct_ngrams(torch.tensor([1, 1, 1, 1]), 2) == 1 / 3
    with pytest.raises(DsuError, match="no sequences"):
        distinct_ratio([])


def test_a_cap_follows_the_prior_and_never_passes_its_bound():
    cap = LengthCap(lambda counts: counts**2, slack=1.5, at_least=4, at_most=50)
    assert cap(torch.tensor([1, 4, 100])).tolist() == [4, 24, 50]
    broken = LengthCap(lambda counts: counts * math.inf, at_most=9)
    assert broken(torch.tensor([1])).tolist() == [9]


@pytest.mark.parametrize(
    "options, named",
    [
        ({"temperature": 0}, "Greedy"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_settings_out_of_range_are_named(options, named):
    with pytest.raises(DsuError, match=named):
        Sampling(**options)
