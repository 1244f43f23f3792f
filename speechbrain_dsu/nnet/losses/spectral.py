"""Distances between spectra of several resolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.losses.masking import masked_mean, silence_padding
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

_MEL_TERMS = ("mel", "log_mel", "log_mel_square")
_LINEAR_TERMS = ("magnitude", "log_magnitude", "convergence", "complex")


class SpectralLoss(nn.Module):
    """Distances of two signals' spectra, averaged over resolutions.

    One transform per resolution serves all terms:

    - ``mel``, ``log_mel``: mean absolute difference of mel magnitudes, of their
      logarithms; ``log_mel_square``: mean square of the latter. ``log_mel`` alone is
      the loss of DAC (Kumar et al., 2023, section 3.4; natural logarithms here);
      ``mel`` with ``log_mel_square`` that of EnCodec (Défossez et al., 2022, eq. 2
      with alpha = 1, as its authors train it).
    - ``log_magnitude`` and ``convergence``: the multi-resolution STFT loss of
      Yamamoto et al., "Parallel WaveGAN" (2020), eq. 4 to 6; ``magnitude``: its
      first term without logarithms.
    - ``complex``: mean absolute difference of real and imaginary parts, magnitudes
      raised to ``compression`` (Braun and Tashev, "A consolidated view of loss
      functions for supervised deep learning-based speech enhancement", 2021).

    What lies behind an item's length counts as silence and no frame behind it counts.

    Arguments
    ---------
    sample_rate : int
        In hertz.
    windows : sequence of int
        Hann windows in samples, one per resolution.
    terms : sequence of str
        Of those above.
    n_mels : int or sequence of int
        Mel channels, of all or of each resolution.
    hop_share : int
        Windows overlap so that a hop is ``window // hop_share``.
    scale_weights : sequence of float, optional
        Weight of each resolution in the mean; default: equal.
    floor : float
        Added to magnitudes before logarithms. (Clamping instead, as usual, leaves a
        model that is too quiet without a gradient.)
    compression : float
        Exponent of ``complex``; 1 compares the plain spectra.

    Raises
    ------
    DsuError
        If a term is unknown or the lists differ in length.

    Example
    -------
    >>> loss = SpectralLoss(16000, [512, 1024], ["log_mel", "complex"], n_mels=[40, 80])
    >>> wav = torch.randn(1, 4000)
    >>> sorted(loss(0.5 * wav, wav))
    ['complex', 'log_mel']
    >>> float(loss(wav, wav)["log_mel"])
    0.0
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int],
        terms: Sequence[str],
        n_mels: int | Sequence[int] = 80,
        hop_share: int = 4,
        scale_weights: Sequence[float] | None = None,
        floor: float = 1e-5,
        compression: float = 1.0,
    ):
        super().__init__()
        unknown = [term for term in terms if term not in _MEL_TERMS + _LINEAR_TERMS]
        if unknown or not terms:
            known = ", ".join(_MEL_TERMS + _LINEAR_TERMS)
            raise DsuError(f"terms={list(terms)}: take some of {known}")
        self.windows, self.terms = tuple(windows), tuple(terms)
        self.hop_share, self.floor = hop_share, floor
        self.compression = compression
        mels = [n_mels] * len(windows) if isinstance(n_mels, int) else list(n_mels)
        weights = [1.0] * len(windows) if scale_weights is None else scale_weights
        if not len(mels) == len(weights) == len(windows) > 0:
            raise DsuError(
                f"{len(windows)} windows with {len(mels)} n_mels and {len(weights)} "
                "scale_weights"
            )
        self.scale_weights = [weight / sum(weights) for weight in weights]
        for index, window in enumerate(windows):
            # Recomputed from the settings, so not part of anybody's weights.
            taper = torch.hann_window(window)
            self.register_buffer(f"window_{index}", taper, persistent=False)
            if set(terms) & set(_MEL_TERMS):
                filters = _mel_filters(window, mels[index], sample_rate)
                self.register_buffer(f"filters_{index}", filters, persistent=False)

    def forward(
        self, estimate: Tensor, target: Tensor, lens: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Distances of an estimate from its target.

        Arguments
        ---------
        estimate, target : Tensor
            ``[batch, time]``; the target gets no gradient.
        lens : Tensor, optional
            Relative lengths ``[batch]``.

        Returns
        -------
        dict
            A scalar for each term.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            estimate = silence_padding(estimate.float(), lens)
            target = silence_padding(target.detach().float(), lens)
            total = dict.fromkeys(self.terms, 0.0)
            for index, weight in enumerate(self.scale_weights):
                for name, value in self._scale(index, estimate, target, lens).items():
                    total[name] = total[name] + weight * value
        return total

    def _scale(
        self, index: int, estimate: Tensor, target: Tensor, lens: Tensor | None
    ) -> dict[str, Tensor]:
        """All terms of one resolution."""
        spectra = [self._spectrum(index, wavs) for wavs in (estimate, target)]
        sizes = [spectrum.abs() for spectrum in spectra]
        counts = None
        if lens is not None:
            hop = self.windows[index] // self.hop_share
            counts = 1 + absolute_lengths(lens, estimate.shape[1]) // hop
        out = {}
        if set(self.terms) & set(_MEL_TERMS):
            mels = [size @ getattr(self, f"filters_{index}") for size in sizes]
            logs = [(mel + self.floor).log() for mel in mels]
            out["mel"] = masked_mean((mels[0] - mels[1]).abs(), counts)
            out["log_mel"] = masked_mean((logs[0] - logs[1]).abs(), counts)
            if "log_mel_square" in self.terms:
                square = (logs[0] - logs[1]).square()
                out["log_mel_square"] = masked_mean(square, counts)
        if set(self.terms) & set(_LINEAR_TERMS):
            out |= self._linear(spectra, sizes, counts)
        return {name: out[name] for name in self.terms}

    def _linear(
        self, spectra: list[Tensor], sizes: list[Tensor], counts: Tensor | None
    ) -> dict[str, Tensor]:
        out = {"magnitude": masked_mean((sizes[0] - sizes[1]).abs(), counts)}
        if "log_magnitude" in self.terms:
            logs = [(size + self.floor).log() for size in sizes]
            out["log_magnitude"] = masked_mean((logs[0] - logs[1]).abs(), counts)
        if "convergence" in self.terms:
            # Frames behind the end are equal (silent) or left out of both norms.
            error = masked_mean((sizes[0] - sizes[1]).square(), counts)
            power = masked_mean(sizes[1].square(), counts)
            out["convergence"] = (error + 1e-12).sqrt() / (power + 1e-12).sqrt()
        if "complex" in self.terms:
            if self.compression != 1:
                scales = [
                    (size + self.floor) ** (self.compression - 1) for size in sizes
                ]
                pairs = zip(spectra, scales, strict=True)
                spectra = [
                    torch.view_as_real(spectrum) * scale.unsqueeze(-1)
                    for spectrum, scale in pairs
                ]
            else:
                spectra = [torch.view_as_real(spectrum) for spectrum in spectra]
            out["complex"] = masked_mean((spectra[0] - spectra[1]).abs(), counts)
        return out

    def _spectrum(self, index: int, wavs: Tensor) -> Tensor:
        """Complex ``[batch, frames, bins]``, frame ``t`` centred on ``t * hop``."""
        window = self.windows[index]
        return torch.stft(
            wavs,
            window,
            hop_length=window // self.hop_share,
            window=getattr(self, f"window_{index}"),
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).transpose(1, 2)


def _mel_filters(window: int, n_mels: int, sample_rate: int) -> Tensor:
    """Filter bank ``[bins, n_mels]``; more channels than bins make no sense."""
    if n_mels > window // 2:
        raise DsuError(
            f"{n_mels} mel channels of a window of {window} samples: take at most "
            f"{window // 2}"
        )
    # Imported when an object is built, so that importing this module stays cheap.
    from torchaudio.functional import melscale_fbanks

    bins, top = window // 2 + 1, sample_rate / 2
    return melscale_fbanks(bins, 0.0, top, n_mels, sample_rate, "slaney", "slaney")
