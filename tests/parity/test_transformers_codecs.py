"""The codecs give transformers' own codes and audio for every utterance alone."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
transformers = pytest.importorskip("transformers", reason="the extra hf")

from contract.tokenizers_transformers import (  # noqa: E402
    CODECS,
    FACTORIES,
    spread_weights,
)
from speechbrain_dsu.integrations.transformers import codecs, loading  # noqa: E402
from speechbrain_dsu.utils.errors import DsuError  # noqa: E402


@pytest.fixture(params=CODECS, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def codec(name):
    return FACTORIES[name]()


@pytest.fixture(scope="module")
def model(codec):
    """transformers' model with the same weights, built without our help."""
    maker = loading.CLASSES[codec.model_type]
    settings = getattr(transformers, f"{maker}Config")(
        **{k: v for k, v in codec.config.items() if k != "model_type"}
    )
    model = getattr(transformers, f"{maker}Model")(settings).eval()
    loading.fold_module(model)
    model.load_state_dict(codec.model.state_dict())
    return model


def noise(n, rate, seed=0):
    wav = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    tone = torch.sin(torch.arange(n) * 440 / rate * 6.28)
    return (0.05 * wav + 0.2 * tone).unsqueeze(0)


def theirs(model, codec, wav):
    """Codes ``[frames, codebooks]`` and audio as a user of transformers gets them."""
    kind = codec.model_type
    if kind in ("dac", "xcodec"):
        extractor = transformers.DacFeatureExtractor(
            sampling_rate=codec.sample_rate, hop_length=codec.hop
        )
        padded = extractor(
            wav[0].numpy(), sampling_rate=codec.sample_rate, return_tensors="pt"
        )
        codes = model.encode(padded["input_values"]).audio_codes
        return codes[0].t(), model.decode(audio_codes=codes).audio_values.flatten()
    if kind == "mimi":
        codes = model.encode(wav.unsqueeze(1)).audio_codes
        return codes[0].t(), model.decode(codes).audio_values.flatten()
    channels = model.config.audio_channels
    wide = wav.unsqueeze(1).expand(-1, channels, -1)
    bandwidth = model.config.target_bandwidths[-1]
    found = model.encode(wide, bandwidth=bandwidth)
    chunks = found.audio_codes[:, 0].permute(0, 2, 1).flatten(0, 1)
    chunks = chunks[: len(chunks) - found.last_frame_pad_length]
    audio = model.decode(
        found.audio_codes,
        found.audio_scales,
        last_frame_pad_length=found.last_frame_pad_length,
    ).audio_values
    return chunks, audio[0].mean(0)


LENGTHS = [1, 17, 319, 320, 321, 5000, 24000, 47520, 48000, 60001, 100_000, 142_881]


@torch.no_grad()
@pytest.mark.parametrize("n", LENGTHS)
def test_codes_and_audio_are_theirs(codec, model, n):
    wav = noise(n, codec.sample_rate)
    codes, audio = theirs(model, codec, wav)
    if isinstance(codec, codecs.ChunkedEncodecTokenizer):
        tokens, scales = codec.encode_with_scales(wav)
        wavs, _ = codec.decode(tokens, scales=scales)
    else:
        tokens = codec.encode(wav)
        wavs, _ = codec.decode(tokens)
    assert torch.equal(tokens.codes[0], codes)
    assert torch.allclose(wavs[0], audio, rtol=0, atol=1e-6)
    assert len(codes) == codec.num_frames(n)
    assert wavs.shape[1] == codec.num_samples(len(codes))


def test_num_frames_is_exact_for_every_n(codec):
    """Against what really comes out, on the lengths around every kind of edge."""
    base = [*range(1, 700, 7), *range(1, 5001, 311)]
    edges = [k * codec.hop + d for k in (1, 2, 7, 15) for d in (-1, 0, 1)]
    if isinstance(codec, codecs.ChunkedEncodecTokenizer):
        steps = [47520, 2 * 47520]
        edges += [s + d for s in steps for d in (0, 1, 160, 161, 162, 479, 480, 481)]
    for n in sorted({*base, *edges}):
        codes = codec.encode(noise(n, codec.sample_rate)).codes
        assert codes.shape[1] == codec.num_frames(n) == len(codec.frame_times(n)), n


def test_fewer_codebooks_decode_to_what_theirs_do(codec, model):
    tokens = codec.encode(noise(9000, codec.sample_rate), n_codebooks=2)
    wide = codec.encode(noise(9000, codec.sample_rate)).codebooks(2)
    assert torch.equal(tokens.codes, wide.codes)
    wavs, _ = codec.decode(tokens)
    assert wavs.isfinite().all()
    if codec.model_type == "dac":
        with torch.no_grad():
            codes = tokens.codes.transpose(1, 2)
            audio = model.decode(audio_codes=codes).audio_values
        assert torch.allclose(wavs, audio, rtol=0, atol=1e-6)


def test_training_mode_changes_nothing(codec):
    wav = noise(9000, codec.sample_rate)
    before = codec.encode(wav).codes
    codec.train()
    try:
        after = codec.encode(wav, n_codebooks=3).codes
    finally:
        codec.eval()
    assert torch.equal(after, before[..., :3])


