"""Claims about codecs: their speech, judges and priors, laws that bite, quick runs."""

import itertools
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from speechbrain_dsu.evaluation.claims import run_claim, spectral_codec
from speechbrain_dsu.evaluation.claims.aligned_speech import (
    HOP,
    mel_frames,
    read_aligned,
    train_classifier,
)
from speechbrain_dsu.evaluation.claims.common import block, seeded
from speechbrain_dsu.evaluation.claims.small_training import (
    draw_crops,
    train,
)
from speechbrain_dsu.evaluation.claims.speech_tokenizer import (
    fits_plain,
    levels_are_prefixes,
    plain_codec,
    train_pair,
)
from speechbrain_dsu.evaluation.claims.unit_prior import (
    Prior,
    bigram_nats,
    train_prior,
)
from speechbrain_dsu.evaluation.claims.vq_vae import gradient_passes
from speechbrain_dsu.utils.errors import DsuError

CLAIMS = (9, 65, 113)
PHONES = "abcd"
PIECE = 3610  # samples of a phone; its ends are no frame's middle


@pytest.fixture(scope="module")
def toy_synth(tmp_path_factory):
    """A corpus of filtered noise: a filter for each phone, a level for each voice."""
    folder = tmp_path_factory.mktemp("speech")
    root = folder / "synth"
    (root / "manifests").mkdir(parents=True)
    draws = np.random.RandomState(0)
    filters = dict(zip(PHONES, draws.randn(len(PHONES), 12), strict=True))
    parts = {"train": ("ann", "bob", "cyd"), "test": ("dot", "eve")}
    ends = [PIECE * k / 16000 for k in range(1, 10)]
    for part, voices in parts.items():
        entries = {}
        for voice, k in itertools.product(voices, range(10)):
            said = [*draws.choice(list(PHONES), 8), "sil"]
            pieces = [
                np.convolve(draws.randn(PIECE), filters.get(p, np.zeros(12)), "same")
                for p in said
            ]
            wav = np.concatenate(pieces) * 0.02 * (1 + voices.index(voice))
            path = root / f"{voice}-{k}.wav"
            soundfile.write(path, wav, 16000)
            entries[f"{voice}-{k}"] = {
                "wav": f"{{data_root}}/{path.name}",
                "duration": len(wav) / 16000,
                "spk_id": f"{voice}-1",
                "voice": voice,
                "language": "fr" if voice == "cyd" else "en",
                "content": f"c{k // 2 + 7}" if voice == "bob" else f"c{k}",
                "phones": " ".join(said),
                "phone_ends": " ".join(f"{end:.6f}" for end in ends),
            }
        (root / "manifests" / f"{part}.json").write_text(json.dumps(entries))
    return folder


def read(folder, seed=0, **settings):
    settings = {"speakers": 2, "each": 2, "held_out": 3, **settings}
    generator = torch.Generator().manual_seed(seed)
    return read_aligned(folder, 9, generator, **settings)


def test_held_out_sentences_are_new_and_the_draw_follows_the_seed(toy_synth):
    speech, again, other = read(toy_synth), read(toy_synth), read(toy_synth, seed=1)
    assert speech.speakers() == ["ann-1", "bob-1"]  # cyd speaks French
    said = {item.content for item in speech.train}
    assert speech.sentences and not said & {i.content for i in speech.sentences}
    assert {item.speaker for item in speech.voices} == {"dot-1", "eve-1"}
    pairs = zip(speech.train, again.train, strict=True)
    assert all(torch.equal(a.wav, b.wav) for a, b in pairs)
    pairs = zip(speech.train, other.train, strict=True)
    assert not all(torch.equal(a.wav, b.wav) for a, b in pairs)


def test_what_is_missing_is_named(toy_synth, tmp_path):
    with pytest.raises(DsuError, match=r"train.json: no such file; claim 9 .*--out"):
        read(tmp_path)
    with pytest.raises(DsuError, match="claim 9 needs 3 English voices"):
        read(toy_synth, speakers=3)


