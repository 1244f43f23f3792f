"""DAC's decoder: transposed convolutions with Snake residual units."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.snake import snake_units
from speechbrain_dsu.lobes.vocoders.seanet import stream_delay
from speechbrain_dsu.nnet.snake import Snake
from speechbrain_dsu.nnet.streaming import current_stream, join
from speechbrain_dsu.nnet.streaming_conv import StreamConv1d, StreamConvTranspose1d
from speechbrain_dsu.nnet.stretches import Chain
from speechbrain_dsu.nnet.weights import normalise_weights


class DropLast(nn.Module):
    """All but the last step of a signal ``[..., time]``.

    DAC's transposed convolutions cut one step too many where the stride is odd; its
    weights want the same.

    Example
    -------
    >>> import torch
    >>> DropLast()(torch.tensor([1, 2, 3]))
    tensor([1, 2])
    """

    delay = 1

    def forward(self, signal: Tensor) -> Tensor:
        """Map ``[..., time]`` to ``[..., time - 1]``."""
        stream = current_stream()
        if stream is not None:
            held = stream.state(self, dict)
            signal = join(held.get("last"), signal, -1)
            held["last"] = signal[..., signal.shape[-1] - 1 :]
        return signal[..., : max(0, signal.shape[-1] - 1)]


class SnakeDecoder(nn.Module):
    """Latents ``[batch, frames, dim]`` to waveforms ``[batch, time]``.

    Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN", 2023,
    section 3.1.

    Arguments
    ---------
    sample_rate : int
        Of the audio, in hertz.
    channels : int
        Channels behind the first convolution; halved at each stride.
    strides : sequence of int
        From the latents on: the encoder's in reverse.
    dim : int
        Size of a latent.
    dilations : sequence of int
        One residual unit per rate for each.
    causal : bool
        Whether all convolutions pad on the left only; then every frame gives
        ``hop`` samples. Otherwise some are missing at the end, as in DAC.
    weight_norm : bool
        Whether weights are normalised; for training.

    Example
    -------
    >>> import torch
    >>> decoder = SnakeDecoder(16000, channels=32, strides=[8, 5, 4, 2], dim=8)
    >>> decoder(torch.zeros(1, 3, 8)).shape, decoder.num_samples(3)
    (torch.Size([1, 952]), 952)
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int = 1536,
        strides: Sequence[int] = (8, 8, 4, 2),
        dim: int = 1024,
        dilations: Sequence[int] = (1, 3, 9),
        causal: bool = False,
        weight_norm: bool = False,
    ):
        super().__init__()
        layers: list[nn.Module] = [StreamConv1d(dim, channels, 7, causal=causal)]
        for stride in strides:
            layers += [
                Snake(channels),
                StreamConvTranspose1d(
                    channels, channels // 2, 2 * stride, stride, causal=causal
                ),
            ]
            if stride % 2 and not causal:
                layers.append(DropLast())
            channels //= 2
            layers += snake_units(channels, dilations, causal)
        layers += [Snake(channels), StreamConv1d(channels, 1, 7, causal=causal)]
        self.layers = Chain(*layers, nn.Tanh())
        self.strides = tuple(strides)
        self.sample_rate, self.dim, self.causal = sample_rate, dim, causal
        self.hop = math.prod(strides)
        self.delay = stream_delay(self.layers)
        """Samples that a stream runs behind."""
        if weight_norm:
            normalise_weights(self)

    def num_samples(self, n_frames: int) -> int:
        """Samples of ``n_frames`` latents."""
        for stride in self.strides:
            n_frames = n_frames * stride - (0 if self.causal else stride % 2)
        return n_frames

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``[batch, frames, dim]`` to ``[batch, time]``."""
        return self.layers(latents.transpose(1, 2)).squeeze(1)
