"""EnCodec, DAC and Mimi in our modules: codes and audio of transformers' own."""

import pytest
import torch

from speechbrain_dsu.inference.bundles import save_bundle
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.nnet.streaming import Stream

transformers = pytest.importorskip("transformers")

from speechbrain_dsu.integrations.transformers.convert_codecs import (  # noqa: E402
    convert_codec,
    native_codec,
    native_yaml,
)
from speechbrain_dsu.utils.errors import DsuError  # noqa: E402

ENCODEC = {
    "model_type": "encodec",
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_dim": 16,
    "codebook_size": 32,
    "target_bandwidths": [12.0],
    "upsampling_ratios": [5, 4, 2],
    "num_lstm_layers": 2,
}
MIMI = {
    "model_type": "mimi",
    "num_filters": 4,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "sliding_window": 9,
    "upsample_groups": 32,
    "codebook_size": 32,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 5,
    "upsampling_ratios": [6, 5, 4],
    "sampling_rate": 24000,
    "frame_rate": 100.0,
}
DAC = {
    "model_type": "dac",
    "encoder_hidden_size": 4,
    "decoder_hidden_size": 32,
    "downsampling_ratios": [2, 4, 5],
    "n_codebooks": 4,
    "codebook_size": 32,
    "codebook_dim": 4,
}


def models(settings):
    """transformers' model with random weights that matter, and our parts."""
    torch.manual_seed(0)
    values = {k: v for k, v in settings.items() if k != "model_type"}
    name = {"encodec": "Encodec", "mimi": "Mimi", "dac": "Dac"}[settings["model_type"]]
    config = getattr(transformers, f"{name}Config")(**values)
    theirs = getattr(transformers, f"{name}Model")(config).eval()
    for key, value in theirs.state_dict().items():
        if key.endswith(("embed", "embed_sum", "codebook.weight", "alpha")):
            value.copy_(torch.randn_like(value).abs() + 0.1)
        if key.endswith(("embed", "embed_sum")):
            value.copy_(torch.randn_like(value))
        if "layer_scale" in key:
            value.fill_(0.5)
    return theirs, convert_codec(settings, theirs.state_dict())


def latents(theirs, wavs):
    kind = theirs.config.model_type
    if kind == "mimi":
        return theirs.encoder(wavs.unsqueeze(1), use_streaming=False).latents
    return theirs.encoder(wavs.unsqueeze(1))


def codes_and_audio(theirs, wavs):
    kind, found = theirs.config.model_type, latents(theirs, wavs)
    if kind == "dac":
        quantized, codes = theirs.quantizer(found)[:2]
        return codes.transpose(1, 2), theirs.decoder(quantized).squeeze(1)
    codes = theirs.quantizer.encode(found)
    if kind == "encodec":
        audio = theirs.decoder(theirs.quantizer.decode(codes))
    else:
        by_item = codes.permute(1, 0, 2)
        audio = theirs.decoder(theirs.quantizer.decode(by_item)).audio_values
    return codes.permute(1, 2, 0), audio.squeeze(1)


def stream(module, x, cuts):
    state, parts = Stream(), []
    pieces = x.tensor_split(cuts, dim=1)
    for index, piece in enumerate(pieces):
        with state.active(last=index == len(pieces) - 1):
            parts.append(module(piece))
    return torch.cat(parts, 1)


@pytest.mark.parametrize(
    "settings", [ENCODEC, MIMI, DAC], ids=lambda s: s["model_type"]
)
@pytest.mark.parametrize("n_samples", [960, 4801, 7033])
@torch.no_grad()
def test_latents_codes_and_audio_alone_in_company_and_streamed(settings, n_samples):
    theirs, (encoder, quantizer, decoder) = models(settings)
    wavs = torch.randn(2, n_samples)
    expected = latents(theirs, wavs).transpose(1, 2)
    codes, audio = codes_and_audio(theirs, wavs)
    found = encoder(wavs)
    assert found.shape[1] == encoder.num_frames(n_samples)
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.equal(quantizer.encode(found), codes)
    back = decoder(quantizer.decode(codes))
    assert back.shape[1] == decoder.num_samples(codes.shape[1])
    assert torch.allclose(back, audio, atol=1e-4)
    cuts = [1, 2, 700, 701, n_samples - 3]
    alone = encoder(wavs[:1])
    assert torch.allclose(alone, expected[:1], atol=1e-4)
    assert torch.allclose(stream(encoder, wavs, cuts), expected, atol=1e-4)
    pieces = stream(decoder, quantizer.decode(codes), [1, 3, 4])
    assert torch.allclose(pieces, audio, atol=1e-4)


def test_both_spellings_of_weight_norm_give_the_same():
    theirs, parts = models(ENCODEC)
    wavs = torch.randn(1, 2000)
    old = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in theirs.state_dict().items()
    }
    assert any(key.endswith("weight_g") for key in old)
    again = convert_codec(ENCODEC, old)
    assert torch.equal(again.encoder(wavs), parts.encoder(wavs))


@pytest.mark.parametrize(
    "settings", [ENCODEC, MIMI, DAC], ids=lambda s: s["model_type"]
)
def test_a_weight_that_is_missing_or_left_over_is_named(settings):
    theirs, _ = models(settings)
    state = dict(theirs.state_dict())
    gone = next(key for key in state if key.startswith("decoder") and "bias" in key)
    del state[gone]
    with pytest.raises(DsuError, match="bias is missing"):
        convert_codec(settings, state)
    with pytest.raises(DsuError, match="encoder.extra is left over"):
        convert_codec(settings, theirs.state_dict() | {"encoder.extra": torch.ones(1)})


def test_what_is_not_converted_says_where_to_go():
    settings = {"model_type": "encodec", "norm_type": "time_group_norm"}
    with pytest.raises(DsuError, match="not converted"):
        convert_codec(settings | {"audio_channels": 1}, {})


@pytest.mark.parametrize(
    "settings", [ENCODEC, MIMI, DAC], ids=lambda s: s["model_type"]
)
def test_a_published_folder_becomes_a_bundle_that_needs_no_transformers(
    settings, tmp_path
):
    theirs, _ = models(settings)
    theirs.save_pretrained(tmp_path / "published")
    tokenizer = native_codec(tmp_path / "published", n_codebooks=3)
    wav = 0.3 * torch.randn(1, 8 * tokenizer.hop)
    tokens = tokenizer.encode(wav)
    with torch.no_grad():
        codes, _ = codes_and_audio(theirs, wav)
    assert torch.equal(tokens.codes, codes[..., :3])
    text = native_yaml(theirs.config.to_dict(), n_codebooks=3)
    assert "transformers" not in text
    licence = {"code": "Apache-2.0", "weights": "CC0-1.0"}
    folder = save_bundle(tokenizer, tmp_path / "bundle", text, licence=licence)
    loaded = UnitTokenizer.from_hparams(folder, run_opts={"device": "cpu"})
    assert loaded.fingerprint == tokenizer.fingerprint
    assert torch.equal(loaded.encode_batch(wav).codes, tokens.codes)
    audio, _ = loaded.decode(tokens)
    assert audio.shape[1] == tokenizer.num_samples(8)
    with pytest.raises(DsuError, match="n_codebooks=99"):
        native_codec(tmp_path / "published", n_codebooks=99)
