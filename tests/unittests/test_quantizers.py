"""Laws of the quantizers: bins against their definition, k-means against a loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.nnet.quantizers.base import count_codes
from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
from speechbrain_dsu.utils.errors import DsuError


def kmeans(size=37, dim=5, groups=1, seed=0):
    quantizer = KMeans(size, dim, groups)
    generator = torch.Generator().manual_seed(seed)
    quantizer.set_centers(torch.randn(groups, size, dim, generator=generator))
    return quantizer


QUANTIZERS = {
    "bins": lambda: UniformBins(10, 16, -3.0, 3.0),
    "k-means": lambda: kmeans(dim=10),
    "grouped k-means": lambda: kmeans(dim=5, groups=2),
}


@pytest.fixture(params=QUANTIZERS)
def quantizer(request):
    return QUANTIZERS[request.param]()


def test_encoding_what_was_decoded_changes_nothing(quantizer):
    latents = torch.randn(2, 30, 10)
    codes = quantizer.encode(latents)
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_forward_agrees_with_encode_decode_and_counts_valid_frames(quantizer):
    latents = torch.randn(2, 30, 10)
    before = latents.clone()
    result = quantizer(latents, torch.tensor([1.0, 0.5]))
    assert torch.equal(result.codes, quantizer.encode(latents))
    assert torch.equal(result.quantized, quantizer.decode(result.codes))
    assert all(counts.sum() == 45 for counts in result.usage)
    assert [len(counts) for counts in result.usage] == list(quantizer.codebook_sizes)
    assert torch.equal(latents, before)


def test_codes_do_not_depend_on_batch_order(quantizer):
    latents = torch.randn(4, 30, 10)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(
        quantizer.encode(latents[order]), quantizer.encode(latents)[order]
    )


def test_autocast_changes_no_code(quantizer):
    latents = torch.randn(2, 200, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer.encode(latents)
    assert torch.equal(cast, quantizer.encode(latents))


def test_fewer_codebooks_are_the_first_ones_in_both_modes(quantizer):
    latents = torch.randn(1, 20, 10)
    full = quantizer.encode(latents)
    for mode in (True, False):
        quantizer.train(mode)
        found = quantizer(latents, n_codebooks=1)
        assert torch.equal(found.codes, full[..., :1])
        assert found.quantized.shape == latents.shape
    with pytest.raises(DsuError, match="n_codebooks=99"):
        quantizer.encode(latents, n_codebooks=99)


def test_wrong_dimension_is_named(quantizer):
    with pytest.raises(DsuError, match=r"\[batch, frames, 10\], got \[1, 2, 3\]"):
        quantizer.encode(torch.zeros(1, 2, 3))


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40))
def test_bins_err_by_half_a_bin_at_most(values):
    bins = UniformBins(1, 16, -3.0, 3.0)
    x = torch.tensor(values).view(1, -1, 1)
    assert ((bins.decode(bins.encode(x)) - x).abs() <= bins.width / 2 + 1e-6).all()


def test_bins_clip_what_lies_outside():
    bins = UniformBins(1, 4, 0.0, 4.0)
    codes = bins.encode(torch.tensor([[[-1e9], [1e9]]]))
    assert codes.flatten().tolist() == [0, 3]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(0, 2**31))
def test_nearest_centre_by_brute_force(size, seed):
    quantizer = kmeans(size=size, dim=3, seed=seed)
    latents = torch.randn(1, 25, 3, generator=torch.Generator().manual_seed(seed + 1))
    codes = quantizer.encode(latents)
    for frame, code in zip(latents[0].double(), codes[0, :, 0], strict=True):
        distances = (quantizer.centers[0].double() - frame).square().sum(1)
        assert distances[code] <= distances.min() + 1e-12


def test_groups_are_quantizers_side_by_side():
    both = kmeans(dim=5, groups=2)
    latents = torch.randn(2, 9, 10)
    for group in (0, 1):
        one = KMeans(37, 5)
        one.set_centers(both.centers[group : group + 1])
        part = latents[..., 5 * group : 5 * group + 5]
        assert torch.equal(one.encode(part)[..., 0], both.encode(latents)[..., group])


def test_centres_are_buffers_and_wrong_ones_are_refused():
    quantizer = KMeans(4, 2)
    assert not quantizer.is_fitted and "centers" in quantizer.state_dict()
    with pytest.raises(DsuError, match=r"\[groups, size, dim\] = \[1, 4, 2\]"):
        quantizer.set_centers(torch.zeros(4, 2))
    with pytest.raises(DsuError, match="finite"):
        quantizer.set_centers(torch.full((1, 4, 2), torch.nan))
    with pytest.raises(DsuError, match="not fitted"):
        quantizer.encode(torch.zeros(1, 1, 2))


def test_count_codes_against_a_loop():
    codes = torch.randint(0, 5, (3, 8, 2))
    lens = torch.tensor([1.0, 0.5, 0.0])
    for k, counts in enumerate(count_codes(codes, [5, 5], lens)):
        slow = [0] * 5
        for item, n in zip(codes.tolist(), (8, 4, 0), strict=True):
            for frame in item[:n]:
                slow[frame[k]] += 1
        assert counts.tolist() == slow


def test_impossible_bins_are_refused():
    with pytest.raises(DsuError, match="levels=1"):
        UniformBins(1, 1, 0.0, 1.0)
    with pytest.raises(DsuError, match="low < high"):
        UniformBins(1, 4, 1.0, 1.0)
