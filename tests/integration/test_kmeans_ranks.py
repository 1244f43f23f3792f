"""K-means on two ranks: the centres of one rank, and no waiting for each other."""

import pytest
import torch

from helpers.ranks import on_two_ranks
from speechbrain_dsu.evaluation.bench.kmeans import BlobFrames
from speechbrain_dsu.training.kmeans import fit_kmeans
from speechbrain_dsu.utils.errors import DsuError

FRAMES = BlobFrames(dim=8, blobs=40, families=6).draw(3000, part=0)
# Rank 0 has seven batches, rank 1 four, of sizes that differ.
SHARES = (
    FRAMES[:1700].split([300, 200, 250, 250, 300, 300, 100]),
    FRAMES[1700:].split([500, 1, 400, 399]),
)
OPTIONS = {
    "size": 20,
    "dim": 8,
    "epochs": 2,
    "full_epochs": 1,
    "sample": 500,
    "update_frames": 700,
    "progress": False,
}


def joined():
    """What one rank sees: batch i of every rank, in the order of ranks."""
    for index in range(max(map(len, SHARES))):
        parts = [share[index] for share in SHARES if index < len(share)]
        yield torch.cat(parts)


def plain(rank, folder):
    centers, record = fit_kmeans(lambda epoch: SHARES[rank], **OPTIONS)
    return centers, record["frames"], record["inertia"]


def poor_start(rank, folder):
    """Nineteen centres begin in one place: they must move alike on both ranks."""
    start = FRAMES[:1].repeat(20, 1)
    start[0] = 1e4
    return fit_kmeans(lambda epoch: SHARES[rank], start=start[None], **OPTIONS)[0]


def one_empty(rank, folder):
    return fit_kmeans(lambda epoch: SHARES[0] if rank else [], **OPTIONS)[0]


def fault(rank, folder):
    def batches(epoch):
        yield SHARES[rank][0]
        yield SHARES[rank][1] * (torch.nan if rank == 1 else 1)
        yield SHARES[rank][2]

    try:
        fit_kmeans(batches, **OPTIONS)
    except DsuError as error:
        return str(error)


def interrupted(rank, folder):
    def batches(epoch, broken=False):
        for index, part in enumerate(SHARES[rank]):
            if broken and (epoch, index, rank) == (2, 3, 1):
                raise OSError("disk gone")
            yield part

    options = OPTIONS | {"checkpoint": folder / "fit", "checkpoint_every": 1}
    try:
        fit_kmeans(lambda epoch: batches(epoch, broken=True), **options)
    except (OSError, DsuError):
        pass
    passes = []

    def rest(epoch):
        passes.append(epoch)
        return batches(epoch)

    centers, record = fit_kmeans(rest, **options)
    return centers, record["frames"], record["inertia"], passes


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_two_ranks_are_one_rank_on_the_joined_batches(tmp_path):
    expected, record = fit_kmeans(lambda epoch: joined(), **OPTIONS)
    first, second = on_two_ranks(plain, tmp_path)
    assert torch.equal(first[0], second[0])
    close(first[0], expected)
    assert first[1] == second[1] == record["frames"] == 3000
    assert first[2] == pytest.approx(record["inertia"], rel=1e-5)


def test_revival_is_alike_on_all_ranks(tmp_path):
    start = FRAMES[:1].repeat(20, 1)
    start[0] = 1e4
    expected, _ = fit_kmeans(lambda epoch: joined(), start=start[None], **OPTIONS)
    first, second = on_two_ranks(poor_start, tmp_path)
    assert torch.equal(first, second)
    close(first, expected)


def test_rank_without_frames_does_not_hang(tmp_path):
    expected, _ = fit_kmeans(lambda epoch: SHARES[0], **OPTIONS)
    first, second = on_two_ranks(one_empty, tmp_path)
    assert torch.equal(first, second)
    close(first, expected)


def test_fault_of_one_rank_stops_both(tmp_path):
    first, second = on_two_ranks(fault, tmp_path)
    assert first == "rank 1 failed at batch 1: its own message says why"
    assert "batch 1 of the k-means stream holds NaN" in second


def test_resumed_run_on_two_ranks(tmp_path):
    expected, record = fit_kmeans(lambda epoch: joined(), **OPTIONS)
    first, second = on_two_ranks(interrupted, tmp_path)
    assert first[3][0] == second[3][0] == 2, "both go on in the second pass"
    close(first[0], expected)
    assert first[1] == 3000
    assert first[2] == pytest.approx(record["inertia"], rel=1e-5)
