"""Error rates by another package."""

import random

import pytest

from speechbrain_dsu.evaluation.error_rates import error_rates
from speechbrain_dsu.utils.errors import DsuError


def test_error_rates_are_jiwers():
    jiwer = pytest.importorskip("jiwer")
    draw = random.Random(0)
    words = "zero one two three four five".split()
    said = [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(40)]
    found = [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(40)]
    found[:10] = said[:10]
    rates = error_rates(said, found)
    assert rates["WER"] == pytest.approx(100 * jiwer.wer(said, found))
    assert rates["CER"] == pytest.approx(100 * jiwer.cer(said, found))
    wrong = sum(a != b for a, b in zip(said, found, strict=True))
    assert rates["sentence errors"] == pytest.approx(100 * wrong / 40)


def test_one_output_for_all_shows():
    assert error_rates(["one", "two", "six"], ["one"] * 3)["distinct"] == 1 / 3
    with pytest.raises(DsuError, match="1 transcripts for 2"):
        error_rates(["one", "two"], ["one"])
