"""Latents to a waveform: ConvNeXt blocks and an inverse Fourier transform."""

from torch import Tensor, nn

from speechbrain_dsu.lobes.vocoders.istft import IstftHead
from speechbrain_dsu.nnet.convnext import ConvNext
from speechbrain_dsu.utils.errors import DsuError


class Upsample(nn.Module):
    """``factor`` frames out of each: one linear layer.

    Arguments
    ---------
    dim : int
        Size of a frame.
    factor : int
        New frames per frame.

    Example
    -------
    >>> import torch
    >>> Upsample(dim=4, factor=2)(torch.randn(1, 3, 4)).shape
    torch.Size([1, 6, 4])
    """

    def __init__(self, dim: int, factor: int):
        super().__init__()
        self.dim, self.factor = dim, factor
        self.linear = nn.Linear(dim, dim * factor)

    def extra_repr(self) -> str:
        """Settings that decide the output; part of the fingerprint."""
        return f"dim={self.dim}, factor={self.factor}"

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames * factor, dim]``."""
        batch, count, _ = frames.shape
        wide = self.linear(frames)
        return wide.reshape(batch, count * self.factor, self.dim)


class VocosDecoder(nn.Module):
    """Latents ``[batch, frames, dim]`` to waveforms ``[batch, frames * hop]``.

    Vocos (Siuzdak, 2023) with a stage at a higher frame rate, since a codec's frames
    are further apart than a mel spectrum's. All stages run at frame rates, so the
    cost is that of a few linear layers.

    Arguments
    ---------
    dim : int
        Size of a latent frame.
    sample_rate : int
        In hertz.
    hop : int
        Samples per latent frame.
    channels : int
        Size of a frame inside the blocks.
    hidden : int
        Size between a block's linear layers.
    layers : int
        Blocks at the latents' rate.
    fine_layers : int
        Blocks at the rate of the Fourier transform.
    upsample : int
        That rate by the latents'; divides ``hop``.
    win : int
        Window of the Fourier transform, a multiple of ``hop / upsample``.
    kernel : int
        Taps of the convolutions.
    causal : bool
        Whether samples wait for no later frames, but for ``delay`` samples of
        overlapping windows.

    Raises
    ------
    DsuError
        If the sizes don't fit.

    Example
    -------
    >>> import torch
    >>> decoder = VocosDecoder(dim=8, channels=16, hidden=32, layers=1, fine_layers=1)
    >>> decoder(torch.randn(2, 5, 8)).shape, decoder.delay
    (torch.Size([2, 1600]), 240)
    """

    def __init__(
        self,
        dim: int,
        sample_rate: int = 16000,
        hop: int = 320,
        channels: int = 256,
        hidden: int = 640,
        layers: int = 3,
        fine_layers: int = 2,
        upsample: int = 2,
        win: int = 640,
        kernel: int = 7,
        causal: bool = True,
    ):
        super().__init__()
        if upsample < 1 or hop % upsample:
            raise DsuError(f"upsample={upsample} must divide hop={hop}")
        self.dim, self.sample_rate, self.hop = dim, sample_rate, hop
        self.causal = causal
        stack = {"hidden": hidden, "kernel": kernel, "causal": causal}
        self.body = ConvNext(dim, channels, layers=layers, embed_kernel=kernel, **stack)
        self.upsample = Upsample(channels, upsample)
        self.fine = ConvNext(channels, channels, layers=fine_layers, **stack)
        self.head = IstftHead(channels, hop // upsample, win)

    @property
    def delay(self) -> int:
        """Samples that a stream runs behind its frames."""
        fine_hop = self.head.inverse.hop
        ahead = self.body.context[1] * self.hop + self.fine.context[1] * fine_hop
        return ahead + self.head.delay

    def num_samples(self, n_frames: int) -> int:
        """Samples of ``n_frames`` frames."""
        return n_frames * self.hop

    def forward(self, latents: Tensor) -> Tensor:
        """Samples, in step with what was encoded."""
        return self.head(self.fine(self.upsample(self.body(latents))))
