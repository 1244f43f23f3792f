"""The products behind convolutions, chosen by shape.

On a CPU all of them keep the channels of a step side by side in memory (``channels
last``) and find them so: nothing is reordered between layers. Numbers in comments are
one core's milliseconds with torch 2.11, `torch.nn.functional.conv1d` first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 256
"""Frames up to which reordering the weights costs more than the products."""

_BLOCK = 2**18  # values gathered at a time: they stay in the cache


def convolve(
    signal: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: int = 0,
) -> Tensor:
    """What ``conv1d`` gives, by the product that is fastest for its shape.

    Arguments
    ---------
    signal : Tensor
        ``[batch, channels, time]``.
    weight : Tensor
        ``[out_channels, channels / groups, kernel]``; see
        ``nnet.weights.arrange_weights``.
    bias : Tensor, optional
        ``[out_channels]``.
    stride, dilation, groups, padding : int
        As in torch.

    Returns
    -------
    Tensor
        ``[batch, out_channels, frames]``.

    Example
    -------
    >>> signal, weight = torch.randn(1, 4, 30), torch.randn(6, 4, 5)
    >>> expected = F.conv1d(signal, weight, stride=2, dilation=3)
    >>> torch.allclose(convolve(signal, weight, None, 2, 3), expected, atol=1e-5)
    True
    """
    if signal.device.type != "cpu":
        return F.conv1d(signal, weight, bias, stride, padding, dilation, groups)
    if groups == 1 and unrecorded():
        if weight.shape[2] == stride == 1 and padding == 0:
            # 64 -> 64 channels, 16,000 frames: 2.6, here 2.0. torch takes its slow
            # path for such an image, which copies the signal twice.
            rows = F.linear(signal.transpose(1, 2), weight.squeeze(2), bias)
            return rows.transpose(1, 2)
        if _gathers(signal, weight, stride):
            return _gathered(
                F.pad(signal, (padding, padding)), weight, bias, stride, dilation
            )
    # As an image of one row: torch's kernels for images take and give channels last,
    # those for signals reorder both ways: 32 -> 64 channels, kernel 4, stride 2,
    # 60,000 samples: 9.7, here 5.8. Dilated ones: as fast as any.
    found = F.conv2d(
        channels_last(signal),
        weight.unsqueeze(2),
        bias,
        (1, stride),
        (0, padding),
        (1, dilation),
        groups,
    )
    return found.squeeze(2)


def spread(signal: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """What ``conv_transpose1d`` gives without a bias, by the fastest product.

    Arguments
    ---------
    signal : Tensor
        ``[batch, channels, time]``.
    weight : Tensor
        ``[channels, out_channels / groups, kernel]``.
    stride, groups : int
        As in torch.

    Returns
    -------
    Tensor
        ``[batch, out_channels, (time - 1) * stride + kernel]``.

    Example
    -------
    >>> signal, weight = torch.randn(1, 4, 9), torch.randn(4, 6, 8)
    >>> expected = F.conv_transpose1d(signal, weight, stride=4)
    >>> torch.allclose(spread(signal, weight, 4), expected, atol=1e-5)
    True
    """
    if signal.device.type != "cpu":
        return F.conv_transpose1d(signal, weight, None, stride, groups=groups)
    batch, channels, time = signal.shape
    kernel = weight.shape[2]
    if groups == 1 and unrecorded() and batch * time <= FEW and kernel % stride == 0:
        # 1536 -> 768 channels, kernel 16, 50 frames: 93, as an image 149, here 36.
        table = weight.transpose(1, 2).reshape(channels, -1)
        rows = (signal.transpose(1, 2) @ table).view(batch, time, kernel // stride, -1)
        full = rows.new_zeros(batch, time + kernel // stride - 1, rows.shape[-1])
        for late in range(kernel // stride):
            full[:, late : late + time] += rows[:, :, late]
        return full.view(batch, -1, weight.shape[1]).transpose(1, 2)
    # 128 -> 64 channels, kernel 8, 9,000 frames: 32, here 17.
    return F.conv_transpose2d(
        channels_last(signal), weight.unsqueeze(2), None, (1, stride), groups=groups
    ).squeeze(2)


def channels_last(signal: Tensor) -> Tensor:
    """``[batch, channels, time]`` as an image ``[batch, channels, 1, time]`` whose
    channels lie side by side in memory."""
    return signal.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def unrecorded() -> bool:
    """Whether other operations may stand in: neither gradients nor a graph wanted."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not (torch.is_grad_enabled() or recorded)


def _gathers(signal: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether gathering the windows beats torch's kernels.

    - few frames (512 -> 1024 channels, kernel 16, stride 8, 50 frames: 40, as an image
      75, here 14), above all the pieces of a stream;
    - one channel (1 -> 32, kernel 7, 60,000 samples: 9.8, here 1.4);
    - float64, which oneDNN does not know (64 -> 64, kernel 7, dilation 9, 16,000
      frames: 75, as an image 94, here 36).
    """
    few = len(signal) * signal.shape[2] <= FEW * stride
    return few or signal.shape[1] == 1 or signal.dtype == torch.float64


def _gathered(
    signal: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int
) -> Tensor:
    batch, channels, time = signal.shape
    kernel = weight.shape[2]
    frames = (time - (kernel - 1) * dilation - 1) // stride + 1
    rows = signal.transpose(1, 2).contiguous()
    windows = rows.as_strided(
        (batch, frames, kernel, channels),
        (time * channels, stride * channels, dilation * channels, 1),
    )
    table = weight.transpose(1, 2).reshape(len(weight), -1)
    size = max(64, _BLOCK // table.shape[1])
    blocks = [
        F.linear(block.flatten(2), table, bias) for block in windows.split(size, dim=1)
    ]
    found = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)
    return found.transpose(1, 2)
