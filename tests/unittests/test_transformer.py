"""Transformers: piece by piece equals at once, alone equals in company."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from speechbrain_dsu.nnet.attention import SelfAttention, Sight
from speechbrain_dsu.nnet.streaming import Stream
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.utils.errors import DsuError

KINDS = {
    "plain": {},
    "grouped": {"kv_heads": 2, "norm": "rms", "feed_forward": "swiglu"},
    "window": {"context": 4, "layer_scale": 0.5},
    "no positions": {"rotary_base": None},
}


def build(**settings) -> Transformer:
    torch.manual_seed(0)
    return Transformer(dim=16, n_layers=2, n_heads=4, ffn_dim=24, **settings).eval()


def streamed(model, x, cuts, lens=None, **memory) -> torch.Tensor:
    stream, parts = Stream(), []
    for part in x.tensor_split(sorted(cuts), dim=1):
        with stream.active():
            parts.append(model(part, **memory))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 20), cuts=st.lists(st.integers(0, 20), max_size=5))
def test_any_chunking_gives_the_output_of_one_pass(kind, frames, cuts):
    model, x = build(**KINDS[kind]), torch.randn(2, frames, 16)
    with torch.no_grad():
        assert torch.allclose(streamed(model, x, cuts), model(x), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_later_frames_change_nothing_before_them(kind):
    model, x = build(**KINDS[kind]), torch.randn(1, 12, 16)
    other = x.clone()
    other[:, 7:] = torch.randn(1, 5, 16)
    with torch.no_grad():
        assert torch.equal(model(x)[:, :7], model(other)[:, :7])


def test_a_context_hides_what_is_farther_back():
    model = Transformer(dim=16, n_layers=1, n_heads=4, context=4).eval()
    x = torch.randn(1, 12, 16)
    other = x.clone()
    other[:, 3] = torch.randn(16)
    changed = (model(x) - model(other)).abs().amax((0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_prompts_of_unequal_length_continue_as_if_alone():
    model = build(kv_heads=2)
    counts, total = [3, 7, 5], 7
    prompts, steps = torch.randn(3, total, 16), torch.randn(3, 4, 16)
    lens = torch.tensor(counts) / total
    with torch.no_grad():
        stream, parts = Stream(), []
        with stream.active():
            first = model(prompts, lens)
        for step in steps.split(1, dim=1):
            with stream.active():
                parts.append(model(step))
        together = torch.cat(parts, 1)
        for item, count in enumerate(counts):
            alone = torch.cat(
                [prompts[item : item + 1, :count], steps[item : item + 1]], 1
            )
            expected = model(alone)[0]
            assert torch.allclose(first[item, :count], expected[:count], atol=1e-5)
            assert torch.allclose(together[item], expected[count:], atol=1e-5)


def test_padding_is_not_seen_without_causality():
    model, x = build(causal=False), torch.randn(2, 9, 16)
    lens = torch.tensor([5 / 9, 1.0])
    with torch.no_grad():
        padded, alone = model(x, lens), model(x[:1, :5])
    assert torch.allclose(padded[0, :5], alone[0], atol=1e-5)


def test_a_memory_is_read_once_and_its_padding_not_seen():
    model, x = build(memory_dim=8), torch.randn(2, 6, 16)
    memory, lens = torch.randn(2, 5, 8), torch.tensor([0.6, 1.0])
    with torch.no_grad():
        whole = model(x, memory=memory, memory_lens=lens)
        stream, parts = Stream(), []
        for index, part in enumerate(x.split(2, dim=1)):
            given_memory = {"memory": memory, "memory_lens": lens} if not index else {}
            with stream.active():
                parts.append(model(part, **given_memory))
        alone = model(x[:1], memory=memory[:1, :3])
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    assert torch.allclose(whole[0], alone[0], atol=1e-5)


def test_selected_items_go_on_as_they_were():
    model, x = build(memory_dim=8), torch.randn(2, 6, 16)
    memory, stream = torch.randn(2, 5, 8), Stream()
    chosen = torch.tensor([1, 1, 0])
    with torch.no_grad():
        with stream.active():
            model(x[:, :4], torch.tensor([0.5, 1.0]), memory=memory)
        stream.select(chosen)
        with stream.active():
            found = model(x[chosen, 4:])
        first = model(torch.cat([x[:1, :2], x[:1, 4:]], 1), memory=memory[:1])
        second = model(x[1:], memory=memory[1:])
    assert torch.allclose(found[0], second[0, 4:], atol=1e-5)
    assert torch.allclose(found[1], found[0])
    assert torch.allclose(found[2], first[0, 2:], atol=1e-5)


def test_attention_equals_sums_written_out():
    torch.manual_seed(0)
    attention, x = SelfAttention(dim=12, n_heads=4, kv_heads=2), torch.randn(1, 5, 12)
    sizes = [12, 6, 6]
    q, k, v = attention.project(x)[0].split(sizes, -1)
    rows = torch.zeros(5, 12)
    for head in range(4):
        own, shared = slice(3 * head, 3 * head + 3), slice(3 * (head // 2), None)
        for t in range(5):
            scores = [q[t, own] @ k[j, shared][:3] / 3**0.5 for j in range(t + 1)]
            weights = F.softmax(torch.stack(scores), 0)
            rows[t, own] = sum(w * v[j, shared][:3] for j, w in enumerate(weights))
    found = attention(x, Sight(causal=True))[0]
    assert torch.allclose(found, attention.out(rows), atol=1e-5)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"context": 3, "causal": False}, "context=3"),
        ({"norm": "batch"}, "batch"),
        ({"feed_forward": "relu"}, "relu"),
        ({"kv_heads": 3}, "kv_heads=3"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, named):
    with pytest.raises(DsuError, match=named):
        build(**settings)


def test_memory_where_there_is_none_is_refused():
    with pytest.raises(DsuError, match="needs memory"):
        build(memory_dim=8)(torch.randn(1, 2, 16))
    with pytest.raises(DsuError, match="takes no memory"):
        build()(torch.randn(1, 2, 16), memory=torch.randn(1, 2, 8))
    with pytest.raises(DsuError, match="not causal"), Stream().active():
        build(causal=False)(torch.randn(1, 2, 16))
