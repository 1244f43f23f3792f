"""Clusters of a graph by structural entropy, and codes by its smallest growth."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.nnet.quantizers.entropy_graph import (
    merge_change,
    minimise_entropy,
    similarity_graph,
)
from speechbrain_dsu.utils.errors import DsuError

_BLOCK = 512


class StructuralEntropy(Quantizer):
    """A codebook whose number of codes comes out of the data.

    SECodec (Wang et al., "SECodec: Structural Entropy-based Compressive Speech
    Representation Codec for Speech Language Models", 2025): frames are the nodes of
    a graph of cosine similarities; clusters are merged while that lowers the
    two-dimensional structural entropy, within parts of the graph first so that it
    scales. A codeword is the mean of a cluster. A new frame is inserted into the
    graph and takes the cluster whose structural entropy grows least, which need not
    be the one with the nearest codeword. The nodes are part of the quantizer.

    Nothing is trained by gradient. Scores are computed in float64.

    Arguments
    ---------
    size : int
        Most codes there may be; ids beyond ``found`` never occur.
    nodes : int
        Frames of the graph.
    dim : int
        Size of a frame.
    neighbours : int
        Edges of a frame to its most similar frames.
    block : int
        Clusters looked at together in the first round of merging.

    Raises
    ------
    DsuError
        If a size is out of range, more than ``size`` clusters are found, or codes
        are asked for before ``fit``.

    Example
    -------
    >>> quantizer = StructuralEntropy(size=6, nodes=6, dim=2, neighbours=2)
    >>> frames = torch.tensor(
    ...     [[1, 0.0], [1, 0.1], [1, 0.2], [0, 1.0], [0.1, 1], [0.2, 1]]
    ... )
    >>> quantizer.fit(frames)
    >>> int(quantizer.found), quantizer.encode(frames[None]).flatten().tolist()
    (2, [0, 0, 0, 1, 1, 1])
    """

    def __init__(
        self,
        size: int,
        nodes: int,
        dim: int,
        neighbours: int = 10,
        block: int = 1000,
    ):
        if not 1 <= size <= nodes or not 1 <= neighbours < nodes or block < 2:
            raise DsuError(
                f"size={size} and neighbours={neighbours} must be 1 to nodes={nodes}, "
                f"block={block} at least 2"
            )
        super().__init__(dim, (size,))
        self.size, self.neighbours, self.block = size, neighbours, block
        self.register_buffer("frames", torch.full((nodes, dim), torch.nan))
        self.register_buffer("cluster", torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("vectors", torch.zeros(size, dim))
        self.register_buffer("volume", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("cut", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("found", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return f"dim={self.dim}, size={self.size}, neighbours={self.neighbours}"

    def fit(self, frames: Tensor) -> None:
        """Build the graph and the codebook from frames ``[nodes, dim]``."""
        if frames.shape != self.frames.shape or not bool(frames.isfinite().all()):
            raise DsuError(
                f"frames must be finite and {list(self.frames.shape)}, got "
                f"{list(frames.shape)}"
            )
        weights = similarity_graph(frames, self.neighbours)
        labels = minimise_entropy(weights, self.block)
        found = int(labels.max()) + 1
        if found > self.size:
            raise DsuError(f"{found} clusters found: set size to {found} or more")
        spots = F.one_hot(labels, self.size).double()
        total = spots.sum(0).clamp(min=1)[:, None]
        inside = (spots.t() @ weights @ spots).diagonal()
        volume = spots.t() @ weights.sum(1)
        self.frames.copy_(frames)
        self.cluster.copy_(labels)
        self.vectors.copy_(spots.t() @ frames.cpu().double() / total)
        self.volume.copy_(volume)
        self.cut.copy_(volume - inside)
        self.found.fill_(found)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Clusters of least growth ``[batch, frames, 1]``."""
        self.check_dim(latents)
        self.keep(n_codebooks)
        found = int(self.found)
        if found == 0:
            raise DsuError("this codebook was not fitted or loaded yet")
        rows = latents.detach().reshape(-1, self.dim)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            nodes = F.normalize(self.frames.double(), dim=1)
            parts = [
                self._growth(part.double(), nodes, found).argmin(1)
                for part in rows.split(_BLOCK)
            ]
        codes = torch.cat(parts) if parts else rows.new_zeros(0, dtype=torch.int64)
        return codes.view(*latents.shape[:2], 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Means of the clusters ``[batch, frames, dim]``."""
        return self.vectors[codes[..., 0]]

    def embed(self, codes: Tensor) -> Tensor:
        """Means of the clusters ``[batch, frames, 1, dim]``."""
        return self.vectors[codes]

    def _growth(self, rows: Tensor, nodes: Tensor, found: int) -> Tensor:
        """Structural entropy with a frame in each cluster, less that with it alone."""
        likeness = F.normalize(rows, dim=1) @ nodes.t()
        weights, places = likeness.topk(self.neighbours, dim=1)
        # A frame unlike all nodes still has a nearest one.
        weights = weights.clamp(min=0)
        weights[:, 0].clamp_(min=1e-9)
        links = weights.new_zeros(len(rows), found)
        links.scatter_add_(1, self.cluster[places], weights)
        degree = links.sum(1, keepdim=True)
        total = self.volume.sum() + 2 * degree
        # Its edges count for the clusters at their other ends wherever it goes.
        volume, cut = self.volume[:found] + links, self.cut[:found] + links
        return merge_change(volume, cut, degree, degree, links, total)
