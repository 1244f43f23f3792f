"""Quantizers that treat each channel by itself."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.utils.errors import DsuError


class UniformBins(Quantizer):
    """Equal-width intensity bins, one codebook per channel, one range for all.

    The quantizer of dMel (He Bai et al., "dMel: Speech Tokenization made Simple",
    2024, section 3.1): nothing is trained, values outside the range take the outer
    bins, decoding returns the centre of the bin.

    Arguments
    ---------
    dim : int
        Number of channels.
    levels : int
        Number of bins.
    low, high : float
        The range that the bins cover, in the unit of the input.

    Raises
    ------
    DsuError
        If the range is empty or there are fewer than two levels.

    Example
    -------
    >>> bins = UniformBins(dim=2, levels=4, low=0.0, high=8.0)
    >>> codes = bins.encode(torch.tensor([[[0.1, 7.9], [-5.0, 99.0]]]))
    >>> codes.tolist()
    [[[0, 3], [0, 3]]]
    >>> bins.decode(codes).tolist()
    [[[1.0, 7.0], [1.0, 7.0]]]
    """

    def __init__(self, dim: int, levels: int, low: float, high: float):
        if levels < 2 or not low < high:
            raise DsuError(
                f"uniform bins need two levels or more and low < high, got "
                f"levels={levels}, low={low}, high={high}"
            )
        super().__init__(dim, (levels,) * dim)
        self.levels = levels
        self.low = float(low)
        self.high = float(high)
        self.width = (self.high - self.low) / levels

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"dim={self.dim}, levels={self.levels}, low={self.low}, high={self.high}"

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Bin numbers, one codebook per channel."""
        self.check_dim(latents)
        latents = latents[..., : self.keep(n_codebooks)]
        bins = torch.floor((latents.float() - self.low) / self.width)
        return bins.clamp_(0, self.levels - 1).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Bin centres ``[batch, frames, dim]``; channels left out hold ``low``."""
        centres = self.low + (codes.float() + 0.5) * self.width
        return F.pad(centres, (0, self.dim - codes.shape[-1]), value=self.low)

    def embed(self, codes: Tensor) -> Tensor:
        """Bin centres ``[batch, frames, k, 1]``."""
        return self.decode(codes)[..., : codes.shape[-1], None]
