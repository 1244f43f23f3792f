"""From recordings to a fitted tokenizer: statistics of the features, then k-means."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.dataio.manifest import AudioItem, hash_items, sort_items
from speechbrain_dsu.dataio.prefetch import Loaded, load_item, prefetch
from speechbrain_dsu.training.kmeans import fit_kmeans
from speechbrain_dsu.training.kmeans_state import write_atomic
from speechbrain_dsu.training.kmeans_stream import rank, world
from speechbrain_dsu.utils.errors import DsuError

_STATISTICS = "statistics.json"


def fit_tokenizer(
    tokenizer: Any,
    items: Iterable[AudioItem],
    *,
    seed: int = 0,
    epochs: int = 1,
    full_epochs: int = 0,
    checkpoint: str | Path | None = None,
    max_seconds: float = 30.0,
    workers: int = 2,
    progress: bool = True,
    report: Callable[[str], None] = print,
    **kmeans: Any,
) -> dict[str, Any]:
    """Fit a tokenizer's k-means quantizer, in place, to the features of recordings.

    Features with ``normalize="global"`` get the mean and deviation of the data in a
    first pass. Recordings are shuffled anew in every pass, the same way for the same
    seed, and under torch.distributed shared among the ranks.

    Arguments
    ---------
    tokenizer : FeatureTokenizer
        Its ``features`` must be ready; its ``quantizer`` a ``KMeans``.
    items : iterable of AudioItem
        See ``dataio.manifest.read_items``.
    seed : int
        Of the order, the sample and the start.
    epochs, full_epochs : int
        As in ``fit_kmeans``.
    checkpoint : str or Path, optional
        Folder of the run's state: a run that was stopped goes on from there.
    max_seconds : float
        Longer recordings are cut into pieces of this length.
    workers : int
        Threads that read.
    progress : bool
        Show bars.
    report : callable
        Takes one line per file that can't be read; the others are used.
    **kmeans
        Further arguments of ``fit_kmeans`` (``sample``, ``scan``, ...).

    Returns
    -------
    dict
        Record of ``fit_kmeans`` with ``data``: items, failed files, hash.

    Raises
    ------
    DsuError
        If the quantizer is no k-means, or no recording can be read.

    Example
    -------
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> from speechbrain_dsu.nnet.quantizers.clustering import KMeans
    >>> from speechbrain_dsu.tokenizers.features import FeatureTokenizer
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.randn(16000) * 0.1, 16000)
    >>> units = FeatureTokenizer(LogMel(normalize="global"), KMeans(size=4, dim=80))
    >>> record = fit_tokenizer(units, [AudioItem("a", str(path))], progress=False)
    >>> record["frames"], units.quantizer.is_fitted
    (81, True)
    """
    items = sort_items(items)
    quantizer, features = tokenizer.quantizer, tokenizer.features
    if not hasattr(quantizer, "set_centers"):
        raise DsuError(
            f"a {type(quantizer).__name__} can't be fitted; k-means needs a KMeans"
        )
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    stream = _Stream(tokenizer, items, seed, max_seconds, workers, report)
    if getattr(features, "normalize", None) == "global":
        features.set_statistics(*_statistics(stream, folder, hash_items(items)))
    groups, size, dim = quantizer.centers.shape
    was_training = tokenizer.training
    tokenizer.eval()
    try:
        centers, record = fit_kmeans(
            stream.batches,
            size=size,
            dim=dim,
            groups=groups,
            seed=seed,
            epochs=epochs,
            full_epochs=full_epochs,
            checkpoint=folder,
            data_hash=hash_items(items),
            progress=progress,
            **kmeans,
        )
    finally:
        tokenizer.train(was_training)
    quantizer.set_centers(centers.to(quantizer.centers.device))
    data = {"items": len(items), "hash": hash_items(items)}
    return {**record, "data": {**data, "failed": sorted(stream.failed)}}


class _Stream:
    """Frames of this rank's items, in an order that depends on seed and pass only."""

    def __init__(
        self,
        tokenizer: Any,
        items: Sequence[AudioItem],
        seed: int,
        max_seconds: float,
        workers: int,
        report: Callable[[str], None],
    ):
        self.tokenizer, self.items, self.seed = tokenizer, items, seed
        self.max_seconds, self.workers, self.report = max_seconds, workers, report
        self.failed: set[str] = set()

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Frames ``[n, dim]`` of one recording after another."""
        for wav in self.wavs(epoch):
            yield self.tokenizer.features(wav.unsqueeze(0))[0]

    @torch.no_grad()
    def wavs(self, epoch: int) -> Iterator[Tensor]:
        """Recordings on the model's device, long ones in pieces."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.items), generator=generator).tolist()
        mine = (self.items[index] for index in order[rank() :: world()])
        rate = self.tokenizer.sample_rate
        load = partial(load_item, sample_rate=rate, long_seconds=float("inf"))
        piece = max(round(self.max_seconds * rate), self.tokenizer.min_samples)
        found = False
        for entry in prefetch(load, mine, self.workers, depth=2 * self.workers + 1):
            if entry.error:
                self._note(entry)
                continue
            for wav in entry.wav.split(piece):
                # What is shorter than a window would be mostly padding.
                if len(wav) >= self.tokenizer.min_samples:
                    found = True
                    yield wav.to(self.tokenizer.device)
        if not found and world() == 1:
            raise DsuError("none of the recordings can be used: nothing to fit to")

    def _note(self, entry: Loaded) -> None:
        if entry.item.id not in self.failed:
            self.failed.add(entry.item.id)
            self.report(f"failed: {entry.error}")


@torch.no_grad()
def _statistics(
    stream: _Stream, folder: Path | None, data_hash: str
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel over all frames of all ranks."""
    path = None if folder is None else folder / _STATISTICS
    if path is not None and path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["data_hash"] != data_hash:
            raise DsuError(f"{path}: of other data; take another checkpoint folder")
        return torch.tensor(kept["mean"]), torch.tensor(kept["std"])
    features = stream.tokenizer.features
    # Count, sum and sum of squares side by side: one reduction over the ranks.
    total = torch.zeros(3, features.dim, dtype=torch.float64)
    for wav in stream.wavs(0):
        frames = features.frames(wav.unsqueeze(0))[0].double().cpu()
        total[0] += len(frames)
        total[1] += frames.sum(0)
        total[2] += frames.square().sum(0)
    if world() > 1:
        total = total.to(stream.tokenizer.device)
        torch.distributed.all_reduce(total)
        total = total.cpu()
    mean = total[1] / total[0]
    std = (total[2] / total[0] - mean.square()).clamp(min=0).sqrt().clamp(min=1e-5)
    mean, std = mean.float(), std.float()
    if path is not None and rank() == 0:
        kept = {"data_hash": data_hash, "mean": mean.tolist(), "std": std.tolist()}
        write_atomic(path, json.dumps(kept).encode())
    return mean, std
