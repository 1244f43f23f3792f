"""K-means against scikit-learn: training, assignment, memory.

Two peers for training: ``MiniBatchKMeans.fit`` with 20 iterations, and the recipe
of SpeechBrain (recipes/LibriSpeech/quantization: one epoch of ``partial_fit`` on
10,000 frames at a time, its published settings). Frames are synthetic: blobs of
varied size and spread around a hundred families, as phones have variants. Inertia
is the mean squared distance of held-out frames to their nearest centre.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.utils.nearest import nearest_centers
from speechbrain_dsu.utils.optional import require

Fit = Callable[..., tuple[Tensor, dict[str, Any]]]

_BATCH = 10_000
_RECIPE = {
    "init": "k-means++",
    "max_iter": 100,
    "batch_size": _BATCH,
    "tol": 0.0,
    "max_no_improvement": 100,
    "n_init": 20,
    "reassignment_ratio": 0.0,
}


class BlobFrames:
    """Seeded frames from a mixture of Gaussian blobs, drawn part by part.

    Arguments
    ---------
    dim : int
        Size of a frame.
    blobs : int
        Number of blobs, in `families` of nearby ones.
    families : int
        Number of families.
    seed : int
        Seed of the blobs and of all parts.

    Example
    -------
    >>> frames = BlobFrames(dim=4, blobs=3, families=2)
    >>> bool((frames.draw(5, part=1) == frames.draw(5, part=1)).all())
    True
    """

    def __init__(
        self, dim: int = 768, blobs: int = 2000, families: int = 100, seed: int = 0
    ):
        random = torch.Generator().manual_seed(seed)
        family = torch.randint(families, (blobs,), generator=random)
        middles = 0.5 * torch.randn(families, dim, generator=random)
        spread = torch.randn(blobs, generator=random)
        weights = torch.randn(blobs, generator=random)
        offsets = 0.55 * torch.randn(blobs, dim, generator=random)
        self.dim, self.seed = dim, seed
        self.middles = middles[family] + offsets
        self.spread = 0.7 * torch.exp(0.15 * spread)
        self.weights = torch.exp(0.7 * weights)

    def draw(self, count: int, part: int) -> Tensor:
        """Frames [count, dim] of part number `part`, always the same."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + part + 1)
        blob = torch.multinomial(self.weights, count, True, generator=random)
        noise = torch.randn(count, self.dim, generator=random)
        return noise.mul_(self.spread[blob, None]).add_(self.middles[blob])

    def stream(self, count: int, batch: int = _BATCH) -> Iterator[Tensor]:
        """`count` frames, `batch` at a time, none of them kept."""
        for part, first in enumerate(range(0, count, batch)):
            yield self.draw(min(batch, count - first), part)


def run(quick: bool = False, fit: Fit | None = None) -> list[dict[str, Any]]:
    """All rows of the section.

    Arguments
    ---------
    quick : bool
        A few thousand small frames.
    fit : callable | None
        Our training, `speechbrain_dsu.training.kmeans.fit_kmeans`; None leaves out
        the cases that need it.

    Returns
    -------
    list of dict
        Rows with case, peer, ours_s, peer_s, ratio; training adds ours_inertia and
        peer_inertia, assignment the number of disagreements, memory the peaks.
    """
    sizes = (20, 40) if quick else (500, 2000)
    count, held, dim = (4000, 1000, 16) if quick else (200_000, 20_000, 768)
    blobs = BlobFrames(dim=dim, blobs=60 if quick else 2000)
    rows = []
    if fit is not None:
        frames = torch.cat(list(blobs.stream(count)))
        held_out = blobs.draw(held, part=10**6)
        for size in sizes:
            rows += _training(fit, frames, held_out, size, repeats=1 if quick else 3)
        del frames
    for size in sizes:
        rows.append(_assignment(blobs, size, 2000 if quick else 100_000))
    if fit is not None:
        rows.append(_memory(fit, quick))
    return rows


def _training(
    fit: Fit, frames: Tensor, held_out: Tensor, size: int, repeats: int
) -> list[dict[str, Any]]:
    """Ours and both peers in turn, with a seed of its own in every turn."""
    cluster = require("sklearn.cluster", extra="dev", needed_by="the k-means bench")
    arrays = [part.numpy() for part in frames.split(_BATCH)]

    def ours(seed: int) -> Tensor:
        batches = frames.split(_BATCH)
        return fit(
            lambda epoch: batches, size, frames.shape[1], seed=seed, progress=False
        )[0][0]

    def sklearn_fit(seed: int) -> Tensor:
        model = cluster.MiniBatchKMeans(size, max_iter=20, random_state=seed)
        return torch.from_numpy(model.fit(frames.numpy()).cluster_centers_)

    def recipe(seed: int) -> Tensor:
        model = cluster.MiniBatchKMeans(size, random_state=seed, **_RECIPE)
        for part in arrays:
            model.partial_fit(part)
        return torch.from_numpy(model.cluster_centers_)

    runs = {"ours": ours, "scikit-learn fit": sklearn_fit, "SpeechBrain recipe": recipe}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    inertia: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(repeats):
        for name, train in runs.items():
            begin = time.perf_counter()
            centers = train(seed)
            seconds[name].append(time.perf_counter() - begin)
            distances = nearest_centers(held_out, centers)[1]
            inertia[name].append(distances.double().mean().item())
    case = f"train K={size}, {len(frames)} x {frames.shape[1]}"
    return [
        _row(case, peer, seconds["ours"], seconds[peer])
        | {
            "ours_inertia": round(statistics.mean(inertia["ours"]), 2),
            "peer_inertia": round(statistics.mean(inertia[peer]), 2),
        }
        for peer in runs
        if peer != "ours"
    ]


