"""Streaming k-means: what must hold whatever the batches, the seed or the crash."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.evaluation.bench.kmeans import BlobFrames, peak_memory
from speechbrain_dsu.training.kmeans import KMeansTrainer, fit_kmeans, valid_frames
from speechbrain_dsu.training.kmeans_start import grow_centers, revive_centers
from speechbrain_dsu.training.kmeans_state import load_state
from speechbrain_dsu.training.kmeans_stream import FrameSample, walk
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers

FRAMES = BlobFrames(dim=8, blobs=40, families=6).draw(3000, part=0)


def fit(batches, size=20, dim=8, **options):
    if not callable(batches):
        given_batches = batches
        batches = lambda epoch: given_batches  # noqa: E731
    return fit_kmeans(batches, size, dim, progress=False, **options)


# Assignment


def naive_nearest(frames, centers):
    ids, distances = [], []
    for frame in frames.double():
        squared = [
            float((frame - center).square().sum()) for center in centers.double()
        ]
        ids.append(squared.index(min(squared)))
        distances.append(min(squared))
    return torch.tensor(ids), torch.tensor(distances)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 30), size=st.integers(1, 9), dim=st.integers(1, 12))
def test_nearest_is_the_naive_search(n, size, dim):
    random = torch.Generator().manual_seed(n + 100 * size + dim)
    frames = torch.randn(n, dim, generator=random)
    centers = torch.randn(size, dim, generator=random)
    ids, distances = nearest_centers(frames, centers)
    if n == 0:
        assert ids.shape == distances.shape == (0,)
        return
    expected, squared = naive_nearest(frames, centers)
    assert torch.equal(ids, expected)
    torch.testing.assert_close(
        distances.double(), squared.double(), rtol=1e-4, atol=1e-5
    )


def test_ids_do_not_depend_on_company_autocast_or_duplicates():
    frames = BlobFrames(dim=96, blobs=50).draw(5000, part=1)
    centers = frames[:300].repeat(2, 1)
    ids, _ = nearest_centers(frames, centers)
    assert int(ids.max()) < 300, "the first of equal centres"
    for start, stop in ((0, 1), (17, 18), (100, 2500), (2048, 5000)):
        part, _ = nearest_centers(frames[start:stop], centers)
        assert torch.equal(part, ids[start:stop])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, distances = nearest_centers(frames, centers)
    assert torch.equal(again, ids) and distances.dtype == torch.float32


def test_near_ties_are_decided_in_float64():
    centers = torch.tensor([[1000.0, 1.0], [1000.0, -1.0]])
    gap = 1e-5 * torch.tensor([1.0, -1.0]).repeat(50)
    frames = torch.stack([torch.full((100,), 1000.0), gap], dim=1)
    ids, _ = nearest_centers(frames, centers)
    assert torch.equal(ids, (gap < 0).long())


# Padding


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_valid_frames_are_the_items(counts):
    longest = max(max(counts), 1)
    items = [torch.randn(count, 3) for count in counts]
    padded = torch.full((len(counts), longest, 3), torch.nan)
    for row, item in zip(padded, items, strict=True):
        row[: len(item)] = item
    lens = torch.tensor(counts) / longest
    assert torch.equal(valid_frames(padded, lens), torch.cat(items))


def test_fit_on_padded_batches_is_fit_on_valid_frames():
    padded = FRAMES.view(30, 100, 8).clone()
    counts = torch.arange(71, 101)
    for row, count in zip(padded, counts, strict=True):
        row[count:] = 1e6
    plain = torch.cat([row[:count] for row, count in zip(padded, counts, strict=True)])
    batches = [
        valid_frames(part, lens / 100)
        for part, lens in zip(padded.split(10), counts.split(10), strict=True)
    ]
    sizes = [len(part) for part in batches]
    expected, _ = fit(plain.split(sizes))
    assert torch.equal(fit(batches)[0], expected)


# The fit


def test_same_seed_same_centres_and_another_seed_others():
    batches = FRAMES.split(500)
    first, record = fit(batches, seed=3, epochs=2)
    assert torch.equal(fit(batches, seed=3, epochs=2)[0], first)
    assert not torch.equal(fit(batches, seed=4, epochs=2)[0], first)
    assert record["frames"] == 3000 and record["config"]["seed"] == 3
    assert len(record["epochs"]) == 2
    json.dumps(record)


def test_caller_keeps_its_frames():
    copy = FRAMES.clone()
    fit([FRAMES])
    assert torch.equal(copy, FRAMES)


def test_one_full_pass_is_one_step_of_lloyd():
    start = FRAMES[:20].clone()
    trainer = KMeansTrainer(20, 8)
    trainer.centers[0] = start
    trainer.begin_epoch(memory=0)
    for part in FRAMES.split(700):
        trainer.add(part)
    trainer.update()
    ids, _ = naive_nearest(FRAMES, start)
    means = torch.stack([FRAMES[ids == k].mean(0) for k in range(20)])
    torch.testing.assert_close(trainer.centers[0], means, rtol=1e-5, atol=1e-5)


def test_passes_lower_the_inertia_and_it_is_the_true_one():
    centers, record = fit(FRAMES.split(500), epochs=1, full_epochs=3)
    history = [epoch["inertia"] for epoch in record["epochs"]]
    assert history[1] >= history[2] >= history[3] > 0
    after = nearest_centers(FRAMES, centers[0])[1].mean().item()
    assert after <= record["inertia"] * (1 + 1e-5)
    assert after == pytest.approx(record["inertia"], rel=0.02)


def test_inertia_is_near_the_best_of_many_full_fits():
    best = min(
        fit([FRAMES], seed=seed, epochs=0, full_epochs=20)[1]["inertia"]
        for seed in range(3)
    )
    assert fit(FRAMES.split(300), epochs=2)[1]["inertia"] < 1.05 * best


def test_groups_are_fits_side_by_side():
    pair = torch.cat([FRAMES, FRAMES * 3], dim=1)
    centers, _ = fit(pair.split(900), groups=2)
    assert centers.shape == (2, 20, 8)
    alone, _ = fit(FRAMES.split(900))
    assert torch.equal(centers[:1], alone)


def test_batch_size_does_not_choose_the_sample():
    def draw(batch, capacity):
        sample, offset = FrameSample(capacity, seed=5), 0
        for part in FRAMES.split(batch):
            sample.add(part, offset)
            offset += len(part)
        return sample.gather(dim=8)

    assert torch.equal(draw(3000, 400), draw(37, 400))
    everything = draw(100, 3000)
    assert torch.equal(everything.sum(1).sort()[0], FRAMES.sum(1).sort()[0])


def test_sample_is_even_over_the_stream():
    places = torch.arange(20_000.0).view(-1, 1)
    sample = FrameSample(2000, seed=1)
    for part in places.split(1000):
        sample.add(part, int(part[0]))
    drawn = torch.histc(sample.gather(dim=1), bins=10, min=0, max=20_000)
    # 200 expected in each tenth, with a deviation of 13.
    assert drawn.min() > 130 and drawn.max() < 270


def test_scan_stops_early():
    seen = []

    def batches(epoch):
        for index, part in enumerate(FRAMES.split(100)):
            if epoch == 0:
                seen.append(index)
            yield part

    fit(batches, scan=500)
    assert seen == [0, 1, 2, 3, 4]


# Revival


def used(centers, frames=FRAMES):
    return len(nearest_centers(frames, centers)[0].unique())


def test_duplicated_and_distant_starts_end_with_all_centres_used():
    start = FRAMES[:1].repeat(20, 1)
    start[10:] = 1e4
    centers, _ = fit(FRAMES.split(500), start=start[None], epochs=2)
    assert used(centers[0]) == 20


def test_centre_that_dies_in_an_epoch_is_revived():
    trainer = KMeansTrainer(20, 8)
    trainer.centers[0] = FRAMES[:20]
    trainer.centers[0, 7] = 1e4
    trainer.begin_epoch(memory=0)
    trainer.add(FRAMES)
    trainer.update()
    assert used(trainer.centers[0]) == 19
    _, frames, revived = trainer.end_epoch(FRAMES, torch.Generator().manual_seed(0))
    assert (frames, revived) == (3000, 1) and used(trainer.centers[0]) == 20


def test_living_centres_stay_where_they_are():
    dead = torch.zeros(20, dtype=torch.bool)
    dead[3] = True
    new = revive_centers(FRAMES, FRAMES[:20], dead, torch.Generator().manual_seed(0))
    assert torch.equal(new[~dead], FRAMES[:20][~dead])
    assert not torch.equal(new[3], FRAMES[3])


def test_start_beats_random_frames():
    def inertia(centers):
        return nearest_centers(FRAMES, centers)[1].mean()

    random = torch.Generator().manual_seed(0)
    grown = grow_centers(FRAMES, FRAMES[:0], 20, random)
    assert len(grown.unique(dim=0)) == 20
    plain = [inertia(FRAMES[torch.randperm(3000)[:20]]) for _ in range(5)]
    assert inertia(grown) < min(plain)


def test_every_different_frame_becomes_a_centre_if_there_are_no_more():
    """Copies, and copies up to rounding, in as many dimensions as SSL features."""
    frames = torch.randn(30, 256, generator=torch.Generator().manual_seed(0))
    frames[15:] = frames[:15] * (1 + 2e-7)
    assert len(frames.unique(dim=0)) == 30
    stream = frames.repeat(4, 1)
    grown = grow_centers(stream, stream[:0], 30, torch.Generator().manual_seed(1))
    assert torch.equal(grown.unique(dim=0), frames.unique(dim=0))


# Faults


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("epoch_with_fault", [0, 1])
def test_values_that_are_not_finite_name_the_batch(value, epoch_with_fault):
    bad = FRAMES[:100].clone()
    bad[4, 2] = value

    def batches(epoch):
        yield FRAMES
        yield FRAMES
        yield bad if epoch == epoch_with_fault else FRAMES

    with pytest.raises(DsuError, match="batch 2 .*1 of 100 frames"):
        fit(batches)


@pytest.mark.parametrize(
    "batches, options, message",
    [
        ([FRAMES[:12]], {}, "20 centres need at least as many frames.*gave 12"),
        ([], {}, "gave 0"),
        ([FRAMES[:5].repeat(9, 1)], {}, "as many different frames"),
        ([FRAMES[None]], {}, r"batch 0 .* frames \[n, 8\], got \[1, 3000, 8\]"),
        ([FRAMES], {"sample": 10}, "sample of 10"),
        ([FRAMES], {"epochs": 0}, "at least one"),
        ([FRAMES], {"start": FRAMES[:20]}, "start"),
    ],
)
def test_mistakes_are_named(batches, options, message):
    with pytest.raises(DsuError, match=message):
        fit(batches, **options)


# Interrupted runs


class Crash(Exception):
    pass


@pytest.mark.parametrize("crash", [(1, 0), (1, 4), (2, 1), (2, 5), (3, 2)])
def test_resumed_run_is_the_unbroken_run(tmp_path, crash):
    options = {"epochs": 2, "full_epochs": 1, "update_frames": 500, "seed": 2}

    def batches(epoch, broken=False):
        for index, part in enumerate(FRAMES.split(250)):
            if broken and (epoch, index) == crash:
                raise Crash
            yield part

    expected, record = fit(batches, **options)
    options |= {"checkpoint": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Crash):
        fit(lambda epoch: batches(epoch, broken=True), **options)
    passes = []

    def rest(epoch):
        passes.append(epoch)
        return batches(epoch)

    centers, resumed = fit(rest, **options)
    assert passes[0] == crash[0], "finished passes are not run again"
    assert torch.equal(centers, expected)
    assert resumed["epochs"] == record["epochs"]
    again, _ = fit(lambda epoch: pytest.fail("nothing is left to do"), **options)
    assert torch.equal(again, expected)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"state.safetensors", "sample.safetensors", "record.json"}


def test_checkpoint_of_another_run_is_refused(tmp_path):
    fit([FRAMES], checkpoint=tmp_path, data_hash="a")
    with pytest.raises(DsuError, match="data_hash=a, this one has data_hash=b"):
        fit([FRAMES], checkpoint=tmp_path, data_hash="b")
    with pytest.raises(DsuError, match="size=20, this one has size=21"):
        fit([FRAMES], size=21, checkpoint=tmp_path, data_hash="a")


def test_damaged_checkpoint_is_named(tmp_path):
    fit([FRAMES], checkpoint=tmp_path)
    state = tmp_path / "state.safetensors"
    assert "centers" in load_state(state)[0]
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(DsuError, match="state.safetensors is not a k-means"):
        fit([FRAMES], checkpoint=tmp_path)


# Streams and memory


def test_walk_counts_places_and_skips():
    parts = FRAMES[:10].split([4, 0, 6])
    steps = list(walk(parts, dim=8))
    assert [(s.index, s.offset, s.total) for s in steps] == [
        (0, 0, 4),
        (1, 4, 0),
        (2, 4, 6),
    ]
    assert [s.offset for s in walk(parts, dim=8, skip=2)] == [4]


def test_memory_does_not_grow_with_the_corpus():
    """20 times the stream (64 MB more of frames) costs no more than 8 MB."""

    def peak(count, sample=2000):
        return peak_memory(fit_kmeans, count, dim=64, size=20, sample=sample)

    small = peak(13_000)
    assert peak(260_000) < small + 8
    # The gauge itself: a sample of 64 MB must show.
    assert peak(260_000, sample=260_000) > small + 64
