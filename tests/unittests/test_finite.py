"""Finite, binary and Gumbel quantizers against slow references."""

import itertools
import math

import pytest
import torch

from speechbrain_dsu.nnet.quantizers.binary import LFQ, bit_entropy, joint_entropy
from speechbrain_dsu.nnet.quantizers.finite import FSQ
from speechbrain_dsu.nnet.quantizers.gumbel import GumbelProduct, diversity
from speechbrain_dsu.nnet.quantizers.hashing import (
    BinaryHash,
    contrastive_hash_loss,
    hamming_distance,
)
from speechbrain_dsu.nnet.quantizers.random_projection import RandomProjection
from speechbrain_dsu.utils.errors import DsuError


def test_ids_and_level_tuples_are_one_to_one():
    fsq = FSQ([4, 3, 5])
    ids = torch.arange(60).view(1, -1, 1)
    levels = fsq.to_levels(ids)[0, :, 0]
    expected = [tuple(reversed(t)) for t in itertools.product(*map(range, (5, 3, 4)))]
    assert [tuple(row) for row in levels.tolist()] == expected
    grid = fsq.embed(ids)
    assert (
        grid.min() == -1 and grid.max() <= 1 and len(grid[0, :, 0].unique(dim=0)) == 60
    )


def test_every_code_can_be_reached():
    fsq = FSQ([8, 5, 4])
    latents = torch.randn(1, 40_000, 3, generator=torch.manual_seed(0)) * 2
    assert len(fsq.encode(latents).unique()) == 160


def test_one_band_moves_one_stream_only():
    fsq = FSQ([8, 5, 5, 5], groups=8)
    latents = torch.randn(1, 50, 32)
    other = latents.clone()
    other[..., 12:16] += 3
    changed = (fsq.encode(latents) != fsq.encode(other)).any(1)[0]
    assert changed.nonzero().flatten().tolist() == [3]


def test_impossible_levels_are_refused():
    with pytest.raises(DsuError, match="for two levels take LFQ"):
        FSQ([2, 5])
    with pytest.raises(DsuError, match="use groups"):
        FSQ([16] * 7)
    with pytest.raises(DsuError, match="bits=30"):
        LFQ(bits=30)


