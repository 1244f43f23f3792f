"""Claims: the registry, the arithmetic of claim 95, and a run on real speech."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_dsu.evaluation.claims import format_claim, known_claims, run_claim
from speechbrain_dsu.evaluation.claims.dmel import (
    add_noise,
    codes_survive,
    fit_stages,
    inside_error,
    lloyd,
    residual_decode,
    stage_sizes,
)
from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
from speechbrain_dsu.utils.errors import DsuError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_an_unknown_id_lists_the_known_ones():
    with pytest.raises(DsuError, match="no claim with the id 4711; there are: .*95"):
        run_claim(4711)
    assert known_claims() == sorted(known_claims())


def test_missing_data_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("DSU_SPEECH_DATA", raising=False)
    with pytest.raises(DsuError, match="DSU_SPEECH_DATA"):
        run_claim(95)
    with pytest.raises(DsuError, match="nowhere: no such folder"):
        run_claim(95, data=tmp_path / "nowhere")
    with pytest.raises(DsuError, match=r"0 files LJSpeech-mini/.*needs 10"):
        run_claim(95, data=tmp_path)


def test_lloyd_finds_what_scikit_learn_finds():
    cluster = pytest.importorskip("sklearn.cluster")
    frames = torch.randn(2000, 6, generator=seeded())
    start = frames[torch.randperm(2000, generator=seeded(1))[:16]]
    theirs = cluster.KMeans(
        16, init=start.numpy(), n_init=1, max_iter=10, tol=0, algorithm="lloyd"
    ).fit(frames.numpy())
    ours = lloyd(frames, 16, seeded(1), iterations=10)
    np.testing.assert_allclose(ours.numpy(), theirs.cluster_centers_, atol=1e-4)


def test_every_stage_lowers_the_error_and_a_prefix_is_the_shorter_quantizer():
    frames = torch.randn(3000, 8, generator=seeded())
    stages = fit_stages(frames, [32] * 5, seeded(1), iterations=5)
    errors = [
        float((frames - residual_decode(frames, stages[:k])).square().mean())
        for k in range(6)
    ]
    assert all(b < 0.95 * a for a, b in zip(errors, errors[1:], strict=False))
    short = fit_stages(frames, [32] * 2, seeded(1), iterations=5)
    assert all(torch.equal(a, b) for a, b in zip(short, stages, strict=False))


def test_residual_decoding_against_a_loop():
    frames = torch.randn(20, 3, generator=seeded())
    stages = [torch.randn(5, 3, generator=seeded(k)) for k in range(3)]
    for frame, decoded in zip(frames, residual_decode(frames, stages), strict=True):
        total = torch.zeros(3)
        for centers in stages:
            distances = [float((frame - total - c).square().sum()) for c in centers]
            total = total + centers[int(np.argmin(distances))]
        assert torch.allclose(decoded, total, atol=1e-6)


@pytest.mark.parametrize("bits", [7, 56, 160, 320])
def test_stages_take_exactly_the_bits(bits):
    assert sum(math.log2(size) for size in stage_sizes(bits)) == bits


@pytest.mark.parametrize("level", [10.0, 0.0])
def test_noise_has_its_level(level):
    wav = torch.sin(torch.arange(16000) * 0.3)
    noise = add_noise(wav, level, seeded()) - wav
    ratio = wav.square().mean() / noise.square().mean()
    assert 10 * math.log10(float(ratio)) == pytest.approx(level, abs=1e-3)


def test_the_laws_would_notice_a_wrong_quantizer():
    bins = UniformBins(4, 16, -8.0, 2.0)
    frames = torch.linspace(-12, 5, 4000).view(-1, 4)
    assert bins.width / 2 - 1e-2 < inside_error(bins, frames) <= bins.width / 2 + 1e-5
    assert codes_survive(bins)
    decode = bins.decode
    bins.decode = lambda codes: decode(codes) + 0.6 * bins.width
    assert inside_error(bins, frames) > bins.width and not codes_survive(bins)


@pytest.fixture
def toy_data(tmp_path):
    """Folders as claim 95 wants them, with a second of noise in each file."""
    generator = np.random.RandomState(0)
    voices = (
        "VCTK-mini/p225",
        "VCTK-mini/p226",
        "VCTK-mini/p227",
        "LJSpeech-mini/wavs",
    )
    names = [f"{voice}/{k}" for voice in voices for k in "abcd"]
    names += [f"fsdd/recordings/{digit}_{who}_0" for who in "xy" for digit in range(10)]
    for name in names:
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = np.convolve(generator.randn(16000), generator.randn(5), "same")
        soundfile.write(path, 0.05 * tone, 16000)
    return tmp_path


def test_a_result_is_complete_plain_and_repeatable(toy_data):
    result = run_claim(95, quick=True, data=toy_data)
    assert json.loads(json.dumps(result)) == result
    assert all(result["laws"].values())
    assert result["command"] == f"dsu claim 95 --data {toy_data} --quick"
    for row in result["rows"]:
        assert row["difference"] == pytest.approx(row["system"] - row["baseline"])
        assert len(row["per_seed"]) == 2 and row["spread"] >= 0
    text = format_claim(result)
    assert f"verdict: {result['verdict']}" in text
    assert text.count("k-means 8 x 128") == 10
    assert run_claim(95, quick=True, data=toy_data) == result


@pytest.mark.slow
def test_claim_95_on_speech(speech_data):
    """Signs that no seed turns round, not the verdict: that one is a finding."""
    result = run_claim(95, quick=True, data=speech_data)
    assert all(result["laws"].values())
    error = {
        (row["condition"], row["baseline_name"], row["system_name"]): row
        for row in result["rows"]
    }
    # Behind the quantizers stand those of recognition.
    usual, matched, *_ = dict.fromkeys(row["baseline_name"] for row in result["rows"])
    # Inside the range a bin's error is uniform: width ** 2 / 12.
    noise = error["noise 0 dB", usual, "dMel"]
    assert noise["system"] == pytest.approx((13.5 / 16) ** 2 / 12, rel=0.1)
    assert noise["verdict"] == "shown"
    for condition in ("seen voices", "new voice"):
        row = error[condition, matched, "dMel"]
        assert row["baseline"] < error[condition, usual, "dMel"]["baseline"]
        assert row["baseline"] < row["system"]
