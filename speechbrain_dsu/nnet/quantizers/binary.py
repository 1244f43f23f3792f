"""Binary quantizers: the code of a group is the signs of its channels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantized, count_codes
from speechbrain_dsu.nnet.quantizers.channels import GroupedChannels
from speechbrain_dsu.nnet.quantizers.codebook_base import mean_square, valid_frames
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.tokens.edits import to_bits
from speechbrain_dsu.utils.errors import DsuError


class LFQ(GroupedChannels):
    """Lookup-free quantization: each channel becomes -1 or 1.

    Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual
    Generation" (2023), section 3. The loss "entropy" is their equation 6,

        E[H(q(code | latent))] - diversity * H(E[q(code | latent)]),

    with q a softmax over all 2^bits codes by their distance. Since q is a product
    over the bits, the first term is a sum of binary entropies; the mean of the
    second is one matrix product of the two halves of the bits. Both are exact and
    no frames x codes table is ever made. The entropies are those of the local batch
    (nothing is stored, no rank waits for another).

    Codes are read with the first channel as the most significant bit.

    Arguments
    ---------
    bits : int
        Channels of a group, which has ``2**bits`` codes; at most 24.
    groups : int
        Number of codebooks; each takes a consecutive part of the channels.
    dim : int, optional
        Size of a latent frame. Linear layers lead to ``groups * bits`` channels and
        back when it differs; default: that number, without layers.
    scale : float
        Decoded channels are ``-scale`` or ``scale``.
    sharpness : float
        Inverse temperature of q.
    diversity : float
        Weight of the second entropy.
    entropy_weight, commitment_weight : float
        Weights of the losses; 0 leaves a loss out.

    Raises
    ------
    DsuError
        If a number is out of range.

    Example
    -------
    >>> lfq = LFQ(bits=3)
    >>> codes = lfq.encode(torch.tensor([[[0.4, -2.0, 0.1]]]))
    >>> codes.tolist(), lfq.decode(codes).tolist()
    ([[[5]]], [[[1.0, -1.0, 1.0]]])
    """

    def __init__(
        self,
        bits: int,
        groups: int = 1,
        dim: int | None = None,
        scale: float = 1.0,
        sharpness: float = 100.0,
        diversity: float = 1.0,
        entropy_weight: float = 0.1,
        commitment_weight: float = 0.0,
    ):
        check_bits(bits)
        if groups < 1:
            raise DsuError(f"groups={groups} must be positive")
        if scale <= 0 or sharpness <= 0:
            raise DsuError(f"scale={scale} and sharpness={sharpness} must be positive")
        super().__init__(bits, groups, 2**bits, dim)
        self.bits, self.scale = bits, float(scale)
        self.sharpness, self.diversity = float(sharpness), float(diversity)
        self.entropy_weight = float(entropy_weight)
        self.commitment_weight = float(commitment_weight)

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return (
            f"dim={self.dim}, bits={self.bits}, groups={self.groups}, "
            f"scale={self.scale}"
        )

    def forward(
        self,
        latents: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
    ) -> Quantized:
        """Signs with a straight-through gradient.

        Losses, weighted: "entropy" as above, and "commitment", the squared distance
        between channels and signs; both are means over valid frames and codebooks.
        """
        channels = self.to_channels(latents, self.keep(n_codebooks))
        codes = self._ids(channels)
        signs = self._signs(channels.detach() > 0)
        quantized = self.to_latents(straight_through(channels, signs))
        usage = count_codes(codes, self.codebook_sizes, lens)
        losses = self._losses(channels, signs, lens)
        return Quantized(codes, quantized, losses, usage)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Signs read as one id per group: ``[batch, frames, groups]``."""
        with torch.no_grad():
            return self._ids(self.to_channels(latents, self.keep(n_codebooks)))

    def decode(self, codes: Tensor) -> Tensor:
        """Signs times the scale, projected back; channels left out are zero."""
        return self.to_latents(self.embed(codes))

    def embed(self, codes: Tensor) -> Tensor:
        """Signs times the scale: ``[batch, frames, k, bits]``."""
        return self._signs(to_bits(codes, self.bits))

    def _signs(self, bits: Tensor) -> Tensor:
        return bits.float().mul_(2 * self.scale).sub_(self.scale)

    def _ids(self, channels: Tensor) -> Tensor:
        bits = channels.detach() > 0
        # float32 counts up to 2^24 without a gap, and multiplies faster than int64.
        places = 2.0 ** torch.arange(self.bits - 1, -1, -1, device=bits.device)
        with torch.autocast(bits.device.type, enabled=False):
            return (bits.float() @ places).long()

    def _losses(
        self, channels: Tensor, signs: Tensor, lens: Tensor | None
    ) -> dict[str, Tensor]:
        valid = valid_frames(channels, lens)
        losses = {}
        if self.commitment_weight:
            error = mean_square((channels - signs).flatten(2), valid)
            losses["commitment"] = self.commitment_weight * error
        if self.entropy_weight:
            groups = channels.flatten(0, 1) if valid is None else channels[valid]
            # Softmax over codes c by -|x - c|^2: log odds of one bit are 4 x scale.
            logits = 4 * self.scale * self.sharpness * groups
            with torch.autocast(channels.device.type, enabled=False):
                entropy = self._entropy(logits)
            losses["entropy"] = self.entropy_weight * entropy
        return losses

    def _entropy(self, logits: Tensor) -> Tensor:
        if len(logits) == 0:
            return logits.sum()
        spread = torch.stack([joint_entropy(group) for group in logits.unbind(1)])
        return bit_entropy(logits).sum(-1).mean() - self.diversity * spread.mean()


