"""Codebooks and their compositions against slow references and exact statements."""

import pytest
import torch
import torch.nn.functional as F

from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.composed import Identity, Split
from speechbrain_dsu.nnet.quantizers.composed_additive import AdditiveVQ
from speechbrain_dsu.nnet.quantizers.composed_rates import MultiRate, Pooled
from speechbrain_dsu.nnet.quantizers.grouped import GroupedResidualVQ, GroupedVQ
from speechbrain_dsu.nnet.quantizers.residual import MaskedChannelVQ, ResidualVQ
from speechbrain_dsu.nnet.quantizers.soft import SoftCodebook
from speechbrain_dsu.nnet.quantizers.statistics import cluster, sample_over_ranks
from speechbrain_dsu.utils.errors import DsuError


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fitted(quantizer, steps=10):
    for step in range(steps):
        quantizer.train()(noise(4, 50, quantizer.dim, seed=step))
    return quantizer


def slow_nearest(frame, vectors):
    return min(range(len(vectors)), key=lambda i: (vectors[i] - frame).square().sum())


def test_moving_averages_against_a_loop():
    book = Codebook(5, 3, decay=0.9, revive_below=0.0).train()
    book.set_vectors(noise(5, 3))
    vectors, counts = noise(5, 3).double(), torch.ones(5).double()
    sums = vectors.clone()
    for step in range(4):
        x = noise(2, 10, 3, seed=step + 1)
        book(x, torch.tensor([1.0, 0.3]))
        won, total = torch.zeros(5).double(), torch.zeros(5, 3).double()
        for item, frames in ((0, 10), (1, 3)):
            for frame in x[item, :frames].double():
                code = slow_nearest(frame, vectors)
                won[code] += 1
                total[code] += frame
        counts, sums = 0.9 * counts + 0.1 * won, 0.9 * sums + 0.1 * total
        share = (counts + 1e-5) / (counts.sum() + 5e-5) * counts.sum()
        vectors = sums / share[:, None]
    torch.testing.assert_close(book.vectors.double(), vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(book.counts.double(), counts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "quantizer",
    [Codebook(8, 4), ResidualVQ(3, 8, 4), MaskedChannelVQ(3, 8, 4, masked=2)],
    ids=["vq", "rvq", "masked channels"],
)
def test_the_decoder_gradient_reaches_the_encoder_unchanged(quantizer):
    x, weights = noise(2, 9, 4).requires_grad_(), noise(2, 9, 4, seed=1)
    (fitted(quantizer)(x).quantized * weights).sum().backward()
    assert torch.equal(x.grad, weights)


@pytest.mark.parametrize("lens", [None, torch.tensor([1.0, 0.5])])
@pytest.mark.parametrize("masked", [0, 2])
def test_losses_of_a_chain_and_their_gradient_against_autograd(masked, lens):
    options = {"commitment": 0.7, "update": "gradient", "revive_below": 0.0}
    if masked:
        quantizer = MaskedChannelVQ(3, 8, 4, masked=masked, **options)
    else:
        quantizer = ResidualVQ(3, 8, 4, **options)
    fitted(quantizer)
    x = noise(2, 10, 4).requires_grad_()
    valid = torch.ones(2, 10, dtype=torch.bool)
    if lens is not None:
        valid[1, 5:] = False
    result = quantizer(x, lens)
    y = x.detach().clone().requires_grad_()
    total, commitment, codebook = torch.zeros(2, 10, 4), 0, 0
    for index, level in enumerate(quantizer.levels):
        inputs = y - total
        if index < masked:
            inputs = torch.zeros_like(y)
            inputs[..., 2 * index : 2 * index + 2] = y[..., 2 * index : 2 * index + 2]
        chosen = level.vectors[result.codes[..., index]]
        commitment = commitment + (inputs - chosen.detach())[valid].square().mean() / 3
        codebook = codebook + (inputs.detach() - chosen)[valid].square().mean() / 3
        total = total + chosen.detach()
    torch.testing.assert_close(result.losses["commitment"], 0.7 * commitment)
    torch.testing.assert_close(result.losses["codebook"], codebook)
    torch.testing.assert_close(result.quantized, total)
    (0.7 * commitment + codebook).backward()
    expected = [level.vectors.grad.clone() for level in quantizer.levels]
    quantizer.zero_grad()
    sum(result.losses.values()).backward()
    torch.testing.assert_close(x.grad, y.grad)
    for level, gradient in zip(quantizer.levels, expected, strict=True):
        torch.testing.assert_close(level.vectors.grad, gradient)


def test_masked_channels_leave_the_others_alone():
    quantizer = fitted(MaskedChannelVQ(4, 8, 6, masked=3, decay=0.5), 30).eval()
    x = noise(1, 20, 6)
    codes = quantizer.encode(x)
    for index in range(3):
        own = slice(2 * index, 2 * index + 2)
        other = noise(1, 20, 6, seed=9)
        other[..., own] = x[..., own]
        assert torch.equal(quantizer.encode(other)[..., index], codes[..., index])
        outside = quantizer.levels[index].vectors.clone()
        outside[:, own] = 0
        assert outside.abs().max() < 1e-6
    assert not torch.equal(quantizer.encode(other)[..., 3], codes[..., 3])


def test_dropout_gives_items_fewer_codebooks_that_count_in_nothing():
    torch.manual_seed(0)
    quantizer = ResidualVQ(4, 8, 3, dropout=1.0, decay=0.5, revive_below=0.0).train()
    for level in quantizer.levels:
        level.set_vectors(noise(8, 3, seed=5))
    x = noise(60, 5, 3)
    before = [level.vectors.clone() for level in quantizer.levels]
    result = quantizer(x)
    parts = torch.stack(
        [old[result.codes[..., i]] for i, old in enumerate(before)], dim=2
    )
    sums = parts.cumsum(2)
    depth_of_item = []
    for item in range(60):
        fits = [
            torch.allclose(sums[item, :, depth], result.quantized[item])
            for depth in range(4)
        ]
        assert any(fits)
        depth_of_item.append(fits.index(True))
    assert len(set(depth_of_item)) == 4
    for index, level in enumerate(quantizer.levels):
        used = sum(depth >= index for depth in depth_of_item) * 5
        assert level.counts.sum().item() == pytest.approx(0.5 * 8 + 0.5 * used)
    quantizer.freeze()  # vectors stay: what was returned can be decoded
    whole = quantizer(x, n_codebooks=4)
    assert torch.equal(whole.quantized, quantizer.decode(whole.codes))
    quantizer.eval()
    assert torch.equal(quantizer(x).quantized, quantizer.decode(quantizer(x).codes))


@pytest.mark.parametrize("beam", [1, 6])
def test_refinement_never_raises_the_error_of_the_greedy_chain(beam):
    quantizer = fitted(AdditiveVQ(4, 8, 6, beam=beam, refinements=0)).eval()
    x = noise(3, 40, 6, seed=8)

    def errors():
        return (quantizer(x).quantized - x).square().sum(-1)

    greedy = errors()
    for rounds in (1, 2, 4):
        quantizer.refinements = rounds
        refined = errors()
        assert (refined <= greedy + 1e-5).all()
        greedy = torch.minimum(greedy, refined)


def test_a_wide_beam_finds_the_best_of_all_sums():
    quantizer = fitted(AdditiveVQ(2, 4, 3, beam=16, refinements=0)).eval()
    x = noise(1, 30, 3, seed=8)
    first, second = (level.vectors for level in quantizer.levels)
    sums = (first[:, None] + second[None]).flatten(0, 1)
    best = torch.cdist(x[0], sums).square().amin(1)
    error = (quantizer(x).quantized - x)[0].square().sum(-1)
    torch.testing.assert_close(error, best)


def test_rotation_keeps_the_angle_between_gradient_and_vector():
    book = fitted(Codebook(6, 4, estimator="rotation")).eval()
    x, weights = noise(1, 12, 4, seed=3).requires_grad_(), noise(1, 12, 4, seed=4)
    result = book(x)
    (result.quantized * weights).sum().backward()
    expected = F.cosine_similarity(result.quantized, weights, dim=-1)
    found = F.cosine_similarity(x, x.grad, dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_k_means_start_finds_the_clusters_and_happens_once():
    centers = noise(6, 4) * 20
    x = centers.repeat(40, 1)[None] + 0.1 * noise(1, 240, 4, seed=1)
    book = Codebook(6, 4, decay=0.99).train()
    usage = book(x).usage[0]
    assert usage.tolist() == [40] * 6
    started = book.vectors.clone()
    book(x + 100)
    assert (book.vectors - started).abs().max() < 20


def test_a_start_with_fewer_frames_than_codes_covers_the_frames():
    x = noise(1, 5, 3)
    book = Codebook(16, 3).train()
    torch.testing.assert_close(book(x).quantized, x, rtol=0, atol=1e-6)
    assert book.vectors.isfinite().all()


def test_clustering_moves_idle_centres():
    frames = torch.cat([torch.zeros(50, 1), torch.full((1, 1), 9.0)])
    assert sorted(cluster(frames, 2, 5, seed=0).flatten().tolist()) == [0.0, 9.0]


def test_draws_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    sample_over_ranks(noise(9, 2), 4, seed=1)
    cluster(noise(3, 2), 5, 2, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_orthogonality_pushes_vectors_apart():
    book = Codebook(4, 4, update="gradient", orthogonal=1.0, kmeans_start=False)
    loss = book(noise(1, 8, 4)).losses["orthogonal"]
    unit = F.normalize(book.vectors, dim=-1)
    pairs = [(unit[i] @ unit[j]) ** 2 for i in range(4) for j in range(4) if i != j]
    torch.testing.assert_close(loss, sum(pairs) / 16)
    book.set_vectors(torch.eye(4))
    assert book(noise(1, 8, 4)).losses["orthogonal"].abs() < 1e-6


def test_cosine_search_ignores_lengths_and_returns_vectors_as_they_are():
    book = Codebook(5, 3, metric="cosine").eval()
    book.set_vectors(noise(5, 3) * torch.arange(1, 6)[:, None])
    x = noise(1, 20, 3, seed=1)
    codes = book.encode(x)
    assert torch.equal(book.encode(1e-3 * x), codes)
    cosines = F.normalize(x[0], dim=-1) @ F.normalize(book.vectors, dim=-1).t()
    assert torch.equal(codes[0, :, 0], cosines.argmax(1))
    assert torch.equal(book.decode(codes)[0], book.vectors[codes[0, :, 0]])


def test_soft_units_become_hard_as_the_temperature_falls():
    soft = SoftCodebook(10, 4)
    x = noise(2, 7, 4)
    soft.temperature = 1e-5
    result = soft(x)
    torch.testing.assert_close(result.quantized, soft.decode(result.codes))
    assert torch.equal(soft.distribution(x).argmax(-1), result.codes[..., 0])
    soft.temperature = 1e5
    mean = soft.vectors.mean(0).expand(2, 7, 4)
    torch.testing.assert_close(soft(x).quantized, mean, rtol=1e-3, atol=1e-3)


def test_labels_train_a_soft_codebook_where_there_are_any():
    soft = SoftCodebook(3, 4, metric="euclidean", hard=True)
    x, labels = noise(2, 5, 4), torch.full((2, 5), -1)
    assert soft.cross_entropy(x, labels) == 0
    labels[0, 0], labels[1, 4] = 2, 1
    alone = -soft.distribution(x)[0, 0, 2].log()
    padded = soft.cross_entropy(x, labels, torch.tensor([1.0, 0.6]))
    torch.testing.assert_close(padded, alone)
    x.requires_grad_()
    soft(x).quantized.sum().backward()
    assert x.grad.abs().sum() > 0 and soft.vectors.grad.abs().sum() > 0


def test_streams_pack_to_the_sum_of_their_rates_and_back():
    streams = MultiRate(
        [
            Codebook(16, 4),
            Pooled(GroupedVQ(2, 8, 4), window=7),
            Pooled(GroupedVQ(3, 8, 6)),
        ]
    )
    fitted(streams, 2).eval()
    for frames in (1, 6, 7, 8, 50):
        codes = streams.encode(noise(2, frames, 14))
        packed = streams.pack(codes)
        count = sum(stream[0].numel() for stream in packed)
        assert count == frames + 2 * -(-frames // 7) + 3
        assert torch.equal(streams.unpack(packed, frames), codes)


def test_pooling_against_a_loop():
    x = noise(2, 10, 4)
    for pool, function in (("mean", lambda w: w.mean(0)), ("max", lambda w: w.amax(0))):
        quantizer = Pooled(Codebook(30, 4, kmeans_start=False), window=4, pool=pool)
        codes = quantizer.eval().encode(x, lens=torch.tensor([1.0, 0.6]))
        for item, frames in ((0, 10), (1, 6)):
            for first in range(0, frames, 4):
                window = x[item, first : min(first + 4, frames)]
                expected = slow_nearest(function(window), quantizer.quantizer.vectors)
                assert (codes[item, first : first + 4] == expected).all()


def test_codebooks_of_groups_come_level_by_level():
    quantizer = fitted(GroupedResidualVQ(2, 3, 8, 6)).eval()
    x = noise(1, 9, 6)
    codes = quantizer.encode(x)
    for group, part in enumerate(quantizer.parts):
        own = part.encode(x[..., 3 * group : 3 * group + 3])
        assert torch.equal(codes[..., group::2], own)
    assert (quantizer(x, n_codebooks=1).quantized[..., 3:] == 0).all()


def test_semantic_codes_decode_alone():
    split = fitted(Split(Codebook(8, 4), ResidualVQ(2, 8, 4))).eval()
    x = noise(1, 9, 4)
    alone = split(x, n_codebooks=1)
    assert torch.equal(alone.codes, split.encode(x)[..., :1])
    assert torch.equal(alone.quantized, split.semantic(x).quantized)


def test_vectors_can_be_moved_back_by_loading_an_unstarted_state():
    book = Codebook(4, 2).train()
    fresh = {key: value.clone() for key, value in book.state_dict().items()}
    book(noise(1, 20, 2))
    assert book.is_started
    book.load_state_dict(fresh)
    assert not book.is_started


def test_impossible_settings_are_named():
    for wrong, message in (
        (lambda: Codebook(0, 3), "got 0"),
        (lambda: Codebook(2, 3, update="sgd"), "update='sgd'"),
        (lambda: Codebook(2, 3, metric="l1"), "metric='l1'"),
        (lambda: Codebook(2, 3, decay=1.0), "decay=1.0"),
        (lambda: Codebook(2, 3, orthogonal=1.0), "update='gradient'"),
        (lambda: ResidualVQ(2, [4], 3), "2 codebooks"),
        (lambda: ResidualVQ(2, 4, 3, dropout=2.0), "dropout=2.0"),
        (lambda: MaskedChannelVQ(4, 4, 7, masked=3), "dim=7"),
        (lambda: GroupedVQ(3, 4, 8), "dim=8"),
        (lambda: AdditiveVQ(2, 4, 3, beam=0), "beam=0"),
        (lambda: SoftCodebook(2, 3, temperature=0), "temperature"),
        (lambda: Pooled(Codebook(2, 3), pool="sum"), "pool='sum'"),
        (lambda: Split(Codebook(2, 3), Codebook(2, 4)), "3 and 4"),
        (lambda: Codebook(2, 3).set_vectors(torch.zeros(3, 2)), r"\[2, 3\]"),
        (lambda: Identity(2).decode(torch.zeros(1, 1, 0)), "no codes"),
    ):
        with pytest.raises(DsuError, match=message):
            wrong()
    with pytest.raises(TypeError, match="comitment"):
        ResidualVQ(2, 4, 3, comitment=1.0)
