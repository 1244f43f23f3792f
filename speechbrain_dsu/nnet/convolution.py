"""Exact length arithmetic for stacks of one-dimensional convolutions.

How many frames ``n`` samples give, which samples a frame sees and where it lies in
time follow from kernels, strides, dilations and paddings alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from speechbrain_dsu.utils.errors import DsuError


@dataclass(frozen=True)
class Conv:
    """The lengths of one convolution.

    Arguments
    ---------
    kernel : int
        Taps.
    stride : int
        Steps from output to output.
    dilation : int
        Steps from tap to tap.
    left, right : int
        Padding at either end.
    covers : bool
        Whether the end is padded further so that every input is in a window (as in
        EnCodec): the number of outputs is then rounded up, not down.

    Raises
    ------
    DsuError
        If a number makes no sense.

    Example
    -------
    >>> Conv(kernel=4, stride=2, left=2, covers=True).num_frames(5)
    3
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    left: int = 0
    right: int = 0
    covers: bool = False

    def __post_init__(self):
        if min(self.kernel, self.stride, self.dilation) < 1:
            raise DsuError(f"kernel, stride and dilation must be positive: {self}")
        if min(self.left, self.right) < 0:
            raise DsuError(f"padding can't be negative: {self}")

    @property
    def span(self) -> int:
        """Steps from a window's first to behind its last."""
        return (self.kernel - 1) * self.dilation + 1

    def num_frames(self, n: int) -> int:
        """Outputs of ``n`` inputs."""
        if n <= 0:
            return 0
        spare = n + self.left + self.right - self.span
        if self.covers:
            spare += -spare % self.stride
        return spare // self.stride + 1 if spare >= 0 else 0

    def min_samples(self, frames: int) -> int:
        """The fewest inputs that give ``frames`` outputs."""
        if frames <= 0:
            return 0
        steps = frames - 1
        need = steps * self.stride + self.span - self.left - self.right
        if self.covers:
            need -= self.stride - 1
        return max(1, need)


class ConvStack:
    """Convolutions one after another.

    Arguments
    ---------
    layers : iterable of Conv
        From the waveform on.

    Example
    -------
    The front end of wav2vec 2.0:

    >>> kernels, strides = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
    >>> stack = ConvStack(Conv(k, s) for k, s in zip(kernels, strides))
    >>> stack.hop, stack.receptive_field, stack.min_samples(), stack.num_frames(16000)
    (320, (0, 400), 400, 49)
    >>> stack.frame_offset
    199.5
    """

    def __init__(self, layers: Iterable[Conv]):
        self.layers = tuple(layers)

    @classmethod
    def from_modules(
        cls, modules: Iterable[nn.Conv1d], causal: bool | None = None
    ) -> "ConvStack":
        """Read a stack off torch convolutions, in the order of their use.

        Arguments
        ---------
        modules : iterable of nn.Conv1d
            Paths that run beside the main one (shortcuts) are left out.
        causal : bool, optional
            None: padding as the modules have it. A bool: as in EnCodec, the modules
            have none of their own and their callers pad by ``span - stride``, on the
            left only (True) or on both sides (False), and cover the end.
        """
        layers = []
        for conv in modules:
            kernel, stride, dilation = (
                conv.kernel_size[0],
                conv.stride[0],
                conv.dilation[0],
            )
            layer = Conv(kernel, stride, dilation, conv.padding[0], conv.padding[0])
            if causal is not None:
                total = layer.span - stride
                right = 0 if causal else total // 2
                layer = replace(layer, left=total - right, right=right, covers=True)
            layers.append(layer)
        return cls(layers)

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(layer.stride for layer in self.layers)

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Frame ``t`` sees samples ``t * hop - left`` to before ``t * hop + right``."""
        left, right, step = 0, 1, 1
        for layer in self.layers:
            left += layer.left * step
            right += (layer.span - 1 - layer.left) * step
            step *= layer.stride
        return left, right

    @property
    def frame_offset(self) -> float:
        """Sample in the middle of what frame 0 sees."""
        left, right = self.receptive_field
        return (right - 1 - left) / 2

    def num_frames(self, n_samples: int) -> int:
        """Exact number of frames of ``n_samples`` samples."""
        for layer in self.layers:
            n_samples = layer.num_frames(n_samples)
        return n_samples

    def min_samples(self, frames: int = 1) -> int:
        """The fewest samples that give ``frames`` frames."""
        for layer in reversed(self.layers):
            frames = layer.min_samples(frames)
        return frames
