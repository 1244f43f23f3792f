"""Merged clusters and structural entropy against slow references."""

import math

import pytest
import torch

from speechbrain_dsu.nnet.quantizers.entropy import StructuralEntropy
from speechbrain_dsu.nnet.quantizers.entropy_graph import (
    minimise_entropy,
    similarity_graph,
    structural_entropy,
)
from speechbrain_dsu.nnet.quantizers.merging import MergedClusters, ward_labels
from speechbrain_dsu.utils.errors import DsuError


def points(count, dim=3, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def same_partition(one, other):
    return torch.equal(one[:, None] == one, other[:, None] == other)


@pytest.mark.parametrize("size", [1, 3, 12, 50])
def test_merges_are_those_of_scikit_learn(size):
    cluster = pytest.importorskip("sklearn.cluster")
    frames = points(50)
    theirs = cluster.AgglomerativeClustering(size).fit_predict(frames.double().numpy())
    assert same_partition(ward_labels(frames, size), torch.from_numpy(theirs))


def test_weights_are_repetitions():
    """A centre of weight n merges as n equal points do."""
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    frames, weights = points(20, seed=1), torch.randint(1, 5, (20,))
    repeated = frames.repeat_interleave(weights, dim=0).double().numpy()
    tree = hierarchy.linkage(repeated, "ward")
    theirs = hierarchy.fcluster(tree, 6, "maxclust")
    first = torch.cat([torch.zeros(1, dtype=torch.int64), weights.cumsum(0)[:-1]])
    theirs = torch.from_numpy(theirs)[first]
    assert same_partition(ward_labels(frames, 6, weights), theirs)


def test_units_are_those_of_the_nearest_centre():
    units = MergedClusters(size=5, fine=30, dim=3)
    with pytest.raises(DsuError, match="not fitted"):
        units.encode(torch.zeros(1, 1, 3))
    centers = points(30)
    units.fit(centers)
    latents = points(200, seed=2)[None]
    nearest = torch.cdist(latents[0], centers).argmin(1)
    assert torch.equal(units.encode(latents)[0, :, 0], ward_labels(centers, 5)[nearest])
    for code in range(5):
        members = centers[units.units == code]
        middle = torch.cdist(members.mean(0)[None], members).argmin()
        found = units.decode(torch.tensor([[[code]]]))[0, 0]
        torch.testing.assert_close(found, members[middle])


def entropy_by_loops(weights, labels):
    """The definition, node by node and cluster by cluster."""
    n, total, out = len(weights), float(weights.sum()), 0.0
    for cluster in set(labels.tolist()):
        inside = [i for i in range(n) if labels[i] == cluster]
        volume = sum(float(weights[i].sum()) for i in inside)
        cut = sum(
            float(weights[i, j]) for i in inside for j in range(n) if j not in inside
        )
        if cut:
            out -= cut / total * math.log2(volume / total)
        for i in inside:
            degree = float(weights[i].sum())
            if degree:
                out -= degree / total * math.log2(degree / volume)
    return out


def test_structural_entropy_by_hand():
    """Two squares with diagonals, joined by a thin edge: as clusters and in one."""
    weights = torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).fill_diagonal_(0)
    weights[3, 4] = weights[4, 3] = 0.25
    two = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    # Volumes 12.25 of 24.5 each, the cut is 0.25; degrees 3, 3, 3, 3.25.
    inner = 9 * math.log2(12.25 / 3) + 3.25 * math.log2(12.25 / 3.25)
    outer = 0.25 * math.log2(24.5 / 12.25)
    inner, outer = 2 * inner / 24.5, 2 * outer / 24.5
    assert structural_entropy(weights, two) == pytest.approx(inner + outer)
    one = torch.zeros(8, dtype=torch.int64)
    assert structural_entropy(weights, one) > structural_entropy(weights, two)
    assert torch.equal(minimise_entropy(weights), two)


@pytest.mark.parametrize("block", [1000, 10])
def test_merging_lowers_the_entropy_below_its_neighbours(block):
    frames = points(60, dim=4)
    weights = similarity_graph(frames, 5)
    labels = minimise_entropy(weights, block)
    best = structural_entropy(weights, labels)
    assert best == pytest.approx(entropy_by_loops(weights, labels))
    assert best < structural_entropy(weights, torch.arange(60))
    assert best < structural_entropy(weights, torch.zeros(60, dtype=torch.int64))
    # No further merge of two clusters would lower it.
    count = int(labels.max()) + 1
    for one in range(count):
        for other in range(one):
            merged = torch.where(labels == one, other, labels)
            merged = merged.unique(return_inverse=True)[1]
            assert structural_entropy(weights, merged) >= best - 1e-9


def test_a_new_frame_takes_the_cluster_of_least_growth():
    """Against inserting it into the graph and computing the entropy anew."""
    frames = points(40, dim=4)
    quantizer = StructuralEntropy(size=40, nodes=40, dim=4, neighbours=4)
    with pytest.raises(DsuError, match="not fitted"):
        quantizer.encode(torch.zeros(1, 1, 4))
    quantizer.fit(frames)
    weights = similarity_graph(frames, 4)
    new = points(15, dim=4, seed=7)
    codes = quantizer.encode(new[None])[0, :, 0]
    unit = torch.nn.functional.normalize(frames.double(), dim=1)
    for frame, code in zip(new, codes, strict=True):
        likeness = torch.nn.functional.normalize(frame.double(), dim=0) @ unit.t()
        values, places = likeness.topk(4)
        grown = torch.zeros(41, 41, dtype=torch.float64)
        grown[:40, :40] = weights
        grown[40, places] = grown[places, 40] = values.clamp(min=0)
        scores = [
            structural_entropy(grown, torch.cat([quantizer.cluster, choice[None]]))
            for choice in torch.arange(int(quantizer.found))
        ]
        assert scores[code] <= min(scores) + 1e-9


def test_too_few_codes_say_how_many_are_wanted():
    quantizer = StructuralEntropy(size=1, nodes=40, dim=4, neighbours=4)
    with pytest.raises(DsuError, match=r"clusters found: set size to \d+ or more"):
        quantizer.fit(points(40, dim=4))