def _assignment(blobs: BlobFrames, size: int, count: int) -> dict[str, Any]:
    cluster = require("sklearn.cluster", extra="dev", needed_by="the k-means bench")
    frames = torch.cat(list(blobs.stream(count)))
    model = cluster.MiniBatchKMeans(size, max_iter=3, n_init=1, random_state=0)
    model.fit(frames[: 20 * size].numpy())
    array, centers = frames.numpy(), torch.from_numpy(model.cluster_centers_)
    ours, peer = [], []
    for _ in range(5):
        begin = time.perf_counter()
        ids, _ = nearest_centers(frames, centers)
        middle = time.perf_counter()
        expected = model.predict(array)
        ours.append(middle - begin)
        peer.append(time.perf_counter() - middle)
    wrong = (ids != torch.from_numpy(expected)).nonzero().squeeze(1)
    ours_squared, peer_squared = (
        (frames[wrong].double() - centers[choice[wrong].long()].double())
        .square()
        .sum(1)
        for choice in (ids, torch.from_numpy(expected))
    )
    # In float64, against the size of the terms: what float32 products can't tell
    # apart (also centres that are equal but for rounding), and who took the farther.
    scale = frames[wrong].double().square().sum(1)
    relative = (peer_squared - ours_squared) / scale
    case = f"assign K={size}, {count} x {blobs.dim}"
    return _row(case, "scikit-learn predict", ours, peer) | {
        "disagreements": int((relative.abs() > 1e-6).sum()),
        "float_ties": int((relative.abs() <= 1e-6).sum()),
        "ours_farther": int((relative < -1e-12).sum()),
    }


def _memory(fit: Fit, quick: bool) -> dict[str, Any]:
    """Peak memory of a fresh process, for a corpus and for one ten times larger."""
    small, dim, size = (3000, 16, 20) if quick else (40_000, 768, 500)
    peaks, seconds = [], []
    for count in (small, 10 * small):
        begin = time.perf_counter()
        peaks.append(peak_memory(fit, count, dim, size))
        seconds.append(time.perf_counter() - begin)
    return {
        "case": f"memory K={size}, {small} and {10 * small} x {dim}, streamed",
        "peer": "itself, ten times the corpus",
        "ours_s": round(seconds[0], 3),
        "peer_s": round(seconds[1], 3),
        "ratio": round(seconds[1] / seconds[0], 2),
        "peak_mb": round(peaks[0]),
        "peak_10x_mb": round(peaks[1]),
    }


_CHILD = """
import importlib, json, resource, sys, torch
from pathlib import Path
from speechbrain_dsu.evaluation.bench.kmeans import BlobFrames
module, name, count, dim, size, sample = json.loads(sys.argv[1])
torch.set_num_threads(1)
fit = getattr(importlib.import_module(module), name)
blobs = BlobFrames(dim=dim, blobs=2 * size)
fit(lambda epoch: blobs.stream(count, 2000), size, dim, sample=sample, progress=False)
status = Path("/proc/self/status")
if status.is_file():  # ru_maxrss begins at the size of the parent, VmHWM does not
    peak = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
    print(int(peak[0].split()[1]) * 1024)
else:
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def peak_memory(
    fit: Fit, count: int, dim: int, size: int, sample: int | None = None
) -> float:
    """Peak resident memory of a fit over a generated stream, in a fresh process.

    Arguments
    ---------
    fit : callable
        A module-level function called like `fit_kmeans`.
    count : int
        Frames of the stream, made as they are needed.
    dim : int
        Size of a frame.
    size : int
        Number of centres.
    sample : int | None
        Passed on to `fit`.

    Returns
    -------
    float
        Megabytes (1e6 bytes).
    """
    task = [fit.__module__, fit.__name__, count, dim, size, sample]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(task)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(child.stdout.split()[-1]) / 1e6


def _row(case: str, peer: str, ours: list[float], theirs: list[float]) -> dict:
    mine, other = statistics.median(ours), statistics.median(theirs)
    # Turn by turn: a busy machine slows both sides of one turn.
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "case": case,
        "peer": peer,
        "ours_s": round(mine, 4),
        "peer_s": round(other, 4),
        "ratio": round(statistics.median(ratios), 2),
    }
