"""Transport, growing, labelled and online codebooks: what is special in each."""

import pytest
import torch

from speechbrain_dsu.nnet.quantizers.growing import GrowingCodebook
from speechbrain_dsu.nnet.quantizers.labelled import LabelledCodebook, sharpen
from speechbrain_dsu.nnet.quantizers.online import OnlineClusters
from speechbrain_dsu.nnet.quantizers.transport import (
    TransportCodebook,
    sinkhorn,
    transport_cost,
)
from speechbrain_dsu.utils.errors import DsuError


def test_the_plan_has_both_marginals_and_is_the_best_of_its_kind():
    cost = torch.rand(7, 5, generator=torch.manual_seed(0)).double()
    source = torch.rand(7, generator=torch.manual_seed(1)).double().softmax(0)
    target = torch.rand(5, generator=torch.manual_seed(2)).double().softmax(0)
    plan, _ = sinkhorn(cost, source, target, 0.1, 500)
    torch.testing.assert_close(plan.sum(1), source)
    torch.testing.assert_close(plan.sum(0), target)

    def value(plan):
        return (plan * cost).sum() - 0.1 * torch.special.entr(plan).sum()

    # Any move along a cycle keeps the marginals and must not be better.
    for i, j, k, m in [(0, 1, 0, 1), (2, 5, 3, 4), (6, 0, 1, 4)]:
        for size in (1e-4, -1e-4):
            moved = plan.clone()
            moved[i, k] += size
            moved[j, m] += size
            moved[i, m] -= size
            moved[j, k] -= size
            assert value(moved) >= value(plan)


def test_cost_is_zero_when_frames_are_the_vectors_with_their_weights():
    vectors = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    frames = vectors[[0, 0, 1, 2]]
    weights = torch.tensor([0.5, 0.25, 0.25])
    assert transport_cost(frames, vectors, weights, 0.01, 100).item() < 1e-6
    assert transport_cost(frames, vectors, weights.flip(0), 0.01, 300).item() > 1


def test_gradient_is_that_of_the_smoothed_cost():
    frames = torch.randn(12, 3, generator=torch.manual_seed(0)).double()
    vectors = torch.randn(4, 3, generator=torch.manual_seed(1)).double()
    logits = torch.zeros(4).double().requires_grad_()

    def optimum(vectors, logits):
        """The dual at its optimum, by its own definition."""
        cost = torch.cdist(frames, vectors).square()
        source = torch.full((12,), 1 / 12).double()
        target = logits.softmax(0)
        scale = 0.2 * torch.cdist(frames, start).square().mean()
        plan, _ = sinkhorn(cost, source, target, scale, 800)
        return (plan * cost).sum() - scale * torch.special.entr(plan).sum()

    start = vectors.clone()
    vectors.requires_grad_()
    transport_cost(frames, vectors, logits.softmax(0), 0.2, 800).backward()
    for tensor in (vectors, logits):
        flat = tensor.detach().clone().flatten()
        for place in (0, len(flat) - 1):
            both = []
            for step in (1e-4, -1e-4):
                moved = flat.clone()
                moved[place] += step
                moved = moved.view_as(tensor)
                args = (moved, logits) if tensor is vectors else (start, moved)
                both.append(optimum(*args).item())
            slope = (both[0] - both[1]) / 2e-4
            assert tensor.grad.flatten()[place].item() == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("start, learned", [("corner", False), ("random", True)])
def test_transport_draws_every_vector_to_the_frames(start, learned):
    torch.manual_seed(0)
    quantizer = TransportCodebook(16, 2, epsilon=0.02, learned_weights=learned)
    if start == "corner":  # far from all frames: one vector would win them all
        with torch.no_grad():
            quantizer.vectors.copy_(10 + 0.1 * torch.randn(16, 2))
    frames = torch.randn(1, 400, 2)
    first = (quantizer(frames).usage[0] > 0).sum()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        sum(quantizer(frames).losses.values()).backward()
        optimizer.step()
    assert (quantizer(frames).usage[0] > 5).all()
    assert start == "random" or first < 8


def test_growth_happens_where_no_entry_is_near_and_nowhere_else():
    growing = GrowingCodebook(size=4, dim=1, threshold=1.0)
    growing.set_entries(torch.tensor([[0.0], [5.0]]))
    growing(torch.tensor([[[0.9], [5.9], [4.0]]]))
    assert int(growing.entries) == 2
    found = growing(torch.tensor([[[0.2], [7.0], [9.0], [9.5]]]))
    # Farthest first: 9.5, then 7.0; after that 9.0 is near.
    assert growing.vectors[:4, 0].tolist() == [0.0, 5.0, 9.5, 7.0]
    assert found.codes.flatten().tolist() == [0, 3, 2, 2]
    growing(torch.tensor([[[99.0]]]))
    assert int(growing.entries) == 4 and growing.vectors[:2, 0].tolist() == [0.0, 5.0]


