"""One-dimensional convolutions, causal or not, over whole signals and over streams.

Channel-first ``[batch, channels, time]``, as torch's own. All of them say how long
their output is (``lengths``), take any number of inputs, none included, and give the
same outputs for a signal in pieces (``nnet.streaming``) as for the whole.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv
from speechbrain_dsu.nnet.convolve import convolve, spread
from speechbrain_dsu.nnet.streaming import Stream, current_stream, join
from speechbrain_dsu.utils.errors import DsuError

PadMode = Literal["constant", "reflect", "replicate"]
PAD_MODES = ("constant", "reflect", "replicate")


def pad_signal(signal: Tensor, left: int, right: int, mode: PadMode) -> Tensor:
    """Pad the last axis; works for signals shorter than the padding, too.

    Arguments
    ---------
    signal : Tensor
        ``[batch, channels, time]``.
    left, right : int
        Steps to add.
    mode : "constant", "reflect" or "replicate"
        What to add: zeros, the mirrored signal or its end. A signal too short to be
        mirrored is first continued with zeros on the right (as in EnCodec).

    Example
    -------
    >>> pad_signal(torch.tensor([[[1.0, 2.0]]]), 3, 0, "reflect")
    tensor([[[0., 0., 2., 1., 2.]]])
    """
    if left == right == 0:
        return signal
    if mode == "constant" or signal.shape[-1] == 0:
        return _pad(signal, left, right, "constant")
    if mode == "replicate":
        return _pad(signal, left, right, mode)
    missing = max(left, right) - signal.shape[-1] + 1
    if missing > 0:
        signal = _pad(signal, 0, missing, "constant")
    padded = _pad(signal, left, right, mode)
    return padded[..., : padded.shape[-1] - max(missing, 0)]


def _pad(signal: Tensor, left: int, right: int, mode: str) -> Tensor:
    # As an image of one row: torch then leaves the order in memory as it is.
    return F.pad(signal.unsqueeze(2), (left, right, 0, 0), mode).squeeze(2)


@dataclass
class _Window:
    """What a window keeps: inputs it still needs, and the signal's newest ones."""

    rest: Tensor | None = None
    recent: Tensor | None = None
    begun: bool = False


