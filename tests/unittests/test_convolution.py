"""Length arithmetic against real convolutions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.utils.errors import DsuError

LAYERS = st.builds(
    Conv,
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    left=st.integers(0, 5),
    right=st.integers(0, 5),
    covers=st.booleans(),
)
STACKS = st.lists(LAYERS, min_size=1, max_size=3)


def run(layers, signal):
    """The slow reference: torch's own convolutions, all weights one."""
    for layer in layers:
        if signal.shape[-1] == 0:
            return signal
        padded = F.pad(signal, (layer.left, layer.right))
        if layer.covers:
            padded = F.pad(padded, (0, -(padded.shape[-1] - layer.span) % layer.stride))
        if padded.shape[-1] < layer.span:
            return signal[..., :0]
        weight = torch.ones(1, 1, layer.kernel, dtype=signal.dtype)
        signal = F.conv1d(padded, weight, stride=layer.stride, dilation=layer.dilation)
    return signal


@settings(max_examples=200, deadline=None)
@given(STACKS, st.integers(0, 300))
def test_number_of_frames_is_that_of_torch(layers, n):
    frames = run(layers, torch.ones(1, 1, n)).shape[-1]
    assert ConvStack(layers).num_frames(n) == frames


@settings(max_examples=100, deadline=None)
@given(STACKS, st.integers(1, 8))
def test_min_samples_is_the_smallest_that_gives_the_frames(layers, frames):
    stack = ConvStack(layers)
    need = stack.min_samples(frames)
    assert stack.num_frames(need) >= frames
    assert need == 1 or stack.num_frames(need - 1) < frames


@settings(max_examples=100, deadline=None)
@given(STACKS, st.integers(0, 20))
def test_a_frame_sees_its_receptive_field_and_nothing_else(layers, frame):
    stack = ConvStack(layers)
    left, right = stack.receptive_field
    first, last = frame * stack.hop - left, frame * stack.hop + right - 1
    signal = torch.ones(
        1, 1, max(last, 0) + 40, dtype=torch.float64, requires_grad=True
    )
    out = run(layers, signal)
    if frame >= out.shape[-1]:
        return
    out[0, 0, frame].backward()
    seen = signal.grad[0, 0].nonzero().squeeze(1).tolist()
    assert all(first <= i <= last for i in seen)
    if first >= 0:
        assert (seen[0], seen[-1]) == (first, last)


def test_modules_are_read_with_their_padding():
    convs = [torch.nn.Conv1d(1, 1, 7, 2, 3, 3), torch.nn.Conv1d(1, 1, 4, 3, 0)]
    stack = ConvStack.from_modules(convs)
    for n in range(20, 120):
        signal = convs[1](convs[0](torch.zeros(1, 1, n)))
        assert stack.num_frames(n) == signal.shape[-1]
    causal = ConvStack.from_modules([torch.nn.Conv1d(1, 1, 8, 4)], causal=True)
    assert causal.layers[0] == Conv(8, 4, 1, left=4, covers=True)
    both = ConvStack.from_modules([torch.nn.Conv1d(1, 1, 9, 4)], causal=False)
    assert both.layers[0] == Conv(9, 4, 1, left=3, right=2, covers=True)


@pytest.mark.parametrize("numbers", [{"kernel": 0}, {"kernel": 1, "left": -1}])
def test_senseless_numbers_are_refused(numbers):
    with pytest.raises(DsuError):
        Conv(**numbers)
