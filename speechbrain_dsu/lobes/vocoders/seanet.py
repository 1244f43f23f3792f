"""SEANet's decoder: latents back to a waveform (see ``lobes.encoders.seanet``)."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.seanet import (
    ResidualLSTM,
    seanet_stages,
)
from speechbrain_dsu.nnet.streaming_conv import (
    PadMode,
    StreamConv1d,
    StreamConvTranspose1d,
)
from speechbrain_dsu.nnet.stretches import Chain, Elu
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.nnet.weights import normalise_weights


def stream_delay(layers: Iterable[nn.Module]) -> int:
    """Samples that a stream through these layers runs behind its input.

    Arguments
    ---------
    layers : iterable of nn.Module
        In the order of their use, up to the waveform.

    Example
    -------
    >>> stream_delay([StreamConvTranspose1d(2, 1, 8, 4, causal=False)])
    2
    """
    delay = 0
    for layer in layers:
        if isinstance(layer, StreamConv1d):
            delay += layer.lengths.right
        elif isinstance(layer, StreamConvTranspose1d):
            delay = delay * layer.stride[0] + layer.delay
        elif hasattr(layer, "block"):
            delay += stream_delay(layer.block)
        else:
            delay += getattr(layer, "delay", 0)
    return delay


class SEANetDecoder(nn.Module):
    """Latents ``[batch, frames, dim]`` to waveforms ``[batch, frames * hop]``.

    Arguments
    ---------
    sample_rate : int
        Of the audio, in hertz.
    n_filters : int
        Channels at the audio's rate.
    strides : sequence of int
        From the latents on: the encoder's in reverse.
    dim : int
        Size of a latent.
    kernel, last_kernel, residual_kernel : int
        Taps of the first and last convolution and in the residual blocks.
    dilations : sequence of int
        One residual block per rate for each.
    compress : int
        See ``ResidualBlock``.
    shortcut : bool
        See ``ResidualBlock``.
    lstm_layers : int
        Layers of an LSTM behind the first convolution; 0: none.
    causal, pad_mode
        As in ``StreamConv1d``.
    weight_norm : bool
        Whether weights are normalised; for training.

    Example
    -------
    >>> import torch
    >>> decoder = SEANetDecoder(8000, n_filters=2, strides=[5, 4], dim=8)
    >>> decoder(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 60])
    """

    def __init__(
        self,
        sample_rate: int,
        n_filters: int = 32,
        strides: Sequence[int] = (8, 5, 4, 2),
        dim: int = 128,
        kernel: int = 7,
        last_kernel: int = 7,
        residual_kernel: int = 3,
        dilations: Sequence[int] = (1,),
        compress: int = 2,
        shortcut: bool = True,
        lstm_layers: int = 2,
        causal: bool = True,
        pad_mode: PadMode = "reflect",
        weight_norm: bool = False,
    ):
        super().__init__()
        same = {"causal": causal, "pad_mode": pad_mode}
        channels = n_filters * 2 ** len(strides)
        layers: list[nn.Module] = [StreamConv1d(dim, channels, kernel, **same)]
        if lstm_layers:
            layers.append(ResidualLSTM(channels, lstm_layers))
        for stride in strides:
            layers += [
                Elu(inplace=True),
                StreamConvTranspose1d(
                    channels, channels // 2, 2 * stride, stride, causal=causal
                ),
            ]
            channels //= 2
            layers += seanet_stages(
                channels,
                dilations,
                residual_kernel,
                compress=compress,
                shortcut=shortcut,
                **same,
            )
        layers += [Elu(inplace=True), StreamConv1d(channels, 1, last_kernel, **same)]
        self.layers = Chain(*layers)
        self.sample_rate, self.dim, self.causal = sample_rate, dim, causal
        self.hop = math.prod(strides)
        self.delay = stream_delay(self.layers)
        """Samples that a stream runs behind. With ``reflect`` the first ones wait for
        as many frames as the padding mirrors, too."""
        if weight_norm:
            normalise_weights(self)

    def num_samples(self, n_frames: int) -> int:
        """Samples of ``n_frames`` latents."""
        return n_frames * self.hop

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``[batch, frames, dim]`` to ``[batch, time]``."""
        return self.layers(latents.transpose(1, 2)).squeeze(1)


class SEANetTransformerDecoder(nn.Module):
    """One stride, a causal transformer, and SEANet: the decoder of Mimi.

    Arguments
    ---------
    seanet : SEANetDecoder
        Frames to waveform.
    transformer : Transformer
        Over these frames.
    stride : int
        Frames that each latent becomes.

    Example
    -------
    >>> import torch
    >>> seanet = SEANetDecoder(8000, 2, strides=[5, 4], dim=8, lstm_layers=0)
    >>> transformer = Transformer(dim=8, n_layers=1, n_heads=2, context=25)
    >>> decoder = SEANetTransformerDecoder(seanet, transformer, stride=2)
    >>> decoder(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 120])
    """

    def __init__(self, seanet: SEANetDecoder, transformer: Transformer, stride: int):
        super().__init__()
        self.upsample = StreamConvTranspose1d(
            seanet.dim,
            seanet.dim,
            2 * stride,
            stride,
            groups=seanet.dim,
            bias=False,
            causal=seanet.causal,
        )
        self.transformer, self.seanet = transformer, seanet
        self.sample_rate, self.dim, self.causal = (
            seanet.sample_rate,
            seanet.dim,
            seanet.causal,
        )
        self.hop = stride * seanet.hop
        self.delay = self.upsample.delay * seanet.hop + seanet.delay

    def num_samples(self, n_frames: int) -> int:
        """Samples of ``n_frames`` latents."""
        return n_frames * self.hop

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``[batch, frames, dim]`` to ``[batch, time]``."""
        frames = self.upsample(latents.transpose(1, 2)).transpose(1, 2)
        return self.seanet(self.transformer(frames))
