"""Our transformer against transformers' Llama and Mimi, same weights."""

import pytest
import torch

from speechbrain_dsu.nnet.transformer import Transformer

transformers = pytest.importorskip("transformers")


def copy_layer(ours, theirs, llama: bool) -> None:
    """Weights of one layer, ours fused."""
    attention, feed = theirs.self_attn, theirs.mlp
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    ours.attention.project.weight.copy_(torch.cat(parts))
    ours.attention.out.weight.copy_(attention.o_proj.weight)
    into = [feed.gate_proj.weight, feed.up_proj.weight] if llama else [feed.fc1.weight]
    ours.feed_forward.into.weight.copy_(torch.cat(into))
    down = feed.down_proj if llama else feed.fc2
    ours.feed_forward.out.weight.copy_(down.weight)
    norms = [
        (ours.attention_norm, theirs.input_layernorm),
        (ours.feed_norm, theirs.post_attention_layernorm),
    ]
    for mine, other in norms:
        mine.load_state_dict(other.state_dict())
    if not llama:
        ours.attention_scale.scale.copy_(theirs.self_attn_layer_scale.scale)
        ours.feed_scale.scale.copy_(theirs.mlp_layer_scale.scale)


@torch.no_grad()
def test_llama():
    config = transformers.LlamaConfig(
        vocab_size=10,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    theirs = transformers.LlamaModel(config).eval()
    ours = Transformer(
        32, 3, 4, 48, 2, norm="rms", feed_forward="swiglu", bias=False
    ).eval()
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        copy_layer(mine, other, llama=True)
    ours.norm.load_state_dict(theirs.norm.state_dict())
    x = torch.randn(2, 11, 32)
    expected = theirs(inputs_embeds=x).last_hidden_state
    assert torch.allclose(ours(x), expected, atol=1e-5)


@torch.no_grad()
def test_mimi():
    from transformers.models.mimi.modeling_mimi import MimiTransformerModel

    config = transformers.MimiConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        sliding_window=5,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    theirs = MimiTransformerModel(config).eval()
    ours = Transformer(
        32, 2, 4, 48, context=5, bias=False, layer_scale=0.01, final_norm=False
    ).eval()
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        copy_layer(mine, other, llama=False)
    x = torch.randn(2, 16, 32)
    expected = theirs(x).last_hidden_state
    assert torch.allclose(ours(x), expected, atol=1e-5)
