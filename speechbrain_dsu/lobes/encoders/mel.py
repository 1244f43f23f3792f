"""Log-mel frames for codecs, and an encoder that keeps mel bands apart."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.stft_frames import Frames, fourier_matrix
from speechbrain_dsu.nnet.convnext import ConvNext
from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.utils.errors import DsuError


class MelFrames(nn.Module):
    """Log-mel frames that stream and export: ``[batch, time]`` to frames.

    ``lobes.features.LogMel`` has one frame more and needs the whole signal; here
    every frame stands for one hop of samples, as a decoder wants it.

    Arguments
    ---------
    sample_rate : int
        In hertz.
    hop : int
        Samples from frame to frame.
    win : int
        Hann window, an even multiple of ``hop``.
    n_mels : int
        Number of channels.
    f_min, f_max : float
        Edges of the filter bank in hertz; ``f_max=None`` is half the sample rate.
    floor : float
        Magnitudes below it are raised to it before the natural logarithm.
    causal : bool
        See ``Frames``.

    Example
    -------
    >>> MelFrames(hop=200, win=800)(torch.randn(2, 1000)).shape
    torch.Size([2, 5, 80])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        hop: int = 200,
        win: int = 800,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = 1e-5,
        causal: bool = False,
    ):
        import torchaudio.functional

        super().__init__()
        f_max = sample_rate / 2 if f_max is None else float(f_max)
        if not 0 <= f_min < f_max <= sample_rate / 2 or floor <= 0:
            raise DsuError(
                f"mel frames need 0 <= f_min < f_max <= {sample_rate / 2} and floor > "
                f"0, got f_min={f_min}, f_max={f_max}, floor={floor}"
            )
        self.sample_rate, self.hop, self.win = sample_rate, hop, win
        self.f_min, self.f_max, self.floor = float(f_min), f_max, float(floor)
        self.dim, self.causal = n_mels, causal
        self.frames = Frames(hop, win, causal)
        filters = torchaudio.functional.melscale_fbanks(
            win // 2 + 1, self.f_min, f_max, n_mels, sample_rate, "slaney", "slaney"
        )
        # Recomputed from the settings, so not part of anybody's weights.
        self.register_buffer("basis", fourier_matrix(win)[0], persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    @property
    def lengths(self) -> Conv:
        """Its length arithmetic, for ``ConvStack``."""
        return self.frames.lengths

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        return (
            f"sample_rate={self.sample_rate}, hop={self.hop}, win={self.win}, "
            f"n_mels={self.dim}, f_min={self.f_min}, f_max={self.f_max}, "
            f"floor={self.floor}, causal={self.causal}"
        )

    def forward(self, wavs: Tensor) -> Tensor:
        """Natural logarithms of mel magnitudes."""
        real, imaginary = (self.frames(wavs) @ self.basis).chunk(2, dim=-1)
        magnitude = (real.square() + imaginary.square() + 1e-18).sqrt()
        return (magnitude @ self.filters).clamp(min=self.floor).log()


class MelBandEncoder(nn.Module):
    """Latents of separate mel bands, side by side, each from its own network.

    Langman et al., "Spectral Codecs: Spectrogram-Based Audio Codecs for High Quality
    Speech Synthesis" (2024): with one codebook per band the codes of a frame depend
    on one another less than those of a residual chain, and can be predicted at once.
    ConvNeXt blocks take the place of the paper's residual blocks.

    Arguments
    ---------
    frames : nn.Module
        Waveforms to mel frames: ``MelFrames``.
    dim : int
        Size of a latent frame: the same share of it for each band.
    bands : int
        Disjoint bands of equal numbers of mel channels.
    channels : int
        Size of a band's frame inside its network.
    hidden : int
        Size between a block's linear layers.
    layers : int
        Blocks of a band.
    kernel : int
        Taps of the blocks' convolutions.

    Raises
    ------
    DsuError
        If channels or latents can't be parted evenly.

    Example
    -------
    >>> encoder = MelBandEncoder(MelFrames(), dim=32, bands=8, channels=8, hidden=16)
    >>> encoder(torch.randn(1, 4000)).shape
    torch.Size([1, 20, 32])
    """

    def __init__(
        self,
        frames: nn.Module,
        dim: int = 32,
        bands: int = 8,
        channels: int = 96,
        hidden: int = 256,
        layers: int = 3,
        kernel: int = 7,
    ):
        super().__init__()
        if bands < 1 or frames.dim % bands or dim % bands:
            raise DsuError(
                f"{frames.dim} mel channels and dim={dim} must be multiples of "
                f"bands={bands}"
            )
        self.frames, self.bands = frames, bands
        self.sample_rate, self.hop, self.dim = frames.sample_rate, frames.hop, dim
        self.causal = self.masks_padding = frames.causal
        width, share = frames.dim // bands, dim // bands
        self.networks = nn.ModuleList(
            nn.Sequential(
                ConvNext(width, channels, hidden, layers, kernel, self.causal),
                nn.Linear(channels, share),
            )
            for _ in range(bands)
        )
        inside = self.networks[0][0].lengths
        self.lengths = ConvStack([frames.lengths, *inside])

    def extra_repr(self) -> str:
        """Settings that decide the latents; part of the fingerprint."""
        return f"dim={self.dim}, bands={self.bands}"

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Frame ``t`` sees samples ``t * hop - left`` to before ``t * hop + right``."""
        return self.lengths.receptive_field

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.lengths.num_frames(n_samples)

    def forward(self, wavs: Tensor) -> Tensor:
        """Latents ``[batch, frames, dim]`` of ``[batch, time]``, band after band."""
        return self.encode_mel(self.frames(wavs))

    def encode_mel(self, mel: Tensor) -> Tensor:
        """Latents of log-mel frames ``[batch, frames, n_mels]``."""
        parts = mel.chunk(self.bands, dim=-1)
        pairs = zip(self.networks, parts, strict=True)
        return torch.cat([network(part) for network, part in pairs], dim=-1)
