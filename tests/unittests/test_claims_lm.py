"""Claims about language models of speech: parts by hand, quick runs on toy speech."""

import json
import random

import pytest
import torch

from speechbrain_dsu.evaluation.claims import format_claim, run_claim
from speechbrain_dsu.evaluation.claims.pcg import _cosine
from speechbrain_dsu.evaluation.claims.spoken_units import Spoken, draw_strings
from speechbrain_dsu.evaluation.claims.sutlm import _count, _sequence
from speechbrain_dsu.tokens.interleave import Interleave
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.audio import write_audio

CLAIMS = (31, 99, 101, 169, 199)


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory):
    """Digits as tones of a digit's own and a speaker's pitch, in noise; sentences.

    A sentence is four made-up words, and each letter is a phone.
    """
    folder = tmp_path_factory.mktemp("speech")
    (folder / "fsdd" / "recordings").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(2400) / 8000
    for who, pitch in (("ann", 200), ("bob", 300), ("cid", 250)):
        for digit in range(10):
            for take in range(4):
                sweep = pitch * (1 + digit) + 900 * time * ((digit * 7) % 5 - 2)
                wav = 0.3 * torch.sin(6.2832 * sweep * time)
                wav += 0.02 * torch.randn(len(time), generator=generator)
                name = f"{digit}_{who}_{take}.wav"
                write_audio(folder / "fsdd" / "recordings" / name, wav, 8000)
    draw, entries = random.Random(0), {}
    words = ["".join(draw.choices("abdefgiklmnoprstu", k=6)) for _ in range(150)]
    for number in range(200):
        text = " ".join(draw.choices(words, k=4))
        phones = [letter for letter in text if letter != " "]
        entries[str(number)] = {
            "wav": f"{number}.wav",
            "language": "en",
            "engine": "flite",
            "text": text,
            "phones": " ".join(phones),
            "phone_ends": " ".join(f"{(k + 1) / 10:.1f}" for k in range(len(phones))),
        }
    (folder / "synth" / "manifests").mkdir(parents=True)
    path = folder / "synth" / "manifests" / "train.json"
    path.write_text(json.dumps(entries))
    return folder


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_runs_and_its_laws_hold(claim, toy_data):
    found = run_claim(claim, quick=True, data=toy_data)
    assert found["laws"] and all(found["laws"].values())
    assert all(len(row["per_seed"]) == 2 for row in found["rows"])
    assert f"claim {claim}" in format_claim(found)


def test_strings_are_of_one_speaker():
    spoken = [Spoken(d, who, torch.tensor([d])) for d in range(10) for who in "ab"]
    strings = draw_strings(spoken, 20, 3, torch.Generator().manual_seed(0))
    assert len(strings) == 20 and {len(row) for row in strings} == {3}
    assert all(len({item.speaker for item in row}) == 1 for row in strings)
    counted = _count(spoken, torch.Generator().manual_seed(1), 4)
    steps = [b.digit - a.digit for a, b in zip(counted, counted[1:], strict=False)]
    assert all(step in (1, -9) for step in steps)
    assert len({item.speaker for item in counted}) == 1


def test_words_are_written_or_spoken_in_their_order():
    tags = ("<text>", "<speech>")
    layout = Interleave(Vocabulary(sizes=(5,), text=10, tags=tags), tags=tags)
    items = [Spoken(d, "a", torch.tensor([d, 0])) for d in (3, 4, 2)]
    ways = (True, False, True)
    ids = _sequence(layout, list(zip(items, ways, strict=True))).tolist()
    names = layout.vocabulary
    text, speech, unit = names["<text>"], names["<speech>"], names.offsets[0]
    assert ids == [
        names.bos,
        *(text, 3),
        *(speech, unit + 4, unit),
        *(text, 2),
        names.eos,
    ]


def test_a_cosine_gives_groups_of_a_size():
    torch.manual_seed(0)
    vectors = torch.randn(20, 6).double()
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    for size in (2, 4):
        groups = (unit @ unit.T) >= _cosine(vectors, size)
        # Pairs come twice: at most one unit more.
        assert size * 20 <= int(groups.sum()) <= size * 20 + 1