@torch.no_grad()
def test_a_published_folder_loads_with_both_spellings_of_weight_norm(
    name, codec, tmp_path
):
    """Parametrised, as saved today, and weight_g with weight_v, as saved before."""
    from safetensors.torch import load_file, save_file

    maker = loading.CLASSES[codec.model_type]
    settings = getattr(transformers, f"{maker}Config")(
        **{k: v for k, v in codec.config.items() if k != "model_type"}
    )
    model = getattr(transformers, f"{maker}Model")(settings).eval()
    spread_weights(model, torch.Generator().manual_seed(3))
    today, before = tmp_path / "today", tmp_path / "before"
    model.save_pretrained(today)
    before.mkdir()
    (before / "config.json").write_bytes((today / "config.json").read_bytes())
    state = load_file(today / "model.safetensors")
    names = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    for new, old in names.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    save_file(state, before / "model.safetensors", {"format": "pt"})
    kind = type(codec)
    one, two = kind.from_pretrained(today), kind.from_pretrained(before)
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint == kind.from_model(model).fingerprint
    latents = noise(9000, codec.sample_rate)
    assert torch.equal(one.encode(latents).codes, two.encode(latents).codes)
    state.pop(next(key for key in sorted(state) if "conv" in key))
    save_file(state, before / "model.safetensors", {"format": "pt"})
    with pytest.raises(DsuError, match="not a complete"):
        kind.from_pretrained(before)


def test_pickled_weights_are_not_loaded(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DsuError, match="safetensors"):
        codecs.DacTokenizer.from_pretrained(tmp_path)


def test_bandwidth_sets_the_codebooks():
    config = CODECS["encodec_24k"][1]
    assert codecs.EncodecTokenizer(config, bandwidth=0.9).bitrate == 900
    assert codecs.EncodecTokenizer(config, n_codebooks=3).bitrate == 1350
    with pytest.raises(DsuError, match=r"offers \[0.9, 1.8\]"):
        codecs.EncodecTokenizer(config, bandwidth=1.0)
    with pytest.raises(DsuError, match="n_codebooks=9 asked of 4"):
        codecs.EncodecTokenizer(config, n_codebooks=9)


def test_the_wrong_class_names_the_right_one():
    with pytest.raises(DsuError, match="ChunkedEncodecTokenizer"):
        codecs.EncodecTokenizer(CODECS["encodec_48k"][1])
    with pytest.raises(DsuError, match="model_type"):
        codecs.MimiTokenizer(CODECS["dac"][1])


def test_new_weights_are_not_shadowed_by_mimis_cache():
    mimi = FACTORIES["mimi"]()
    wav = noise(24000, 24000)
    before = mimi.encode(wav)
    first = mimi.decode(before)[0]
    state = mimi.state_dict()
    flipped = {k: v.flip(0) if k.endswith("embed_sum") else v for k, v in state.items()}
    mimi.load_state_dict(flipped)
    after = mimi.encode(wav)
    assert torch.equal(after.codes[..., 0], 63 - before.codes[..., 0])
    assert torch.allclose(mimi.decode(after)[0], first, atol=1e-5)


def test_chunks_without_scales_come_out_at_one_level():
    codec = FACTORIES["encodec_48k"]()
    wav = noise(100_000, 48000)
    tokens, scales = codec.encode_with_scales(
        torch.cat([wav, 0.1 * wav]), torch.tensor([1.0, 0.6])
    )
    assert scales.shape == (2, 3) and scales[1, 2] == 1
    assert torch.allclose(scales[1, 0], 0.1 * scales[0, 0], rtol=1e-3)
    assert torch.equal(tokens[0].codes[0, :150], tokens[1].codes[0, :150])
    loud, lens = codec.decode(tokens, scales=scales)
    flat, _ = codec.decode(tokens)
    inner = slice(1000, 47000)
    expected = flat[0, inner] * scales[0, 0] / codec.level
    assert torch.allclose(loud[0, inner], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(DsuError, match="encode_with_scales"):
        codec.decode(tokens, scales=scales[:, :2])


@pytest.mark.parametrize("rest", [1, 160, 161, 320, 321])
def test_a_short_last_chunk_decodes(rest):
    """Where transformers fails: zeros are appended until the last chunk will do."""
    codec = FACTORIES["encodec_48k"]()
    n = 2 * 47520 + rest
    wav = noise(n, 48000)
    tokens = codec.encode(wav)
    assert tokens.codes.shape[1] == codec.num_frames(n) == 302
    assert codec.decode(tokens)[0].shape[1] == codec.num_samples(302) == 95680
    filled = torch.nn.functional.pad(wav, (0, 321 - rest))
    assert torch.equal(codec.encode(filled).codes, tokens.codes)


@pytest.mark.parametrize("which", ["encodec_24k", "encodec_48k", "dac", "mimi"])
@pytest.mark.parametrize("seconds", [0.05, 1.3])
def test_long_recordings_give_the_tokens_of_one_pass(which, seconds):
    codec = FACTORIES[which]()
    n = 5 * codec.sample_rate + 1234
    wav = noise(n, codec.sample_rate)[0]
    whole = codec.encode(wav.unsqueeze(0)).codes
    pieces = codec.encode_long(wav, chunk_seconds=seconds).codes
    assert pieces.shape == whole.shape
    assert (pieces == whole).float().mean() >= 0.999


@torch.no_grad()
@pytest.mark.parametrize("which", ["dac", "mimi", "encodec_24k"])
def test_frames_see_nothing_outside_their_receptive_field(which):
    codec = FACTORIES[which]()
    left, right = codec.receptive_field
    n, frame = 40 * codec.hop, 30
    wav = noise(n, codec.sample_rate)
    other = wav.clone()
    other[:, frame * codec.hop + right :] += 0.3
    if left is not None:
        other[:, : max(frame * codec.hop - left, 0)] += 0.3
    a, b = codec.encode(wav).codes[0, frame], codec.encode(other).codes[0, frame]
    assert torch.equal(a, b)
    for first in range(8):  # and at the start, where EnCodec reflects
        other = wav.clone()
        other[:, first * codec.hop + right :] += 0.3
        assert torch.equal(
            codec.encode(wav).codes[0, first], codec.encode(other).codes[0, first]
        )
