"""A vocoder without weights."""

from torch import Tensor, nn

from speechbrain_dsu.lobes.features import LogMel
from speechbrain_dsu.utils.errors import DsuError


class GriffinLim(nn.Module):
    """Log-mel frames to a waveform by phase reconstruction.

    The mel filters are undone by non-negative least squares (multiplicative updates
    of Lee and Seung, 2001), the phase is found by the fast Griffin-Lim algorithm
    (Perraudin et al., 2013). No random start: the same frames give the same samples.

    Arguments
    ---------
    features : LogMel
        The front end to invert; magnitudes (``power=1``) without normalisation.
    n_iter : int
        Phase iterations.
    momentum : float
        Of the fast algorithm, in [0, 1).
    mel_iter : int
        Updates of the spectrum under the mel filters.

    Raises
    ------
    DsuError
        If the front end can't be inverted.

    Example
    -------
    >>> import torch
    >>> features = LogMel()
    >>> wav = torch.sin(torch.arange(16000) * 0.1).unsqueeze(0)
    >>> GriffinLim(features)(features(wav)).shape
    torch.Size([1, 16000])
    """

    def __init__(
        self,
        features: LogMel,
        n_iter: int = 32,
        momentum: float = 0.99,
        mel_iter: int = 30,
    ):
        super().__init__()
        if type(features) is not LogMel or features.power != 1 or features.normalize:
            raise DsuError(
                "Griffin-Lim inverts LogMel with power=1 and normalize=None, got "
                f"{type(features).__name__}({features.extra_repr()})"
            )
        self.features = features
        self.n_iter, self.momentum, self.mel_iter = n_iter, momentum, mel_iter

    def num_samples(self, frames: int) -> int:
        """Samples that come out of ``frames`` frames."""
        return max(frames - 1, 0) * self.features.hop

    def forward(self, frames: Tensor) -> Tensor:
        """Waveforms ``[batch, time]`` of log-mel frames ``[batch, frames, n_mels]``."""
        import torchaudio.functional

        if frames.shape[1] < 2:
            return frames.new_zeros(len(frames), 0)
        magnitude = self._undo_filters(frames.exp()).transpose(1, 2)
        # Reflection at the ends, which torchaudio's inverse uses, needs a minimum.
        return torchaudio.functional.griffinlim(
            magnitude,
            window=self.features.window,
            n_fft=self.features.n_fft,
            hop_length=self.features.hop,
            win_length=self.features.win,
            power=1.0,
            n_iter=self.n_iter,
            momentum=self.momentum,
            length=self.num_samples(frames.shape[1]),
            rand_init=False,
        )

    def _undo_filters(self, mel: Tensor) -> Tensor:
        filters = self.features.filters
        spectrum = mel @ filters.T
        for _ in range(self.mel_iter):
            ratio = (mel @ filters.T) / ((spectrum @ filters) @ filters.T + 1e-10)
            spectrum = spectrum * ratio
        return spectrum
