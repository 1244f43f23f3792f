"""Layers of HuBERT, WavLM, wav2vec 2.0 and w2v-BERT equal transformers' own."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
transformers = pytest.importorskip("transformers", reason="the extra hf")

from contract.tokenizers_transformers import (  # noqa: E402
    BLOCKS,
    FRONT,
    STABLE,
    spread_weights,
)
from speechbrain_dsu.integrations.transformers import loading  # noqa: E402
from speechbrain_dsu.integrations.transformers.ssl import (  # noqa: E402
    TransformersEncoder,
)
from speechbrain_dsu.lobes.ssl import SSLLayers  # noqa: E402
from speechbrain_dsu.utils.errors import DsuError  # noqa: E402

CONFIGS = {
    "hubert-base": BLOCKS | FRONT | {"model_type": "hubert"},
    "hubert-large": BLOCKS | FRONT | STABLE | {"model_type": "hubert"},
    "wav2vec2-base": BLOCKS | FRONT | {"model_type": "wav2vec2"},
    "wav2vec2-large": BLOCKS
    | FRONT
    | STABLE
    | {"model_type": "wav2vec2", "conv_bias": True, "add_adapter": True},
    "wavlm-base": BLOCKS | FRONT | {"model_type": "wavlm"},
    "wavlm-large": BLOCKS | FRONT | STABLE | {"model_type": "wavlm"},
    "w2v-bert": BLOCKS | {"model_type": "wav2vec2-bert"},
}
MASKS = {"hubert-large", "wav2vec2-large", "wavlm-large", "w2v-bert"}


def make_model(name, kind="Model", **more):
    values = CONFIGS[name] | more
    prefix = loading.CLASSES[values["model_type"]]
    settings = getattr(transformers, f"{prefix}Config")(
        **{k: v for k, v in values.items() if k != "model_type"}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{prefix}{kind}")(settings).eval()
    spread_weights(model, torch.Generator().manual_seed(0))
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            # So that a norm in the wrong place can't go unseen.
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return make_model(name)


def wave(n, seed=0):
    return 0.1 * torch.randn(1, n, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def theirs(model, wav):
    """All hidden states as a user of transformers gets them."""
    if model.config.model_type == "wav2vec2-bert":
        extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1)
        inputs = extractor(wav[0].numpy(), sampling_rate=16000, return_tensors="pt")
        found = model(**inputs, output_hidden_states=True).hidden_states
        valid = int(inputs["attention_mask"].sum())
        return [state[:, :valid] for state in found]
    return model(wav, output_hidden_states=True).hidden_states


@torch.no_grad()
@pytest.mark.parametrize("n", [560, 4000, 9001, 16000])
def test_every_layer_equals_theirs(name, model, n):
    encoder = TransformersEncoder.from_model(model)
    expected = theirs(model, wave(n))
    order = [2, 0, 3, 1]
    found = SSLLayers(encoder, order, normalize_signal=False)(wave(n))
    atol = 2e-4 if name == "w2v-bert" else 1e-5  # their filter banks are complex64
    for place, layer in enumerate(order):
        state = found[..., place * 16 : (place + 1) * 16]
        assert state.shape == expected[layer].shape
        assert torch.allclose(state, expected[layer], rtol=0, atol=atol), layer


@torch.no_grad()
@pytest.mark.parametrize("top", [0, 1, 2, 3])
def test_layers_above_are_gone_and_change_nothing(name, model, top):
    whole = TransformersEncoder.from_model(model)
    count = len(whole.state_dict())
    short = SSLLayers(whole, [top]).encoder
    built = TransformersEncoder.from_model(model, top_layer=top)
    wav = wave(6000)
    expected = whole.hidden_states(wav, None, [top])[0]
    assert torch.equal(short.hidden_states(wav, None, [top])[0], expected)
    assert torch.equal(built.hidden_states(wav, None, [top])[0], expected)
    assert set(short.state_dict()) == set(built.state_dict())
    assert not any(f"encoder.layers.{top}." in key for key in short.state_dict())
    assert SSLLayers(built, [top]).state_dict().keys() == {
        f"encoder.{key}" for key in short.state_dict()
    }
    assert len(whole.state_dict()) == count  # the caller's object is as it was
    assert len(whole.model.encoder.layers) == 3


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masking_is_exact_where_it_is_said_to_be(name, model, dtype):
    """In float64 as well: what is left in float32 is rounding, not a leak."""
    encoder = TransformersEncoder.from_model(model, normalize=name != "w2v-bert")
    assert encoder.masks_padding == (name in MASKS)
    layers = SSLLayers(encoder, [3, 1]).to(dtype)
    counts = torch.tensor([9000, 4321, 700])
    wavs = torch.cat([wave(9000, seed) for seed in range(3)]).to(dtype)
    together = layers(wavs, counts)
    worst = 0.0
    for index, count in enumerate(counts.tolist()):
        alone = layers(wavs[index : index + 1, :count])[0]
        assert len(alone) == encoder.num_frames(count)
        difference = (together[index, : len(alone)] - alone).abs().max()
        worst = max(worst, (difference / alone.abs().max()).item())
    if name in MASKS:
        assert worst <= (1e-5 if dtype == torch.float32 else 1e-12)
    else:  # Group norm over time sees the padding: saying so is the point.
        assert worst > 1e-2


@torch.no_grad()
def test_num_frames_is_exact_for_every_n(name, model):
    encoder = TransformersEncoder.from_model(model, top_layer=0)
    front = encoder.fbank or encoder.model.feature_extractor
    for n in [*range(encoder.min_samples, 1500), *range(1500, 5001, 61)]:
        out = front(torch.zeros(1, n))
        frames = out.shape[1] if encoder.fbank else out.shape[2]
        assert frames == encoder.num_frames(n), n
    assert encoder.num_frames(encoder.min_samples) == 1
    assert encoder.num_frames(encoder.min_samples - 1) == 0


def test_the_final_norm_is_there_on_request():
    """transformers 4 gave the last layer of these models behind the final norm."""
    model = make_model("hubert-large")
    with torch.no_grad():
        last = model(wave(6000)).last_hidden_state
        raw = theirs(model, wave(6000))[3]
    encoder = TransformersEncoder.from_model(model, final_norm=True)
    with torch.no_grad():
        states = encoder.hidden_states(wave(6000), None, [3, 2])
        short = SSLLayers(encoder, [2])(wave(6000))
    assert torch.allclose(states[0], last, atol=1e-5)
    assert not torch.allclose(states[0], raw, atol=1e-2)
    assert torch.equal(short, states[1])


def test_filter_banks_are_theirs():
    encoder = TransformersEncoder(CONFIGS["w2v-bert"])
    extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    lengths = [560, 720, 880, 3000, 12345]
    wavs = [wave(n, seed=n)[0] for n in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    found = encoder.fbank(batch, torch.tensor(lengths))
    for row, wav in zip(found, wavs, strict=True):
        expected = extractor(wav.numpy(), sampling_rate=16000)["input_features"][0]
        frames = encoder.num_frames(len(wav))
        np.testing.assert_allclose(row[:frames], expected[:frames], atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["today", "before"])
def test_a_published_folder_loads(name, model, tmp_path, spelling):
    """With a head on top, preprocessing beside it, either spelling of weight norm."""
    from safetensors.torch import load_file, save_file

    headed = make_model(name, "ForCTC", vocab_size=5, pad_token_id=0)
    headed.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')
    if spelling == "before":
        path = tmp_path / "model.safetensors"
        state = load_file(path)
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            new = f"parametrizations.weight.{new}"
            state = {key.replace(new, old): value for key, value in state.items()}
        save_file(state, path, {"format": "pt"})
    encoder = TransformersEncoder.from_pretrained(tmp_path, top_layer=2)
    assert encoder.normalize == (name != "w2v-bert")
    base = getattr(headed, headed.base_model_prefix)
    expected = theirs(base, wave(5000))[2]
    found = encoder.hidden_states(wave(5000), None, [2])[0]
    assert torch.allclose(found, expected, atol=2e-4 if name == "w2v-bert" else 1e-5)
    twin = TransformersEncoder.from_model(headed, top_layer=2)
    assert twin.extra_repr().replace("normalize=False", "") == (
        encoder.extra_repr().replace(f"normalize={encoder.normalize}", "")
    )


def test_missing_and_superfluous_weights_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    model = make_model("hubert-large")
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    state.pop("encoder.layers.1.attention.k_proj.weight")
    save_file(state, path, {"format": "pt"})
    with pytest.raises(DsuError, match=r"layers\.1\.attention\.k_proj\.weight"):
        TransformersEncoder.from_pretrained(tmp_path)
    model.encoder.layers[0].surplus = nn.Linear(2, 2)
    with pytest.raises(DsuError, match="surplus.weight is left over"):
        TransformersEncoder.from_model(model)


def test_speechbrains_wrapper_is_copied_with_its_normalisation():
    class Wrapper(nn.Module):
        """What SpeechBrain's Wav2Vec2 holds, without its download."""

        def __init__(self, model):
            super().__init__()
            self.model, self.normalize_wav = model, True

    model = make_model("wav2vec2-large")
    encoder = TransformersEncoder.from_model(Wrapper(model))
    assert encoder.normalize
    with torch.no_grad():
        wav = wave(6000)
        # Alone and unpadded, SpeechBrain's normalisation is the same but for eps.
        scaled = torch.nn.functional.layer_norm(wav, wav.shape[1:], eps=1e-7)
        expected = theirs(model, scaled)[2]
        assert torch.allclose(SSLLayers(encoder, [2])(wav), expected, atol=1e-4)


def test_senseless_requests_are_refused():
    with pytest.raises(DsuError, match="layers 0 to 3"):
        TransformersEncoder(CONFIGS["hubert-base"], top_layer=4)
    encoder = TransformersEncoder(CONFIGS["hubert-base"], top_layer=1)
    with pytest.raises(DsuError, match="raise top_layer"):
        SSLLayers(encoder, [2])
    with pytest.raises(DsuError, match="model_type"):
        TransformersEncoder({"model_type": "bert"})
    with pytest.raises(DsuError, match="configuration refused"):
        TransformersEncoder(CONFIGS["hubert-base"] | {"hidden_size": "many"})
    with pytest.raises(DsuError, match="holds no encoder"):
        TransformersEncoder.from_model(nn.Linear(1, 1))


def test_numbers_that_yaml_reads_as_words_are_numbers():
    config = CONFIGS["hubert-base"] | {"layer_norm_eps": "1e-06"}
    assert TransformersEncoder(config).config["layer_norm_eps"] == 1e-6
    assert "layer_norm_eps" not in TransformersEncoder(CONFIGS["hubert-base"]).config
