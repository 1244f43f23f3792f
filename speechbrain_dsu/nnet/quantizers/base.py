"""The quantizer contract."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


@dataclass(frozen=True, eq=False)
class Quantized:
    """What a quantizer returns.

    Arguments
    ---------
    codes : Tensor
        int64 ``[batch, frames, codebooks]``.
    quantized : Tensor
        The decoded latents ``[batch, frames, dim]``, carrying gradients where the
        quantizer has an estimator for them.
    losses : dict
        Named scalar losses over valid frames; empty for quantizers without.
    usage : tuple of Tensor
        Per codebook, how often each id occurred among the valid frames: int64
        ``[size]``. Perplexity, dead codes and the like follow from it.
    """

    codes: Tensor
    quantized: Tensor
    losses: dict[str, Tensor]
    usage: tuple[Tensor, ...]


class Quantizer(nn.Module):
    """Latents ``[batch, frames, dim]`` to codes ``[batch, frames, k]`` and back.

    A subclass sets ``dim`` and ``codebook_sizes`` and implements ``encode`` and
    ``decode``; one that trains also overrides ``forward``. ``n_codebooks=k`` keeps
    the first ``k`` codebooks in training and in evaluation mode alike.

    Arguments
    ---------
    dim : int
        Size of a latent frame.
    codebook_sizes : sequence of int
        Number of ids of each codebook.
    """

    def __init__(self, dim: int, codebook_sizes: Sequence[int]):
        super().__init__()
        self.dim = dim
        self.codebook_sizes = tuple(codebook_sizes)
        self.frozen = False

    def freeze(self, frozen: bool = True) -> "Quantizer":
        """Keep codebooks and statistics as they are, in training mode too.

        Arguments
        ---------
        frozen : bool
            False undoes it.

        Returns
        -------
        Quantizer
            This quantizer; gradients still pass through it to the latents.
        """
        for module in self.modules():
            if isinstance(module, Quantizer):
                module.frozen = frozen
        return self.requires_grad_(not frozen)

    @property
    def learning(self) -> bool:
        """Whether a forward pass may change codebooks and statistics."""
        return self.training and not self.frozen

    def extra_repr(self) -> str:
        """Settings that decide the codes; part of the fingerprint."""
        return f"dim={self.dim}, codebook_sizes={self.codebook_sizes}"

    def forward(
        self,
        latents: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
    ) -> Quantized:
        """Quantize a batch; padded frames get codes but count in no statistic.

        Arguments
        ---------
        latents : Tensor
            ``[batch, frames, dim]``.
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        n_codebooks : int, optional
            Keep the first ``n_codebooks`` codebooks.

        Returns
        -------
        Quantized
            Codes, decoded latents, losses and usage.
        """
        codes = self.encode(latents, n_codebooks)
        usage = count_codes(codes, self.codebook_sizes, lens)
        return Quantized(codes, self.decode(codes), {}, usage)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes ``[batch, frames, codebooks]`` of latents ``[batch, frames, dim]``."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``[batch, frames, dim]`` of codes ``[batch, frames, k]``."""
        raise NotImplementedError

    def embed(self, codes: Tensor) -> Tensor:
        """Vectors ``[batch, frames, k, width]``, one per codebook, before any sum."""
        raise NotImplementedError

    def check_dim(self, latents: Tensor) -> None:
        """Raise DsuError unless latents are ``[batch, frames, dim]``."""
        if latents.ndim != 3 or latents.shape[2] != self.dim:
            raise DsuError(
                f"{type(self).__name__} takes latents [batch, frames, {self.dim}], "
                f"got {list(latents.shape)}"
            )

    def keep(self, n_codebooks: int | None) -> int:
        """The number of codebooks to use; DsuError when out of range."""
        total = len(self.codebook_sizes)
        if n_codebooks is None:
            return total
        if not 1 <= n_codebooks <= total:
            raise DsuError(f"n_codebooks={n_codebooks} asked of {total} codebooks")
        return n_codebooks


def count_codes(
    codes: Tensor, sizes: Sequence[int], lens: Tensor | None = None
) -> tuple[Tensor, ...]:
    """How often each id occurs among valid frames, per codebook.

    Arguments
    ---------
    codes : Tensor
        int64 ``[batch, frames, codebooks]``.
    sizes : sequence of int
        Ids per codebook.
    lens : Tensor, optional
        Relative lengths ``[batch]``.

    Returns
    -------
    tuple of Tensor
        int64 ``[size]`` for each codebook in ``codes``.

    Example
    -------
    >>> codes = torch.tensor([[[1], [1], [0]]])
    >>> count_codes(codes, [3], torch.tensor([2 / 3]))
    (tensor([0, 2, 0]),)
    """
    if lens is not None:
        counts = absolute_lengths(lens, codes.shape[1]).to(codes.device)
        codes = codes[length_mask(counts, codes.shape[1])]
    columns = codes.reshape(-1, codes.shape[-1]).unbind(1)
    pairs = zip(columns, sizes, strict=False)
    return tuple(torch.bincount(column, minlength=size) for column, size in pairs)
