"""Our language model writes what transformers' Llama writes, same weights."""

import pytest

from speechbrain_dsu.cli.bench import parts
from speechbrain_dsu.evaluation.bench import run_bench

pytest.importorskip("transformers")


def test_bench_rows_and_equal_ids():
    rows = run_bench("lm", quick=True, **parts("lm"))
    assert len(rows) == 4
    assert all(row["equal"] for row in rows if "float32" in row["case"])
    for row in rows:
        assert row["ours_s"] >= 0 and row["floor_s"] >= 0
        if "bfloat16" in row["case"]:
            assert abs(row["nll_rounded"] - row["nll"]) < 0.1
