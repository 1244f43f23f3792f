"""Laws of entropies and rates, and a slow reference."""

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.evaluation.rates import (
    code_counts,
    conditional_entropy,
    entropy,
    rates,
)
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError


def batch(items, sizes, frame_rate=50.0):
    codes = [torch.tensor(item, dtype=torch.int64) for item in items]
    codes = [item.view(-1, len(sizes)) for item in codes]
    return Tokens.from_list(codes, frame_rate, sizes, "-")


def draw(seed, sizes, lengths):
    generator = torch.Generator().manual_seed(seed)
    items = [
        torch.stack(
            [torch.randint(size, (n,), generator=generator) for size in sizes], 1
        )
        for n in lengths
    ]
    return Tokens.from_list(items, 50.0, sizes, "-")


@pytest.mark.parametrize("size", [1, 2, 16, 1000])
@pytest.mark.parametrize("correction", ["plug-in", "miller-madow"])
def test_uniform_counts_have_log2_of_the_size(size, correction):
    counts = torch.full((size,), 7)
    assert entropy(counts, correction) == pytest.approx(math.log2(size), abs=1e-12)


def test_a_uniform_source_comes_near_log2_of_the_size():
    found = rates(draw(0, (32,), [40000]))
    assert found.entropies[0] == pytest.approx(5, abs=0.01)
    # Ids drawn one by one tell nothing about the next.
    assert found.conditional_bitrate == pytest.approx(250, abs=2.5)
    assert found.perplexities[0] == pytest.approx(32, abs=0.2)
    assert found.usage == (1.0,)


def test_a_constant_source_costs_nothing():
    found = rates(batch([[3] * 20], (8,)))
    assert found.entropy_bitrate == found.conditional_bitrate == 0
    assert found.perplexities == (1.0,) and found.usage == (1 / 8,)
    assert found.runs_per_second == pytest.approx(50 / 20)


@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_rates_against_counting_by_hand(seed, sizes, lengths):
    tokens = draw(seed, tuple(sizes), lengths)
    found = rates(tokens)
    assert found.frames == sum(lengths)
    for k, size in enumerate(sizes):
        ids, pairs = [], []
        for item in tokens.unpad():
            column = item[:, k].tolist()
            ids += column
            pairs += zip(column, column[1:], strict=False)
        assert found.usage[k] == pytest.approx(len(set(ids)) / size)
        assert found.entropies[k] == pytest.approx(shannon(ids), abs=1e-9)
        given_before = shannon(pairs) - shannon([before for before, _ in pairs])
        assert conditional_entropy(tokens)[k] == pytest.approx(given_before, abs=1e-9)
        corrected = entropy(code_counts(tokens)[k], "miller-madow")
        assert found.entropies[k] <= corrected + 1e-12
        assert corrected <= math.log2(size) + 1e-12
    assert 0 <= found.entropy_bitrate <= found.nominal_bitrate + 1e-9
    assert found.runs_per_second <= found.tokens_per_second + 1e-9


def shannon(values):
    counts = Counter(values)
    return -sum(n / len(values) * math.log2(n / len(values)) for n in counts.values())


def test_padding_counts_nowhere():
    alone = rates(batch([[1, 2, 3, 1]], (5,)))
    item = torch.tensor([1, 2, 3, 1, 0, 0, 0, 0]).view(1, 8, 1)
    padded = Tokens(item, torch.tensor([0.5]), 50.0, (5,), "-")
    assert rates(padded) == alone


def test_pairs_do_not_reach_over_the_end_of_an_item():
    # 0 is followed by 1 within items; over the ends 1 would be followed by 0.
    tokens = batch([[0, 1]] * 9, (2,))
    assert conditional_entropy(tokens) == (0.0,)
    joined = batch([[0, 0, 1] * 9], (2,))
    assert conditional_entropy(joined)[0] > 0.5


def test_miller_madow_is_nearer_to_the_truth():
    plain, corrected = [], []
    for seed in range(30):
        counts = code_counts(draw(seed, (64,), [200]))[0]
        plain.append(entropy(counts))
        corrected.append(entropy(counts, "miller-madow"))
    plain, corrected = sum(plain) / 30, sum(corrected) / 30
    assert plain < corrected < 6
    assert 6 - corrected < (6 - plain) / 3


def test_nothing_to_count():
    found = rates(batch([[]], (4, 4)))
    assert found.frames == 0 and found.entropy_bitrate == 0 and found.usage == (0, 0)
    assert found.nominal_bitrate == 200


def test_same_tokens_same_json():
    tokens = draw(1, (4, 9), [10, 3])
    first = json.dumps(rates(tokens).as_dict())
    assert first == json.dumps(rates(tokens).as_dict())
    assert json.loads(first)["frames"] == 13


@pytest.mark.parametrize(
    "counts, correction, words",
    [([1, -1], "plug-in", "not negative"), ([1, 1], "jackknife", "jackknife")],
)
def test_bad_values_are_named(counts, correction, words):
    with pytest.raises(DsuError, match=words):
        entropy(torch.tensor(counts), correction)
