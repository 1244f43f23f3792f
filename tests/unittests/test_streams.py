"""The token record: what goes in comes out, and wrong ids are named."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError


def make(lengths, sizes=(7, 3)):
    generator = torch.Generator().manual_seed(0)
    items = [
        torch.stack([torch.randint(s, (n,), generator=generator) for s in sizes], dim=1)
        for n in lengths
    ]
    return items, Tokens.from_list(items, 50.0, sizes, "f")


@given(st.lists(st.integers(0, 40), max_size=6))
def test_unpad_undoes_from_list(lengths):
    items, tokens = make(lengths)
    assert len(tokens) == len(items)
    assert all(map(torch.equal, tokens.unpad(), items))
    assert all(
        torch.equal(one.codes[0], item) for one, item in zip(tokens, items, strict=True)
    )


def test_mask_counts_and_bitrate_agree():
    _, tokens = make([4, 9, 0])
    assert tokens.mask.sum(1).tolist() == tokens.counts.tolist() == [4, 9, 0]
    assert tokens.bitrate == 50 * (math.log2(7) + math.log2(3))
    assert tokens.codebooks(1).bitrate == 50 * math.log2(7)


@pytest.mark.parametrize("bad", [-1, 3])
def test_an_id_out_of_range_names_codebook_and_range(bad):
    codes = torch.zeros(1, 4, 2, dtype=torch.int64)
    codes[0, 2, 1] = bad
    with pytest.raises(DsuError, match=r"codebook 1 .* 0 to 2"):
        Tokens(codes, torch.ones(1), 50.0, (7, 3), "f")


def test_shapes_that_disagree_are_refused():
    codes = torch.zeros(2, 4, 2, dtype=torch.int64)
    with pytest.raises(DsuError, match="2 codebooks, sizes name 1"):
        Tokens(codes, torch.ones(2), 50.0, (7,), "f")
    with pytest.raises(DsuError, match="lengths"):
        Tokens(codes, torch.ones(3), 50.0, (7, 3), "f")
    with pytest.raises(DsuError, match="int64"):
        Tokens(codes.float(), torch.ones(2), 50.0, (7, 3), "f")
    with pytest.raises(DsuError, match="3 of 2"):
        Tokens(codes, torch.ones(2), 50.0, (7, 3), "f").codebooks(3)