class Windows(nn.Module):
    """Padding, and in a stream just what completes whole windows.

    The part that all convolutions share. What comes out is to be convolved without
    any padding; where it is shorter than one window there is no output yet.

    Arguments
    ---------
    lengths : Conv
        Kernel, stride, dilation and padding.
    pad_mode : "constant", "reflect" or "replicate"
        See ``pad_signal``.

    Raises
    ------
    DsuError
        If ``pad_mode`` is unknown, or windows leave inputs between them out.

    Example
    -------
    >>> windows = Windows(Conv(kernel=4, stride=2, left=2, covers=True))
    >>> windows(torch.ones(1, 1, 5)).tolist()
    [[[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]]]
    """

    def __init__(self, lengths: Conv, pad_mode: PadMode = "constant"):
        super().__init__()
        if pad_mode not in PAD_MODES:
            raise DsuError(f"pad_mode={pad_mode!r}: take one of {PAD_MODES}")
        if lengths.span < lengths.stride:
            raise DsuError(f"windows shorter than their stride skip inputs: {lengths}")
        self.lengths = lengths
        self.pad_mode = pad_mode

    def extra_repr(self) -> str:
        """Settings that decide the output; part of fingerprints."""
        return f"{self.lengths}, pad_mode={self.pad_mode}"

    def forward(self, signal: Tensor) -> Tensor:
        """The padded signal; in a stream, the stretch that is complete."""
        stream = current_stream()
        if stream is None:
            return self._whole(signal)
        state = stream.state(self, _Window)
        if not state.begun:
            signal = join(state.rest, signal, -1)
            if stream.last:
                return self._whole(signal)
            mirrors = self.pad_mode == "reflect" and signal.shape[-1] <= self._reach
            if signal.shape[-1] == 0 or mirrors:
                state.rest = signal
                return signal[..., :0]
            state.begun, state.rest = True, None
            padded = pad_signal(signal, self.lengths.left, 0, self.pad_mode)
        else:
            padded = join(state.rest, signal, -1)
        return self._complete(stream, state, signal, padded)

    @property
    def _reach(self) -> int:
        """Most inputs that any padding looks at, less one."""
        end = self.lengths.right + self.lengths.covers * (self.lengths.stride - 1)
        return max(self.lengths.left, end)

    def _extra(self, padded: int) -> int:
        return -(padded - self.lengths.span) % self.lengths.stride

    def _whole(self, signal: Tensor) -> Tensor:
        if signal.shape[-1] == 0:
            return signal
        left, right = self.lengths.left, self.lengths.right
        if self.lengths.covers:
            right += self._extra(signal.shape[-1] + left + right)
        return pad_signal(signal, left, right, self.pad_mode)

    def _complete(
        self, stream: Stream, state: _Window, signal: Tensor, padded: Tensor
    ) -> Tensor:
        recent = join(state.recent, signal, -1)
        state.recent = recent[..., max(0, recent.shape[-1] - self._reach - 1) :]
        if stream.last:
            right = self.lengths.right
            if self.lengths.covers:
                right += self._extra(padded.shape[-1] + right)
            end = pad_signal(state.recent, 0, right, self.pad_mode)
            return torch.cat([padded, end[..., end.shape[-1] - right :]], -1)
        span, stride = self.lengths.span, self.lengths.stride
        outputs = max(0, (padded.shape[-1] - span) // stride + 1)
        state.rest = padded[..., outputs * stride :]
        return (
            padded[..., : (outputs - 1) * stride + span] if outputs else padded[..., :0]
        )


class StreamConv1d(nn.Conv1d):
    """A convolution that knows its length and takes streams.

    Arguments
    ---------
    in_channels, out_channels : int
        Channels before and behind.
    kernel : int
        Taps.
    stride, dilation, groups : int
        As in torch.
    bias : bool
        As in torch.
    causal : bool
        Pad on the left only, so that an output depends on no input behind its own
        stride; otherwise on both sides, one more on the left if it can't be even.
    padding : (int, int), optional
        Left and right padding instead; the end is then not covered.
    pad_mode : "constant", "reflect" or "replicate"
        What is padded.

    Raises
    ------
    DsuError
        If a number makes no sense.

    Example
    -------
    >>> layer = StreamConv1d(1, 8, kernel=7, stride=3)
    >>> layer(torch.zeros(2, 1, 100)).shape, layer.lengths.num_frames(100)
    (torch.Size([2, 8, 34]), 34)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = True,
        padding: tuple[int, int] | None = None,
        pad_mode: PadMode = "constant",
    ):
        lengths = conv_lengths(kernel, stride, dilation, causal, padding)
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.windows = Windows(lengths, pad_mode)

    @property
    def lengths(self) -> Conv:
        """Its length arithmetic, for ``ConvStack``."""
        return self.windows.lengths

    def extra_repr(self) -> str:
        """Torch's settings; the padding is that of ``windows``."""
        return f"{super().extra_repr()}, groups={self.groups}"

    def forward(self, signal: Tensor) -> Tensor:
        """``[batch, out_channels, frames]`` of ``[batch, in_channels, time]``."""
        padding = self._own_padding(signal)
        signal = signal if padding else self.windows(signal)
        if signal.shape[-1] + 2 * padding < self.lengths.span:
            return signal.new_zeros(len(signal), self.out_channels, 0)
        return self.on_windows(signal, padding)

    def on_windows(self, padded: Tensor, padding: int = 0) -> Tensor:
        """Output of a signal that ``windows`` gave, or with zeros at either end."""
        settings = self.stride[0], self.dilation[0], self.groups
        return convolve(padded, self.weight, self.bias, *settings, padding)

    def _own_padding(self, signal: Tensor) -> int:
        """Zeros that the product adds on both sides by itself, without a copy."""
        left, right = self.lengths.left, self.lengths.right
        covers = self.lengths.covers and self.lengths.stride > 1
        zeros = self.windows.pad_mode == "constant" and left == right
        whole = current_stream() is None and signal.shape[-1] > 0
        return left if zeros and whole and not covers else 0


def conv_lengths(
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    causal: bool = True,
    padding: tuple[int, int] | None = None,
) -> Conv:
    """The length arithmetic of a padded convolution; see ``StreamConv1d``.

    Example
    -------
    >>> conv_lengths(kernel=8, stride=4, causal=False).num_frames(10)
    3
    """
    plain = Conv(kernel, stride, dilation)
    if padding is not None:
        return Conv(kernel, stride, dilation, *padding)
    total = plain.span - stride
    if total < 0:
        raise DsuError(f"a kernel shorter than its stride skips inputs: {plain}")
    right = 0 if causal else total // 2
    return Conv(kernel, stride, dilation, total - right, right, covers=True)


class StreamConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution: ``stride`` outputs for every input, exactly.

    The ``kernel - stride`` steps too many are cut off on the right (causal: nothing
    is awaited) or on both sides (a stream then runs ``delay`` steps behind, made up
    for at its end).

    Arguments
    ---------
    in_channels, out_channels : int
        Channels before and behind.
    kernel : int
        Taps, at least ``stride``.
    stride : int
        Outputs per input.
    groups : int
        As in torch.
    bias : bool
        As in torch.
    causal : bool
        Where to cut.

    Raises
    ------
    DsuError
        If the kernel is shorter than the stride.

    Example
    -------
    >>> layer = StreamConvTranspose1d(8, 1, kernel=8, stride=4)
    >>> layer(torch.zeros(2, 8, 5)).shape
    torch.Size([2, 1, 20])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = True,
    ):
        if kernel < stride:
            raise DsuError(
                f"a transposed convolution with kernel={kernel} below stride={stride} "
                "leaves gaps"
            )
        super().__init__(
            in_channels, out_channels, kernel, stride, groups=groups, bias=bias
        )
        self.delay = 0 if causal else kernel - stride - (kernel - stride) // 2

    def extra_repr(self) -> str:
        """Torch's settings and where the output is cut."""
        return f"{super().extra_repr()}, groups={self.groups}, delay={self.delay}"

    def forward(self, signal: Tensor) -> Tensor:
        """``[batch, out_channels, time * stride]``, none waits but for ``delay``."""
        batch, _, time = signal.shape
        kernel, stride = self.kernel_size[0], self.stride[0]
        if time:
            full = spread(signal, self.weight, stride, self.groups)
        else:
            full = signal.new_zeros(batch, self.out_channels, 0)
        found = overlap_add(self, full, time * stride, kernel - stride, self.delay)
        return found if self.bias is None else found + self.bias[:, None]


