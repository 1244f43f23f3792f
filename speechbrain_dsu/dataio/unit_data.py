"""Utterances with whatever a task on units needs of them, for SpeechBrain's loaders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.batch import PaddedBatch, PaddedData
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_dsu.dataio.batching import batches_by_length
from speechbrain_dsu.dataio.manifest import AudioItem, hash_items, sort_items
from speechbrain_dsu.dataio.token_store import TokenStore
from speechbrain_dsu.dataio.tokenize import tokenize_corpus
from speechbrain_dsu.utils.errors import DsuError

Column = Callable[[str], Any]
"""An utterance's id to its tensor ``[length, ...]``, number or string."""


class UnitDataset(DynamicItemDataset):
    """A dataset whose items have an ``id`` and the columns of a task.

    SpeechBrain pads the first axis of an item, so columns are ``[length, ...]``:
    codes ``[frames, codebooks]``, ids of text ``[letters]``, frames of features.

    Arguments
    ---------
    entries : mapping
        Manifest: id to entry, as ``dataio.corpora.read_manifest`` gives it.
    columns : mapping
        Name to column. A model gets a tensor under the column's name and its relative
        lengths under the name with ``_lens`` behind it.
    length : callable
        An utterance's id to what it costs in a batch, in frames.

    Raises
    ------
    DsuError
        If there are no utterances.

    Example
    -------
    >>> codes = {"a": torch.zeros(3, 1), "b": torch.ones(5, 1)}
    >>> data = UnitDataset(codes, {"codes": codes.get}, lambda name: len(codes[name]))
    >>> data[0]["codes"].shape, data.lengths
    (torch.Size([3, 1]), [3, 5])
    """

    def __init__(
        self,
        entries: Iterable[str],
        columns: Mapping[str, Column],
        length: Callable[[str], float],
    ):
        names = sorted(entries)
        if not names:
            raise DsuError("there is no utterance to train on")
        super().__init__({name: {} for name in names})
        for key, column in columns.items():
            self.add_dynamic_item(column, takes="id", provides=key)
        self.set_output_keys(["id", *columns])
        self.lengths = [length(name) for name in names]

    def loading(
        self,
        budget: float,
        seed: int = 0,
        shuffle: bool = True,
        max_items: int | None = None,
    ) -> dict[str, Any]:
        """Loader options: batches of similar lengths, see ``batches_by_length``."""
        options = {"seed": seed, "shuffle": shuffle, "max_items": max_items}
        return batches_by_length(self, self.lengths, budget, **options)


def batch_columns(batch: PaddedBatch) -> dict[str, Any]:
    """A batch's columns by name, those of several lengths with ``<name>_lens``.

    Example
    -------
    >>> items = [{"id": "a", "x": torch.ones(2)}, {"id": "b", "x": torch.ones(4)}]
    >>> columns = batch_columns(PaddedBatch(items))
    >>> columns["x"].shape, columns["x_lens"].tolist()
    (torch.Size([2, 4]), [0.5, 1.0])
    """
    found: dict[str, Any] = {}
    # SpeechBrain names the columns of a batch nowhere else.
    for key in batch._PaddedBatch__keys:
        value = getattr(batch, key)
        if key == "id":
            continue
        if isinstance(value, PaddedData):
            found[key], found[f"{key}_lens"] = value.data, value.lengths
        else:
            found[key] = value
    return found


def token_store(
    tokenizer: Any,
    manifests: Iterable[Mapping[str, Mapping[str, Any]]],
    folder: str | Path,
    n_codebooks: int | None = None,
) -> TokenStore:
    """Tokenize the recordings of manifests once; the next call finds them there.

    On several ranks each does its share.

    Arguments
    ---------
    tokenizer : Tokenizer
        See ``tokenizers.base``.
    manifests : iterable of mapping
        Id to entry with ``wav``.
    folder : str or Path
        Gets a folder for each tokenizer and set of recordings.
    n_codebooks : int, optional
        Keep the first ones.

    Returns
    -------
    TokenStore
        Of all recordings.
    """
    items = [
        AudioItem(name, entry["wav"])
        for entries in manifests
        for name, entry in entries.items()
    ]
    kept = "" if n_codebooks is None else f"-{n_codebooks}"
    name = f"{tokenizer.fingerprint[:12]}-{hash_items(sort_items(items))[:8]}{kept}"
    place = Path(folder) / name
    distributed = torch.distributed.is_initialized()
    share = (
        (torch.distributed.get_rank(), torch.distributed.get_world_size())
        if distributed
        else (0, 1)
    )
    tokenize_corpus(
        items, tokenizer, place, shard=share, n_codebooks=n_codebooks, progress=False
    )
    if distributed:
        torch.distributed.barrier()
    return TokenStore(place)


def in_memory(store: TokenStore) -> dict[str, Tensor]:
    """Codes int64 ``[frames, codebooks]`` of every utterance: for small corpora, where
    reading a file for each item would cost more than the model."""
    return {name: store.codes(name) for name in store}


def number_of(names: Sequence[str]) -> Callable[[str], int]:
    """A function from a name to its place in a list.

    Example
    -------
    >>> number_of(["ann", "bob"])("bob")
    1
    """
    places = {name: place for place, name in enumerate(names)}

    def place(name: str) -> int:
        if name not in places:
            raise DsuError(f"'{name}' is none of {list(names)[:20]}")
        return places[name]

    return place
