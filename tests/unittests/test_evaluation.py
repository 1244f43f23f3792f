"""The evaluation of a corpus: each part, what is skipped, and the same JSON twice."""

import json
import math

import pytest
import torch

from speechbrain_dsu.evaluation.alignments import Alignment, read_alignments
from speechbrain_dsu.evaluation.comparison import compare, hash_data, table
from speechbrain_dsu.evaluation.corpus import evaluate_classic, evaluate_corpus
from speechbrain_dsu.evaluation.intervals import bootstrap_interval
from speechbrain_dsu.evaluation.labels import (
    find_phones,
    find_speakers,
    match_labels,
    read_speakers,
    speakers_by_pattern,
)
from speechbrain_dsu.evaluation.parts import PARTS, Settings, Utterance
from speechbrain_dsu.evaluation.resynthesis import pesq
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir

RATE, HOP = 16000, 320
SAID = ("a", "b", "sil", "a", "c", "b")


class Tones:
    """Units are the tones themselves, so that every answer is known.

    An utterance is a row of steady tones: 250, 350 and 450 Hz for phones a, b, c,
    50 Hz higher for the second speaker; a frame's unit is its loudest of 16 bands.
    """

    sample_rate, frame_rate, has_decoder = RATE, RATE / HOP, True
    codebook_sizes, has_vectors = (16, 16), False

    def encode_long(self, wav, n_codebooks=None):
        frames = wav[: len(wav) // HOP * HOP].view(-1, HOP)
        units = torch.fft.rfft(frames).abs()[:, :16].argmax(1)
        codes = torch.stack([units, torch.zeros_like(units)], 1)[:, :n_codebooks]
        sizes = self.codebook_sizes[:n_codebooks]
        return Tokens.from_list([codes], self.frame_rate, sizes, "tones")

    def frame_times(self, n_samples):
        return (torch.arange(n_samples // HOP) + 0.5).double() * HOP / RATE

    def decode(self, tokens):
        steps = torch.arange(HOP) / RATE
        hertz = tokens.codes[0, :, :1] * RATE / HOP
        wav = torch.sin(2 * math.pi * hertz * steps).flatten()
        return 0.3 * wav.unsqueeze(0), torch.ones(1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two speakers with four utterances each; a phone lasts 0.2 s, ten frames."""
    folder = tmp_path_factory.mktemp("tones")
    made = []
    steps = torch.arange(3200) / RATE
    for speaker in (0, 1):
        for take in range(4):
            said = SAID[take % 2 :] + SAID[: take % 2]
            tones = []
            for phone in said:
                hertz = 100 * "abc".find(phone) + 250 + 50 * speaker
                level = 0.3 if phone != "sil" else 0
                tones.append(level * torch.sin(2 * math.pi * hertz * steps))
            path = folder / f"s{speaker}-{take}.wav"
            write_audio(path, torch.cat(tones), RATE)
            ends = torch.arange(1, 7).double() * 0.2
            phones = Alignment(ends - 0.2, ends, said)
            made.append(Utterance(path.stem, str(path), 0, None, f"s{speaker}", phones))
    return made


@pytest.fixture(scope="module")
def result(corpus):
    return evaluate_corpus(Tones(), corpus)


def test_rates_are_those_of_all_frames(result):
    assert result["utterances"] == 8 and result["failed"] == []
    assert result["hours"] == pytest.approx(8 * 1.2 / 3600)
    assert (result["codebooks"], result["nominal_bitrate"]) == (2, 400)
    assert 0 < result["entropy_bitrate"] < 200
    assert result["skipped"] == {}


def test_units_that_are_phones_are_found_to_be(result):
    first, second = result["units"]["codebooks"]
    # A unit names the phone; a phone has a unit for each speaker.
    assert first["pnmi"] == pytest.approx(1) and first["pnmi_floor"] < 0.1
    assert first["phone_purity"] == 1 and first["cluster_purity"] == 0.5
    assert (first["frames"], first["phones"]) == (8 * 50, 3)
    assert second["pnmi"] == 0
    assert result["units"]["phone_probe"]["accuracy"] == 1


def test_abx_sees_phones_within_and_speakers_between(result):
    found = result["abx"]["identity"]
    assert found["within"]["error"] == 0
    # Across, no unit is shared: whatever the phone, everything is as far.
    assert found["across"]["error"] == 0.5
    assert found["within_context"]["triples"] < found["within"]["triples"]
    assert "angular" not in result["abx"]


def test_speakers_are_found_where_they_are(result, corpus):
    assert result["speakers"]["accuracy"] == 1
    assert result["speakers"]["chance"] == 0.5
    one = [item for item in corpus if item.speaker == "s0"]
    reason = evaluate_corpus(Tones(), one, Settings(parts=["speakers"]))["skipped"]
    assert reason == {"speakers": "1 speakers with two utterances, 2 are needed"}


def test_stability_has_every_change(result):
    found = result["stability"]
    assert found["gain -6 dB"]["frames"] == 0 == found["gain -6 dB"]["flips"]
    assert found["gain -6 dB"]["interval"] == (0, 0)
    # 10 % faster is a tenth higher: another band for the higher tones.
    assert found["speed 1.1"]["frames"] > 0.1 and found["speed 1.1"]["flips"] is None
    assert found["noise 20 dB"]["utterances"] == 8


def test_resynthesis_is_scored_with_intervals(result):
    scores = result["resynthesis"]
    assert set(scores) >= {"stoi", "pesq", "mel_l1", "f0_rmse_cents", "mfcc_similarity"}
    f0 = scores["f0_rmse_cents"]
    assert f0["n_scored"] == 8 and f0["mean"] < 20
    assert f0["interval"][0] <= f0["mean"] <= f0["interval"][1]


def test_a_codebook_less_is_another_rate(corpus):
    found = evaluate_corpus(Tones(), corpus, Settings(parts=["units"]), n_codebooks=1)
    assert (found["codebooks"], found["nominal_bitrate"]) == (1, 200)
    assert len(found["units"]["codebooks"]) == 1


def test_same_input_same_report(corpus, tmp_path):
    settings = Settings(parts=[x for x in PARTS if x != "stability"])
    # An order of files is no input, nor is the folder they lie in.
    moved = []
    for item in reversed(corpus):
        path = tmp_path / f"{item.id}.wav"
        path.write_bytes(open(item.path, "rb").read())
        moved.append(
            Utterance(item.id, str(path), 0, None, item.speaker, item.alignment)
        )
    both = [
        compare({"tones": (Tones(), None)}, items, settings)
        for items in (corpus, moved)
    ]
    assert json.dumps(both[0]) == json.dumps(both[1])
    assert both[0]["data"]["speakers"] == 2 and both[0]["data"]["with_phones"] == 8
    assert both[0]["versions"]["torch"]
    assert hash_data(corpus[1:]) != hash_data(corpus)


def test_the_table_groups_by_rate(corpus):
    settings = Settings(parts=["units", "resynthesis"])
    systems = {"both": (Tones(), None), "one": (Tones(), 1)}
    lines = table(compare(systems, corpus[:3], settings))
    assert lines[0].split()[:3] == ["system", "bit/s", "coded"]
    assert lines[1].split()[:2] == ["one", "200"]
    assert lines[2] == "" and lines[3].split()[:2] == ["both", "400"]
    assert "ABX" not in lines[0]
    with pytest.raises(DsuError, match="nothing to compare"):
        compare({}, corpus)


def test_what_cannot_be_done_is_skipped_and_named(corpus, tmp_path):
    path = tmp_path / "bad.wav"
    path.write_bytes(b"RIFF")
    bare = [Utterance("bad", str(path)), Utterance("good", corpus[0].path)]
    mute = Tones()
    mute.has_decoder = False
    said = []
    found = evaluate_corpus(
        mute, bare, Settings(parts=["abx", "resynthesis"]), report=said.append
    )
    assert found["failed"] == ["bad"] and "bad.wav" in said[0]
    assert set(found["skipped"]) == {"abx", "resynthesis"}
    with pytest.raises(DsuError, match="none of 1 files"):
        evaluate_corpus(mute, bare[:1], report=said.append)
    with pytest.raises(DsuError, match="no part speed"):
        Settings(parts=["speed"])


def test_a_codec_without_tokens_has_rates_and_scores(corpus):
    class Half:
        name, bitrate, sample_rate = "half", 1000.0, RATE

        def run(self, wav, sample_rate):
            from speechbrain_dsu.evaluation.classic import Resynthesized

            return Resynthesized(wav / 2, 1200)

    found = evaluate_classic(Half(), corpus[:2])
    assert found["entropy_bitrate"] == 1000 and found["hours"] == 2.4 / 3600
    assert found["resynthesis"]["f0_rmse_cents"]["mean"] < 1
    assert found["skipped"]["abx"] == "no tokens"


# PESQ and intervals.


def test_pesq_is_the_packages():
    package = pytest.importorskip("pesq")
    speech = read_audio(bundles_dir() / "speech.wav", RATE)[0]
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    noisy = speech + 0.02 * noise
    expected = package.pesq(RATE, speech.numpy(), noisy.numpy(), "wb")
    assert pesq(speech, RATE, noisy, RATE) == pytest.approx(expected, abs=1e-6)
    assert pesq(speech, RATE, speech, RATE) > 4.6
    with pytest.raises(DsuError, match="silent"):
        pesq(speech, RATE, speech * 0, RATE)
    with pytest.raises(DsuError, match="PESQ is not defined: "):
        pesq(speech[:100], RATE, speech[:100], RATE)


def test_intervals_hold_the_mean_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for trial in range(100):
        drawn = torch.randn(40, generator=generator).tolist()
        low, high = bootstrap_interval(drawn, resamples=100, seed=trial)
        hits += low < 0 < high
    assert 0.85 <= hits / 100 <= 0.99
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([1.0, 1.0]) == (1, 1)


# Labels.


def test_labels_are_found_by_id_or_name(tmp_path):
    assert match_labels(["x/u", "y/u", "y/v"], {"u": 1, "v": 2}) == {"y/v": 2}
    manifest = tmp_path / "m.json"
    entry = {"wav": "a", "phones": "sil a", "phone_ends": "0.1 0.3", "spk_id": 7}
    manifest.write_text(json.dumps({"u": entry, "v": {"wav": "b"}}))
    assert find_speakers(["u", "v"], manifest) == {"u": "7"}
    said = find_phones(["u", "v"], manifest)["u"]
    assert said.phones == ("sil", "a") and said.starts.tolist() == [0, 0.1]
    table_file = tmp_path / "s.tsv"
    table_file.write_text("ID\tspk_id\nu\tann\n")
    assert read_speakers(table_file) == {"u": "ann"}
    assert find_speakers(["u"], tmp_path, str(table_file)) == {"u": "ann"}
    assert find_speakers(["u"], tmp_path) == {} == find_phones(["u"], tmp_path)
    with pytest.raises(DsuError, match="in no utterance's id"):
        speakers_by_pattern(["u"], "^p")
    with pytest.raises(DsuError, match="no regular expression"):
        speakers_by_pattern(["u"], "(")
    with pytest.raises(DsuError, match="aligns none"):
        find_phones(["w"], tmp_path, manifest)


def test_a_manifest_whose_phones_do_not_fit_their_ends(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"u": {"phones": "a b", "phone_ends": "0.1"}}))
    with pytest.raises(DsuError, match="u: 2 phones with the ends"):
        read_alignments(path)
    path.write_text(json.dumps({"u": {"wav": "x"}}))
    assert read_alignments(path, needed=False) == {}
    with pytest.raises(DsuError, match="holds no alignments"):
        read_alignments(path)
