"""Runs: expand(deduplicate(x)) is x, and each step is what a loop over frames gives."""

from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechbrain_dsu.tokens.runs import deduplicate, expand
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths


@st.composite
def batches(draw):
    """Few values, so that runs are common; garbage behind each item's end."""
    batch, frames = draw(st.integers(0, 4)), draw(st.integers(0, 9))
    shape = (batch, frames, *draw(st.sampled_from([(), (1,), (2,)])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    dtype = draw(st.sampled_from([torch.int64, torch.int32, torch.int16]))
    codes = torch.randint(-1, 2, shape, generator=generator).to(dtype)
    counts = torch.randint(0, frames + 1, (batch,), generator=generator)
    return codes, counts


@given(batches())
def test_matches_a_loop_over_frames(batch):
    codes, counts = batch
    before = codes.clone()
    runs = deduplicate(codes, counts / max(codes.shape[1], 1))
    assert torch.equal(codes, before)
    n_runs = absolute_lengths(runs.lens, runs.units.shape[1]).tolist()
    for i, item in enumerate(codes):
        groups = [(k, len(list(g))) for k, g in groupby(item[: counts[i]].tolist())]
        n = n_runs[i]
        assert runs.units[i, :n].tolist() == [k for k, _ in groups]
        assert runs.durations[i, :n].tolist() == [d for _, d in groups]
        assert not runs.units[i, n:].any() and not runs.durations[i, n:].any()
    assert runs.units.shape[1] == max(n_runs, default=0)


@given(batches())
def test_expanding_gives_back_the_valid_frames(batch):
    codes, counts = batch
    back, lens = expand(*deduplicate(codes, counts / max(codes.shape[1], 1)))
    assert back.dtype == torch.int64
    assert torch.equal(absolute_lengths(lens, back.shape[1]), counts)
    assert back.shape[1] == max(counts.tolist(), default=0)
    for i, n in enumerate(counts.tolist()):
        assert torch.equal(back[i, :n], codes[i, :n].long())
        assert not back[i, n:].any()


@given(batches(), st.integers(0, 99))
def test_expand_matches_a_loop_and_drops_empty_runs(batch, seed):
    units, counts = batch
    generator = torch.Generator().manual_seed(seed)
    durations = torch.randint(0, 4, units.shape[:2], generator=generator)
    codes, lens = expand(units, durations, counts / max(units.shape[1], 1))
    frames = absolute_lengths(lens, codes.shape[1]).tolist()
    for i, n in enumerate(counts.tolist()):
        pairs = zip(units[i, :n].tolist(), durations[i, :n].tolist(), strict=True)
        assert codes[i, : frames[i]].tolist() == [u for u, d in pairs for _ in range(d)]


def test_an_item_does_not_depend_on_its_batch():
    codes = torch.tensor([[5, 5, 5, 1], [5, 5, 2, 2], [2, 2, 2, 2]])
    together = deduplicate(codes)
    for i, n in enumerate(absolute_lengths(together.lens, 2).tolist()):
        alone = deduplicate(codes[i : i + 1])
        assert torch.equal(alone.units[0], together.units[i, :n])
        assert torch.equal(alone.durations[0], together.durations[i, :n])
    # A unit that goes on in the next item starts a new run there.
    assert together.durations.tolist() == [[3, 1], [2, 2], [4, 0]]


def test_strided_codes_are_read_right():
    codes = torch.tensor([[1, 1, 3], [2, 2, 3]]).T
    assert deduplicate(codes).units.tolist() == [[1, 2], [1, 2], [3, 0]]


def test_mistakes_are_named():
    with pytest.raises(DsuError, match="float32"):
        deduplicate(torch.zeros(1, 2))
    with pytest.raises(DsuError, match=r"\[3\]"):
        deduplicate(torch.zeros(3, dtype=torch.int64))
    units = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(DsuError, match=r"\[2, 1\]"):
        expand(units, units[:, :1])
    with pytest.raises(DsuError, match="duration -1 of item 1, run 0"):
        expand(units, torch.tensor([[1, 1], [-1, 2]]))
    codes, _ = expand(units, torch.tensor([[1, 1], [1, -2]]), torch.tensor([1.0, 0.5]))
    assert codes.shape == (2, 2)
