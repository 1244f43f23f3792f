"""A small autoencoder of frames around a quantizer, for claims about quantizers."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.rates import entropy


class FrameCodec(nn.Module):
    """Frames to latents, through a quantizer and back, frame by frame.

    Arguments
    ---------
    dim : int
        Size of a frame.
    quantizer : nn.Module
        By the quantizer contract; its ``dim`` is that of the latents.
    hidden : int
        Width of the one hidden layer on either side.

    Example
    -------
    >>> from speechbrain_dsu.evaluation.blocks import block
    >>> codec = FrameCodec(40, block("quantizer_vq", size=8, dim=4))
    >>> codec.decode(codec.encode(torch.randn(5, 40))).shape
    torch.Size([5, 40])
    """

    def __init__(self, dim: int, quantizer: nn.Module, hidden: int = 128):
        super().__init__()
        inner = quantizer.dim
        self.encoder = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, inner)
        )
        self.quantizer = quantizer
        self.decoder = nn.Sequential(
            nn.Linear(inner, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def loss(self, frames: Tensor) -> Tensor:
        """Mean squared error of frames ``[n, dim]``, and the quantizer's losses."""
        found = self.quantizer(self.encoder(frames).unsqueeze(0))
        error = (self.decoder(found.quantized[0]) - frames).square().mean()
        return error + sum(found.losses.values())

    @torch.no_grad()
    def latents(self, frames: Tensor) -> Tensor:
        """Latents ``[n, inner]`` before quantization."""
        return self.encoder(frames)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes ``[n, codebooks]``."""
        return self.quantizer.encode(self.encoder(frames).unsqueeze(0))[0]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames ``[n, dim]`` of codes, or of the first few codebooks' codes."""
        return self.decoder(self.quantizer.decode(codes.unsqueeze(0))[0])


def train_codec(
    codec: FrameCodec,
    frames: Tensor,
    steps: int,
    generator: torch.Generator,
    batch: int = 512,
    rate: float = 1e-3,
) -> FrameCodec:
    """Train by Adam on random batches of frames; leaves it in evaluation mode.

    Arguments
    ---------
    codec : FrameCodec
        Changed in place.
    frames : Tensor
        ``[n, dim]``.
    steps : int
        Optimizer steps.
    generator : torch.Generator
        Draws the batches.
    batch : int
        Frames per step.
    rate : float
        Learning rate.

    Returns
    -------
    FrameCodec
        The same one.
    """
    optimizer = torch.optim.Adam(codec.parameters(), lr=rate)
    codec.train()
    for _ in range(steps):
        picks = torch.randint(len(frames), (batch,), generator=generator)
        optimizer.zero_grad()
        codec.loss(frames[picks]).backward()
        optimizer.step()
    return codec.eval()


def usage(ids: Tensor, size: int) -> tuple[float, float]:
    """Share of the ids that occur, and perplexity of how often.

    Arguments
    ---------
    ids : Tensor
        int64, of any shape.
    size : int
        Number of ids there are.

    Returns
    -------
    tuple of float
        Share in (0, 1], and two to the entropy, 1 to ``size``.

    Example
    -------
    >>> usage(torch.tensor([0, 0, 3, 3]), 8)
    (0.25, 2.0)
    """
    counts = torch.bincount(ids.reshape(-1), minlength=size)
    return float((counts > 0).double().mean()), 2.0 ** entropy(counts)