@dataclass
class _Overlap:
    """The part of the output that later inputs still add to."""

    tail: Tensor | None = None
    skipped: int = 0


def overlap_add(
    layer: nn.Module, full: Tensor, size: int, overlap: int, delay: int
) -> Tensor:
    """Cut an overlapped output to ``size`` steps; in a stream, add what overlaps.

    Arguments
    ---------
    layer : nn.Module
        Whose state it is.
    full : Tensor
        ``[..., size + overlap]``, or empty when ``size`` is 0.
    size : int
        Steps that this piece of input stands for.
    overlap : int
        Steps that the output reaches beyond them.
    delay : int
        Steps to cut off at the beginning of the signal.

    Returns
    -------
    Tensor
        Offline ``[..., size]``; the pieces of a stream add up to that.

    Example
    -------
    >>> overlap_add(nn.Identity(), torch.ones(1, 6), size=4, overlap=2, delay=1).shape
    torch.Size([1, 4])
    """
    stream = current_stream()
    if stream is None:
        return full[..., delay : delay + size]
    state = stream.state(layer, _Overlap)
    if size:
        if state.tail is not None and overlap:
            full = full.clone()
            full[..., :overlap] += state.tail
        ready, state.tail = full[..., :size], full[..., size:]
    else:
        ready = full[..., :0]
    if stream.last and state.tail is not None:
        ready = torch.cat([ready, state.tail[..., :delay]], -1)
    skip = min(delay - state.skipped, ready.shape[-1])
    state.skipped += skip
    return ready[..., skip:]
