"""Spectral front ends: waveforms ``[batch, time]`` to frames ``[batch, frames, dim]``.

SpeechBrain has ``Fbank`` and ``MFCC`` too. They floor each utterance 80 dB below its
own loudest frame and take deltas across padding, so a frame depends on what else is
in the utterance and the batch. Here a frame depends on its own window (and, where
asked for, on its own utterance's statistics) and on nothing else.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import length_mask

Normalization = Literal["global", "utterance"]


def _import_torchaudio():
    # Imported when an object is built, so that importing this module stays cheap.
    import torchaudio.functional

    return torchaudio.functional


class LogMel(nn.Module):
    """Log-mel filter bank energies.

    Frame ``t`` is centred on sample ``t * hop`` and the signal continues with zeros
    at both ends, so padding with zeros changes no frame. ``n`` samples give
    ``1 + n // hop`` frames.

    Arguments
    ---------
    sample_rate : int
        In hertz.
    hop : int
        Samples from frame to frame.
    n_mels : int
        Number of channels.
    win : int
        Hann window length in samples.
    n_fft : int
        FFT length, at least ``win``.
    f_min, f_max : float
        Edges of the filter bank in hertz; ``f_max=None`` is half the sample rate.
    power : float
        1 for magnitudes, 2 for powers.
    floor : float
        Energies below it are raised to it before the natural logarithm.
    normalize : "global", "utterance" or None
        ``global``: with the buffers ``mean`` and ``std`` (set them by
        ``set_statistics``); ``utterance``: to zero mean and unit variance over the
        valid frames of each utterance.

    Raises
    ------
    DsuError
        If a size or ``normalize`` makes no sense.

    Example
    -------
    >>> features = LogMel(sample_rate=16000, hop=200, n_mels=80)
    >>> features(torch.zeros(1, 1000)).shape, features.num_frames(1000)
    (torch.Size([1, 6, 80]), 6)
    """

    masks_padding = True
    """Exactly the same frames in a padded batch as alone."""

    min_samples = 1
    frame_offset = 0
    """Sample on which frame 0 is centred."""

    def __init__(
        self,
        sample_rate: int = 16000,
        hop: int = 200,
        n_mels: int = 80,
        win: int = 800,
        n_fft: int = 1024,
        f_min: float = 0.0,
        f_max: float | None = None,
        power: float = 1.0,
        floor: float = 1e-5,
        normalize: Normalization | None = None,
    ):
        super().__init__()
        f_max = sample_rate / 2 if f_max is None else float(f_max)
        if not 0 < hop <= win <= n_fft or not 0 <= f_min < f_max <= sample_rate / 2:
            raise DsuError(
                "log-mel needs 0 < hop <= win <= n_fft and 0 <= f_min < f_max <= "
                f"{sample_rate / 2}, got hop={hop}, win={win}, n_fft={n_fft}, "
                f"f_min={f_min}, f_max={f_max}"
            )
        self.sample_rate, self.hop, self.n_mels = sample_rate, hop, n_mels
        self.win, self.n_fft = win, n_fft
        self.f_min, self.f_max = float(f_min), f_max
        self.power, self.floor = float(power), float(floor)
        # Recomputed from the settings, so not part of anybody's weights.
        self.register_buffer("window", torch.hann_window(win), persistent=False)
        filters = _import_torchaudio().melscale_fbanks(
            n_fft // 2 + 1, self.f_min, f_max, n_mels, sample_rate, "slaney", "slaney"
        )
        self.register_buffer("filters", filters, persistent=False)
        self.dim = n_mels
        self._set_normalization(normalize)

    def _set_normalization(self, normalize: Normalization | None) -> None:
        if normalize not in (None, "global", "utterance"):
            raise DsuError(
                f"normalize={normalize!r}: take 'global', 'utterance' or None"
            )
        self.normalize = normalize
        if normalize == "global":
            self.register_buffer("mean", torch.zeros(self.dim))
            self.register_buffer("std", torch.ones(self.dim))

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        return (
            f"sample_rate={self.sample_rate}, hop={self.hop}, n_mels={self.n_mels}, "
            f"win={self.win}, n_fft={self.n_fft}, f_min={self.f_min}, "
            f"f_max={self.f_max}, power={self.power}, floor={self.floor}, "
            f"normalize={self.normalize}"
        )

    @property
    def window_field(self) -> tuple[int, int]:
        """Samples before and from ``t * hop`` on that raw frame ``t`` sees."""
        return self.n_fft // 2, self.n_fft - self.n_fft // 2

    @property
    def receptive_field(self) -> tuple[int | None, int | None]:
        """As ``window_field``; None where statistics of the utterance come in."""
        return (None, None) if self.normalize == "utterance" else self.window_field

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return 1 + n_samples // self.hop if n_samples > 0 else 0

    def forward(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Normalised frames.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``.
        counts : Tensor, optional
            Valid samples of each item, int64 ``[batch]``; None if all are valid.

        Returns
        -------
        Tensor
            float32 ``[batch, frames, dim]``.
        """
        frames = self.frames(wavs, counts)
        if self.normalize is None:
            return frames
        if self.normalize == "global":
            return self.apply_statistics(frames, self.mean, self.std)
        counts = None if counts is None else 1 + counts // self.hop
        return self.apply_statistics(frames, *mean_and_std(frames, counts))

    def frames(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Frames before normalisation: ``[batch, frames, dim]``."""
        return self._log_mel(wavs, counts)

    def _log_mel(self, wavs: Tensor, counts: Tensor | None) -> Tensor:
        if counts is not None:
            wavs = wavs * length_mask(counts, wavs.shape[1])
        spectrum = torch.stft(
            wavs,
            self.n_fft,
            hop_length=self.hop,
            win_length=self.win,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        magnitude = spectrum.abs() if self.power == 1 else spectrum.abs() ** self.power
        mel = magnitude.transpose(1, 2) @ self.filters
        return mel.clamp_(min=self.floor).log_()

    @staticmethod
    def apply_statistics(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Frames shifted and scaled; mean and std ``[dim]`` or ``[batch, 1, dim]``."""
        return (frames - mean) / std

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the statistics of ``normalize="global"``.

        Arguments
        ---------
        mean, std : Tensor
            ``[dim]``, over the valid frames of the training data.

        Raises
        ------
        DsuError
            If these features take none, or a std is not positive.
        """
        if self.normalize != "global":
            raise DsuError(f"normalize={self.normalize!r} takes no global statistics")
        if not bool((std > 0).all()):
            raise DsuError(f"std must be positive in every channel, got {std}")
        self.mean.copy_(mean)
        self.std.copy_(std)


class MFCC(LogMel):
    """Mel-frequency cepstral coefficients with deltas.

    The front end of HuBERT's first iteration (Hsu et al., 2021, section IV-B) and of
    the MFCC baselines of unit papers: 13 coefficients, first and second deltas.

    Arguments
    ---------
    n_mfcc : int
        Coefficients kept, from the zeroth on.
    deltas : int
        Orders of deltas that are appended (0, 1 or 2).
    delta_win : int
        Odd length of the delta regression in frames.
    **log_mel
        As for ``LogMel``; 16 kHz, 20 ms hop, 25 ms window and powers by default.

    Example
    -------
    >>> features = MFCC(normalize="utterance")
    >>> features(torch.randn(1, 16000)).shape
    torch.Size([1, 51, 39])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        hop: int = 320,
        n_mels: int = 40,
        win: int = 400,
        n_fft: int = 512,
        f_min: float = 20.0,
        f_max: float | None = None,
        power: float = 2.0,
        floor: float = 1e-10,
        n_mfcc: int = 13,
        deltas: int = 2,
        delta_win: int = 5,
        normalize: Normalization | None = "utterance",
    ):
        super().__init__(
            sample_rate, hop, n_mels, win, n_fft, f_min, f_max, power, floor
        )
        if not 1 <= n_mfcc <= n_mels or delta_win < 3 or delta_win % 2 == 0:
            raise DsuError(
                f"MFCC needs 1 <= n_mfcc <= n_mels and an odd delta_win >= 3, got "
                f"n_mfcc={n_mfcc}, n_mels={n_mels}, delta_win={delta_win}"
            )
        self.n_mfcc, self.deltas, self.delta_win = n_mfcc, deltas, delta_win
        dct = _import_torchaudio().create_dct(n_mfcc, n_mels, norm="ortho")
        self.register_buffer("dct", dct, persistent=False)
        self.dim = n_mfcc * (1 + deltas)
        self._set_normalization(normalize)

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        return (
            f"{super().extra_repr()}, n_mfcc={self.n_mfcc}, deltas={self.deltas}, "
            f"delta_win={self.delta_win}"
        )

    @property
    def window_field(self) -> tuple[int, int]:
        """Samples before and from ``t * hop`` on that raw frame ``t`` sees."""
        left, right = super().window_field
        reach = self.deltas * (self.delta_win // 2) * self.hop
        return left + reach, right + reach

    def frames(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Coefficients and deltas before normalisation: ``[batch, frames, dim]``."""
        last = None if counts is None else counts // self.hop
        parts = [self._log_mel(wavs, counts) @ self.dct]
        for _ in range(self.deltas):
            parts.append(self._delta(parts[-1], last))
        return torch.cat(parts, dim=-1)

    def _delta(self, frames: Tensor, last: Tensor | None) -> Tensor:
        """Regression slope over ``delta_win`` frames, edges repeated.

        The edge is each item's own last valid frame, not the batch's.
        """
        if last is not None:
            steps = torch.arange(frames.shape[1], device=frames.device)
            index = torch.minimum(steps, last.to(steps.device).unsqueeze(1))
            frames = frames.gather(1, index.unsqueeze(-1).expand_as(frames))
        reach = self.delta_win // 2
        padded = F.pad(frames.transpose(1, 2), (reach, reach), mode="replicate")
        total = frames.shape[1]
        slope = sum(
            k
            * (
                padded[..., reach + k :][..., :total]
                - padded[..., reach - k :][..., :total]
            )
            for k in range(1, reach + 1)
        )
        norm = 2 * sum(k * k for k in range(1, reach + 1))
        return (slope / norm).transpose(1, 2)


def mean_and_std(
    frames: Tensor, counts: Tensor | None = None, smallest: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the valid frames of each item.

    Arguments
    ---------
    frames : Tensor
        ``[batch, frames, dim]``.
    counts : Tensor, optional
        Valid frames of each item, int64 ``[batch]``.
    smallest : float
        A smaller deviation is taken as this, so that silence stays finite.

    Returns
    -------
    mean, std : Tensor
        ``[batch, 1, dim]`` each, in the dtype of ``frames``, summed in float64.

    Example
    -------
    >>> mean, std = mean_and_std(
    ...     torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([2])
    ... )
    >>> mean.item(), std.item()
    (2.0, 1.0)
    """
    if counts is None:
        counts = torch.full((len(frames),), frames.shape[1], device=frames.device)
    mask = length_mask(counts, frames.shape[1]).unsqueeze(-1)
    total = counts.clamp(min=1).double().view(-1, 1, 1)
    wide = frames.double() * mask
    mean = wide.sum(1, keepdim=True) / total
    variance = ((wide - mean).square() * mask).sum(1, keepdim=True) / total
    return mean.to(frames.dtype), variance.sqrt().clamp(min=smallest).to(frames.dtype)