@pytest.mark.parametrize("hop", [320, 200])
def test_labels_against_a_loop(toy_synth, hop):
    item, ids = read(toy_synth).train[0], {"a": 0, "c": 1}
    wanted = []
    for frame in range(len(item.wav) // hop):
        middle = (frame + 0.5) * hop / 16000
        rows = zip(item.alignment.ends.tolist(), item.alignment.phones, strict=True)
        wanted.append(next((ids.get(p, -1) for e, p in rows if middle < e), -1))
    assert item.labels(ids, hop).tolist() == wanted


def test_stretches_stay_in_step():
    tracks = [(torch.arange(n), torch.arange(n)[:, None] + 1000) for n in (5, 9)]
    generator = torch.Generator().manual_seed(0)
    first, second = draw_crops(tracks, 5, 200, generator)
    assert torch.equal(second[..., 0] - first, torch.full((200, 5), 1000))
    assert set(first[:, 0].tolist()) == {0, 1, 2, 3, 4}


def test_training_lowers_a_loss_and_ends_in_evaluation_mode():
    with seeded(0):
        model, inputs = nn.Linear(6, 1), torch.randn(64, 6)
        target = inputs @ torch.linspace(-1, 1, 6)[:, None]
        losses = []

        def loss():
            losses.append((model(inputs) - target).square().mean())
            return losses[-1]

        train(model, loss, 100, rate=0.05)
    assert not model.training and losses[-1] < 1e-2 * losses[0]


def test_the_classifier_learns_phones_of_voices_that_it_has_not_heard(toy_synth):
    speech = read(toy_synth, each=4)
    with seeded(0) as generator:
        model = train_classifier(speech, 40, generator)
    ids = speech.ids(silence=True)
    assert sorted(ids) == [*PHONES, "sil"] and "sil" not in speech.ids()
    labels = [item.labels(ids) for item in speech.voices]
    assert model.accuracy([item.wav for item in speech.voices], labels) > 0.7
    taught = model.teach(speech.voices[0].wav)
    assert len(taught) == len(speech.voices[0].wav) // HOP
    # Its input doesn't depend on the level.
    wav = speech.voices[0].wav[: 8 * PIECE // HOP * HOP]
    gap = mel_frames(2 * wav, model.features) - mel_frames(wav, model.features)
    assert gap.abs().max() < 1e-2


def test_pairs_start_equal_and_only_the_teacher_sets_them_apart(toy_synth):
    speech = read(toy_synth)
    with seeded(0) as generator:
        teacher = train_classifier(speech, 1, generator)
    states = []
    for taught, steps in ((None, 0), (teacher, 0), (None, 1), (teacher, 1)):
        with seeded(1) as generator:
            codec = train_pair(speech, taught, steps, generator)
            states.append(codec.encoder.networks[0][1].weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[2], states[3])


def test_the_laws_of_claim_9_bite():
    with seeded(0):
        codec = plain_codec().eval()
        wavs = 0.1 * torch.randn(1, 4 * HOP)
    assert levels_are_prefixes(codec, wavs) and fits_plain(codec, wavs)
    decode = codec.quantizer.decode
    codec.quantizer.decode = lambda codes: 1.1 * decode(codes)
    assert not levels_are_prefixes(codec, wavs)
    codec.teacher = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="teacher"):
        fits_plain(codec, wavs)


def test_the_law_of_claim_65_bites():
    assert gradient_passes(block("quantizer_vq", size=8, dim=4))
    assert not gradient_passes(
        block("quantizer_vq", size=8, dim=4, estimator="rotation")
    )


def test_the_laws_of_claim_113_bite():
    with seeded(0):
        codec = spectral_codec.make_codec(spectral_codec._FSQ, torch.zeros(80)).eval()
        mel = 3 * torch.randn(40, 80)
    assert spectral_codec.bands_are_apart(codec, mel)
    assert spectral_codec.ids_are_levels(codec.quantizer)
    encode = codec.encoder.encode_mel
    codec.encoder.encode_mel = lambda frames: encode(frames - frames.mean(-1, True))
    assert not spectral_codec.bands_are_apart(codec, mel)
    levels = codec.quantizer.to_levels
    codec.quantizer.to_levels = lambda ids: levels(ids).flip(-1)
    assert not spectral_codec.ids_are_levels(codec.quantizer)


def test_the_predictor_is_told_neighbours_place_and_pitch(toy_synth):
    item = read(toy_synth).train[0]
    ids = {phone: k for k, phone in enumerate(PHONES)}
    told = spectral_codec.describe(item, ids, who=1, speakers=3)
    around, rest = told[:, :15].view(-1, 3, 5), told[:, 15:]
    assert len(told) == len(item.wav) // 200
    for frame in (0, 50, 100):
        middle = (frame + 0.5) * 200
        at = int(middle / PIECE)
        near = [item.alignment.phones[max(at + step, 0)] for step in (-1, 0, 1)]
        assert around[frame].argmax(1).tolist() == [ids[phone] + 1 for phone in near]
        through = middle / PIECE - at
        assert float(rest[frame, 0]) == pytest.approx(through, abs=1e-3)
    assert rest[:, 4:].unique(dim=0).tolist() == [[0.0, 1.0, 0.0]]


def test_pairs_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    seen, new = (
        [torch.randint(4, (30,), generator=generator) for _ in range(3)]
        for _ in range(2)
    )
    flat = torch.cat(seen).tolist()
    single = [(flat.count(u) + 1) / (len(flat) + 4) for u in range(4)]
    pairs = [p for text in seen for p in itertools.pairwise(text.tolist())]
    nats = []
    for text in new:
        nats.append(-math.log(single[text[0]]))
        for before, unit in itertools.pairwise(text.tolist()):
            beside = sum(a == before for a, _ in pairs)
            hits = pairs.count((before, unit))
            nats.append(-math.log((hits + 10 * single[unit]) / (beside + 10)))
    assert bigram_nats(seen, new, 4) == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_the_prior_is_a_distribution_and_learns():
    with seeded(0) as generator:
        prior = Prior(3, hidden=32)
        texts = [torch.tensor(t) for t in itertools.product(range(3), repeat=3)]
        total = sum(math.exp(-3 * prior.nats([text])) for text in texts)
        assert total == pytest.approx(1, abs=1e-5)
        cycle = torch.arange(60) % 3
        train_prior(prior, [cycle, cycle.roll(1)], 100, generator)
    assert prior.nats([cycle]) < 0.5 * math.log(3)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_quick_run_is_complete_and_keeps_the_laws(claim, toy_synth):
    result = run_claim(claim, quick=True, data=toy_synth)
    assert json.loads(json.dumps(result)) == result
    assert result["id"] == claim and result["rows"]
    assert not [law for law, holds in result["laws"].items() if not holds]
    for row in result["rows"]:
        assert len(row["per_seed"]) == 2 and math.isfinite(row["difference"])
