"""Spectra as frames: a short-time Fourier transform that streams and exports.

Written as matrix products, it runs in any precision, exports to ONNX without complex
numbers, and gives frames as soon as their samples are there. ``torch.stft`` needs the
whole signal.
"""

import math

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv
from speechbrain_dsu.nnet.streaming_conv import Windows, conv_lengths
from speechbrain_dsu.utils.errors import DsuError


class Frames(nn.Module):
    """Overlapping windows of samples: ``[batch, time]`` to ``[batch, frames, win]``.

    ``n`` samples give ``ceil(n / hop)`` frames; outside the signal there are zeros.

    Arguments
    ---------
    hop : int
        Samples from frame to frame.
    win : int
        Samples per frame, a multiple of ``hop``.
    causal : bool
        Frame ``t`` ends where its own hop ends, at sample ``(t + 1) * hop``;
        otherwise its middle is the middle of its hop.

    Raises
    ------
    DsuError
        If the sizes don't fit.

    Example
    -------
    >>> Frames(hop=2, win=4)(torch.arange(1.0, 6.0).unsqueeze(0))
    tensor([[[0., 0., 1., 2.],
             [1., 2., 3., 4.],
             [3., 4., 5., 0.]]])
    """

    def __init__(self, hop: int, win: int, causal: bool = True):
        super().__init__()
        if hop < 1 or win < hop or win % hop:
            raise DsuError(f"win={win} must be a multiple of hop={hop}")
        self.hop, self.win, self.causal = hop, win, causal
        self.windows = Windows(conv_lengths(win, hop, causal=causal))

    @property
    def lengths(self) -> Conv:
        """Its length arithmetic, for ``ConvStack``."""
        return self.windows.lengths

    def forward(self, wavs: Tensor) -> Tensor:
        """``[batch, frames, win]``."""
        return cut(self.windows(wavs.unsqueeze(1))[:, 0], self.win, self.hop)


def cut(signal: Tensor, win: int, step: int) -> Tensor:
    """All whole windows of a signal: ``[batch, windows, win]``.

    As ``signal.unfold(1, win, step)``, but it exports for signals of any length.

    Arguments
    ---------
    signal : Tensor
        ``[batch, time]``, a multiple of ``step`` long.
    win : int
        Samples per window, a multiple of ``step``.
    step : int
        Samples from window to window.

    Example
    -------
    >>> cut(torch.arange(6).unsqueeze(0), win=4, step=2).tolist()
    [[[0, 1, 2, 3], [2, 3, 4, 5]]]
    """
    steps = signal.reshape(len(signal), signal.shape[1] // step, step)
    overlap = win // step
    count = max(0, steps.shape[1] - overlap + 1)
    return torch.cat([steps[:, k : k + count] for k in range(overlap)], dim=-1)


def fourier_matrix(win: int) -> tuple[Tensor, Tensor]:
    """The Fourier transform of windowed real frames and its inverse, as matrices.

    With a periodic Hann window on either side, scaled so that frames of white noise
    of unit variance have spectra of about unit variance.

    Arguments
    ---------
    win : int
        Samples per frame, even.

    Returns
    -------
    forward : Tensor
        ``[win, 2 * (win / 2 + 1)]``: real parts, then imaginary parts.
    inverse : Tensor
        ``[2 * (win / 2 + 1), win]``, windowed: overlapped and added, the result has
        to be divided by the sum of the squared windows.

    Raises
    ------
    DsuError
        If ``win`` is odd.

    Example
    -------
    >>> forward, inverse = fourier_matrix(8)
    >>> frame = torch.arange(8.0)
    >>> back = frame @ forward @ inverse
    >>> torch.allclose(back, frame * torch.hann_window(8) ** 2, atol=1e-5)
    True
    """
    if win % 2:
        raise DsuError(f"win={win} must be even")
    window = torch.hann_window(win, dtype=torch.float64)
    scale = window.square().sum().sqrt()
    # Products reduced before they are multiplied: exact angles for any size.
    steps = torch.arange(win)
    turns = (steps[:, None] * torch.arange(win // 2 + 1)) % win
    angles = turns.double() * (2 * math.pi / win)
    basis = torch.cat([angles.cos(), -angles.sin()], dim=1)
    forward = window[:, None] / scale * basis
    twice = torch.full((win // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = twice[-1] = 1.0
    inverse = (basis * twice.repeat(2)).t() * (window * scale / win)
    return forward.float(), inverse.float()


class StftFrames(nn.Module):
    """Compressed spectra: ``[batch, time]`` to ``[batch, frames, win + 2]``.

    Real and imaginary parts of each bin, magnitudes raised to ``power``, phases kept:
    quiet parts of the spectrum become visible and nothing is lost.

    Arguments
    ---------
    sample_rate : int
        In hertz.
    hop : int
        Samples from frame to frame.
    win : int
        Hann window, an even multiple of ``hop``.
    power : float
        Of the magnitudes, in (0, 1].
    causal : bool
        See ``Frames``.

    Example
    -------
    >>> frames = StftFrames(sample_rate=16000, hop=320, win=640)
    >>> frames(torch.randn(2, 1000)).shape, frames.num_frames(1000)
    (torch.Size([2, 4, 642]), 4)
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        hop: int = 320,
        win: int = 640,
        power: float = 0.3,
        causal: bool = True,
    ):
        super().__init__()
        if not 0 < power <= 1:
            raise DsuError(f"power={power} must be in (0, 1]")
        self.sample_rate, self.hop, self.win = sample_rate, hop, win
        self.power, self.causal = float(power), causal
        self.dim = win + 2
        self.frames = Frames(hop, win, causal)
        # Recomputed from the settings, so not part of anybody's weights.
        self.register_buffer("basis", fourier_matrix(win)[0], persistent=False)

    @property
    def lengths(self) -> Conv:
        """Its length arithmetic, for ``ConvStack``."""
        return self.frames.lengths

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        return (
            f"sample_rate={self.sample_rate}, hop={self.hop}, win={self.win}, "
            f"power={self.power}, causal={self.causal}"
        )

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples: every sample is in a hop."""
        return self.lengths.num_frames(n_samples)

    def forward(self, wavs: Tensor) -> Tensor:
        """Real parts, then imaginary parts."""
        real, imaginary = (self.frames(wavs) @ self.basis).chunk(2, dim=-1)
        square = real.square() + imaginary.square()
        # The magnitude to the power of (power - 1); silence stays silence.
        factor = (square + 1e-10) ** ((self.power - 1) / 2)
        return torch.cat([real * factor, imaginary * factor], dim=-1)
