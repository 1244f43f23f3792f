"""Finite scalar quantization: round each of a few bounded channels to its levels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantized, count_codes
from speechbrain_dsu.nnet.quantizers.channels import GroupedChannels
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.utils.errors import DsuError

_EPS = 1e-3


class FSQ(GroupedChannels):
    """Finite scalar quantization, plain or in groups.

    Every channel is bounded and rounded to one of its levels; the code is the tuple
    of level numbers read as one integer, the first channel least significant. The
    codebook is implicit: nothing to collapse, no losses. Mentzer et al., "Finite
    Scalar Quantization: VQ-VAE Made Simple" (2023), section 3 and appendix A.1.
    One group is NeuCodec's quantizer (8 channels of 4 levels); several groups, one
    per mel band, that of Langman et al., "Spectral Codecs" (2024).

    Rounding runs in float32 whatever the autocast; bfloat16 would cost half the
    codes.

    Arguments
    ---------
    levels : sequence of int
        Levels of each channel of a group, 3 or more (LFQ is for 2).
    groups : int
        Number of codebooks; each takes a consecutive part of the channels.
    dim : int, optional
        Size of a latent frame. Linear layers lead to ``groups * len(levels)``
        channels and back when it differs; default: that number, without layers.
    bound : "tanh" or "clamp"
        How values are brought into range. With "clamp" what was decoded encodes to
        itself; the encoder then has to stay within [-1, 1] by itself.

    Raises
    ------
    DsuError
        If a level is below 3, or a group has more than 2^24 codes.

    Example
    -------
    >>> fsq = FSQ(levels=[8, 5, 5, 5])
    >>> fsq.dim, fsq.codebook_sizes
    (4, (1000,))
    >>> codes = fsq.encode(torch.zeros(1, 2, 4))
    >>> codes.tolist()
    [[[500], [500]]]
    >>> fsq.decode(codes)[0, 0].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        levels: Sequence[int],
        groups: int = 1,
        dim: int | None = None,
        bound: str = "tanh",
    ):
        levels = tuple(levels)
        if not levels or min(levels) < 3 or groups < 1:
            raise DsuError(
                f"FSQ needs levels >= 3 and groups >= 1, got levels={levels}, "
                f"groups={groups}; for two levels take LFQ"
            )
        size = math.prod(levels)
        if size > 2**24:
            raise DsuError(f"{size} codes a group are more than 2^24: use groups")
        if bound not in ("tanh", "clamp"):
            raise DsuError(f"bound={bound!r}: take 'tanh' or 'clamp'")
        super().__init__(len(levels), groups, size, dim)
        self.levels, self.bound = levels, bound
        radix = [math.prod(levels[:place]) for place in range(len(levels))]
        count = torch.tensor(levels, dtype=torch.float32)
        half = (count - 1) * (1 + _EPS) / 2
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        ratio = offset / half
        constants = {
            "half": half,
            "offset": offset,
            "shift": ratio.atanh() if bound == "tanh" else ratio,
            "width": torch.div(count, 2, rounding_mode="floor"),
            "places": torch.tensor([float(place) for place in radix]),
        }
        for name, value in constants.items():
            self.register_buffer(f"_{name}", value, persistent=False)
        self.register_buffer("_radix", torch.tensor(radix), persistent=False)
        self.register_buffer("_count", torch.tensor(levels), persistent=False)

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return (
            f"dim={self.dim}, levels={self.levels}, groups={self.groups}, "
            f"bound={self.bound}"
        )

    def forward(
        self,
        latents: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
    ) -> Quantized:
        """Round with a straight-through gradient; shapes as in ``Quantizer``."""
        keep = self.keep(n_codebooks)
        bounded = self._bounded(latents, keep)
        rounded = bounded.round()
        codes = self._ids(rounded)
        grid = straight_through(bounded, rounded) / self._width
        usage = count_codes(codes, self.codebook_sizes, lens)
        return Quantized(codes, self.to_latents(grid), {}, usage)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Level numbers as one id per group: ``[batch, frames, groups]``."""
        with torch.no_grad():
            return self._ids(self._bounded(latents, self.keep(n_codebooks)).round_())

    def decode(self, codes: Tensor) -> Tensor:
        """Grid points in [-1, 1], projected back; channels left out are zero."""
        return self.to_latents(self.embed(codes))

    def embed(self, codes: Tensor) -> Tensor:
        """Grid points ``[batch, frames, k, channels of a group]`` in [-1, 1]."""
        return (self.to_levels(codes) - self._width) / self._width

    def to_levels(self, codes: Tensor) -> Tensor:
        """Level numbers ``[batch, frames, k, channels]``, each 0 to levels - 1."""
        digits = torch.div(codes[..., None], self._radix, rounding_mode="floor")
        return digits % self._count

    def _bounded(self, latents: Tensor, keep: int) -> Tensor:
        """Values whose rounding is the level: ``[batch, frames, keep, channels]``."""
        values = self.to_channels(latents, keep)
        shifted = values + self._shift
        if self.bound == "tanh":
            shifted = shifted.tanh()
        else:
            shifted = shifted.clamp(-1, 1)
        return shifted * self._half - self._offset

    def _ids(self, rounded: Tensor) -> Tensor:
        rounded = rounded.detach()
        # float32 counts up to 2^24 without a gap; bfloat16 would not.
        with torch.autocast(rounded.device.type, enabled=False):
            return ((rounded + self._width) @ self._places).long()
