"""DAC's encoder: strided convolutions with Snake residual units."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.seanet import main_path
from speechbrain_dsu.nnet.convolution import ConvStack
from speechbrain_dsu.nnet.snake import Snake, SnakeUnit
from speechbrain_dsu.nnet.streaming_conv import StreamConv1d
from speechbrain_dsu.nnet.stretches import Chain
from speechbrain_dsu.nnet.weights import normalise_weights


class SnakeEncoder(nn.Module):
    """Waveforms ``[batch, time]`` to latents ``[batch, frames, dim]``.

    Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN", 2023,
    section 3.1.

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
    dilations : sequence of int
        One residual unit per rate for each.
    causal : bool
        Whether all convolutions pad on the left only; DAC's own do not.
    weight_norm : bool
        Whether weights are normalised; for training.

    Example
    -------
    DAC's encoder at 16 kHz:

    >>> encoder = SnakeEncoder(16000, n_filters=64, strides=[2, 4, 5, 8], dim=1024)
    >>> encoder.hop, encoder.num_frames(16000), encoder.causal
    (320, 50, False)
    """

    def __init__(
        self,
        sample_rate: int,
        n_filters: int = 64,
        strides: Sequence[int] = (2, 4, 8, 8),
        dim: int = 1024,
        dilations: Sequence[int] = (1, 3, 9),
        causal: bool = False,
        weight_norm: bool = False,
    ):
        super().__init__()
        layers: list[nn.Module] = [StreamConv1d(1, n_filters, 7, causal=causal)]
        channels = n_filters
        for stride in strides:
            layers += snake_units(channels, dilations, causal)
            # DAC pads both sides alike: an input that fills no whole number of hops
            # loses its end, as there.
            sides = None if causal else ((stride + 1) // 2, (stride + 1) // 2)
            layers += [
                Snake(channels),
                StreamConv1d(
                    channels,
                    2 * channels,
                    2 * stride,
                    stride,
                    causal=causal,
                    padding=sides,
                ),
            ]
            channels *= 2
        layers += [Snake(channels), StreamConv1d(channels, dim, 3, causal=causal)]
        self.layers = Chain(*layers)
        self.sample_rate, self.dim, self.causal = sample_rate, dim, causal
        self.lengths = ConvStack(main_path(self.layers))
        if weight_norm:
            normalise_weights(self)

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.lengths.hop

    @property
    def receptive_field(self) -> tuple[int, int]:
        """See ``tokenizers.base``."""
        return self.lengths.receptive_field

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


def snake_units(
    channels: int, dilations: Sequence[int], causal: bool
) -> Iterator[nn.Module]:
    """The residual units of one rate."""
    for dilation in dilations:
        yield SnakeUnit(channels, dilation, causal=causal)
