"""Latents to a waveform by way of mel levels: a decoder that learns in minutes."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.level_frames import (
    LEVEL_MEAN,
    LEVEL_SIZE,
    LevelFrames,
    mel_filters,
)
from speechbrain_dsu.lobes.vocoders.phase import PhaseRecovery
from speechbrain_dsu.lobes.vocoders.vocos import Upsample
from speechbrain_dsu.nnet.convnext import ConvNext
from speechbrain_dsu.utils.errors import DsuError


class LevelDecoder(nn.Module):
    """Latents ``[batch, frames, dim]`` to waveforms ``[batch, frames * hop]``.

    The network writes the levels of mel bands; magnitudes and phases follow from
    them without training (pseudo-inverse, ``PhaseRecovery``). A network that writes
    phases too (``VocosDecoder``) needs discriminators and days to make them fit from
    frame to frame; few bits can't carry them anyway.

    Arguments
    ---------
    dim : int
        Size of a latent frame.
    sample_rate : int
        In hertz.
    hop : int
        Samples per latent frame.
    channels, hidden, layers, fine_layers, upsample, kernel, causal
        As in ``VocosDecoder``.
    win : int, optional
        Window of the Fourier transform, a multiple of ``hop / upsample``; the shortest
        even one of 40 ms or more if not given.
    n_mels : int
        Mel bands.
    rounds : int
        See ``PhaseRecovery``.
    floor : float
        That of the ``LevelFrames`` whose levels are learnt.

    Raises
    ------
    DsuError
        If the sizes don't fit.

    Example
    -------
    >>> decoder = LevelDecoder(dim=8, channels=16, hidden=32, layers=1, rounds=1)
    >>> latents = torch.randn(2, 5, 8)
    >>> decoder(latents).shape, decoder.levels(latents).shape
    (torch.Size([2, 1600]), torch.Size([2, 5, 160]))
    """

    def __init__(
        self,
        dim: int,
        sample_rate: int = 16000,
        hop: int = 320,
        channels: int = 256,
        hidden: int = 640,
        layers: int = 3,
        fine_layers: int = 1,
        upsample: int = 2,
        win: int | None = 640,
        n_mels: int = 80,
        rounds: int = 8,
        kernel: int = 7,
        causal: bool = False,
        floor: float = 1e-5,
    ):
        super().__init__()
        if upsample < 1 or hop % upsample:
            raise DsuError(f"upsample={upsample} must divide hop={hop}")
        if win is None:
            step = hop // upsample
            even = step * (1 + step % 2)
            win = even * -(-sample_rate // (25 * even))
        self.dim, self.sample_rate, self.hop, self.win = dim, sample_rate, hop, win
        self.causal, self.factor, self.n_mels = causal, upsample, n_mels
        self.floor = float(floor)
        stack = {"hidden": hidden, "kernel": kernel, "causal": causal}
        self.body = ConvNext(dim, channels, layers=layers, embed_kernel=kernel, **stack)
        self.upsample = Upsample(channels, upsample)
        self.fine = ConvNext(channels, channels, layers=fine_layers, **stack)
        self.out = nn.Linear(channels, n_mels)
        self.phases = PhaseRecovery(hop // upsample, win, rounds)
        # Recomputed from the settings, so not part of anybody's weights.
        inverse = torch.linalg.pinv(mel_filters(win, n_mels, sample_rate).double())
        self.register_buffer("inverse", inverse.float(), persistent=False)

    @property
    def delay(self) -> int:
        """Samples that a stream runs behind its frames."""
        ahead = self.body.context[1] * self.hop
        ahead += self.fine.context[1] * (self.hop // self.factor)
        return ahead + self.phases.delay

    def extra_repr(self) -> str:
        """Settings that decide the output; part of the fingerprint."""
        return (
            f"sample_rate={self.sample_rate}, hop={self.hop}, n_mels={self.n_mels}, "
            f"floor={self.floor}"
        )

    def num_samples(self, n_frames: int) -> int:
        """Samples of ``n_frames`` frames."""
        return n_frames * self.hop

    def levels(self, latents: Tensor) -> Tensor:
        """Normalised log-mel levels ``[batch, frames, upsample * n_mels]``.

        As ``LevelFrames(steps=upsample, phase_bins=0, causal=False)`` gives them.
        """
        return self._fine_levels(latents).reshape(
            len(latents), -1, self.factor * self.n_mels
        )

    def target(self) -> LevelFrames:
        """What measures in waveforms the levels that ``levels`` shall write."""
        return LevelFrames(
            self.sample_rate,
            self.hop,
            self.win,
            self.factor,
            phase_bins=0,
            floor=self.floor,
            n_mels=self.n_mels,
            causal=False,
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Samples, in step with what was encoded."""
        levels = self._fine_levels(latents)
        with torch.autocast(latents.device.type, enabled=False):
            mel = (levels.to(self.inverse) * LEVEL_SIZE + LEVEL_MEAN).clamp(max=5).exp()
            # The floor was added to what was measured: silence is silence again.
            mel = (mel - self.floor).clamp(min=0)
            return self.phases((mel @ self.inverse).clamp(min=1e-7))

    def _fine_levels(self, latents: Tensor) -> Tensor:
        return self.out(self.fine(self.upsample(self.body(latents))))
