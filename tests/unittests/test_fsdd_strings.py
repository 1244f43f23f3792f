"""Strings of digits are what their recordings are, and stay on their side."""

import pytest
import torch

from speechbrain_dsu.dataio.corpora import prepare_fsdd_strings, read_manifest
from speechbrain_dsu.dataio.corpora.fsdd import WORDS
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError

SPEAKERS = ("ann", "bob")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings of a constant that tells digit, speaker and side."""
    root = tmp_path_factory.mktemp("fsdd")
    (root / "recordings").mkdir()
    for digit in range(10):
        for place, speaker in enumerate(SPEAKERS):
            for take in (0, 7, 8):
                level = (1 + digit + 20 * place + 100 * (take == 0)) / 256
                path = root / "recordings" / f"{digit}_{speaker}_{take}.wav"
                write_audio(path, torch.full((400 + 10 * digit,), level), 8000)
    return root


def levels(wav):
    """The constants of a string in order; pauses are near zero."""
    values = (wav * 256).round().int()
    return [int(v) for v in torch.unique_consecutive(values) if v != 0]


def test_text_speaker_and_side_are_those_of_the_audio(corpus, tmp_path):
    counts = {"train": 20, "test": 20}
    paths = prepare_fsdd_strings(corpus, tmp_path, counts, digits=(2, 4))
    for part, path in paths.items():
        entries = read_manifest(path, tmp_path)
        assert len(entries) == counts[part]
        assert {entry["spk_id"] for entry in entries.values()} == set(SPEAKERS)
        for entry in entries.values():
            digits = [int(digit) for digit in entry["digits"].split()]
            assert entry["text"].split() == [WORDS[digit] for digit in digits]
            assert 2 <= len(digits) <= 4
            wav, rate = read_audio(entry["wav"])
            assert entry["duration"] == len(wav) / rate
            base = 1 + 20 * SPEAKERS.index(entry["spk_id"]) + 100 * (part == "test")
            # Equal neighbours are told apart by the pause between them.
            assert levels(wav) == [base + digit for digit in digits]


def test_the_same_options_do_nothing_and_others_do_it_again(corpus, tmp_path):
    def made(seed):
        paths = prepare_fsdd_strings(corpus, tmp_path, {"test": 3}, seed=seed)
        wavs = sorted((tmp_path / "strings").rglob("*.wav"))
        return (
            paths["test"].read_text(),
            [w.read_bytes() for w in wavs],
            {w: w.stat().st_mtime_ns for w in wavs},
        )

    first, again, other = made(1), made(1), made(2)
    assert first == again
    assert other[0] != first[0] and other[1] != first[1]
    assert made(1)[:2] == first[:2]


def test_a_held_out_speaker_is_only_tested(corpus, tmp_path):
    counts = {"train": 5, "test": 5}
    paths = prepare_fsdd_strings(corpus, tmp_path, counts, held_out_speaker="bob")
    for part, speaker in (("train", "ann"), ("test", "bob")):
        entries = read_manifest(paths[part], tmp_path)
        assert {entry["spk_id"] for entry in entries.values()} == {speaker}


def test_a_part_without_recordings_is_said(corpus, tmp_path):
    with pytest.raises(DsuError, match="part 'dev' has no recordings"):
        prepare_fsdd_strings(corpus, tmp_path, {"dev": 1})
