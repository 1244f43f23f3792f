"""The nearest centre, whatever the sizes, the blocks and the settings of products."""

import pytest
import torch

from speechbrain_dsu.utils import nearest
from speechbrain_dsu.utils.nearest import nearest_centers


def slow_nearest(frames, centers):
    """In float64, without any product."""
    differences = frames.double()[:, None] - centers.double()
    squares = differences.square().sum(2)
    return squares.argmin(1), squares.amin(1)


# Around whole groups of 64 scores, one group, and less than one.
@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 127, 128, 500])
@pytest.mark.parametrize("dim", [3, 256])
@pytest.mark.parametrize("exact", [True, False])
def test_groups_of_scores_hide_no_center(size, dim, exact):
    generator = torch.Generator().manual_seed(size)
    centers = torch.randn(size, dim, generator=generator)
    frames = torch.randn(90, dim, generator=generator)
    # Every centre wins at least once.
    frames = torch.cat([frames, centers])
    ids, distances = nearest_centers(frames, centers, exact=exact)
    expected, squared = slow_nearest(frames, centers)
    assert torch.equal(ids, expected)
    torch.testing.assert_close(distances.double(), squared, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("size", [65, 1000])
@pytest.mark.parametrize("exact", [True, False])
def test_the_first_of_equal_centers_counts(size, exact):
    """Also where the equal ones lie in one group, and in different ones."""
    centers = torch.full((size, 4), 9.0)
    for equal in ([3, 5], [3, size - 1], [size - 2, size - 1], [0, 63, 64]):
        table = centers.clone()
        table[equal] = 1.0
        ids, _ = nearest_centers(torch.ones(70, 4), table, exact=exact)
        assert ids.unique().tolist() == [equal[0]]


@pytest.mark.parametrize("dim", [8, 256])
def test_blocks_change_nothing(dim, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(100, dim, generator=generator)
    frames = torch.randn(700, dim, generator=generator)
    # Between two centres: the order is decided in float64.
    frames[:100] = (centers + centers.roll(1, 0)) / 2
    whole, _ = nearest_centers(frames, centers)
    monkeypatch.setattr(nearest, "_CPU_ROWS", 192)
    monkeypatch.setattr(nearest, "_CPU_SCORES", 1)
    monkeypatch.setattr(nearest, "_CPU_SCORES_WIDE", 1)
    parts, _ = nearest_centers(frames, centers)
    single = torch.cat([nearest_centers(frame[None], centers)[0] for frame in frames])
    assert torch.equal(whole, parts) and torch.equal(whole, single)


def test_settings_of_a_gpu_cost_a_cpu_nothing():
    """Some packages allow TF32 on import; products of a CPU stay what they are."""
    device = torch.device("cpu")
    full, before = nearest._rounding(device), torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert nearest._rounding(device) == full
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_reduced_products_of_a_cpu_widen_the_check():
    device, before = torch.device("cpu"), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    full = nearest._rounding(device)
    torch.set_float32_matmul_precision("medium")
    try:
        assert nearest._rounding(device) > 100 * full
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_frames():
    ids, distances = nearest_centers(torch.zeros(0, 2), torch.zeros(3, 2))
    assert ids.shape == distances.shape == (0,)
