"""Alignment of phones: against all paths, and labels of manifests by time."""

import itertools

import pytest
import torch

from speechbrain_dsu.dataio.phone_labels import phone_labels
from speechbrain_dsu.training.phone_alignment import align_phones
from speechbrain_dsu.utils.errors import DsuError

SILENCE = 0


def collapsed(path):
    """The phones of a path: equal neighbours are one, silences go."""
    return [phone for phone, _ in itertools.groupby(path) if phone != SILENCE]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ways", [[[1, 2]], [[1, 1]], [[2], [1, 3, 1], [3, 2]]])
def test_the_best_of_all_paths_is_found(seed, ways):
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    scores = (3 * scores).log_softmax(-1)
    found = align_phones(scores, ways, SILENCE).tolist()
    assert collapsed(found) in ways

    def total(path):
        return sum(float(scores[t, phone]) for t, phone in enumerate(path))

    paths = itertools.product(range(4), repeat=6)
    best = max(total(path) for path in paths if collapsed(path) in ways)
    assert total(found) == pytest.approx(best, abs=1e-4)


def test_a_recording_too_short_has_no_labels():
    assert align_phones(torch.zeros(2, 4), [[1, 1]], SILENCE).tolist() == [-1, -1]
    with pytest.raises(DsuError, match="needs a pronunciation"):
        align_phones(torch.zeros(2, 4), [], SILENCE)


def test_a_frame_has_the_phone_that_sounds_in_its_middle():
    manifest = {"a": {"phones": "x y x", "phone_ends": "0.014 0.036 0.05"}}
    labels = phone_labels(manifest, ["y", "x"], 1000, 10)
    # Middles at 5, 15, 25, 35 and 45 ms.
    assert labels.codes["a"].tolist() == [1, 0, 0, 0, 1]
    at = labels.at("a", torch.tensor([5.0, 19.0, 21.0, 200.0]))
    assert at.tolist() == [1, 0, 0, 1]


def test_an_unknown_phone_is_named():
    manifest = {"a": {"phones": "x z", "phone_ends": "0.1 0.2"}}
    with pytest.raises(DsuError, match="a: phone 'z' is not in the inventory"):
        phone_labels(manifest, ["x"], 1000, 10)
