"""Similarity graphs, their structural entropy, and partitions that make it small."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_graph(frames: Tensor, neighbours: int) -> Tensor:
    """Cosine similarities of frames to their nearest others, as a symmetric matrix.

    Arguments
    ---------
    frames : Tensor
        ``[n, dim]``.
    neighbours : int
        Edges that each frame has at least, below ``n``. Negative similarities make
        no edge.

    Returns
    -------
    Tensor
        float64 ``[n, n]`` on the CPU, zero on the diagonal.

    Example
    -------
    >>> similarity_graph(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), 1)
    tensor([[0., 1., 0.],
            [1., 0., 0.],
            [0., 0., 0.]], dtype=torch.float64)
    """
    unit = F.normalize(frames.detach().cpu().double(), dim=1)
    likeness = unit @ unit.t()
    likeness.fill_diagonal_(-torch.inf)
    values, places = likeness.topk(neighbours, dim=1)
    weights = torch.zeros_like(likeness).scatter_(1, places, values.clamp(min=0))
    return torch.maximum(weights, weights.t())


def structural_entropy(weights: Tensor, labels: Tensor) -> float:
    """Two-dimensional structural entropy of a graph under a partition, in bits.

    Li and Pan, "Structural Information and Dynamical Complexity of Networks" (2016):
    ``- sum_i d_i/V log2(d_i/V_j) - sum_j g_j/V log2(V_j/V)`` with degrees d, volumes
    V_j and cut weights g_j of the clusters and the total volume V.

    Arguments
    ---------
    weights : Tensor
        Symmetric ``[n, n]``, not negative.
    labels : Tensor
        int64 ``[n]``.

    Returns
    -------
    float
        Bits per step of a random walk.

    Example
    -------
    >>> pair = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> structural_entropy(pair, torch.tensor([0, 0]))
    1.0
    """
    weights = weights.double()
    spots = F.one_hot(labels).double()
    degree, total = weights.sum(1), weights.sum()
    volume = spots.t() @ degree
    cut = volume - (spots.t() @ weights @ spots).diagonal()
    inner = torch.xlogy(degree, degree / volume[labels].clamp(min=1e-300)).sum()
    outer = torch.xlogy(cut, volume / total).sum()
    return float(-(inner + outer) / total / np.log(2)) + 0.0


def minimise_entropy(weights: Tensor, block: int = 1000) -> Tensor:
    """Merge nodes greedily while that lowers the structural entropy.

    Each merge is the one that lowers it most among the clusters of a block; blocks
    are joined, and grow when nothing more happens in any, until one holds all.

    Arguments
    ---------
    weights : Tensor
        Symmetric ``[n, n]``, not negative, zero on the diagonal.
    block : int
        Clusters per block in the first round.

    Returns
    -------
    Tensor
        int64 ``[n]``, numbered by first node.

    Example
    -------
    >>> pairs = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).fill_diagonal_(0)
    >>> minimise_entropy(pairs).tolist()
    [0, 0, 1, 1]
    """
    between = weights.detach().cpu().double().numpy().copy()
    volume = between.sum(1)
    labels, total = np.arange(len(between)), float(volume.sum())
    if total == 0:
        return torch.from_numpy(labels)
    while True:
        count = len(between)
        places = np.empty(count, dtype=np.int64)
        for first in range(0, count, block):
            part = slice(first, first + block)
            inside = between[part, part].copy()
            cut = volume[part] - between.diagonal()[part]
            places[part] = first + _merge_block(inside, volume[part].copy(), cut, total)
        _, places = np.unique(places, return_inverse=True)
        spots = np.eye(int(places.max()) + 1)[places]
        between, volume = spots.T @ between @ spots, spots.T @ volume
        labels = places[labels]
        if count <= block:
            return torch.from_numpy(labels)
        if len(between) == count:
            block *= 2


def _merge_block(
    between: np.ndarray, volume: np.ndarray, cut: np.ndarray, total: float
) -> np.ndarray:
    """Greedy merges; the first member of each node's cluster. Uses up its arrays."""
    count = len(volume)
    np.fill_diagonal(between, 0)
    owner = np.arange(count)
    best, partner = np.full(count, np.inf), np.zeros(count, dtype=np.int64)

    def changes(place: int) -> np.ndarray:
        found = merge_change(
            *(torch.from_numpy(values) for values in (volume, cut)),
            *(torch.tensor(values[place]) for values in (volume, cut)),
            torch.from_numpy(between[place]),
            torch.tensor(total),
        ).numpy()
        return np.where(between[place] > 0, found, np.inf)

    def look(place: int) -> None:
        row = changes(place)
        partner[place] = row.argmin()
        best[place] = row[partner[place]]

    for place in range(count):
        look(place)
    # Rounding could turn equal partitions into merges without end or gain.
    while best.min() < -1e-12:
        place = int(best.argmin())
        one, other = sorted((place, int(partner[place])))
        cut[one] += cut[other] - 2 * between[one, other]
        volume[one] += volume[other]
        between[one] += between[other]
        between[:, one] = between[one]
        between[one, one] = 0
        between[other] = between[:, other] = 0
        best[other] = np.inf
        owner[owner == other] = one
        row = changes(one)
        stale = (partner == one) | (partner == other)
        for neighbour in np.flatnonzero(between[one] > 0):
            if stale[neighbour]:
                look(neighbour)
            elif row[neighbour] < best[neighbour]:
                best[neighbour], partner[neighbour] = row[neighbour], one
        look(one)
    return owner


def merge_change(
    volume: Tensor,
    cut: Tensor,
    other_volume: Tensor,
    other_cut: Tensor,
    link: Tensor,
    total: Tensor,
) -> Tensor:
    """Change of the structural entropy (nats) when clusters are merged with another.

    Only the terms of the two clusters change: ``V log V - g log(V / total)`` each.

    Arguments
    ---------
    volume, cut : Tensor
        Volumes and cut weights of candidates ``[...]``, float64.
    other_volume, other_cut : Tensor
        Those of the cluster that joins one of them.
    link : Tensor
        Weight of the edges between.
    total : Tensor
        Volume of the whole graph.

    Returns
    -------
    Tensor
        ``[...]``; negative where a merge lowers the entropy.
    """

    def terms(size: Tensor, boundary: Tensor) -> Tensor:
        share = size.clamp(min=1e-300) / total
        return torch.xlogy(size, size) - boundary * share.log()

    merged = terms(volume + other_volume, cut + other_cut - 2 * link)
    return (merged - terms(volume, cut) - terms(other_volume, other_cut)) / total
