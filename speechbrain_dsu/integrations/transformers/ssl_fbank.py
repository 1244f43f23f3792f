"""The filter banks that w2v-BERT 2.0 takes."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.utils.lengths import length_mask
from speechbrain_dsu.utils.optional import require


class KaldiFbank(nn.Module):
    """Kaldi log-mel energies, normalised per channel and utterance, two per frame.

    What transformers' ``SeamlessM4TFeatureExtractor`` gives, in torch and for padded
    batches: 25 ms windows each 10 ms, zero mean and unit variance over the valid
    windows of each utterance, neighbours stacked. An odd last window counts in the
    statistics and is then left out.

    Arguments
    ---------
    sample_rate : int
        In hertz; the windows are 400 samples long and 160 apart, whatever it is.
    dim : int
        Size of a frame, twice the number of channels.

    Example
    -------
    >>> fbank = KaldiFbank(16000, 160)
    >>> fbank(torch.randn(1, 16000)).shape, fbank.stack.num_frames(16000)
    (torch.Size([1, 49, 160]), 49)
    """

    def __init__(self, sample_rate: int, dim: int):
        super().__init__()
        audio = require("transformers.audio_utils", "hf", "w2v-BERT")
        self.dim = dim
        filters = audio.mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=dim // 2,
            min_frequency=20,
            max_frequency=sample_rate // 2,
            sampling_rate=sample_rate,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        window = audio.window_function(400, "povey", periodic=False)
        # float64, as in the original: energies span more than float32 resolves.
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)
        self.register_buffer("window", torch.from_numpy(window), persistent=False)
        self.windows = Conv(400, 160)
        self.stack = ConvStack([self.windows, Conv(2, 2)])

    def extra_repr(self) -> str:
        """Settings that decide the frames."""
        return f"dim={self.dim}"

    def forward(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Frames ``[batch, frames, dim]`` of ``[batch, time]``.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]`` in [-1, 1].
        counts : Tensor, optional
            Valid samples of each item, int64 ``[batch]``.
        """
        energies = self._log_mel(wavs)
        if counts is None:
            mask = torch.ones(energies.shape[:2], dtype=torch.bool, device=wavs.device)
        else:
            valid = [self.windows.num_frames(n) for n in counts.tolist()]
            valid = torch.tensor(valid, device=wavs.device)
            mask = length_mask(valid, energies.shape[1])
        mask = mask.unsqueeze(-1)
        total = mask.sum(1, keepdim=True)
        mean = (energies * mask).sum(1, keepdim=True) / total
        variance = ((energies - mean).square() * mask).sum(1, keepdim=True) / (
            total - 1
        )
        scaled = ((energies - mean) / (variance + 1e-7).sqrt()) * mask
        pairs = scaled.shape[1] // 2
        return scaled[:, : 2 * pairs].reshape(len(wavs), pairs, self.dim).to(wavs.dtype)

    def _log_mel(self, wavs: Tensor) -> Tensor:
        windows = wavs.double().unfold(1, 400, 160) * 2**15
        windows = windows - windows.mean(-1, keepdim=True)
        first = windows[..., :1] * (1 - 0.97)
        windows = torch.cat([first, windows[..., 1:] - 0.97 * windows[..., :-1]], -1)
        spectrum = torch.fft.rfft(windows * self.window.double(), 512)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.filters.double()).clamp(min=2.0**-23).log()