def distribution(logits):
    """Probability of every code for every frame, by multiplying bit by bit."""
    ones = torch.sigmoid(logits.double())
    rows = []
    for frame in ones:
        rows.append(
            [
                math.prod(
                    p if bit else 1 - p for p, bit in zip(frame, bits, strict=True)
                )
                for bits in itertools.product((0, 1), repeat=logits.shape[1])
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_entropies_of_the_bits_are_those_of_all_codes(bits):
    logits = 2 * torch.randn(30, bits, generator=torch.manual_seed(bits))
    table = distribution(logits)
    each = torch.special.entr(table).sum(1)
    torch.testing.assert_close(bit_entropy(logits).sum(1).double(), each)
    joint = torch.special.entr(table.mean(0)).sum()
    torch.testing.assert_close(joint_entropy(logits).double(), joint)


def test_lookup_free_entropy_is_that_of_a_softmax_over_distances():
    lfq = LFQ(bits=3, sharpness=0.7, scale=0.5, diversity=0.6, entropy_weight=1.0)
    latents = torch.randn(2, 9, 3)
    codes = lfq.embed(torch.arange(8).view(1, -1, 1))[0, :, 0]
    distances = torch.cdist(latents.flatten(0, 1), codes).square()
    shares = (-0.7 * distances).softmax(1)
    spread = torch.special.entr(shares.mean(0)).sum()
    expected = torch.special.entr(shares).sum(1).mean() - 0.6 * spread
    torch.testing.assert_close(lfq(latents).losses["entropy"], expected)


def test_hash_collisions_are_equal_signs_and_nothing_else():
    hashing = BinaryHash(dim=5, bits=4)
    latents = torch.randn(1, 200, 5)
    codes = hashing.encode(latents)[0, :, 0]
    signs = hashing.scores(latents)[0] > 0
    same = (signs[:, None] == signs).all(-1)
    assert torch.equal(codes[:, None] == codes, same)
    bits = (signs[:, None] != signs).sum(-1)
    assert torch.equal(hamming_distance(codes[:, None], codes), bits)


def test_contrastive_hashing_separates_classes():
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(30)
    latents = torch.randn(4, 8)[labels] + 0.7 * torch.randn(120, 8)
    hashing = BinaryHash(dim=8, bits=8)
    optimizer = torch.optim.Adam(hashing.parameters(), lr=0.02)

    def gap():
        codes = hashing.encode(latents[None])[0, :, 0]
        distances = hamming_distance(codes[:, None], codes).float()
        same = labels[:, None] == labels
        return (distances[~same].mean() - distances[same].mean()).item()

    before = gap()
    for _ in range(60):
        optimizer.zero_grad()
        contrastive_hash_loss(hashing.scores(latents[None])[0], labels).backward()
        optimizer.step()
    assert gap() > 1.3 * before


def test_contrastive_loss_against_a_loop():
    scores = torch.randn(7, 5, generator=torch.manual_seed(1)).tanh()
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    terms = []
    for i in range(7):
        likeness = {
            j: float((scores[i] * scores[j].sign()).mean()) / 0.2
            for j in range(7)
            if j != i
        }
        positives = [likeness[j] for j in likeness if labels[j] == labels[i]]
        if positives:
            total = math.log(sum(math.exp(value) for value in likeness.values()))
            terms.append(total - max(positives))
    expected = sum(terms) / len(terms)
    assert contrastive_hash_loss(scores, labels, 0.2).item() == pytest.approx(expected)
    assert contrastive_hash_loss(scores[:1], labels[:1]).item() == 0


def test_temperature_falls_with_training_passes_and_is_saved():
    quantizer = GumbelProduct(4, 5, temperature=(2.0, 0.5, 0.5))
    latents, seen = torch.randn(1, 3, 4), []
    for _ in range(4):
        seen.append(quantizer.temperature)
        quantizer(latents)
    assert seen == [2.0, 1.0, 0.5, 0.5]
    other = GumbelProduct(4, 5, temperature=(2.0, 0.5, 0.5))
    other.load_state_dict(quantizer.state_dict())
    assert int(other.steps) == 4
    quantizer.eval()(latents)
    assert int(quantizer.steps) == 4


def test_codes_are_drawn_as_often_as_the_softmax_says():
    quantizer = GumbelProduct(3, 4, groups=1, out_dim=2)
    latents = torch.randn(1, 1, 3, generator=torch.manual_seed(3)) * 0.3
    torch.manual_seed(0)
    usage = quantizer(latents.expand(1, 40_000, 3)).usage[0]
    logits = latents[0] @ quantizer.logits.weight.t() + quantizer.logits.bias
    shares = logits.softmax(-1)[0]
    torch.testing.assert_close(usage / 40_000, shares.detach(), rtol=0, atol=0.01)


def test_diversity_counts_valid_frames():
    logits, valid = torch.randn(8, 5), torch.tensor([True, False] * 4)
    torch.testing.assert_close(diversity(logits, valid), diversity(logits[::2]))
    mean = logits.softmax(1).mean(0)
    expected = 1 - torch.special.entr(mean).sum().exp() / 5
    torch.testing.assert_close(diversity(logits), expected)
    assert diversity(logits, ~valid & valid) == 1


def test_random_projection_depends_on_nothing_but_its_seed():
    torch.manual_seed(1)
    one = RandomProjection(8, 32, code_dim=4, seed=3)
    torch.manual_seed(2)
    two = RandomProjection(8, 32, code_dim=4, seed=3)
    latents = torch.randn(1, 60, 8)
    assert torch.equal(one.encode(latents), two.encode(latents))
    other = RandomProjection(8, 32, code_dim=4, seed=4)
    assert not torch.equal(one.encode(latents), other.encode(latents))
    slow = torch.nn.functional.normalize(latents[0] @ one.projection[0], dim=1)
    cosines = slow @ one.vectors[0].t()
    assert torch.equal(one.encode(latents)[0, :, 0], cosines.argmax(1))
