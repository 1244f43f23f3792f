"""Batches of similar lengths and about equal cost, for any dataset."""

from collections.abc import Sequence
from typing import Any

import torch
from speechbrain.dataio.sampler import DynamicBatchSampler


def batches_by_length(
    dataset: Any,
    lengths: Sequence[float],
    budget: float,
    seed: int = 0,
    shuffle: bool = True,
    buckets: int = 8,
    max_items: int | None = None,
) -> dict[str, Any]:
    """Loader options: batches of similar lengths, padded to a budget at most.

    Arguments
    ---------
    dataset : Dataset
        To be batched.
    lengths : sequence of float
        Of its items, in its order: seconds, frames or whatever costs.
    budget : float
        Padded length of a batch, at most (one item at least).
    seed : int
        Of the order.
    shuffle : bool
        Another order in each epoch.
    buckets : int
        Groups of similar lengths, each as large as the others.
    max_items : int, optional
        Items in a batch, at most.

    Returns
    -------
    dict
        For ``train_loader_kwargs`` and ``valid_loader_kwargs`` of ``fit``.

    Example
    -------
    >>> loading = batches_by_length([3, 4, 5, 6], [3, 3, 9, 9], 18, shuffle=False)
    >>> list(loading["batch_sampler"])
    [[0, 1], [2, 3]]
    """
    sizes = torch.tensor(lengths, dtype=torch.float64)
    shares = torch.arange(1, buckets + 1, dtype=torch.float64) / buckets
    edges = torch.quantile(sizes, shares, interpolation="higher").unique().tolist()
    sampler = DynamicBatchSampler(
        dataset,
        budget,
        bucket_boundaries=edges,
        lengths_list=sizes.tolist(),
        shuffle=shuffle,
        batch_ordering="random" if shuffle else "ascending",
        max_batch_ex=max_items,
        seed=seed,
    )
    return {"batch_sampler": sampler}
