"""Claim 25: structural entropy finds clusters, and how many, that suit speech.

Wang et al., "SECodec: Structural Entropy-based Compressive Speech Representation
Codec for Speech Language Models" (2025): the codebook comes from merging nodes of a
graph of similar frames while that lowers its two-dimensional structural entropy; the
number of codewords is found, not set. Here: frames of spoken digits, beside k-means
with as many centres. The entropy is computed from its definition in this file, so that
the quantizer does not mark its own work. That a language model on such tokens is
better than VALL-E can't be shown here.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Cepstra,
    guess_accuracy,
    joined,
    make_result,
    make_row,
    read_digits,
    seeded,
    share_of_error,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.utils.nearest import nearest_centers

CLAIM = (
    "With a number of codewords that it finds itself, SECodec has a lower structural "
    "entropy and purer codes than k-means with as many, and reconstructs comparably."
)
_NEIGHBOURS = 10
# "Comparable" as a number, fixed before the first run.
_COMPARABLE = "within 0.05"
_MERGES = "the partition has less entropy than one cluster and than no cluster"
_STORED = "volumes and cuts that the quantizer keeps are those of the graph"
_GROWTH = "a new frame takes the cluster that adds least entropy, counted anew"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, smaller graphs.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = (40, 80) if quick else (300, 600, 1200)
    seeds = range(2 if quick else 5)
    found: dict[tuple[str, str], list[float]] = {}
    laws = {_MERGES: True, _STORED: True, _GROWTH: True}
    for seed in seeds:
        takes = 2 if quick else 20
        digits = read_digits(data, Cepstra(13), 25, seed, takes).standardised()
        frames, test = joined(digits.train), joined(digits.test)
        lengths = torch.tensor([len(d.frames) for d in digits.train])
        labels = torch.tensor([d.digit for d in digits.train])
        labels = labels.repeat_interleave(lengths)
        with seeded(seed) as generator:
            order = torch.randperm(len(frames), generator=generator)
            for nodes in sizes:
                picks = order[:nodes]
                quantizer = _fitted(frames[picks])
                key = f"{nodes} nodes", "codewords"
                found.setdefault(key, []).append(float(quantizer.found))
                if nodes == sizes[1]:
                    chosen, answers, fitted = frames[picks], labels[picks], quantizer
            centers = lloyd(chosen, int(fitted.found), generator, iterations=50)
        weights = graph(chosen)
        clusters = fitted.cluster, nearest_centers(chosen, centers)[0]
        decoded = _decoded(fitted, test), centers[nearest_centers(test, centers)[0]]
        for place, name in enumerate(("SECodec", "k-means")):
            ids = clusters[place]
            values = {
                "entropy, bit": structural_entropy(weights, ids),
                "purity, digit": guess_accuracy((ids, answers), (ids, answers)),
                "error, new speaker": share_of_error(test, decoded[place]),
            }
            for measure, value in values.items():
                found.setdefault((name, measure), []).append(value)
        _keep_laws(laws, fitted, weights, test[:5])
    setup = _setup(len(seeds), sizes[1])
    return make_result(25, "SECodec", CLAIM, setup, _rows(found, sizes), laws)


def _setup(seeds: int, nodes: int) -> str:
    return (
        "13 mel cepstra of spoken digits (FSDD, 10 ms, standardised), graphs of "
        f"{_NEIGHBOURS} nearest neighbours by cosine over {nodes} random frames. "
        "Entropy: two-dimensional structural entropy of the graph. Purity: how often a "
        "frame's digit is the commonest one of its cluster. Error: squared error of a "
        "speaker that is not in the graph, as a share of the frames' squares, each by "
        f"its own assignment. {seeds} seeds for split, nodes and k-means. {RULE} "
        "Comparable: no seed differs by more than 0.05."
    )


def _rows(
    found: dict[tuple[str, str], list[float]], sizes: tuple[int, ...]
) -> list[dict[str, Any]]:
    expected = {
        "entropy, bit": "lower",
        "purity, digit": "higher",
        "error, new speaker": _COMPARABLE,
    }
    plan = [("k-means", "SECodec", *line) for line in expected.items()]
    counts = [f"{nodes} nodes" for nodes in sizes]
    pairs = zip(counts, counts[1:], strict=False)
    plan += [(few, more, "codewords", NOT_STATED) for few, more in pairs]
    return [
        make_row(
            measure,
            (baseline, found[baseline, measure]),
            (system, found[system, measure]),
            wanted,
        )
        for baseline, system, measure, wanted in plan
    ]


def _fitted(frames: Tensor) -> nn.Module:
    nodes, dim = frames.shape
    settings = {"size": nodes, "nodes": nodes, "neighbours": _NEIGHBOURS}
    quantizer = block("quantizer_entropy", dim=dim, **settings)
    quantizer.fit(frames)
    return quantizer


def _decoded(quantizer: nn.Module, frames: Tensor) -> Tensor:
    return quantizer.decode(quantizer.encode(frames.unsqueeze(0)))[0]


def graph(frames: Tensor) -> Tensor:
    """Cosines ``[n, n]`` of each frame to its nearest others, in either direction.

    Example
    -------
    >>> bool((graph(torch.randn(20, 3)).diagonal() == 0).all())
    True
    """
    unit = nn.functional.normalize(frames.double(), dim=1)
    likeness = (unit @ unit.t()).fill_diagonal_(-2)
    weights = torch.zeros_like(likeness)
    for row, values in enumerate(likeness):
        places = values.argsort(descending=True)[:_NEIGHBOURS]
        weights[row, places] = values[places].clamp(min=0)
    return torch.maximum(weights, weights.t())


def structural_entropy(weights: Tensor, labels: Tensor) -> float:
    """Two-dimensional structural entropy in bits, cluster by cluster.

    Li and Pan, "Structural Information and Dynamical Complexity of Networks" (2016).

    Example
    -------
    >>> pairs = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).fill_diagonal_(0)
    >>> structural_entropy(pairs, torch.tensor([0, 0, 1, 1]))
    1.0
    """
    degree, total = weights.sum(1), float(weights.sum())
    entropy = 0.0
    for label in labels.unique():
        inside = labels == label
        volume = float(degree[inside].sum())
        cut = volume - float(weights[inside][:, inside].sum())
        if volume > 0:
            shares = degree[inside][degree[inside] > 0] / volume
            entropy -= volume / total * float((shares * shares.log2()).sum())
            entropy -= cut / total * math.log2(volume / total)
    return entropy


def _keep_laws(
    laws: dict[str, bool], quantizer: nn.Module, weights: Tensor, new: Tensor
) -> None:
    labels, found = quantizer.cluster, int(quantizer.found)
    ours = structural_entropy(weights, labels)
    one, none = torch.zeros_like(labels), torch.arange(len(labels))
    laws[_MERGES] &= all(ours < structural_entropy(weights, x) for x in (one, none))
    for label in range(found):
        inside = labels == label
        volume = weights[inside].sum()
        cut = volume - weights[inside][:, inside].sum()
        kept = torch.stack([quantizer.volume[label], quantizer.cut[label]])
        laws[_STORED] &= bool(torch.allclose(kept, torch.stack([volume, cut])))
    codes = quantizer.encode(new.unsqueeze(0))[0, :, 0]
    unit = nn.functional.normalize(quantizer.frames.double(), dim=1)
    for frame, code in zip(new, codes.tolist(), strict=True):
        likeness = unit @ nn.functional.normalize(frame.double(), dim=0)
        edges = torch.zeros_like(likeness)
        places = likeness.argsort(descending=True)[:_NEIGHBOURS]
        edges[places] = likeness[places].clamp(min=0)
        wider = nn.functional.pad(weights, (0, 1, 0, 1))
        wider[-1, :-1] = wider[:-1, -1] = edges
        entropies = [
            structural_entropy(wider, torch.cat([labels, torch.tensor([label])]))
            for label in range(found)
        ]
        laws[_GROWTH] &= entropies[code] < min(entropies) + 1e-9
