"""Our HuBERT, wav2vec 2.0 and WavLM, and their objectives, equal transformers'."""

import sys
from pathlib import Path

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
from speechbrain_dsu.integrations.transformers import convert_ssl, loading  # noqa: E402
from speechbrain_dsu.lobes.pretraining import wav2vec2  # noqa: E402
from speechbrain_dsu.lobes.ssl import SSLLayers  # noqa: E402
from speechbrain_dsu.nnet.quantizers.gumbel import GumbelProduct  # noqa: E402
from speechbrain_dsu.utils.errors import DsuError  # noqa: E402

RELATIVE = {"num_buckets": 16, "max_bucket_distance": 20}
CONFIGS = {
    "hubert-base": BLOCKS | FRONT | {"model_type": "hubert"},
    "hubert-large": BLOCKS | FRONT | STABLE | {"model_type": "hubert"},
    "hubert-bare": BLOCKS
    | FRONT
    | {"model_type": "hubert", "feat_proj_layer_norm": False},
    "wav2vec2-base": BLOCKS | FRONT | {"model_type": "wav2vec2"},
    "wav2vec2-large": BLOCKS
    | FRONT
    | STABLE
    | {"model_type": "wav2vec2", "conv_bias": True, "add_adapter": True},
    "wavlm-base": BLOCKS | FRONT | RELATIVE | {"model_type": "wavlm"},
    "wavlm-large": BLOCKS | FRONT | STABLE | RELATIVE | {"model_type": "wavlm"},
    "odd-positions": BLOCKS
    | FRONT
    | {"model_type": "hubert", "num_conv_pos_embeddings": 15},
}


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
        for key, weight in model.named_parameters():
            # So that a norm or gate in the wrong place can't go unseen.
            if weight.ndim == 1 or "gru_rel_pos_const" in key:
                nn.init.uniform_(weight, 0.5, 1.5)
            if "rel_attn_embed" in key:
                nn.init.normal_(weight, std=2.0)
    return model


def convert(model, **options):
    config = loading.describe_config(model.config)
    return convert_ssl.convert_encoder(config, model.state_dict(), **options)


