"""Relative lengths come back as they went in; masks agree with counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    pad_stack,
    relative_lengths,
)


@given(st.integers(1, 10**9), st.data())
def test_lengths_survive_the_way_there_and_back(size, data):
    counts = data.draw(st.lists(st.integers(0, size), min_size=1, max_size=8))
    counts = torch.tensor(counts)
    assert torch.equal(absolute_lengths(relative_lengths(counts, size), size), counts)


@given(st.integers(1, 500_000), st.data())
def test_speechbrains_own_float32_lengths_are_read_exactly(size, data):
    count = data.draw(st.integers(0, size))
    lens = torch.tensor([count / size], dtype=torch.float32)
    assert absolute_lengths(lens, size).item() == count


def test_no_lengths_means_full_items():
    assert absolute_lengths(None, 7, batch=2).tolist() == [7, 7]


@pytest.mark.parametrize("bad", [[-0.1], [1.5], [float("nan")], [[1.0]]])
def test_impossible_lengths_are_refused_with_their_value(bad):
    with pytest.raises(DsuError, match=r"fractions in \[0, 1\]"):
        absolute_lengths(torch.tensor(bad), 10)


def test_mask_against_a_loop():
    counts = torch.tensor([0, 3, 5])
    mask = length_mask(counts, 5)
    slow = [[step < count for step in range(5)] for count in counts.tolist()]
    assert mask.tolist() == slow


def test_pad_stack_keeps_items_and_pads_with_zeros():
    items = [torch.randn(3, 2), torch.randn(0, 2), torch.randn(5, 2)]
    padded, counts = pad_stack(items)
    assert counts.tolist() == [3, 0, 5]
    for row, item in zip(padded, items, strict=True):
        assert torch.equal(row[: len(item)], item)
        assert not row[len(item) :].any()
