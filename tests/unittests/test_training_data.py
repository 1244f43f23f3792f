"""Training data: reproducible crops, labels in step, mixing, batches, the cache."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.dataio.audio_cache import AudioCache
from speechbrain_dsu.dataio.frame_labels import FrameLabels, frame_centres
from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.training_data import (
    SpeechSegments,
    batches_by_seconds,
    mixed_items,
)
from speechbrain_dsu.lobes.features import MFCC
from speechbrain_dsu.training.brain import UnitBrain
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError

RATE = 16000


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Ramps: the value of a sample tells where in its file it stood."""
    folder = tmp_path_factory.mktemp("ramps")
    found = []
    for index, seconds in enumerate([0.3, 1.0, 1.7, 2.0, 0.05, 3.1]):
        size = int(seconds * RATE)
        write_audio(folder / f"{index}.wav", torch.arange(size) / 2**15 / 2, RATE)
        found.append(AudioItem(f"{index}", str(folder / f"{index}.wav")))
    return found


def place(wav):
    """First sample's place in its file."""
    return round(float(wav[0]) * 2**16)


def test_crops_depend_on_seed_epoch_and_id_alone(items):
    data = SpeechSegments(items, RATE, 0.5, seed=3)
    first = {item["id"]: item["wav"] for item in data}
    assert set(first) == {"0", "1", "2", "3", "5"}, "what is too short is left out"
    assert {len(wav) for wav in first.values()} == {4800, 8000}
    torch.rand(5)
    fewer = SpeechSegments(items[2:4], RATE, 0.5, seed=3, cache=AudioCache(RATE, 0))
    for item in reversed(list(fewer)):
        assert torch.equal(item["wav"], first[item["id"]])
    starts = []
    for epoch in range(40):
        data.set_epoch(epoch)
        starts.append(place(data[4]["wav"]))
    assert len(set(starts)) > 30
    assert min(starts) < 5000 and max(starts) > 3.1 * RATE - 8000 - 5000
    other = SpeechSegments(items, RATE, 0.5, seed=4)
    assert place(other[4]["wav"]) != place(first["5"])


def test_workers_hear_the_same_as_the_main_process(items):
    data = SpeechSegments(items, RATE, 0.5, seed=3)
    brain = UnitBrain({}, run_opts={"device": "cpu"})
    import speechbrain as sb

    def hear(workers, persistent=False):
        loader = brain.make_dataloader(
            data,
            sb.Stage.VALID,
            num_workers=workers,
            batch_size=2,
            persistent_workers=persistent,
        )
        out = []
        for epoch in (1, 2):
            data.set_epoch(epoch)
            out.append(torch.cat([b.wav.data.flatten() for b in loader]))
        return out

    one, two = hear(0), hear(1, persistent=True)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])


class Frames:
    """Frames of another offset and hop than the labels'."""

    hop, frame_offset = 320, 200

    def num_frames(self, n):
        return (n - 400) // 320 + 1


def test_labels_are_those_nearest_in_time(items):
    # The label of frame t is t: it says which frame it was.
    codes = {i.id: torch.arange(1000).unsqueeze(1).repeat(1, 2) for i in items}
    labels = FrameLabels(codes, hop=160, offset=0.0)
    data = SpeechSegments(
        items, RATE, 0.5, seed=1, labels=labels, frames=Frames(), speeds=(1.0,)
    )
    for epoch in range(5):
        data.set_epoch(epoch)
        for item in data:
            start, found = place(item["wav"]), item["labels"]
            assert found.shape == (Frames().num_frames(len(item["wav"])), 2)
            for t, label in enumerate(found[:, 0].tolist()):
                centre = start + 200 + 320 * t
                assert abs(label * 160 - centre) <= 80


def test_labels_follow_a_change_of_speed(items):
    codes = {i.id: torch.arange(1000) for i in items}
    data = SpeechSegments(
        items,
        RATE,
        0.5,
        labels=FrameLabels(codes, 160),
        frames=Frames(),
        speeds=(1.25,),
    )
    for item in data:
        wav, found = item["wav"], item["labels"]
        assert len(found) == Frames().num_frames(len(wav))
        for t in range(2, len(found) - 2):
            # The signal itself says which sample of the file is heard there.
            heard = float(wav[200 + 320 * t]) * 2**16
            # (the resampling filter does not keep a ramp's slope exactly)
            assert abs(int(found[t]) * 160 - heard) <= 80 + 0.001 * heard
    assert max(len(item["wav"]) for item in data) == 8000