def wave(n, seed=0):
    return 0.1 * torch.randn(1, n, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=CONFIGS, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return make_model(name)


@torch.no_grad()
@pytest.mark.parametrize("n", [400, 4000, 16000])
def test_every_layer_equals_theirs(model, n):
    expected = model(wave(n), output_hidden_states=True)
    encoder = convert(model)
    order = [2, 0, 3, 1]
    found = encoder.hidden_states(wave(n), None, order)
    for layer, state in zip(order, found, strict=True):
        wanted = expected.hidden_states[layer]
        assert torch.allclose(state, wanted, rtol=0, atol=1e-4), layer
        assert wanted.std() > 0.1
    if getattr(model, "adapter", None) is None:
        assert torch.allclose(encoder(wave(n)), expected.last_hidden_state, atol=1e-4)


@torch.no_grad()
def test_a_padded_batch_equals_theirs(model):
    counts = torch.tensor([9000, 4321, 700])
    wavs = torch.cat([wave(9000, seed) for seed in range(3)])
    attention = torch.arange(9000) < counts.unsqueeze(1)
    wavs = wavs * attention
    expected = model(wavs, attention_mask=attention, output_hidden_states=True)
    encoder = convert(model)
    found = encoder.hidden_states(wavs, counts, [0, 1, 2, 3])
    for layer, state in enumerate(found):
        for item, count in enumerate(counts.tolist()):
            end = encoder.num_frames(count)
            wanted = expected.hidden_states[layer][item, :end]
            assert torch.allclose(state[item, :end], wanted, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masking_is_exact_where_it_is_said_to_be(model, dtype):
    encoder = convert(model, normalize=True)
    layers = SSLLayers(encoder, [3, 1]).to(dtype)
    counts = torch.tensor([9000, 4321, 700])
    wavs = torch.cat([wave(9000, seed) for seed in range(3)]).to(dtype)
    together, worst = layers(wavs, counts), 0.0
    for index, count in enumerate(counts.tolist()):
        alone = layers(wavs[index : index + 1, :count])[0]
        difference = (together[index, : len(alone)] - alone).abs().max()
        worst = max(worst, (difference / alone.abs().max()).item())
    assert layers.masks_padding == (model.config.feat_extract_norm == "layer")
    if layers.masks_padding:
        assert worst <= (1e-5 if dtype == torch.float32 else 1e-12)
    else:  # Group norm over time sees the padding: saying so is the point.
        assert worst > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["today", "before", "folded"])
def test_all_spellings_of_weight_norm(spelling):
    model = make_model("wav2vec2-base")
    expected = model(wave(4000)).last_hidden_state
    state, new = model.state_dict(), "parametrizations.weight.original"
    if spelling == "before":
        for number, old in enumerate(["weight_g", "weight_v"]):
            state = {k.replace(f"{new}{number}", old): v for k, v in state.items()}
    if spelling == "folded":
        state = loading.fold_state(state)
    assert spelling == "today" or not any(new in key for key in state)
    encoder = convert_ssl.convert_encoder(CONFIGS["wav2vec2-base"], state)
    assert torch.allclose(encoder(wave(4000)), expected, atol=1e-4)


@torch.no_grad()
def test_a_published_folder_loads(tmp_path):
    headed = make_model("wavlm-base", "ForCTC", vocab_size=5, pad_token_id=0)
    headed.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')
    encoder = convert_ssl.convert_pretrained(tmp_path)
    assert encoder.normalize and not encoder.training
    expected = headed.wavlm(wave(4000)).last_hidden_state
    found = encoder.hidden_states(wave(4000), None, [3])[0]
    assert torch.allclose(found, expected, atol=1e-4)


def test_missing_and_superfluous_weights_are_named():
    state = make_model("hubert-base").state_dict()
    surplus = state | {"encoder.layers.0.more.weight": torch.zeros(1)}
    with pytest.raises(DsuError, match="encoder.layers.0.more.weight"):
        convert_ssl.convert_encoder(CONFIGS["hubert-base"], surplus)
    for key in ("encoder.layers.1.attention.k_proj.bias", "masked_spec_embed"):
        short = {k: v for k, v in state.items() if k != key}
        with pytest.raises(DsuError, match=r"Missing key"):
            convert_ssl.convert_encoder(CONFIGS["hubert-base"], short)
    with pytest.raises(DsuError, match="conv_pos_batch_norm"):
        convert_ssl.build_encoder(
            CONFIGS["hubert-base"] | {"conv_pos_batch_norm": True}
        )


QUIET = dict.fromkeys(
    (
        "hidden_dropout attention_dropout activation_dropout feat_proj_dropout "
        "feat_quantizer_dropout layerdrop"
    ).split(),
    0.0,
)
QUANTIZER = {
    "num_codevectors_per_group": 7,
    "num_codevector_groups": 2,
    "codevector_dim": 6,
    "proj_codevector_dim": 5,
}


def make_contrast(theirs):
    config = {"model_type": "wav2vec2"} | CONFIGS["wav2vec2-large"]
    encoder = convert_ssl.build_encoder(config)
    objective = wav2vec2.MaskedContrast(
        encoder,
        GumbelProduct(8, 7, 2, out_dim=6, diversity_weight=0.1),
        dim=5,
        negatives=4,
        quantizer_dropout=0.0,
    )
    objective.load_state_dict(convert_ssl.rename_pretraining(theirs.state_dict()))
    for part in objective.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.0
    return objective


@pytest.mark.parametrize("training", [False, True])
def test_the_contrastive_loss_and_its_gradient_equal_theirs(training, monkeypatch):
    """One mask, the same negatives, Gumbel noise held at zero."""
    theirs = make_model(
        "wav2vec2-large", "ForPreTraining", add_adapter=False, **QUIET, **QUANTIZER
    )
    ours = make_contrast(theirs)
    theirs.train(training), ours.train(training)
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.fill_(1.0))
    counts = torch.tensor([9000, 7321, 5000])
    attention = torch.arange(9000) < counts.unsqueeze(1)
    wavs = torch.cat([wave(9000, seed) for seed in range(3)]) * attention
    frames = [ours.encoder.num_frames(count) for count in counts.tolist()]
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(3, max(frames), generator=generator) < 0.5
    mask &= torch.arange(max(frames)) < torch.tensor(frames).unsqueeze(1)
    masked = mask.sum(1)
    negatives = wav2vec2.sample_negatives(masked, int(masked.max()), 4)
    monkeypatch.setattr(wav2vec2, "span_mask", lambda *given: mask)
    monkeypatch.setattr(wav2vec2, "sample_negatives", lambda *given: negatives)
    # The same draws as indices into all frames of the batch.
    indices = torch.zeros(3, max(frames), 4, dtype=torch.int64)
    for item in range(3):
        places = mask[item].nonzero().squeeze(1)
        indices[item, mask[item]] = places[negatives[item, : len(places)]]
        indices[item] += item * max(frames)
    expected = theirs(
        wavs,
        attention_mask=attention,
        mask_time_indices=mask,
        sampled_negative_indices=indices,
    )
    found = ours(wavs, counts / 9000)
    total = mask.sum()
    loss = found.losses["contrastive"]
    assert torch.allclose(loss, expected.contrastive_loss / total, atol=1e-4)
    if not training:
        return  # In evaluation their diversity is that of hard choices.
    assert torch.allclose(
        found.losses["diversity"], 0.1 * expected.diversity_loss / total, atol=1e-4
    )
    (expected.loss / total).backward()
    sum(found.losses.values()).backward()
    wanted = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
    wanted = convert_ssl.rename_pretraining(wanted)
    for key, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, wanted[key], atol=1e-4), key