class BSQ(LFQ):
    """Binary spherical quantization: latents on the sphere, codes at its corners.

    A group is scaled to length one and becomes the nearest corner
    ``(+-1, ..., +-1) / sqrt(bits)``. Zhao et al., "Image and Video Tokenization with
    Binary Spherical Quantization" (2024), equations 4 to 8. The quantization error
    is bounded and there are no codes to learn; the losses are those of ``LFQ`` over
    the scaled channels.

    Arguments
    ---------
    bits : int
        Channels of a group, which has ``2**bits`` codes; at most 24.
    groups : int
        Number of codebooks.
    dim : int, optional
        Size of a latent frame; see ``LFQ``.
    sharpness : float
        Inverse temperature of the entropies.
    diversity : float
        Weight of the second entropy.
    entropy_weight, commitment_weight : float
        Weights of the losses; 0 leaves a loss out.

    Example
    -------
    >>> bsq = BSQ(bits=4)
    >>> found = bsq(torch.tensor([[[3.0, -1.0, 0.5, -0.1]]]))
    >>> found.codes.tolist(), found.quantized.tolist()
    ([[[10]]], [[[0.5, -0.5, 0.5, -0.5]]])
    """

    def __init__(
        self,
        bits: int,
        groups: int = 1,
        dim: int | None = None,
        sharpness: float = 100.0,
        diversity: float = 1.0,
        entropy_weight: float = 0.1,
        commitment_weight: float = 0.0,
    ):
        scale = 1 / math.sqrt(max(bits, 1))
        weights = entropy_weight, commitment_weight
        super().__init__(bits, groups, dim, scale, sharpness, diversity, *weights)

    def to_channels(self, latents: Tensor, keep: int) -> Tensor:
        """Groups scaled to length one: ``[batch, frames, keep, bits]``."""
        return F.normalize(super().to_channels(latents, keep), dim=-1)


def bit_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of a coin with these log odds.

    Arguments
    ---------
    logits : Tensor
        Any shape.

    Returns
    -------
    Tensor
        Same shape, 0 to log 2; exact and differentiable far out.

    Example
    -------
    >>> bit_entropy(torch.tensor([0.0, 1e4])).tolist()
    [0.6931..., 0.0]
    """
    size = logits.abs()
    # H = softplus(-|l|) + |l| sigmoid(-|l|), free of overflow and of log(0).
    return F.softplus(-size) + size * torch.sigmoid(-size)


def joint_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean over frames of products of independent bits.

    Frames choose codes of ``bits`` coins each; their mean is a distribution over
    ``2**bits`` codes without independence. It is computed exactly as the product of
    two tables, one per half of the bits: ``frames * 2**bits`` multiplications.

    Arguments
    ---------
    logits : Tensor
        Log odds ``[frames, bits]``.

    Returns
    -------
    Tensor
        Scalar, in nats.

    Example
    -------
    >>> joint_entropy(torch.tensor([[1e4, 1e4], [-1e4, -1e4]])).item()
    0.6931...
    """
    bits = logits.shape[1]
    ones = torch.sigmoid(logits)
    half = bits // 2
    left, right = (_joint(part) for part in (ones[:, :half], ones[:, half:]))
    mean = (left.t() @ right).flatten() / len(logits)
    return torch.special.entr(mean.clamp(min=1e-12)).sum()


def _joint(ones: Tensor) -> Tensor:
    """Probabilities of all patterns of a few bits: ``[frames, 2**bits]``."""
    table = ones.new_ones(len(ones), 1)
    for bit in ones.unbind(1):
        pair = torch.stack((1 - bit, bit), dim=1)
        table = (table[:, :, None] * pair[:, None, :]).flatten(1)
    return table


def check_bits(bits: int) -> None:
    """DsuError unless codes of so many bits can be counted, 1 to 24.

    Example
    -------
    >>> check_bits(10)
    """
    if not 1 <= bits <= 24:
        raise DsuError(f"bits={bits}: take 1 to 24, and groups for more")
