"""A codec's encoder out of frames and ConvNeXt blocks."""

from torch import Tensor, nn

from speechbrain_dsu.nnet.convnext import ConvNext
from speechbrain_dsu.nnet.convolution import ConvStack


class ConvNextEncoder(nn.Module):
    """Waveforms to latents: spectra, ConvNeXt blocks and a linear layer.

    Everything runs at the frame rate, which makes it an order of magnitude cheaper
    than strided convolutions from the waveform on.

    Arguments
    ---------
    frames : nn.Module
        Waveforms to frames: ``StftFrames`` or ``MelFrames``.
    dim : int
        Size of a latent frame.
    channels : int
        Size of a frame inside the blocks.
    hidden : int
        Size between a block's linear layers.
    layers : int
        Blocks.
    kernel : int
        Taps of the blocks' convolutions.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.encoders.stft_frames import StftFrames
    >>> encoder = ConvNextEncoder(StftFrames(), dim=8, channels=16, hidden=32, layers=2)
    >>> encoder(torch.randn(1, 4000)).shape, encoder.num_frames(4000)
    (torch.Size([1, 13, 8]), 13)
    >>> encoder.receptive_field, encoder.causal
    ((4160, 320), True)
    """

    def __init__(
        self,
        frames: nn.Module,
        dim: int,
        channels: int = 256,
        hidden: int = 640,
        layers: int = 4,
        kernel: int = 7,
    ):
        super().__init__()
        self.frames = frames
        self.sample_rate, self.hop, self.dim = frames.sample_rate, frames.hop, dim
        self.causal = frames.causal
        # Frames behind an item's end don't reach back: zeros there are exact.
        self.masks_padding = frames.causal
        self.body = ConvNext(
            frames.dim, channels, hidden, layers, kernel, causal=frames.causal
        )
        self.out = nn.Linear(channels, dim)
        self.lengths = ConvStack([frames.lengths, *self.body.lengths])

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Frame ``t`` sees samples ``t * hop - left`` to before ``t * hop + right``."""
        return self.lengths.receptive_field

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.lengths.num_frames(n_samples)

    def forward(self, wavs: Tensor) -> Tensor:
        """Latents ``[batch, frames, dim]`` of ``[batch, time]``."""
        return self.out(self.body(self.frames(wavs)))
