"""Recordings as SpeechBrain's datasets and batches, for training models of audio."""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_dsu.dataio.audio_cache import AudioCache
from speechbrain_dsu.dataio.batching import batches_by_length
from speechbrain_dsu.dataio.corpora.mixing import balanced_items
from speechbrain_dsu.dataio.frame_labels import FrameLabels, frame_centres
from speechbrain_dsu.dataio.manifest import AudioItem, sort_items
from speechbrain_dsu.utils.audio import AudioError
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample

logger = logging.getLogger(__name__)


class SpeechSegments(DynamicItemDataset):
    """A dataset of ``id``, ``wav`` and, where there are labels, ``labels``.

    Which part of a recording is heard depends on seed, epoch and id alone: neither on
    the order, the batch, the number of workers nor on torch's generator.

    Arguments
    ---------
    items : iterable of AudioItem
        See ``dataio.manifest.read_items`` and ``mixed_items``.
    sample_rate : int
        Rate of the model, in hertz; files of other rates are resampled once.
    segment_seconds : float, optional
        Longer recordings are heard in random parts of this length, shorter ones as
        they are. None: always whole.
    min_seconds : float
        Shorter recordings are left out, with a line in the log.
    seed : int
        Of the random parts and speeds.
    labels : FrameLabels, optional
        By the ids of recordings.
    frames : object, optional
        The model that the labels are for: ``num_frames``, ``hop``, ``frame_offset``.
    speeds : sequence of float
        A recording is played at one of these speeds, drawn anew in each epoch: 1.1
        raises pitch and formants by a tenth. Labels follow in time.
    cache : AudioCache, optional
        By default one of a gigabyte.

    Raises
    ------
    DsuError
        If no recording is left, or labels come without ``frames``.

    Example
    -------
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.rand(32000) - 0.5, 16000)
    >>> data = SpeechSegments([AudioItem("a", str(path))], 16000, segment_seconds=0.5)
    >>> first = data[0]["wav"]
    >>> first.shape, torch.equal(first, data[0]["wav"])
    (torch.Size([8000]), True)
    >>> data.set_epoch(2)
    >>> torch.equal(first, data[0]["wav"])
    False
    """

    def __init__(
        self,
        items: Iterable[AudioItem],
        sample_rate: int,
        segment_seconds: float | None = None,
        *,
        min_seconds: float = 0.1,
        seed: int = 0,
        labels: FrameLabels | None = None,
        frames: Any = None,
        speeds: Sequence[float] = (1.0,),
        cache: AudioCache | None = None,
    ):
        if labels is not None and frames is None:
            raise DsuError("labels need frames=: the model whose frames they are for")
        self.sample_rate, self.seed, self.speeds = sample_rate, seed, tuple(speeds)
        self.segment = None if segment_seconds is None else segment_seconds
        if self.segment is not None:
            self.segment = round(segment_seconds * sample_rate)
        self.labels, self.frames = labels, frames
        self.cache = AudioCache(sample_rate) if cache is None else cache
        # Workers keep their copy of the dataset; shared memory reaches them all.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._items, data = {}, {}
        for item in sort_items(items):
            length = self._length(item)
            if length >= min_seconds * sample_rate:
                self._items[item.id] = item
                heard = min(length, self.segment or length)
                data[item.id] = {"duration": heard / sample_rate}
        if not data:
            raise DsuError("there is no recording to train on")
        super().__init__(data)
        self.add_dynamic_item(self._hear, takes="id", provides=["wav", "labels"])
        names = ["id", "wav"] if labels is None else ["id", "wav", "labels"]
        self.set_output_keys(names)

    def _length(self, item: AudioItem) -> int:
        try:
            return self.cache.n_samples(item)
        except AudioError as error:
            logger.warning("left out: %s", error)
            return 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other parts and speeds; ``UnitBrain`` calls it."""
        self._epoch.fill_(epoch)

    @property
    def seconds(self) -> list[float]:
        """What is heard of each recording, in the order of the dataset."""
        return [self.data[name]["duration"] for name in self.data_ids]

    def _hear(self, name: str) -> Iterable[Tensor | None]:
        item = self._items[name]
        draw = random.Random(f"{self.seed}:{int(self._epoch)}:{name}")
        speed = draw.choice(self.speeds)
        start, stop = self._part(self.cache.n_samples(item), speed, draw)
        wav = self.cache.read(item, start, stop)
        if speed != 1:
            wav = resample(wav, round(self.sample_rate * speed), self.sample_rate)
            wav = wav if self.segment is None else wav[: self.segment]
        yield wav
        if self.labels is None:
            yield None
            return
        centres = start + frame_centres(self.frames, len(wav)) * speed
        yield self.labels.at(recording_id(name), centres)

    def _part(self, size: int, speed: float, draw: random.Random) -> tuple[int, int]:
        if self.segment is None:
            return 0, size
        wanted = round(self.segment * speed)
        if size <= wanted:
            return 0, size
        start = draw.randrange(size - wanted + 1)
        return start, start + wanted


def recording_id(name: str) -> str:
    """The id without the turn that ``balanced_items`` appends to repeated ones.

    Example
    -------
    >>> recording_id("fsdd/3_theo_7#2"), recording_id("a#b")
    ('fsdd/3_theo_7', 'a#b')
    """
    head, mark, turn = name.rpartition("#")
    return head if mark and turn.isdigit() else name


def mixed_items(
    corpora: Mapping[str, Mapping[str, Mapping[str, Any]]],
    hours: Mapping[str, float],
    seed: int = 0,
) -> list[AudioItem]:
    """Recordings of several corpora, as many hours of each as are asked for.

    Arguments
    ---------
    corpora : mapping
        Name to manifest, as from ``dataio.corpora.read_manifest``.
    hours : mapping
        Hours of each corpus in an epoch: a corpus that has less is repeated (crops
        and speeds differ each time), one that has more is drawn from.
    seed : int
        Of what is drawn.

    Returns
    -------
    list of AudioItem
        With ids ``corpus/utterance``, and ``corpus/utterance#2`` for further turns.

    Raises
    ------
    DsuError
        If the two mappings don't name the same corpora.

    Example
    -------
    >>> corpus = {"u": {"wav": "u.wav", "duration": 1.8}}
    >>> [item.id for item in mixed_items({"c": corpus}, {"c": 0.001})]
    ['c/u', 'c/u#2']
    """
    if set(corpora) != set(hours):
        raise DsuError(
            f"hours are given for {sorted(hours)}, the corpora are {sorted(corpora)}"
        )
    return [
        item
        for name, manifest in corpora.items()
        for item in balanced_items({name: manifest}, 3600 * hours[name], seed)
    ]


def batches_by_seconds(
    dataset: SpeechSegments,
    batch_seconds: float,
    seed: int = 0,
    shuffle: bool = True,
    buckets: int = 8,
    max_items: int | None = None,
) -> dict[str, Any]:
    """Loader options: batches of similar lengths and about equal cost.

    Arguments
    ---------
    dataset : SpeechSegments
        To be batched.
    batch_seconds : float
        Padded audio in a batch, at most (one recording at least).
    seed : int
        Of the order.
    shuffle : bool
        Another order in each epoch.
    buckets : int
        Groups of similar lengths, each as large as the others.
    max_items : int, optional
        Recordings in a batch, at most.

    Returns
    -------
    dict
        For ``train_loader_kwargs`` and ``valid_loader_kwargs`` of ``fit``.
    """
    return batches_by_length(
        dataset, dataset.seconds, batch_seconds, seed, shuffle, buckets, max_items
    )