def test_growth_waits_for_training_and_skips_padding():
    growing = GrowingCodebook(size=4, dim=1, threshold=1.0)
    with pytest.raises(DsuError, match="no entry yet"):
        growing.eval().encode(torch.zeros(1, 1, 1))
    growing.train()(torch.tensor([[[0.0], [50.0]]]), torch.tensor([0.5]))
    assert int(growing.entries) == 1
    growing.freeze()(torch.tensor([[[50.0]]]))
    assert int(growing.entries) == 1


def test_growth_stops_by_itself():
    growing = GrowingCodebook(size=500, dim=2, threshold=1.0, max_new=20)
    frames = torch.rand(1, 3000, 2, generator=torch.manual_seed(0)) * 6
    counts = [int(growing.entries) for _ in range(12) if growing(frames) is not None]
    assert counts[0] == 20 and counts[-1] == counts[-2] < 100
    nearest = torch.cdist(frames[0], growing.vectors[: counts[-1]]).amin(1)
    assert nearest.max() <= 1.0


def test_posterior_maximum_is_the_code_and_labels_pull_entries():
    torch.manual_seed(0)
    quantizer = LabelledCodebook(["a", "b", "c"], dim=2, temperature=0.5)
    middles = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    labels = torch.arange(3).repeat(20)[None]
    latents = middles[labels] + 0.3 * torch.randn(1, 60, 2)
    posterior = quantizer.log_posterior(latents)
    assert torch.equal(posterior.argmax(-1, keepdim=True), quantizer.encode(latents))
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    hidden = labels.clone()
    hidden[:, 6:] = -1
    for _ in range(100):
        optimizer.zero_grad()
        quantizer.cross_entropy(latents, hidden).backward()
        optimizer.step()
    codes = quantizer.encode(latents)[0, :, 0]
    assert torch.equal(codes, labels[0])
    assert quantizer.symbols(codes[:3]) == ["a", "b", "c"]
    with pytest.raises(DsuError, match="no entry for 'z'"):
        quantizer.ids(["z"])


def test_sharpening_keeps_the_order():
    posterior = torch.rand(5, 8).softmax(-1)
    sharp = sharpen(posterior, 0.3)
    torch.testing.assert_close(sharp.sum(-1), torch.ones(5))
    assert torch.equal(sharp.argsort(-1), posterior.argsort(-1))
    assert (sharp.amax(-1) > posterior.amax(-1)).all()


def test_online_clusters_are_running_means_per_layer():
    clusters = OnlineClusters(layers=2, size=3, dim=2, decay=0.9, revive_below=0.0)
    frames = torch.randn(2, 20, 4, generator=torch.manual_seed(0))
    sums = [layer.vectors.clone() for layer in clusters.layers]
    counts = [torch.ones(3) for _ in clusters.layers]
    lens = torch.tensor([1.0, 0.5])
    valid = torch.cat([frames[0], frames[1, :10]])
    for _ in range(3):
        clusters(frames, lens)
        for place, layer in enumerate(clusters.layers):
            part = valid[:, 2 * place : 2 * place + 2]
            vectors = sums[place] / counts[place][:, None]
            ids = torch.cdist(part, vectors).argmin(1)
            for code in range(3):
                won = part[ids == code]
                sums[place][code] = 0.9 * sums[place][code] + 0.1 * won.sum(0)
                counts[place][code] = 0.9 * counts[place][code] + 0.1 * len(won)
            expected = sums[place] / counts[place][:, None]
            torch.testing.assert_close(layer.vectors, expected, rtol=1e-3, atol=1e-3)


def test_online_clusters_come_close_to_batch_k_means():
    torch.manual_seed(0)
    middles = 4 * torch.randn(8, 3)
    clusters = OnlineClusters(layers=1, size=8, dim=3, kmeans_start=True)
    for _ in range(40):
        frames = middles[torch.randint(8, (1, 200))] + 0.3 * torch.randn(1, 200, 3)
        result = clusters(frames)
    error = (result.quantized - frames).square().sum(-1).mean()
    assert error < 1.3 * 3 * 0.3**2
