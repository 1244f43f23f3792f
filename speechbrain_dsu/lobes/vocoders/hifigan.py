"""HiFi-GAN's generator behind the contract of this package's decoders."""

from collections.abc import Sequence

from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError


class HifiganDecoder(nn.Module):
    """Latents ``[batch, frames, dim]`` to waveforms ``[batch, frames * hop]``.

    SpeechBrain's generator of Kong et al., "HiFi-GAN: Generative Adversarial Networks
    for Efficient and High Fidelity Speech Synthesis" (2020), with the factors of a
    frame's samples as upsampling. It needs discriminators and days on a GPU.

    Arguments
    ---------
    dim : int
        Size of a latent frame.
    sample_rate : int
        In hertz.
    hop : int
        Samples per latent frame.
    channels : int
        Before the first upsampling; each halves them.
    kernels : sequence of int
        Taps of the residual blocks behind each upsampling.
    dilations : sequence of int
        Of the convolutions of a residual block, three.
    factors : sequence of int, optional
        Upsampling factors, their product ``hop``; primes of ``hop``, joined to at most
        8 and largest first, if not given.

    Raises
    ------
    DsuError
        If the sizes don't fit.

    Example
    -------
    >>> import torch
    >>> decoder = HifiganDecoder(dim=8, hop=40, channels=16, kernels=[3])
    >>> decoder(torch.randn(2, 5, 8)).shape, decoder.factors
    (torch.Size([2, 200]), (8, 5))
    """

    def __init__(
        self,
        dim: int,
        sample_rate: int = 16000,
        hop: int = 320,
        channels: int = 512,
        kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[int] = (1, 3, 5),
        factors: Sequence[int] | None = None,
    ):
        from speechbrain.lobes.models.HifiGAN import HifiganGenerator

        super().__init__()
        factors = tuple(upsampling(hop) if factors is None else factors)
        product = 1
        for factor in factors:
            product *= factor
        if product != hop or channels % 2 ** len(factors):
            raise DsuError(
                f"factors {factors} must multiply to hop={hop} and halve "
                f"channels={channels} each"
            )
        self.dim, self.sample_rate, self.hop = dim, sample_rate, hop
        self.factors = factors
        # The kernel of an upsampling must exceed its factor by an even number.
        wide = [2 * factor + factor % 2 for factor in factors]
        self.generator = HifiganGenerator(
            in_channels=dim,
            out_channels=1,
            resblock_type="1",
            resblock_dilation_sizes=[list(dilations)] * len(kernels),
            resblock_kernel_sizes=list(kernels),
            upsample_kernel_sizes=wide,
            upsample_initial_channel=channels,
            upsample_factors=list(factors),
            inference_padding=0,
        )

    def extra_repr(self) -> str:
        """Settings that decide the output; part of the fingerprint."""
        return f"sample_rate={self.sample_rate}, factors={self.factors}"

    def num_samples(self, n_frames: int) -> int:
        """Samples of ``n_frames`` frames."""
        return n_frames * self.hop

    def forward(self, latents: Tensor) -> Tensor:
        """Samples in [-1, 1], in step with the frames."""
        frames = latents.shape[1]
        # SpeechBrain's first convolution reflects three frames at either end.
        missing = max(4 - frames, 0)
        padded = nn.functional.pad(latents.transpose(1, 2), (0, missing))
        return self.generator(padded)[:, 0, : frames * self.hop]


def upsampling(hop: int, most: int = 8) -> list[int]:
    """Factors of a hop, largest first, none above ``most`` if that can be.

    Example
    -------
    >>> upsampling(320), upsampling(200), upsampling(441)
    ([8, 8, 5], [8, 5, 5], [7, 7, 3, 3])
    """
    rest, primes, divisor = hop, [], 2
    while rest > 1:
        while rest % divisor == 0:
            primes.append(divisor)
            rest //= divisor
        divisor += 1
    factors: list[int] = []
    for prime in sorted(primes, reverse=True):
        fitting = [place for place, f in enumerate(factors) if f * prime <= most]
        if fitting:
            factors[fitting[-1]] *= prime
        else:
            factors.append(prime)
    return sorted(factors, reverse=True)
