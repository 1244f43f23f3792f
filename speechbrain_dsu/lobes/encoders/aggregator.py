"""Causal convolutions that gather context: the upper half of wav2vec."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.front_ends import make_norm
from speechbrain_dsu.nnet.streaming_conv import StreamConv1d
from speechbrain_dsu.utils.errors import DsuError


class Aggregator(nn.Module):
    """A context vector per frame, out of that frame and those before it.

    Schneider et al., "wav2vec" (2019), section 2.1, as large as in vq-wav2vec: each
    convolution is followed by a norm and ReLU and has a shortcut around it.

    Arguments
    ---------
    dim : int
        Size of a frame, before and behind.
    kernels : sequence of int
        Frames that each convolution sees.
    norm : "global" or "layer"
        Over channels and time together, as published, or over each frame: only the
        second leaves the aggregator exactly causal and blind to padding.
    dropout : float
        Behind each convolution.

    Raises
    ------
    DsuError
        If there is no convolution, or the norm is unknown.

    Example
    -------
    >>> import torch
    >>> Aggregator(dim=8, kernels=[2, 3])(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        dim: int = 512,
        kernels: Sequence[int] = tuple(range(2, 14)),
        norm: str = "global",
        dropout: float = 0.0,
    ):
        super().__init__()
        if not kernels:
            raise DsuError("an aggregator needs at least one kernel")
        self.dim, self.norm = dim, norm
        self.convs = nn.ModuleList(StreamConv1d(dim, dim, k) for k in kernels)
        self.norms = nn.ModuleList(make_norm(norm, dim) for _ in kernels)
        self.dropout = nn.Dropout(dropout)

    def extra_repr(self) -> str:
        """Settings that decide the context."""
        return f"norm={self.norm}"

    def forward(self, frames: Tensor) -> Tensor:
        """Context ``[batch, frames, dim]`` of frames ``[batch, frames, dim]``."""
        hidden = frames.transpose(1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # The factor keeps the sum of two terms at the size of one.
            hidden = (hidden + F.relu(norm(self.dropout(conv(hidden))))) * 0.5**0.5
        return hidden.transpose(1, 2)
