"""Learned binary hashes of frames, and the contrastive loss that shapes them."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantized, count_codes
from speechbrain_dsu.nnet.quantizers.binary import check_bits
from speechbrain_dsu.nnet.quantizers.channels import GroupedChannels
from speechbrain_dsu.nnet.quantizers.estimators import straight_through
from speechbrain_dsu.tokens.edits import from_bits, to_bits
from speechbrain_dsu.utils.errors import DsuError


class BinaryHash(GroupedChannels):
    """A learned hash: a linear layer, and the signs of what comes out.

    The hash layer of Wang and Utiyama, "To be Continuous, or to be Discrete, Those
    are Bits of Questions" (2024): codes are the signs, gradients those of the tanh. The
    decoder is a linear layer. Trained by reconstruction, by
    ``contrastive_hash_loss`` on ``scores``, or both.

    Arguments
    ---------
    dim : int
        Size of a latent frame.
    bits : int
        Bits of a code; ``2**bits`` codes, so at most 24.

    Example
    -------
    >>> hashing = BinaryHash(dim=6, bits=8)
    >>> codes = hashing.encode(torch.randn(1, 5, 6))
    >>> codes.shape, hashing.decode(codes).shape
    (torch.Size([1, 5, 1]), torch.Size([1, 5, 6]))
    """

    def __init__(self, dim: int, bits: int):
        check_bits(bits)
        super().__init__(bits, 1, 2**bits, dim)
        # Always hashed, also where the sizes happen to agree.
        if self.project_in is None:
            self.project_in = nn.Linear(dim, bits)
            self.project_out = nn.Linear(bits, dim)

    def forward(
        self,
        latents: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
    ) -> Quantized:
        """Hash and decode; the gradient passes the signs as through a tanh."""
        soft = self.scores(latents).unsqueeze(2)
        bits = soft.detach() > 0
        codes = from_bits(bits)[..., : self.keep(n_codebooks)]
        signs = straight_through(soft, bits.float().mul_(2).sub_(1))
        usage = count_codes(codes, self.codebook_sizes, lens)
        return Quantized(codes, self.to_latents(signs), {}, usage)

    def scores(self, latents: Tensor) -> Tensor:
        """Soft signs ``[batch, frames, bits]`` in (-1, 1), with gradient."""
        return self.to_channels(latents, 1).tanh().squeeze(2)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Hashes ``[batch, frames, 1]``."""
        with torch.no_grad():
            return from_bits(self.to_channels(latents, self.keep(n_codebooks)) > 0)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents of the signs."""
        return self.to_latents(self.embed(codes))

    def embed(self, codes: Tensor) -> Tensor:
        """Signs ``[batch, frames, 1, bits]``."""
        return to_bits(codes, self.channels).float().mul_(2).sub_(1)


def hamming_distance(codes: Tensor, others: Tensor) -> Tensor:
    """Number of bits in which ids differ.

    Arguments
    ---------
    codes, others : Tensor
        int64, of shapes that broadcast.

    Returns
    -------
    Tensor
        int64.

    Example
    -------
    >>> hamming_distance(torch.tensor([5, 7]), torch.tensor([4])).tolist()
    [1, 2]
    """
    return to_bits(codes ^ others, 62).sum(-1)


def contrastive_hash_loss(
    scores: Tensor, labels: Tensor, temperature: float = 0.1
) -> Tensor:
    """Pull hashes of one label together, push the others apart.

    After the contrastive loss and the instance selection of Wang and Utiyama (2024),
    there for spans of a parse, here for frames: an anchor's soft signs are compared
    with the hard signs of all others by their mean product; of the positives only the
    most similar one counts, so that a label may have several codes:
    ``mean_i log sum_{j != i} exp(s_ij / t) - max_{p ~ i} s_ip / t``.

    Arguments
    ---------
    scores : Tensor
        Soft signs ``[n, bits]`` of ``BinaryHash.scores``, valid frames only.
    labels : Tensor
        int64 ``[n]``.
    temperature : float
        Scale of the similarities, which lie in [-1, 1].

    Returns
    -------
    Tensor
        Scalar; anchors without another frame of their label don't count, zero when
        there are none.

    Example
    -------
    >>> scores = torch.tensor([[0.9, 0.9], [0.8, 0.9], [-0.9, -0.9]])
    >>> good = contrastive_hash_loss(scores, torch.tensor([0, 0, 1]))
    >>> bad = contrastive_hash_loss(scores, torch.tensor([0, 1, 0]))
    >>> bool(good < bad)
    True
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise DsuError(
            f"scores [n, bits] and labels [n], got {list(scores.shape)} and "
            f"{list(labels.shape)}"
        )
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.float()
        signs = straight_through(scores, torch.where(scores.detach() > 0, 1.0, -1.0))
        likeness = scores @ signs.t() / (scores.shape[1] * temperature)
    self_pair = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    positive = (labels[:, None] == labels) & ~self_pair
    anchors = positive.any(1)
    if not bool(anchors.any()):
        return scores.sum() * 0
    likeness = likeness[anchors]
    total = likeness.masked_fill(self_pair[anchors], -torch.inf).logsumexp(1)
    best = likeness.masked_fill(~positive[anchors], -torch.inf).amax(1)
    return (total - best).mean()
