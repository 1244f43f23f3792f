"""Magnitudes to a waveform: phases by rounds of analysis and synthesis, streamed."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.stft_frames import Frames, fourier_matrix
from speechbrain_dsu.lobes.vocoders.istft import InverseStft
from speechbrain_dsu.nnet.streaming import Aligned
from speechbrain_dsu.utils.errors import DsuError


class PhaseRecovery(nn.Module):
    """The fast Griffin-Lim algorithm as layers, so that it also runs on streams.

    Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm" (2013): each
    round makes a signal of the given magnitudes and the phases so far, and takes new
    phases from its spectrum, with momentum. SpeechBrain and torchaudio have it for
    whole signals only. Here the number of rounds is fixed and each hears a few frames
    on either side: a stream runs ``delay`` samples behind, and every sample comes out
    as in one pass. Nothing is trained.

    Arguments
    ---------
    hop, win : int
        Of the magnitudes' frames, see ``InverseStft``.
    rounds : int
        More are better and slower, and make streams later.
    momentum : float
        0 is the plain Griffin-Lim algorithm.

    Raises
    ------
    DsuError
        If there are fewer than 0 rounds.

    Example
    -------
    >>> recover = PhaseRecovery(hop=80, win=320, rounds=4)
    >>> recover(torch.rand(1, 10, 161)).shape, recover.delay
    (torch.Size([1, 800]), 1080)
    """

    def __init__(self, hop: int, win: int, rounds: int = 8, momentum: float = 0.99):
        super().__init__()
        if rounds < 0:
            raise DsuError(f"rounds={rounds} of phase recovery")
        self.hop, self.win = hop, win
        self.rounds, self.momentum = rounds, momentum
        self.inverses = nn.ModuleList(InverseStft(hop, win) for _ in range(rounds + 1))
        self.frames = nn.ModuleList(
            Frames(hop, win, causal=False) for _ in range(rounds)
        )
        self.aligned = nn.ModuleList(Aligned(dim=1) for _ in range(rounds))
        # Recomputed from the settings, so not part of anybody's weights.
        self.register_buffer("basis", fourier_matrix(win)[0], persistent=False)
        generator = torch.Generator().manual_seed(0)
        # The same phases in every frame: no frame has to be counted.
        angles = 2 * torch.pi * torch.rand(win // 2 + 1, generator=generator)
        first = torch.cat([angles.cos(), angles.sin()])
        self.register_buffer("first", first, persistent=False)

    @property
    def delay(self) -> int:
        """Samples that a stream runs behind its frames."""
        return self.rounds * (self.win - self.hop) + self.inverses[0].delay

    def extra_repr(self) -> str:
        """Settings that decide the samples; part of the fingerprint."""
        return (
            f"hop={self.hop}, win={self.win}, rounds={self.rounds}, "
            f"momentum={self.momentum}"
        )

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Samples ``[batch, frames * hop]`` of ``[batch, frames, win / 2 + 1]``."""
        unit, before = self.first, torch.zeros_like(magnitudes.repeat(1, 1, 2))
        for inverse, frames, aligned in zip(
            self.inverses, self.frames, self.aligned, strict=False
        ):
            wavs = inverse(magnitudes.repeat(1, 1, 2) * unit)
            now = frames(wavs) @ self.basis
            now, before, magnitudes = aligned(now, before, magnitudes)
            unit, before = _unit(now + self.momentum * (now - before)), now
        return self.inverses[-1](magnitudes.repeat(1, 1, 2) * unit)


def _unit(spectra: Tensor) -> Tensor:
    """Spectra (real parts, imaginary parts) with all magnitudes 1."""
    real, imaginary = spectra.chunk(2, dim=-1)
    size = (real.square() + imaginary.square() + 1e-12).rsqrt()
    return spectra * size.repeat(1, 1, 2)
