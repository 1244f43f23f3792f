"""Scores of pairs, by hand."""

import pytest

from speechbrain_dsu.evaluation.pairs import read_pairs, score_pairs
from speechbrain_dsu.utils.errors import DsuError

KNOWN = {"long": (-6.0, 6), "short": (-3.0, 1), "same": (-3.0, 1), "bad": (-9.0, 3)}


def test_sum_and_mean_disagree_where_lengths_do():
    asked = []

    def model(item):
        asked.append(item)
        return KNOWN[item]

    found = score_pairs([("long", "short"), ("same", "short"), ("short", "bad")], model)
    # Sums: -6 < -3, tie, -3 > -9. Means: -1 > -3, tie, -3 = -3.
    assert found == (1.5 / 3, 2 / 3, 3)
    assert sorted(asked) == ["bad", "long", "same", "short"]


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("n\tright\twrong\n1\ta\tb\n2\t\tb\n")
    with pytest.raises(DsuError, match=":3: an item is empty"):
        read_pairs(path)
    path.write_text("right\n")
    with pytest.raises(DsuError, match="no column wrong"):
        read_pairs(path)
    with pytest.raises(DsuError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv")
    with pytest.raises(DsuError, match="no pairs"):
        score_pairs([], KNOWN.__getitem__)
    with pytest.raises(DsuError, match="x: has no tokens"):
        score_pairs([("x", "long")], {**KNOWN, "x": (0.0, 0)}.__getitem__)
