"""Claims about recognition: their inputs are what they say, and they run."""

import json

import pytest
import torch

from speechbrain_dsu.evaluation.claims import digit_asr as asr
from speechbrain_dsu.evaluation.claims import run_claim
from speechbrain_dsu.evaluation.claims.common import seeded
from speechbrain_dsu.inference.tokenizer import UnitTokenizer


def test_a_shipped_tokenizer_is_the_bundles(speech_data):
    path = speech_data / "fsdd/recordings/3_lucas_9.wav"
    parts = asr.read_digits(speech_data, 91, seed=2, takes=1)
    assert {one.speaker for one in parts[1]}.isdisjoint(o.speaker for o in parts[0])
    assert len(parts[1]) == 10 and len(parts[0]) == 40
    for name in ("mfcc-k100", "dmel"):
        wav = UnitTokenizer.from_hparams(name).load_audio(path)
        wanted = UnitTokenizer.from_hparams(name).encode_batch(wav[None]).codes[0]
        spoken = [asr.Spoken("three", "lucas", wav)]
        given = asr.encoded(asr.shipped_tokenizer(name), (spoken, spoken), "units")
        assert given.test[0].equal(wanted)


def test_subwords_say_the_same_in_fewer_steps():
    torch.manual_seed(0)
    codes = [torch.randint(5, (30, 1)).repeat_interleave(3, 0) for _ in range(20)]
    given = asr.Input(codes[:15], codes[15:], (5,), 50.0, None)
    runs, pieces = asr.without_runs(given), asr.without_runs(given, 30)
    for whole, run, piece in zip(given.test, runs.test, pieces.test, strict=True):
        assert len(whole) > len(run) > len(piece)
        changes = 1 + int((whole[1:] != whole[:-1]).sum())
        assert len(run) == changes
    assert pieces.sizes == (30,) and int(torch.cat(pieces.test).max()) >= 5


def test_a_small_recogniser_learns_what_it_is_given():
    torch.manual_seed(0)
    texts = [asr.WORDS[i % 10] for i in range(40)]
    codes = [torch.randint(3, (12, 1)) + 3 * (i % 10) for i in range(40)]
    given = asr.Input(codes, codes, (30,), 25.0, None)
    with seeded(0) as generator:
        model = asr.recogniser(given, time_mask=0.0, unit_dropout=0.0)
        before = asr.digit_error(model.eval(), codes, texts)
        asr.fit(model, given, texts, 120, generator, batch=20)
    assert before > 80 and asr.digit_error(model, codes, texts) < 10


@pytest.mark.parametrize("claim", [91, 109])
def test_a_claim_runs_and_says_what_it_saw(claim, speech_data):
    result = run_claim(claim, quick=True, data=speech_data)
    assert all(result["laws"].values()), result["laws"]
    assert json.loads(json.dumps(result))["id"] == claim
    rows = {(row["condition"], row["system_name"]): row for row in result["rows"]}
    if claim == 91:
        shorter = rows["bits per second", "ssl-k100, runs, subwords"]
        assert shorter["system"] < shorter["baseline"] and shorter["verdict"] == "shown"
    else:
        assert ("error, %", "from tokens") in rows
    assert all(row["system"] >= 0 for row in result["rows"])
