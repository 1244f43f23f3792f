"""Our language model writes what transformers' Llama writes, same weights."""

import pytest

from speechbrain_dsu.cli.bench import parts
from speechbrain_dsu.evaluation.bench import run_bench

pytest.importorskip("transformers")


def test_bench_rows_and_equal_ids():
    rows = run_bench("lm", quick=True, **parts("lm"))
    # float32 beside Llama; two kinds of rounded weights beside both.
    assert len(rows) == 2 * 5
    assert all(row["equal"] for row in rows if "float32" in row["case"])
    for row in rows:
        assert row["ours_s"] >= 0 and row["floor_s"] >= 0
        assert abs(row["loss"]) < (1e-6 if "float32" in row["case"] else 0.1)
