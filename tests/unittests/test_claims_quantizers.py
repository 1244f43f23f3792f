"""Claims about quantizers: shared rules, referees beside the library, quick runs."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_dsu.evaluation.bench import quantizer_choice
from speechbrain_dsu.evaluation.claims import run_claim
from speechbrain_dsu.evaluation.claims.common import (
    Cepstra,
    block,
    guess_accuracy,
    log_mel_8k,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dqr_tts import train
from speechbrain_dsu.evaluation.claims.frame_codec import (
    FrameCodec,
    train_codec,
    usage,
)
from speechbrain_dsu.evaluation.claims.neucodec import (
    compare_encoders,
    same_weights,
    second_encoder,
)
from speechbrain_dsu.evaluation.claims.secodec import graph, structural_entropy
from speechbrain_dsu.evaluation.claims.vq_survey import codes_survive
from speechbrain_dsu.nnet.quantizers import entropy_graph
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import hparams_dir

CLAIMS = (25, 85, 111, 179, 217, 223)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "expected, system, verdict",
    [
        ("lower", [1.0, 1.1], "shown"),
        ("lower", [1.0, 2.1], "not shown"),  # not in every seed
        ("lower", [0.1, 1.99], "not shown"),  # less than its spread
        ("higher", [1.0, 1.1], "not shown"),
        ("not higher", [1.0, 2.1], "shown"),  # no clear difference
        ("not lower", [1.0, 1.1], "not shown"),
        ("within 0.5", [1.6, 2.4], "shown"),
        ("within 0.5", [1.4, 2.4], "not shown"),
        ("none stated", [1.0, 1.1], "-"),
    ],
)
def test_one_rule_decides_every_row(expected, system, verdict):
    row = make_row("x", ("old", [2.0, 2.0]), ("new", system), expected)
    assert row["verdict"] == verdict
    assert row["difference"] == pytest.approx(sum(system) / 2 - 2)


def test_guesses_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    given, answers = (torch.randint(6, (300,), generator=generator) for _ in range(2))
    commonest = {}
    for key in range(6):
        hits = answers[:200][given[:200] == key].tolist()
        commonest[key] = max(sorted(set(hits)), key=hits.count)
    pairs = zip(given[200:].tolist(), answers[200:].tolist(), strict=True)
    right = sum(commonest[g] == a for g, a in pairs)
    parts = (given[:200], answers[:200]), (given[200:], answers[200:])
    assert guess_accuracy(*parts) == pytest.approx(right / 100)


def test_the_referee_of_claim_25_agrees_with_the_library():
    frames = drawn(60, 5)
    weights = graph(frames)
    theirs = entropy_graph.similarity_graph(frames, 10)
    torch.testing.assert_close(weights, theirs)
    for labels in (torch.arange(60) % 7, torch.zeros(60).long(), torch.arange(60)):
        ours = structural_entropy(weights, labels)
        assert ours == pytest.approx(entropy_graph.structural_entropy(theirs, labels))


def test_cepstra_measure_the_spectrum_without_its_mean():
    cepstra = Cepstra(39)  # all but the zeroth: nothing is smoothed away
    one, other = 0.1 * drawn(1, 4000), 0.1 * drawn(1, 4000, seed=1)
    gap = cepstra.features(one) - cepstra.features(other)
    gap = gap - gap.mean(-1, keepdim=True)
    expected = gap.square().mean(-1).sqrt().mean() * 20 / math.log(10)
    found = cepstra.decibels(cepstra(one), cepstra(other))
    assert found == pytest.approx(float(expected), rel=1e-4)
    # Louder by 6 dB is the same to them.
    assert cepstra.decibels(cepstra(one), cepstra(2 * one)) < 1e-3


@pytest.fixture(scope="module")
def toy_digits(tmp_path_factory):
    """Digits as filtered noise: two speakers, two takes, a filter for each digit."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "fsdd" / "recordings").mkdir(parents=True)
    generator = np.random.RandomState(0)
    filters = generator.randn(10, 8)
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for take in range(2):
                noise = generator.randn(2400)
                wav = 0.03 * np.convolve(noise, filters[digit], "same")
                name = f"{digit}_{speaker}_{take}.wav"
                soundfile.write(folder / "fsdd" / "recordings" / name, wav, 8000)
    return folder


def test_digits_hold_a_speaker_out_and_follow_the_seed(toy_digits):
    first, again, other = (
        read_digits(toy_digits, log_mel_8k(), 1, seed, takes=1) for seed in (0, 0, 1)
    )
    assert {d.speaker for d in first.test} == {"ann"} != {d.speaker for d in other.test}
    assert {d.speaker for d in first.train} == {"bob"}
    assert sorted(d.digit for d in first.train) == list(range(10))
    pairs = zip(first.train, again.train, strict=True)
    assert all(torch.equal(a.frames, b.frames) for a, b in pairs)
    frames = torch.cat([d.frames for d in first.standardised().train])
    assert frames.mean(0).abs().max() < 1e-4
    assert (frames.std(0) - 1).abs().max() < 1e-4


