"""Quantizers as graphs: the same search without branches on values.

The modules' own search settles near ties in a branch of its own and works in blocks;
a graph can do neither. Here all products of the search run in float64 instead, and
of vectors that are equal up to its rounding the first counts, as there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError

_ROUNDING = 1e-13


class ResidualGraph(nn.Module):
    """Codes of a residual chain: ``[1, frames, dim]`` to int64 ``[1, frames, k]``.

    Arguments
    ---------
    levels : sequence of nn.Module
        Codebooks, or codebooks between two linear layers (``Projected``).

    Raises
    ------
    DsuError
        If a level is neither.
    """

    def __init__(self, levels: list[nn.Module]):
        super().__init__()
        self.levels = nn.ModuleList(_LevelGraph(level) for level in levels)

    def forward(self, latents: Tensor) -> Tensor:
        """Each level's code of what the ones before left over."""
        rest, codes = latents, []
        for level in self.levels:
            ids, chosen = level(rest)
            codes.append(ids)
            rest = rest - chosen
        return torch.stack(codes, dim=-1)


class _LevelGraph(nn.Module):
    """One codebook: the code of a frame and what it stands for."""

    def __init__(self, level: nn.Module):
        super().__init__()
        book = getattr(level, "quantizer", level)
        if not hasattr(book, "vectors") or not hasattr(book, "metric"):
            raise DsuError(f"{type(level).__name__} can't be exported to ONNX")
        self.before = getattr(level, "project_in", nn.Identity())
        self.after = getattr(level, "project_out", nn.Identity())
        keys = vectors = book.vectors.detach().float()
        self.by_direction = book.metric != "euclidean"
        if self.by_direction:
            keys = F.normalize(vectors, dim=-1)
        keys = keys.double()
        self.register_buffer("vectors", vectors)
        self.register_buffer("keys", keys.t().contiguous())
        self.register_buffer("offsets", keys.square().sum(1) / 2)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Ids ``[1, frames]`` and decoded frames."""
        inner = self.before(frames)
        if self.by_direction:
            inner = inner / inner.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
        scores = inner.double() @ self.keys - self.offsets
        top = scores.amax(-1, keepdim=True)
        slack = _ROUNDING * (top.abs() + self.offsets.max())
        ids = (scores >= top - slack).to(torch.int32).argmax(-1)
        return ids, self.after(self.vectors[ids])


class EncodeGraph(nn.Module):
    """A quantizer whose own ``encode`` is free of branches, such as FSQ.

    Arguments
    ---------
    quantizer : nn.Module
        The quantizer.
    """

    def __init__(self, quantizer: nn.Module):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latents: Tensor) -> Tensor:
        """Codes of latents."""
        return self.quantizer.encode(latents)


class DecoderGraph(nn.Module):
    """Codes to samples: the quantizer's way back and the decoder.

    Arguments
    ---------
    codec : nn.Module
        Has the quantizer.
    decoder : nn.Module
        As it runs.
    """

    def __init__(self, codec: nn.Module, decoder: nn.Module):
        super().__init__()
        self.quantizer = codec.quantizer
        self.decoder = decoder

    def forward(self, codes: Tensor) -> Tensor:
        """Samples ``[1, frames * hop]``."""
        return self.decoder(self.quantizer.decode(codes))


def search_graph(quantizer: nn.Module) -> nn.Module:
    """The graph of a quantizer's ``encode``.

    Arguments
    ---------
    quantizer : nn.Module
        A residual chain, a codebook or FSQ, known by what they hold.

    Raises
    ------
    DsuError
        If it is another one.
    """
    if hasattr(quantizer, "to_levels") and hasattr(quantizer, "bound"):
        return EncodeGraph(quantizer)
    if type(quantizer).__name__ == "ResidualVQ":
        return ResidualGraph(list(quantizer.levels))
    if hasattr(quantizer, "vectors") or hasattr(quantizer, "project_in"):
        return ResidualGraph([quantizer])
    raise DsuError(f"{type(quantizer).__name__} can't be exported to ONNX")
