"""Parts of EnCodec, DAC and Mimi, and the products behind their convolutions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers_native import NATIVE, build_native
from speechbrain_dsu.nnet.convolve import FEW, convolve, spread
from speechbrain_dsu.nnet.streaming_conv import StreamConv1d
from speechbrain_dsu.nnet.weights import arrange_weights


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([1, 2, 6]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 4),
    st.sampled_from([20, 4 * FEW]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
@torch.no_grad()
def test_every_product_gives_the_convolution(
    batch, channels, out, kernel, stride, dilation, padding, size, dtype, arranged
):
    signal = torch.randn(batch, channels, size, dtype=dtype)
    weight = torch.randn(out, channels, kernel, dtype=dtype)
    bias = torch.randn(out, dtype=dtype)
    expected = F.conv1d(signal, weight, bias, stride, padding, dilation)
    if arranged:
        weight = weight.transpose(1, 2).contiguous().transpose(1, 2)
        signal = signal.transpose(1, 2).contiguous().transpose(1, 2)
    found = convolve(signal, weight, bias, stride, dilation, 1, padding)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("time", [1, 7, FEW + 1])
@pytest.mark.parametrize("kernel", [4, 8, 11])
@torch.no_grad()
def test_every_product_gives_the_transposed_convolution(kernel, time):
    signal, weight = torch.randn(1, 5, time), torch.randn(5, 3, kernel)
    expected = F.conv_transpose1d(signal, weight, stride=4)
    assert torch.allclose(spread(signal, weight, 4), expected, atol=1e-5)


def test_arranged_weights_are_the_same_weights():
    layer = StreamConv1d(3, 4, 5)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    arrange_weights(layer)
    assert all(torch.equal(layer.state_dict()[key], state[key]) for key in state)


def test_gradients_flow_where_products_are_shortened():
    layer = StreamConv1d(3, 4, 1)
    layer(torch.randn(1, 3, 9)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NATIVE)
def test_a_stream_of_tokens_runs_delay_samples_behind_and_gives_the_audio(name):
    tokenizer = build_native(name)
    codes = torch.stack([torch.randint(n, (60,)) for n in tokenizer.codebook_sizes], 1)
    whole = tokenizer.decode_batch(codes.unsqueeze(0))[0]
    assert len(whole) == tokenizer.num_samples(60)
    stream, parts = tokenizer.decode_stream(), []
    for piece in codes.split(7):
        parts.append(stream.push(piece))
    assert 60 * tokenizer.hop - sum(map(len, parts)) == stream.delay
    parts.append(stream.flush())
    assert torch.allclose(torch.cat(parts), whole, atol=1e-3)


@pytest.mark.parametrize("name", NATIVE)
def test_a_codec_trains_and_gives_audio_as_long_as_its_input(name):
    codec = build_native(name).codec.train()
    wavs = 0.1 * torch.randn(2, 5003)
    output = codec(wavs, torch.tensor([1.0, 0.7]))
    assert output.audio.shape == wavs.shape
    loss = (output.audio - wavs).square().mean() + sum(output.quantized.losses.values())
    loss.backward()
    still = [
        key
        for part in ("encoder", "decoder")
        for key, weight in getattr(codec, part).named_parameters()
        if weight.grad is None or not weight.grad.isfinite().all()
    ]
    assert not still
