"""Probes, stability, pitch, speaker and classic codecs: laws and outsiders."""

import math

import pytest
import torch

from speechbrain_dsu.evaluation.classic import Codec2, Opus, make_classic
from speechbrain_dsu.evaluation.pitch import pitch, pitch_error
from speechbrain_dsu.evaluation.probes import fit_probe, probe, unit_histograms
from speechbrain_dsu.evaluation.speaker import mfcc_statistics, speaker_similarity
from speechbrain_dsu.evaluation.stability import (
    perturbations,
    stability,
    unit_edit_rate,
)
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir


@pytest.fixture(scope="module")
def speech():
    return read_audio(bundles_dir() / "speech.wav", 16000)[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens_of(*items, size=9):
    codes = [torch.tensor(item).reshape(len(item), -1) for item in items]
    return Tokens.from_list(codes, 50.0, (size,) * codes[0].shape[1], "-")


# Probes.


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
def test_the_probe_is_scikit_learns(penalty):
    linear = pytest.importorskip("sklearn.linear_model")
    features = torch.randn(150, 6, generator=seeded(), dtype=torch.float64) * 3 + 1
    labels = (features[:, 0] > 1).long() + (features[:, 1] > 2).long()
    labels[::7] = 1
    found = fit_probe(features, labels, penalty=penalty, max_iter=500)
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    theirs = linear.LogisticRegression(C=1 / penalty, max_iter=2000, tol=1e-8)
    theirs.fit(scaled.numpy(), labels.numpy())
    expected = theirs.predict_proba(scaled.numpy())
    ours = found.logits(features).softmax(1).numpy()
    assert ours == pytest.approx(expected, abs=2e-4)


def test_a_constant_feature_is_harmless():
    features = torch.cat([torch.ones(20, 1), torch.arange(20.0)[:, None]], 1)
    labels = (torch.arange(20) > 9).long()
    fitted = fit_probe(features, labels)
    assert torch.equal(fitted.predict(features), labels)
    assert torch.equal(
        fit_probe(features * 0, labels).logits(features).isfinite().all(),
        torch.tensor(True),
    )


def test_a_probe_is_judged_on_what_it_has_not_seen():
    """More features than items: what was seen is learnt by heart."""
    noise = torch.randn(60, 200, generator=seeded())
    labels = torch.arange(60) % 3
    fitted = fit_probe(noise, labels)
    assert (fitted.predict(noise) == labels).all()
    found = probe(noise, labels)
    assert abs(found.accuracy - 1 / 3) < 0.2
    assert (found.chance, found.items, found.classes) == (1 / 3, 60, 3)
    assert found == probe(noise, labels)


def test_groups_are_never_on_both_sides():
    """Rows of a group are alike and groups have labels by lot: nothing to find."""
    groups = torch.arange(200) // 10
    labels = torch.randint(0, 2, (20,), generator=seeded(1))[groups]
    vectors = torch.randn(20, 30, generator=seeded())[groups]
    assert probe(vectors, labels).accuracy == 1
    assert probe(vectors, labels, groups).accuracy < 0.75


def test_one_class_or_group_is_an_error():
    with pytest.raises(DsuError, match="1 classes"):
        probe(torch.randn(9, 2), torch.zeros(9).long())
    with pytest.raises(DsuError, match="1 groups"):
        probe(torch.randn(9, 2), torch.arange(9), torch.zeros(9).long())


def test_histograms_count_valid_frames_of_each_codebook():
    tokens = tokens_of([[1, 2], [1, 0], [2, 0], [1, 0]], [[0, 1]], size=3)
    found = unit_histograms(tokens).square()
    expected = [[0, 0.75, 0.25, 0.75, 0, 0.25], [1, 0, 0, 0, 1, 0]]
    assert torch.allclose(found, torch.tensor(expected))


# Stability.


def test_edit_rate_by_hand():
    rate = unit_edit_rate(tokens_of([1, 1, 2, 3]), tokens_of([1, 2, 2, 4, 4, 5]))
    # Frames: insert 2, turn 3 into 4, insert 4, insert 5 after one 1 became 2 ...
    assert rate.frames == 4 / 4
    # Runs: 1 2 3 to 1 2 4 5.
    assert rate.runs == 2 / 3 and rate.flips is None
    pair = tokens_of([[1, 1], [2, 1]]), tokens_of([[1, 1], [2, 2]])
    rate = unit_edit_rate(*pair)
    # Each codebook is a sequence of its own: 0 and 1/2; runs 0 and 1/1.
    assert rate == (0.25, 0.5, 0.25)
    assert unit_edit_rate(pair[0], pair[0]) == (0, 0, 0)


def test_changes_do_what_they_say(speech):
    steps = torch.arange(16000) / 16000
    tone = torch.sin(2 * math.pi * 200 * steps)
    kept = tone.clone()
    found = {name: change(tone, 16000) for name, change in perturbations().items()}
    assert torch.equal(tone, kept)
    assert found["gain -6 dB"].abs().max() == pytest.approx(0.501, abs=1e-3)
    noise = found["noise 20 dB"] - tone
    ratio = tone.square().mean() / noise.square().mean()
    assert 10 * ratio.log10() == pytest.approx(20, abs=0.1)
    assert torch.equal(found["shift 10 ms"], tone[160:])
    inner = slice(1000, -1000)
    assert (found["resample 44.1 kHz"] - tone)[inner].abs().max() < 1e-2
    assert len(found["speed 1.1"]) == math.ceil(16000 / 1.1)
    assert pitch(found["speed 1.1"]).median() == pytest.approx(220, abs=0.5)
    assert len(found["pitch +1"]) == 16000
    semitone = 200 * 18 / 17
    assert pitch(found["pitch +1"]).median() == pytest.approx(semitone, abs=0.5)
    spectrum = torch.fft.rfft(perturbations()["half band"](speech, 16000)).abs()
    assert spectrum[-len(spectrum) // 3 :].mean() < 0.02 * spectrum.mean()


@pytest.mark.parametrize("size", [1, 100, 161, 300])
def test_changes_take_the_shortest_signals(size):
    wav = torch.randn(size, generator=seeded())
    for name, change in perturbations().items():
        found = change(wav, 16000)
        assert found.ndim == 1 and bool(found.isfinite().all()), name


def test_stability_tells_robust_from_brittle_units(speech):
    def by_sign(wav):
        units = (wav[80::160] > 0).long().unsqueeze(1)
        return Tokens.from_list([units], 100.0, (2,), "-")

    found = stability(by_sign, speech, 16000)
    assert found["gain -6 dB"] == (0, 0, 0)
    assert found["resample 44.1 kHz"].flips < found["noise 20 dB"].flips
    # One frame less.
    assert found["shift 10 ms"].frames == pytest.approx(1 / by_sign(speech).counts[0])
    with pytest.raises(DsuError, match="without frames"):
        stability(by_sign, speech[:0], 16000)


# Pitch.


def test_pitch_of_a_voice_like_glide():
    """Harmonics with a weak fundamental, an octave and a half in two seconds."""
    steps = torch.arange(32000) / 16000
    hertz = 110 * 2 ** (1.5 * steps / 2)
    phase = 2 * math.pi * hertz.cumsum(0) / 16000
    wav = sum(
        torch.sin(k * phase) * a for k, a in enumerate((0.2, 1, 0.8, 0.5, 0.3), 1)
    )
    wav = 0.1 * wav + 0.003 * torch.randn(32000, generator=seeded())
    found, expected = pitch(wav)[5:-5], hertz[::160][5:-4]
    assert (found > 0).all()
    cents = 1200 * (found / expected).log2()
    assert cents.abs().max() < 15


def test_silence_and_noise_have_no_pitch():
    noise = torch.randn(16000, generator=seeded())
    assert (pitch(noise) > 0).float().mean() < 0.05
    assert not pitch(torch.zeros(1600)).any() and len(pitch(torch.zeros(1600))) == 11
    tone = torch.sin(2 * math.pi * 150 * torch.arange(8000) / 16000)
    half = pitch(torch.cat([torch.zeros(8000), tone]))
    assert not half[:45].any() and (half[55:95] > 0).all()


def test_pitch_agrees_with_torchaudio_up_to_its_octaves(speech):
    """Another method, which often halves: folded, the two agree on voiced frames."""
    from torchaudio.functional import detect_pitch_frequency

    theirs = detect_pitch_frequency(
        speech, 16000, win_length=5, freq_low=60, freq_high=500
    )
    # Its frames begin where ours are centred.
    ours = pitch(speech)[1 : 1 + len(theirs)]
    voiced = ours > 0
    octaves = (ours[voiced] / theirs[: len(ours)][voiced]).log2()
    close = (octaves - octaves.round()).abs() < 1 / 12
    assert 0.4 < voiced.float().mean() < 0.8
    assert close.float().mean() > 0.85


def test_pitch_error(speech):
    same = pitch_error(speech, 16000, speech * 0.1, 16000)
    assert same.rmse_cents < 1 and same.voicing_error == 0
    assert same.correlation == pytest.approx(1)
    up = perturbations()["pitch +1"](speech, 16000)
    found = pitch_error(speech, 16000, up, 16000)
    assert found.voicing_error < 0.25 and found.rmse_cents > 80
    with pytest.raises(DsuError, match="0 frames are voiced"):
        pitch_error(speech, 16000, torch.zeros(16000), 16000)


# Speakers.


def test_similarity_is_a_cosine_and_level_does_not_count(speech):
    found = speaker_similarity(mfcc_statistics, speech, 16000, speech * 0.3, 16000)
    assert found == pytest.approx(1, abs=1e-3)
    band = perturbations()["half band"](speech, 16000)
    assert speaker_similarity(mfcc_statistics, speech, 16000, band, 16000) < 0.99

    def embed(wavs):
        return torch.tensor([[[1.0, 0.0]]]) if wavs.abs().max() > 0 else torch.zeros(2)

    assert speaker_similarity(embed, speech, 16000, band, 16000) == 1
    with pytest.raises(DsuError, match="zero or not finite"):
        speaker_similarity(embed, speech, 16000, speech * 0, 16000)


# Classic codecs.


def codec(name):
    try:
        return make_classic(name)
    except DsuError as error:
        pytest.skip(str(error))


def envelope(wav):
    power = torch.nn.functional.avg_pool1d(wav.square()[None], 80, 8)[0]
    level = power.clamp(min=1e-7).log()
    return level - level.mean()


@pytest.mark.parametrize("name", ["codec2:3200", "codec2:1300", "codec2:700C", "opus"])
def test_classic_codecs_keep_time_and_their_rate(speech, name):
    chosen = codec(name)
    assert chosen.name.startswith(name)
    kept = speech.clone()
    found = chosen.run(speech, 16000)
    assert torch.equal(kept, speech)
    seconds = len(speech) / 16000
    assert len(found.wav) == math.ceil(seconds * chosen.sample_rate)
    assert found.bits / seconds == pytest.approx(chosen.bitrate, rel=0.02)
    # Delays were found on other speech: the envelopes lie within 8 ms.
    first = perturbations()["half band"](speech, 16000)[::2]
    second = found.wav if chosen.sample_rate == 8000 else found.wav[::2]
    a, b = envelope(first)[60:-60], envelope(second)
    lags = range(-30, 31)
    best = max(lags, key=lambda k: float((a * b[60 + k :][: len(a)]).sum()))
    assert abs(best) <= 8


def test_classic_settings_are_checked(monkeypatch):
    codec("opus")
    codec("codec2")
    with pytest.raises(DsuError, match="codec2:999: take one of 3200"):
        make_classic("codec2:999")
    with pytest.raises(DsuError, match="6000 to 256000"):
        make_classic("opus:100")
    with pytest.raises(DsuError, match="no baseline 'opus:x'"):
        make_classic("opus:x")
    monkeypatch.setenv("PATH", "")
    for kind, package in ((Codec2, "codec2"), (Opus, "opus-tools")):
        with pytest.raises(DsuError, match=f"apt-get install {package}"):
            kind()
