"""Parts of recordings with their units, for training vocoders."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_dsu.dataio.audio_cache import AudioCache
from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.unit_data import Column, UnitDataset
from speechbrain_dsu.utils.errors import DsuError


class UnitSegments(UnitDataset):
    """Items of ``content``, ``wav`` and further columns of one stretch of frames.

    Which part of a recording is heard depends on seed, epoch and id alone. Frame ``t``
    of the content stands for samples ``t * hop`` to ``(t + 1) * hop``; where the
    recording ends earlier, silence follows.

    Arguments
    ---------
    entries : mapping
        Manifest: id to entry with ``wav``.
    content : mapping
        Id to ``[frames, ...]``: codes, or frames of soft units.
    cache : AudioCache
        Of the vocoder's sample rate.
    hop : int
        Samples per frame.
    frames : int, optional
        Longer recordings are heard in random parts of so many frames. None: whole.
    contours : mapping
        Name to (id to ``[frames, values]``).
    columns : mapping
        Further columns that are not cut (the speaker).
    seed : int
        Of the parts.

    Raises
    ------
    DsuError
        If contours and content of an utterance differ in frames.

    Example
    -------
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.rand(32000) - 0.5, 16000)
    >>> codes = {"a": torch.arange(99).unsqueeze(1)}
    >>> entries = {"a": {"wav": str(path)}}
    >>> data = UnitSegments(entries, codes, AudioCache(16000), hop=320, frames=10)
    >>> data[0]["content"].shape, data[0]["wav"].shape
    (torch.Size([10, 1]), torch.Size([3200]))
    """

    def __init__(
        self,
        entries: Mapping[str, Mapping[str, Any]],
        content: Mapping[str, Tensor],
        cache: AudioCache,
        hop: int,
        frames: int | None = None,
        contours: Mapping[str, Mapping[str, Tensor]] | None = None,
        columns: Mapping[str, Column] | None = None,
        seed: int = 0,
    ):
        self._entries, self._sizes = entries, {k: len(v) for k, v in content.items()}
        self._cache, self.hop, self.frames, self.seed = cache, hop, frames, seed
        # Workers keep their copy of the dataset; shared memory reaches them all.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        cut = {"content": content, **(contours or {})}
        for name, contour in (contours or {}).items():
            for key in entries:
                if len(contour[key]) != self._sizes[key]:
                    raise DsuError(
                        f"{key}: {len(contour[key])} frames of {name} for "
                        f"{self._sizes[key]} of content"
                    )
        whole = {name: self._cutter(frames_of) for name, frames_of in cut.items()}
        super().__init__(
            [key for key in entries if self._sizes[key]],
            {**whole, "wav": self._hear, **(columns or {})},
            lambda key: min(self._sizes[key], frames or self._sizes[key]),
        )

    def set_epoch(self, epoch: int) -> None:
        """Draw other parts; ``UnitBrain`` calls it."""
        self._epoch.fill_(epoch)

    def _part(self, key: str) -> slice:
        size = self._sizes[key]
        if self.frames is None or size <= self.frames:
            return slice(0, size)
        draw = random.Random(f"{self.seed}:{int(self._epoch)}:{key}")
        start = draw.randrange(size - self.frames + 1)
        return slice(start, start + self.frames)

    def _cutter(self, found: Mapping[str, Tensor]) -> Callable[[str], Tensor]:
        def cut(key: str) -> Tensor:
            return found[key][self._part(key)]

        return cut

    def _hear(self, key: str) -> Tensor:
        part = self._part(key)
        item = AudioItem(key, self._entries[key]["wav"])
        wav = self._cache.read(item, part.start * self.hop, part.stop * self.hop)
        return F.pad(wav, (0, (part.stop - part.start) * self.hop - len(wav)))
