"""The benches of codecs and of unit extraction, small: both sides run and agree."""

import pytest

from speechbrain_dsu.cli.bench import parts
from speechbrain_dsu.evaluation.bench import run_bench

pytest.importorskip("transformers")


def test_codec_rows_agree_with_their_peers():
    rows = run_bench("codecs", quick=True, convert=parts("codecs")["convert"])
    peers = {row["peer"] for row in rows}
    assert {"transformers"} <= peers and len(rows) >= 12
    for row in rows:
        assert row["difference"] < 1e-4, row
        assert row["ours_s"] > 0 and row["peer_s"] > 0


def test_streams_have_a_first_packet_and_a_speed():
    from contract.tokenizers_native import build_native

    rows = run_bench(
        "codecs", quick=True, streaming=lambda: build_native("native_mimi")
    )
    assert [row["case"] for row in rows] == [
        "encode and decode in one pass",
        *(f"stream, pieces of {size} ms" for size in (20, 80, 320)),
    ]
    assert all(row["ratio"] > 0 for row in rows)
    # One frame of Mimi is 80 ms.
    assert all(row["first_ms"] >= 80 for row in rows[1:])


def test_unit_tokens_equal_those_of_speechbrain():
    pytest.importorskip("sklearn")
    rows = run_bench("tokenize", quick=True, **parts("tokenize"))
    assert len(rows) == 2
    for row in rows:
        assert row["agreement"] >= 0.98 and row["solo"] == 1.0, row
