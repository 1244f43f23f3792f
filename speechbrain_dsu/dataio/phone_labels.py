"""Aligned phones of a manifest as labels of frames."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from speechbrain_dsu.dataio.frame_labels import FrameLabels
from speechbrain_dsu.utils.errors import DsuError


def phone_inventory(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The phones of manifest entries, sorted.

    Example
    -------
    >>> phone_inventory([{"phones": "t u sil"}, {"phones": "w ɑ n"}])
    ['n', 'sil', 't', 'u', 'w', 'ɑ']
    """
    return sorted({phone for entry in entries for phone in entry["phones"].split()})


def phone_labels(
    manifest: Mapping[str, Mapping[str, Any]],
    phones: Iterable[str],
    sample_rate: int,
    hop: int,
) -> FrameLabels:
    """A label for every ``hop`` samples: the place of the phone that sounds there.

    Arguments
    ---------
    manifest : mapping
        Id to entry with ``phones`` and ``phone_ends`` (seconds), see
        ``dataio.corpora.synth``.
    phones : iterable of str
        All there are; the order gives the labels.
    sample_rate : int
        Of the audio that is trained on, in hertz.
    hop : int
        Samples from label to label.

    Returns
    -------
    FrameLabels
        By the ids of the manifest.

    Raises
    ------
    DsuError
        If an entry has a phone that is not among them.

    Example
    -------
    >>> manifest = {"a": {"phones": "t u", "phone_ends": "0.1 0.25"}}
    >>> phone_labels(manifest, ["t", "u"], 1000, 50).codes["a"].tolist()
    [0, 0, 1, 1, 1]
    """
    places = {phone: place for place, phone in enumerate(phones)}
    codes = {}
    for name, entry in manifest.items():
        missing = set(entry["phones"].split()) - set(places)
        if missing:
            raise DsuError(f"{name}: phone '{min(missing)}' is not in the inventory")
        labels = torch.tensor([places[phone] for phone in entry["phones"].split()])
        ends = torch.tensor([float(end) for end in entry["phone_ends"].split()])
        # Labels stand in the middle of their stretch.
        count = max(1, int(ends[-1] * sample_rate / hop))
        centres = (torch.arange(count) + 0.5) * hop / sample_rate
        index = torch.searchsorted(ends, centres).clamp(max=len(labels) - 1)
        codes[name] = labels[index].to(torch.int32)
    return FrameLabels(codes, hop, offset=hop / 2)