def test_labels_of_the_whole_are_those_of_a_tokenizer_frame_by_frame():
    features = MFCC()
    times = frame_centres(features, 5000)
    labels = FrameLabels.of(features, {"a": torch.arange(features.num_frames(5000))})
    assert labels.at("a", times).tolist() == list(range(features.num_frames(5000)))


@given(
    st.integers(1, 400), st.floats(0, 400), st.lists(st.floats(-1e4, 1e5), max_size=20)
)
@settings(deadline=None, max_examples=50)
def test_nearest_label_against_a_search(hop, offset, centres):
    codes = torch.arange(50)
    found = FrameLabels({"a": codes}, hop, offset).at("a", torch.tensor(centres))
    grid = offset + hop * np.arange(50)
    for centre, label in zip(
        torch.tensor(centres).tolist(), found.tolist(), strict=True
    ):
        assert abs(grid[label] - centre) <= np.abs(grid - centre).min() + 1e-6


def test_missing_labels_are_named(items):
    labels = FrameLabels({}, 320)
    data = SpeechSegments(items, RATE, labels=labels, frames=Frames())
    with pytest.raises(DsuError, match="no labels for '0'"):
        data[0]["labels"]
    with pytest.raises(DsuError, match="labels need frames"):
        SpeechSegments(items, RATE, labels=labels)
    with pytest.raises(DsuError, match="no recording"):
        SpeechSegments([AudioItem("x", "/no/such.wav")], RATE)


def test_the_cache_changes_no_sample(tmp_path):
    wav = torch.randn(22050) * 0.2
    write_audio(tmp_path / "a.wav", wav, 22050)
    whole = AudioItem("a", str(tmp_path / "a.wav"))
    part = AudioItem("b", whole.path, start=5000, stop=15000)
    full, none = AudioCache(RATE, 10), AudioCache(RATE, 0)
    for item in (whole, part):
        size = full.n_samples(item)
        assert size == none.n_samples(item)
        one, two = full.read(item, 1000, 3000), none.read(item, 1000, 3000)
        # Resampling a stretch rounds to within the last bit.
        assert (one - two).abs().max() <= 1.01 / 2**15
        assert len(full.read(item, size - 5)) == 5
    assert (full.kept, none.kept) == (2, 0)
    small = AudioCache(RATE, 0.04)
    assert [len(small.read(item)) for item in (whole, part)] == [16000, 7257]
    assert small.kept == 1, "what does not fit is read from its file"


def test_mixing_by_hours():
    corpora = {
        "long": {f"u{i}": {"wav": f"{i}.wav", "duration": 36.0} for i in range(50)},
        "short": {f"u{i}": {"wav": f"s{i}.wav", "duration": 3.6} for i in range(50)},
    }
    items = mixed_items(corpora, {"long": 0.2, "short": 0.1}, seed=1)
    names = [item.id for item in items]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("long/") for name in names) == 20
    assert sum(name.startswith("short/") for name in names) == 100
    assert sum(name.endswith("#2") for name in names) == 50
    with pytest.raises(DsuError, match="hours are given"):
        mixed_items(corpora, {"long": 1.0})


def test_batches_hold_similar_lengths_and_all_items(items):
    data = SpeechSegments(items, RATE, min_seconds=0.01)
    options = batches_by_seconds(data, 4.0, seed=1, buckets=3)
    sampler, seconds = options["batch_sampler"], data.seconds
    seen = []
    for batch in sampler:
        seen += batch
        longest = max(seconds[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= 4.0 + 1e-9
    assert sorted(seen) == list(range(len(data)))
    sampler.set_epoch(1)
    first = list(sampler)
    sampler.set_epoch(2)
    sampler.set_epoch(1)
    assert list(sampler) == first


def test_a_batch_sampler_hears_of_the_epoch_on_one_rank(items):
    data = SpeechSegments(items, RATE, 0.5)
    orders = []

    class Listen(UnitBrain):
        def fit_batch(self, batch):
            orders[-1].append(tuple(batch.id))
            return torch.zeros(())

        def on_stage_start(self, stage, epoch=None):
            super().on_stage_start(stage, epoch)
            orders.append([])

    brain = Listen({}, run_opts={"device": "cpu"})
    brain.fit(6, data, train_loader_kwargs=batches_by_seconds(data, 1.0, seed=5))
    expected = []
    for epoch in range(1, 7):
        sampler = batches_by_seconds(data, 1.0, seed=5)["batch_sampler"]
        sampler.set_epoch(epoch)
        expected.append([tuple(data.data_ids[i] for i in batch) for batch in sampler])
    assert orders == expected
    assert len({tuple(map(frozenset, order)) for order in orders}) > 1
