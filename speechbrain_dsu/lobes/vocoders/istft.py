"""Frames to a waveform by an inverse Fourier transform that streams and exports."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.stft_frames import fourier_matrix
from speechbrain_dsu.nnet.streaming_conv import overlap_add
from speechbrain_dsu.utils.errors import DsuError


class InverseStft(nn.Module):
    """Spectra ``[batch, frames, win + 2]`` to waveforms ``[batch, frames * hop]``.

    Windowed, overlapped, added, and divided by the sum of the squared windows; the
    ends are cut so that frame ``t`` is centred on its own hop. A stream runs
    ``delay`` samples behind its frames.

    Arguments
    ---------
    hop : int
        Samples per frame.
    win : int
        Hann window, an even multiple of ``hop``, at least twice as long.

    Raises
    ------
    DsuError
        If the sizes don't fit.

    Example
    -------
    >>> from speechbrain_dsu.lobes.encoders.stft_frames import StftFrames
    >>> frames = StftFrames(hop=80, win=320, power=1.0, causal=False)
    >>> wav = torch.randn(1, 800)
    >>> torch.allclose(InverseStft(80, 320)(frames(wav)), wav, atol=1e-4)
    True
    """

    def __init__(self, hop: int, win: int):
        super().__init__()
        if hop < 1 or win < 2 * hop or win % hop:
            raise DsuError(f"win={win} must be a multiple of hop={hop}, at least twice")
        self.hop, self.win = hop, win
        self.delay = win - hop - (win - hop) // 2
        # Recomputed from the settings, so not part of anybody's weights.
        self.register_buffer("basis", fourier_matrix(win)[1], persistent=False)
        square = torch.hann_window(win).square()
        self.register_buffer("square", square.view(1, 1, win), persistent=False)

    def extra_repr(self) -> str:
        """Settings that decide the samples; part of the fingerprint."""
        return f"hop={self.hop}, win={self.win}"

    def forward(self, spectra: Tensor) -> Tensor:
        """Real parts then imaginary parts of each bin, to samples."""
        batch, frames, _ = spectra.shape
        # What the windows add up to is found the same way, as one more item.
        square = self.square.expand(1, frames, self.win)
        summed = self._add(torch.cat([spectra @ self.basis, square]))
        overlap = self.win - self.hop
        found = overlap_add(self, summed, frames * self.hop, overlap, self.delay)
        return found[:batch] / found[batch:].clamp(min=1e-6)

    def _add(self, frames: Tensor) -> Tensor:
        """Overlap and add: ``[batch, (frames - 1) * hop + win]``, empty for none."""
        batch, count, _ = frames.shape
        if count == 0:
            return frames.new_zeros(batch, 0)
        ratio = self.win // self.hop
        parts = frames.split(self.hop, dim=-1)
        padded = [F.pad(p, (0, 0, k, ratio - 1 - k)) for k, p in enumerate(parts)]
        return torch.stack(padded).sum(0).reshape(batch, -1)


class IstftHead(nn.Module):
    """Frames to samples: a linear layer predicts log-magnitude and phase of each bin.

    Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural
    vocoders" (2023), section 3.3: the phase enters through its cosine and sine, so
    that it needs no unwrapping.

    Arguments
    ---------
    dim : int
        Size of a frame.
    hop, win : int
        See ``InverseStft``.

    Example
    -------
    >>> head = IstftHead(dim=16, hop=80, win=320)
    >>> head(torch.randn(2, 10, 16)).shape
    torch.Size([2, 800])
    """

    def __init__(self, dim: int, hop: int, win: int):
        super().__init__()
        self.out = nn.Linear(dim, win + 2)
        self.inverse = InverseStft(hop, win)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    @property
    def delay(self) -> int:
        """Samples that a stream runs behind."""
        return self.inverse.delay

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames * hop]``."""
        with torch.autocast(frames.device.type, enabled=False):
            level, phase = self.out(frames.float()).chunk(2, dim=-1)
            # A bound against overflow early in training, far above any speech.
            magnitude = level.clamp(max=5.0).exp()
            spectra = [magnitude * phase.cos(), magnitude * phase.sin()]
            return self.inverse(torch.cat(spectra, dim=-1))
