"""Metrics of language models of speech, against numbers worked out by hand."""

import math

import pytest
import torch

from speechbrain_dsu.evaluation.language import (
    auto_bleu,
    curve_area,
    normalized_entropy,
    pair_accuracy,
    perplexity,
    read_pairs,
    self_bleu,
    vert,
)
from speechbrain_dsu.utils.errors import DsuError

A, B = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 5])


def test_self_bleu_by_hand():
    # A beside B: unigrams 2 of 4, bigrams 1 of 3, no brevity penalty (4 >= 3).
    of_a = math.sqrt(2 / 4 * 1 / 3)
    # B beside A: unigrams 2 of 3, bigrams 1 of 2, penalty exp(1 - 4/3).
    of_b = math.sqrt(2 / 3 * 1 / 2) * math.exp(1 - 4 / 3)
    assert self_bleu([A, B]) == pytest.approx((of_a + of_b) / 2)


def test_counts_are_clipped_by_the_best_single_reference():
    rows = [torch.tensor([7, 7, 7]), torch.tensor([7, 7, 1]), torch.tensor([7, 2, 3])]
    # First: min(3, max(2, 1)) = 2 of 3. Second: 7 twice (clip 3), 1 never: 2 of 3.
    # Third: 7 once, the others never: 1 of 3.
    assert self_bleu(rows, order=1) == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)


def test_auto_bleu_by_hand():
    row = torch.tensor([1, 2, 1, 2, 3])
    # Unigrams: four of five stand twice; bigrams 12, 21, 12, 23: two of four.
    assert auto_bleu([row]) == pytest.approx(math.sqrt(4 / 5 * 2 / 4))
    assert auto_bleu([row, A]) == pytest.approx(math.sqrt(0.4) / 2)
    assert vert([row, row]) == pytest.approx(math.sqrt(auto_bleu([row])))


def test_area_by_hand():
    points = [(0.4, 10.0), (0.2, 20.0), (0.6, 40.0)]
    # 0.3 to 0.4: from 15 to 10; 0.4 to 0.5: from 10 to 25.
    assert curve_area(points, 0.3, 0.5) == pytest.approx(0.1 * 12.5 + 0.1 * 17.5)
    assert curve_area(points, 0.0, 0.2) == pytest.approx(0.2 * 20)
    with pytest.raises(DsuError, match="no area"):
        curve_area(points, 0.5, 0.5)


class Table:
    """A reference with fixed probabilities."""

    chances = torch.tensor([0.5, 0.25, 0.25])

    def log_likelihood(self, sequences):
        nats = [self.chances[row].log().double().sum() for row in sequences]
        return torch.stack(nats), torch.tensor([len(row) for row in sequences])


def test_perplexity_is_over_ids_and_not_over_sequences():
    rows = [torch.tensor([0]), torch.tensor([1, 1, 2])]
    assert perplexity(rows, Table()) == pytest.approx(2 ** (7 / 4))
    with pytest.raises(DsuError, match="nothing was written"):
        perplexity([torch.zeros(0, dtype=torch.int64)], Table())


def test_normalized_entropy_by_hand():
    ids = [torch.tensor([0, 0]), torch.tensor([1, 2])]
    assert normalized_entropy(ids, 4) == pytest.approx(1.5 / 2)


def test_pairs_are_read_and_both_sums_told(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("id,real,fake\n1,a,b\n2,a,c\n3,d,a\n")
    pairs = read_pairs(path)
    assert pairs == [("a", "b"), ("a", "c"), ("d", "a")]
    scores = {"a": (-6.0, 3), "b": (-5.0, 1), "c": (-6.0, 2), "d": (-9.0, 9)}
    asked = []

    def score(name):
        asked.append(name)
        return scores[name]

    found = pair_accuracy(pairs, score)
    # Summed: lost, tie, lost; per id: -2 against -5, -3, and -1 against -2.
    assert found.summed == pytest.approx(0.5 / 3) and found.normalised == 1.0
    assert sorted(asked) == ["a", "b", "c", "d"]
    path = tmp_path / "p.tsv"
    path.write_text("n\treal\tfake\n1\ta\tb\n2\t\tb\n")
    with pytest.raises(DsuError, match=":3: an item is empty"):
        read_pairs(path)
    path.write_text("real\n")
    with pytest.raises(DsuError, match="no column fake"):
        read_pairs(path)
    with pytest.raises(DsuError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv")
    with pytest.raises(DsuError, match="no pairs"):
        pair_accuracy([], scores.get)
    with pytest.raises(DsuError, match="x: has no tokens"):
        pair_accuracy([("x", "a")], {**scores, "x": (0.0, 0)}.get)
