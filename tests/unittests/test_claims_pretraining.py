"""Claims about self-supervised models: shared parts, laws, quick runs."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from speechbrain_dsu.evaluation.claims import (
    hubert,
    run_claim,
    soft_units,
    vq_wav2vec,
    wav2vec2,
)
from speechbrain_dsu.evaluation.claims.common import Digit, read_digits, seeded
from speechbrain_dsu.evaluation.claims.pretraining import (
    Signal,
    digit_strings,
    layer_states,
    phone_labels,
    pretrain,
    probe_frames,
    read_corpus,
    system,
)
from speechbrain_dsu.lobes.pretraining.base import PretrainingOutput
from speechbrain_dsu.utils.errors import DsuError

CLAIMS = (3, 53, 153, 157, 229)
PHONES = "abcde"


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory):
    """Filtered noise: a filter for each digit, and for each phone of a corpus."""
    folder = tmp_path_factory.mktemp("speech")
    generator = np.random.RandomState(0)
    (folder / "fsdd" / "recordings").mkdir(parents=True)
    filters = generator.randn(10, 8)
    for digit in range(10):
        for speaker in ("ann", "bob", "cem"):
            for take in range(2):
                wav = 0.03 * np.convolve(generator.randn(2400), filters[digit], "same")
                name = f"{digit}_{speaker}_{take}.wav"
                soundfile.write(folder / "fsdd" / "recordings" / name, wav, 8000)
    manifests = folder / "synth" / "manifests"
    manifests.mkdir(parents=True)
    for part, count in (("train", 12), ("test", 4)):
        entries = {}
        for place in range(count):
            phones = generator.permutation(list(PHONES))
            pieces = [
                np.convolve(generator.randn(4000), filters[PHONES.index(p)], "same")
                for p in phones
            ]
            path = folder / "synth" / f"{part}{place}.wav"
            soundfile.write(path, 0.03 * np.concatenate(pieces), 16000)
            entries[f"{part}{place}"] = {
                "wav": "{data_root}/" + path.name,
                "language": "en" if place else "fr",
                "spk_id": "ann",
                "content": str(place),
                "phones": " ".join(phones),
                "phone_ends": " ".join(str(0.25 * (k + 1)) for k in range(5)),
            }
        (manifests / f"{part}.json").write_text(json.dumps(entries))
    return folder


def test_a_corpus_is_english_and_follows_the_seed(toy_data):
    one, again, other = (read_corpus(toy_data, 3, seed, 4, 2) for seed in (0, 0, 1))
    assert len(one.train) == 4 and len(one.test) == 2
    assert one.ids == {phone: k for k, phone in enumerate(PHONES)}
    pairs = list(zip(one.train, again.train, strict=True))
    assert all(torch.equal(a.wav, b.wav) for a, b in pairs)
    firsts = torch.stack([one.train[0].wav, other.train[0].wav])
    assert not torch.equal(*firsts)
    assert len(read_corpus(toy_data, 3, 0, 99, 99).train) == 11  # one is French


def test_speech_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DsuError, match=r"train.json: .* claim 157 .*synth_prepare"):
        run_claim(157, data=tmp_path)


def test_strings_hold_each_digit_once_and_one_speaker(toy_data):
    digits = read_digits(toy_data, Signal(), 1, 0, 2).train
    marked = [
        Digit(d.digit, d.speaker, torch.full((3,), float(k)))
        for k, d in enumerate(digits)
    ]
    found = digit_strings(marked, torch.Generator().manual_seed(0))
    held = torch.cat(found)[::3].long().tolist()
    assert sorted(held) == list(range(len(digits)))
    for string in found:
        assert len({digits[k].speaker for k in string.long().tolist()}) == 1
    assert held != sorted(held)


def test_phones_of_frames_against_a_loop(toy_data):
    corpus = read_corpus(toy_data, 1, 0, 3, 1)
    encoder = system("hubert_units", {}, encoder={"transformer": {"layers": 1}})[
        "encoder"
    ].eval()
    states = layer_states(encoder, [s.wav for s in corpus.train], 0)
    labels = phone_labels(corpus.train, states, encoder, corpus.ids)
    for spoken, names in zip(corpus.train, labels, strict=True):
        for k, name in enumerate(names.tolist()):
            place = (k * 320 + 80) / 16000  # two frames of 10 ms: between them
            expected = [
                corpus.ids[phone]
                for start, end, phone in zip(
                    spoken.alignment.starts,
                    spoken.alignment.ends,
                    spoken.alignment.phones,
                    strict=True,
                )
                if start <= place < end
            ]
            assert [name] == (expected or [-1])


class Recorder(nn.Module):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.given, self.steps = [], []

    def set_step(self, step):
        self.steps.append(step)

    def forward(self, wavs, lens, labels):
        self.given.append((wavs, lens, labels))
        return PretrainingOutput({"x": (self.weight - 1).square()}, {})


def test_crops_and_labels_stay_in_step():
    # A sample's value is its label, so that any shift shows.
    labels = [torch.arange(250), 300 + torch.arange(40)]
    wavs = [x.repeat_interleave(160).float() for x in labels]
    recorder = Recorder()
    parts = {"objective": recorder, "loss_weights": {"x": 1.0}}
    generator = torch.Generator().manual_seed(0)
    pretrain(parts, wavs, 10, generator, labels, label_hop=160, batch=4)
    assert recorder.steps == list(range(10)) and not recorder.training
    firsts = set()
    for batch, lens, given in recorder.given:
        for wav, share, names in zip(batch, lens, given, strict=True):
            count = round(float(share) * len(wav)) // 160
            assert torch.equal(wav[: count * 160 : 160].long(), names[:count])
            assert (names[count:] == -1).all() and (wav[count * 160 :] == 0).all()
            firsts.add(int(names[0]))
    assert len(firsts) > 10 and 300 in firsts


def test_unknown_losses_are_not_passed_over():
    parts = {"objective": Recorder(), "loss_weights": {"y": 1.0}}
    with pytest.raises(KeyError, match="x"):
        pretrain(parts, [torch.zeros(16000)], 1, torch.Generator())


def test_training_lowers_the_loss_and_leaves_the_global_draws_alone(toy_data):
    wavs = [spoken.wav for spoken in read_corpus(toy_data, 1, 0, 8, 1).train]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    with seeded(0) as generator:
        parts = system("apc", {}, encoder={"body": {"dim": 16, "n_layers": 1}})
        objective = parts["objective"].eval()
        with torch.no_grad():
            before = float(objective(torch.stack(wavs)).losses["prediction"])
        pretrain(parts, wavs, 30, generator, label_hop=160, batch=2)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        after = float(objective(torch.stack(wavs)).losses["prediction"])
    assert after < 0.8 * before


def test_probes_of_frames_leave_out_unlabelled_ones():
    frames = [torch.eye(6), torch.eye(6)]
    labels = [torch.tensor([0, 1, 2, -1, -1, -1])] * 2
    wrong = [torch.tensor([0, 1, 0, -1, -1, -1])] * 2
    assert probe_frames((frames, labels), (frames, labels), 3) == 1.0
    value = probe_frames((frames, labels), (frames, wrong), 3)
    assert value == pytest.approx(2 / 3)


def test_frames_with_their_neighbours_against_a_loop():
    frames = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    found = soft_units.spliced(frames, 5)
    for item in range(2):
        for k in range(6):
            rows = [frames[item, min(max(k + j, 0), 5)] for j in range(-2, 3)]
            assert torch.equal(found[item, k], torch.cat(rows))


def test_codes_of_a_crop_are_those_of_the_whole():
    with seeded(0):
        parts = vq_wav2vec.build()
        wav = torch.randn(1, 16000)
    codes = vq_wav2vec.CodeFrames(parts["front_end"], parts["quantizer"])
    whole, crop = codes.codes(wav), codes.codes(wav[:, 3200:9600])
    assert torch.equal(whole[:, 20 : 20 + crop.shape[1]], crop)
    assert not any(value.requires_grad for value in codes.parameters())


def test_the_laws_would_notice():
    with seeded(0):
        parts = hubert._build(160)
        wav = torch.randn(16000)
        quantizer = wav2vec2._build()["quantizer"]
    laws = {hubert._ALIGNED: True, hubert._PADDING: True}
    hubert._keep_laws(laws, parts["objective"], wav)
    assert all(laws.values())
    parts["objective"].label_shift += 1
    hubert._keep_laws(laws, parts["objective"], wav)
    assert not laws[hubert._ALIGNED]
    before = quantizer.logits.weight.clone()
    assert wav2vec2._uniform_diversity(quantizer) < 1e-5
    assert torch.equal(quantizer.logits.weight, before)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_quick_run_is_complete_and_keeps_the_laws(claim, toy_data):
    result = run_claim(claim, quick=True, data=toy_data)
    assert json.loads(json.dumps(result)) == result
    assert result["id"] == claim and result["rows"]
    broken = [law for law, holds in result["laws"].items() if not holds]
    assert not broken
    for row in result["rows"]:
        assert len(row["per_seed"]) == 2 and math.isfinite(row["difference"])


@pytest.mark.slow
def test_a_run_is_repeatable(toy_data):
    assert run_claim(53, True, toy_data) == run_claim(53, True, toy_data)
