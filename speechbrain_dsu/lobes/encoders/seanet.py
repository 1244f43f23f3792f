"""SEANet: strided convolutions with residual blocks, waveform to latents.

Tagliasacchi et al., "SEANet: A Multi-modal Speech Enhancement Network", 2020, in the
form of SoundStream (2021) and EnCodec (Défossez et al., 2022, section 3.1); with a
transformer behind it, Mimi (Défossez et al., "Moshi", 2024, section 3.3).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.nnet.streaming import Aligned, current_stream
from speechbrain_dsu.nnet.streaming_conv import PadMode, StreamConv1d
from speechbrain_dsu.nnet.stretches import Chain, Elu, Residual
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.nnet.weights import normalise_weights
from speechbrain_dsu.utils.errors import DsuError


class ResidualBlock(Residual):
    """A dilated and a pointwise convolution beside a shortcut; channel-first.

    Arguments
    ---------
    channels : int
        Channels of input and output.
    kernel, dilation : int
        Of the first convolution.
    compress : int
        The block works in ``channels // compress`` channels.
    shortcut : bool
        Whether the shortcut is a pointwise convolution, not the input itself.
    causal, pad_mode
        As in ``StreamConv1d``.

    Example
    -------
    >>> ResidualBlock(8)(torch.zeros(1, 8, 20)).shape
    torch.Size([1, 8, 20])
    """

    def __init__(
        self,
        channels: int,
        kernel: int = 3,
        dilation: int = 1,
        compress: int = 2,
        shortcut: bool = True,
        causal: bool = True,
        pad_mode: PadMode = "reflect",
    ):
        super().__init__()
        same = {"causal": causal, "pad_mode": pad_mode}
        inner = channels // compress
        # The first may not work in place: the shortcut needs its input.
        self.block = nn.Sequential(
            Elu(),
            StreamConv1d(channels, inner, kernel, dilation=dilation, **same),
            Elu(inplace=True),
            StreamConv1d(inner, channels, 1, **same),
        )
        self.shortcut = (
            StreamConv1d(channels, channels, 1, **same) if shortcut else nn.Identity()
        )
        self.aligned = Aligned(dim=-1)

    def forward(self, signal: Tensor) -> Tensor:
        """Map ``[batch, channels, time]`` to the same shape."""
        past, change = self.aligned(self.shortcut(signal), self.block(signal))
        if torch.is_grad_enabled():
            return past + change
        return change.add_(past)


class ResidualLSTM(nn.Module):
    """An LSTM beside a shortcut, channel-first; a stream carries its state on.

    Arguments
    ---------
    channels : int
        Channels of input and output.
    n_layers : int
        Layers.

    Example
    -------
    >>> ResidualLSTM(4, 2)(torch.zeros(1, 4, 7)).shape
    torch.Size([1, 4, 7])
    """

    together = True  # its weights are read once per step, for all items

    def __init__(self, channels: int, n_layers: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, n_layers)

    def forward(self, signal: Tensor) -> Tensor:
        """Map ``[batch, channels, time]`` to the same shape."""
        if signal.shape[-1] == 0:
            return signal
        frames = signal.permute(2, 0, 1)
        stream = current_stream()
        memory = {"state": None} if stream is None else stream.state(self, dict)
        found, memory["state"] = self.lstm(frames, memory.get("state"))
        return (found + frames).permute(1, 2, 0)


def seanet_stages(
    channels: int,
    dilations: Sequence[int],
    kernel: int,
    **settings: object,
) -> Iterator[nn.Module]:
    """The residual blocks of one rate, with growing dilation."""
    for dilation in dilations:
        yield ResidualBlock(channels, kernel, dilation, **settings)


class SEANetEncoder(nn.Module):
    """Waveforms ``[batch, time]`` to latents ``[batch, frames, dim]``.

    Arguments
    ---------
    sample_rate : int
        Of the audio, in hertz.
    n_filters : int
        Channels at the audio's rate; doubled at each stride.
    strides : sequence of int
        From the audio on; their product is the hop.
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
        Layers of an LSTM before the last convolution; 0: none.
    causal, pad_mode
        As in ``StreamConv1d``.
    weight_norm : bool
        Whether weights are normalised (Salimans & Kingma, 2016); for training.

    Example
    -------
    EnCodec's encoder at 24 kHz:

    >>> encoder = SEANetEncoder(24000, n_filters=32, strides=[2, 4, 5, 8], dim=128)
    >>> encoder.hop, encoder.num_frames(24000), encoder.causal
    (320, 75, True)
    """

    def __init__(
        self,
        sample_rate: int,
        n_filters: int = 32,
        strides: Sequence[int] = (2, 4, 5, 8),
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
        layers: list[nn.Module] = [StreamConv1d(1, n_filters, kernel, **same)]
        channels = n_filters
        for stride in strides:
            layers += seanet_stages(
                channels,
                dilations,
                residual_kernel,
                compress=compress,
                shortcut=shortcut,
                **same,
            )
            layers += [
                Elu(inplace=True),
                StreamConv1d(channels, 2 * channels, 2 * stride, stride, **same),
            ]
            channels *= 2
        if lstm_layers:
            layers.append(ResidualLSTM(channels, lstm_layers))
        layers += [
            Elu(inplace=True),
            StreamConv1d(channels, dim, last_kernel, **same),
        ]
        self.layers = Chain(*layers)
        self.sample_rate, self.dim, self.causal = sample_rate, dim, causal
        self.lengths = ConvStack(main_path(self.layers))
        self.remembers = lstm_layers > 0
        if weight_norm:
            normalise_weights(self)

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.lengths.hop

    @property
    def receptive_field(self) -> tuple[int | None, int | None]:
        """See ``tokenizers.base``; an LSTM remembers everything."""
        left, right = self.lengths.receptive_field
        return (None if self.remembers else left), right

    @property
    def min_samples(self) -> int:
        """The fewest samples that give a frame."""
        return self.lengths.min_samples()

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.lengths.num_frames(n_samples)

    def forward(self, wavs: Tensor) -> Tensor:
        """Encode ``[batch, time]`` to ``[batch, frames, dim]``."""
        return self.layers(wavs.unsqueeze(1)).transpose(1, 2)


class SEANetTransformerEncoder(nn.Module):
    """SEANet, a causal transformer, and one more stride: the encoder of Mimi.

    Arguments
    ---------
    seanet : SEANetEncoder
        Waveform to frames.
    transformer : Transformer
        Over these frames.
    stride : int
        Frames that become one latent.

    Raises
    ------
    DsuError
        If the sizes differ.

    Example
    -------
    >>> seanet = SEANetEncoder(8000, 2, strides=[4, 5], dim=8, lstm_layers=0)
    >>> transformer = Transformer(dim=8, n_layers=1, n_heads=2, context=25)
    >>> encoder = SEANetTransformerEncoder(seanet, transformer, stride=2)
    >>> encoder.hop, encoder(torch.zeros(1, 100)).shape
    (40, torch.Size([1, 3, 8]))
    """

    def __init__(self, seanet: SEANetEncoder, transformer: Transformer, stride: int):
        super().__init__()
        if seanet.dim != transformer.dim:
            raise DsuError(
                f"seanet gives frames of {seanet.dim}, the transformer takes "
                f"{transformer.dim}"
            )
        self.seanet, self.transformer = seanet, transformer
        self.downsample = StreamConv1d(
            seanet.dim,
            seanet.dim,
            2 * stride,
            stride,
            bias=False,
            causal=seanet.causal,
            pad_mode="replicate",
        )
        self.sample_rate, self.dim = seanet.sample_rate, seanet.dim
        self.causal = seanet.causal and transformer.causal
        self.lengths = ConvStack([*seanet.lengths.layers, self.downsample.lengths])

    @property
    def hop(self) -> int:
        """Samples per latent."""
        return self.lengths.hop

    @property
    def receptive_field(self) -> tuple[int | None, int | None]:
        """See ``tokenizers.base``."""
        left, right = self.seanet.receptive_field
        context = self.transformer.context
        if not self.transformer.causal:
            return None, None
        if left is None or context is None:
            return None, self.lengths.receptive_field[1]
        reach = (context - 1) * len(self.transformer.layers) * self.seanet.hop
        left, right = self.lengths.receptive_field
        return left + reach, right

    @property
    def min_samples(self) -> int:
        """The fewest samples that give a frame."""
        return self.lengths.min_samples()

    def num_frames(self, n_samples: int) -> int:
        """Latents of ``n_samples`` samples."""
        return self.lengths.num_frames(n_samples)

    def forward(self, wavs: Tensor) -> Tensor:
        """Encode ``[batch, time]`` to ``[batch, frames, dim]``."""
        frames = self.transformer(self.seanet(wavs))
        return self.downsample(frames.transpose(1, 2)).transpose(1, 2)


def main_path(layers: nn.Sequential) -> Iterator[Conv]:
    """Length arithmetic of convolutions in the order of their use.

    Of a residual block only the path with the convolutions counts.
    """
    for layer in layers:
        if isinstance(layer, StreamConv1d):
            yield layer.lengths
        elif hasattr(layer, "block"):
            yield from main_path(layer.block)
