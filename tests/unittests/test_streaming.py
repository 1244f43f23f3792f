"""A signal in pieces gives what the whole gives: layers, sums, several streams."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.nnet.streaming import Aligned, Stream, current_stream, offline
from speechbrain_dsu.nnet.streaming_conv import (
    PAD_MODES,
    StreamConv1d,
    StreamConvTranspose1d,
    pad_signal,
)
from speechbrain_dsu.nnet.weights import fold_weight_norm
from speechbrain_dsu.utils.errors import DsuError

CUTS = st.lists(st.integers(0, 40), max_size=8)


def pieces(signal, cuts, dim=-1):
    """The signal cut at these places; the last piece may be empty."""
    edges = [0, *sorted(min(c, signal.shape[dim]) for c in cuts), signal.shape[dim]]
    return [
        signal.narrow(dim, a, b - a) for a, b in zip(edges, edges[1:], strict=False)
    ]


def streamed(model, signal, cuts, dim=-1):
    stream, out = Stream(), []
    parts = pieces(signal, cuts, dim)
    for index, part in enumerate(parts):
        with stream.active(last=index == len(parts) - 1):
            out.append(model(part))
    return torch.cat(out, dim)


def conv(kernel, stride, dilation, causal, mode, padding):
    stride = min(stride, (kernel - 1) * dilation + 1)
    torch.manual_seed(0)
    return StreamConv1d(
        2, 3, kernel, stride, dilation, causal=causal, pad_mode=mode, padding=padding
    ).double()


CONVS = st.builds(
    conv,
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 3),
    causal=st.booleans(),
    mode=st.sampled_from(PAD_MODES),
    padding=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)),
)


@settings(max_examples=200, deadline=None)
@given(CONVS, st.integers(0, 40), CUTS)
def test_a_convolution_in_pieces_is_that_of_the_whole(layer, n, cuts):
    signal = torch.randn(2, 2, n, dtype=torch.float64)
    whole = layer(signal)
    assert whole.shape[-1] == layer.lengths.num_frames(n)
    torch.testing.assert_close(streamed(layer, signal, cuts), whole)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 30), CUTS)
def test_a_transposed_convolution_in_pieces(kernel, stride, causal, n, cuts):
    kernel = max(kernel, stride)
    layer = StreamConvTranspose1d(2, 3, kernel, stride, causal=causal).double()
    signal = torch.randn(2, 2, n, dtype=torch.float64)
    whole = layer(signal)
    assert whole.shape[-1] == n * stride
    torch.testing.assert_close(streamed(layer, signal, cuts), whole)
    if n:
        full = nn.functional.conv_transpose1d(
            signal, layer.weight, layer.bias, stride=stride
        )
        left = 0 if causal else (kernel - stride) - (kernel - stride) // 2
        torch.testing.assert_close(whole, full[..., left : left + n * stride])


@settings(max_examples=60, deadline=None)
@given(st.lists(CONVS, min_size=2, max_size=3), st.integers(0, 40), CUTS)
def test_a_stack_in_pieces(layers, n, cuts):
    for layer in layers[1:]:
        assert layer.in_channels == 2
    # Channels: 3 out, 2 in; a narrowing between them.
    stack = nn.Sequential()
    for layer in layers:
        stack.extend([layer, nn.Conv1d(3, 2, 1).double()])
    signal = torch.randn(1, 2, n, dtype=torch.float64)
    found = ConvStack(layer.lengths for layer in layers).num_frames(n)

    def run(part):
        for module in stack:
            # Torch's own layers take no empty axis.
            empty = part.shape[-1] == 0 and type(module) is nn.Conv1d
            part = part.new_zeros(1, 2, 0) if empty else module(part)
        return part

    whole = run(signal)
    assert whole.shape[-1] == found
    torch.testing.assert_close(streamed(run, signal, cuts), whole)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_causal_output_depends_on_nothing_behind_its_stride(stride):
    layer = StreamConv1d(1, 1, 7, stride, dilation=2).double()
    signal = torch.randn(1, 1, 40, dtype=torch.float64)
    whole = layer(signal)
    for frame in range(whole.shape[-1]):
        cut = layer(signal[..., : frame * stride + stride])
        torch.testing.assert_close(cut[..., : frame + 1], whole[..., : frame + 1])


def test_each_output_comes_as_soon_as_its_inputs_are_there():
    layer, stream = StreamConv1d(1, 1, 6, 3), Stream()
    counts = []
    for _ in range(9):
        with stream.active():
            counts.append(layer(torch.zeros(1, 1, 1)).shape[-1])
    assert counts == [0, 0, 1, 0, 0, 1, 0, 0, 1]


def test_reflection_waits_for_what_it_mirrors():
    layer, stream = StreamConv1d(1, 1, 5, pad_mode="reflect"), Stream()
    counts = []
    for _ in range(6):
        with stream.active():
            counts.append(layer(torch.zeros(1, 1, 1)).shape[-1])
    assert counts == [0, 0, 0, 0, 5, 1]


def test_several_streams_and_whole_signals_over_one_model():
    model = nn.Sequential(StreamConv1d(1, 2, 5, 2), StreamConvTranspose1d(2, 1, 4, 2))
    signals = [torch.randn(1, 1, n) for n in (31, 44, 18)]
    streams = [Stream() for _ in signals]
    outputs = [[] for _ in signals]
    for start in range(0, 44, 7):
        for signal, stream, out in zip(signals, streams, outputs, strict=True):
            part = signal[..., start : start + 7]
            if stream.finished:
                continue
            with stream.active(last=start + 7 >= signal.shape[-1]):
                out.append(model(part))
        model(signals[0])  # a whole signal in between disturbs nobody
    for signal, out in zip(signals, outputs, strict=True):
        torch.testing.assert_close(torch.cat(out, -1), model(signal))


def test_threads_have_streams_of_their_own():
    layer, seen = StreamConv1d(1, 1, 3), []
    with Stream().active():
        thread = threading.Thread(target=lambda: seen.append(current_stream()))
        thread.start()
        thread.join()
    assert seen == [None]
    assert layer(torch.zeros(1, 1, 4)).shape[-1] == 4


def test_a_layer_used_twice_has_two_states():
    shared = StreamConv1d(1, 1, 5)
    signal = torch.randn(1, 1, 30)
    whole = shared(shared(signal))
    found = streamed(lambda part: shared(shared(part)), signal, [3, 4, 17])
    torch.testing.assert_close(found, whole)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), CUTS)
def test_paths_of_unlike_delay_are_summed_in_step(n, cuts):
    torch.manual_seed(0)
    ahead = StreamConv1d(1, 1, 5, causal=False).double()
    far = StreamConv1d(1, 1, 7, padding=(0, 6)).double()
    aligned = Aligned(dim=-1)

    def model(part):
        return sum(aligned(part, ahead(part), far(part)))

    signal = torch.randn(1, 1, n, dtype=torch.float64)
    torch.testing.assert_close(streamed(model, signal, cuts), model(signal))


def test_state_is_bounded():
    layer, stream = StreamConv1d(1, 1, 9, 4, dilation=2), Stream()
    for _ in range(200):
        with stream.active():
            layer(torch.zeros(1, 1, 5))
    (state,) = stream._states.values()
    assert state.rest.shape[-1] < layer.lengths.span
    assert state.recent.shape[-1] <= layer.lengths.span


def test_wrong_use_is_named():
    layer, stream = StreamConv1d(1, 1, 5), Stream()
    with stream.active():
        layer(torch.zeros(2, 1, 7))
        with pytest.raises(DsuError, match="active already"), Stream().active():
            pass
        with offline():
            assert current_stream() is None
    with pytest.raises(DsuError, match="began with 2 items"), stream.active():
        layer(torch.zeros(3, 1, 7))
    with pytest.raises(DsuError, match="has ended"), stream.active():
        pass
    done = Stream()
    with done.active(last=True):
        layer(torch.zeros(1, 1, 7))
    with pytest.raises(DsuError, match="has ended"), done.active():
        pass
    with pytest.raises(DsuError, match="skips inputs"):
        StreamConv1d(1, 1, 2, 3)
    with pytest.raises(DsuError, match="pad_mode='mirror'"):
        StreamConv1d(1, 1, 3, pad_mode="mirror")
    with pytest.raises(DsuError, match="leaves gaps"):
        StreamConvTranspose1d(1, 1, 2, 3)


def test_short_signals_are_mirrored_as_in_encodec():
    from transformers.models.encodec.modeling_encodec import EncodecConv1d

    for n in range(1, 12):
        signal = torch.randn(1, 1, n)
        for left, right in [(6, 0), (3, 3), (1, 8)]:
            expected = EncodecConv1d._pad1d(signal, (left, right), mode="reflect")
            assert torch.equal(pad_signal(signal, left, right, "reflect"), expected)


@pytest.mark.parametrize("style", ["parametrization", "hook"])
def test_folding_keeps_the_output_and_happens_once(style):
    norm = (
        torch.nn.utils.parametrizations.weight_norm
        if style == "parametrization"
        else torch.nn.utils.weight_norm
    )
    model = nn.Sequential(
        norm(StreamConv1d(1, 4, 5)), norm(StreamConvTranspose1d(4, 1, 4, 2))
    )
    signal = torch.randn(1, 1, 20)
    before = model(signal)
    assert not any(name.endswith("0.weight") for name, _ in model.named_parameters())
    fold_weight_norm(model)
    names = sorted(name for name, _ in model.named_parameters())
    assert names == ["0.bias", "0.weight", "1.bias", "1.weight"]
    torch.testing.assert_close(model(signal), before)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    fold_weight_norm(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name])
    assert type(model[0]) is StreamConv1d
    assert Conv(5, left=4, covers=True) == model[0].lengths