def test_speech_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DsuError, match=r"0 files fsdd/recordings.*claim 85 needs 1"):
        run_claim(85, data=tmp_path)


def test_training_lowers_the_loss_and_leaves_the_global_draws_alone():
    frames = drawn(400, 12) * torch.linspace(0.1, 2, 12)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    with seeded(0) as generator:
        codec = FrameCodec(12, block("quantizer_vq", size=16, dim=4), hidden=32)
        with torch.no_grad():
            before = float(codec.eval().loss(frames))
        train_codec(codec, frames, 150, generator, batch=128)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert float(codec.loss(frames)) < 0.8 * before
    share, perplexity = usage(codec.encode(frames), 16)
    assert 1 < perplexity <= 16 * share + 1e-6


def test_a_second_encoder_learns_for_what_is_there():
    frames = drawn(300, 12) @ drawn(12, 12, seed=1) / 4
    with seeded(0) as generator:
        codec = FrameCodec(12, block("quantizer_fsq", levels=[4] * 4, dim=4), hidden=32)
        train_codec(codec, frames, 100, generator)
        other = second_encoder(codec, frames, 0, generator)
        start = compare_encoders(codec, other, frames)
        other = second_encoder(codec, frames, 100, generator)
    found = compare_encoders(codec, other, frames)
    error = "second encoder", "error"
    assert found[error] < 0.8 * start[error]
    assert same_weights(codec, other)
    assert (
        compare_encoders(codec, codec, frames)["second encoder", "ids that agree"] == 1
    )
    with torch.no_grad():
        other.decoder[0].bias += 1
    assert not same_weights(codec, other)


def test_a_quantizer_that_loses_codes_is_found_out():
    quantizer = block("quantizer_bsq", bits=4, dim=4)
    codes = torch.arange(16).unsqueeze(1)
    assert codes_survive(quantizer, codes)
    decode = quantizer.decode
    quantizer.decode = lambda ids: -decode(ids)
    assert not codes_survive(quantizer, codes)


def test_growth_counts_every_new_entry(toy_digits):
    digits = read_digits(toy_digits, Cepstra(), 217, seed=0, takes=2)
    book = block("quantizer_growing", size=99, dim=12, threshold=1.0, max_new=3)
    book.set_entries(digits.train[0].frames[:1])
    growth = train(book, digits.train, batch=4)
    assert len(growth) == 5 and growth[0] == 3
    assert 1 + sum(growth) == int(book.entries)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_quick_run_is_complete_and_keeps_the_laws(claim, toy_digits):
    result = run_claim(claim, quick=True, data=toy_digits)
    assert json.loads(json.dumps(result)) == result
    assert result["id"] == claim and result["rows"]
    broken = [law for law, holds in result["laws"].items() if not holds]
    assert not broken
    for row in result["rows"]:
        assert len(row["per_seed"]) == 2 and math.isfinite(row["difference"])


def test_a_run_is_repeatable(toy_digits):
    assert run_claim(25, True, toy_digits) == run_claim(25, True, toy_digits)


def test_the_table_of_quantizers_leaves_out_only_what_codes_no_single_frame():
    files = (hparams_dir() / "blocks").glob("quantizer_*.yaml")
    shipped = {path.stem.removeprefix("quantizer_") for path in files}
    left = shipped - set(quantizer_choice.BLOCKS)
    assert left == {"identity", "multi_rate", "online", "time_invariant"}
    assert set(quantizer_choice.BLOCKS) <= shipped


@pytest.mark.parametrize("name", ["vq", "fsq", "gumbel", "entropy", "merged"])
def test_a_fitted_block_beats_its_start(name):
    frames = drawn(600, 12) @ drawn(12, 12, seed=1) / 4
    errors = []
    for steps in (1, 40):
        with seeded(0) as generator:
            quantizer = quantizer_choice.build(name, 12, quick=True)
            quantizer_choice.fit(quantizer, frames, steps, generator)
        with torch.no_grad():
            batch = frames.unsqueeze(0)
            decoded = quantizer.decode(quantizer.encode(batch))
        errors.append(float((decoded - batch).square().mean()))
    assert not quantizer.training
    if name == "entropy":  # fitted at once, by no steps
        assert errors[0] == errors[1] < float(frames.square().mean())
    else:
        assert errors[1] < errors[0]


def test_the_section_wants_speech_and_front_ends(monkeypatch, tmp_path):
    monkeypatch.delenv("DSU_SPEECH_DATA", raising=False)
    with pytest.raises(DsuError, match="set DSU_SPEECH_DATA, and front ends"):
        quantizer_choice.run(features={"log-mel": log_mel_8k()})
    monkeypatch.setenv("DSU_SPEECH_DATA", str(tmp_path))
    with pytest.raises(DsuError, match="0 files LJSpeech-mini"):
        quantizer_choice.run(features={"log-mel": log_mel_8k()})
