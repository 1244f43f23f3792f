"""Whether converted speech says the same in the wanted voice."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.probes import LinearProbe, fit_probe
from speechbrain_dsu.evaluation.speaker import SPEAKER_RATE, mfcc_statistics
from speechbrain_dsu.utils.audio import read_audio, resample
from speechbrain_dsu.utils.errors import DsuError

Entries = Mapping[str, Mapping[str, Any]]
Transcribe = Callable[[Tensor, int], str]
Convert = Callable[[Tensor, int, str], tuple[Tensor, int]]


class SpeakerProbe:
    """Tells speakers of real recordings apart, by a line through MFCC statistics.

    Arguments
    ---------
    entries : mapping
        Recordings with ``wav`` and ``spk_id``, of two speakers at least.
    per_speaker : int
        The first so many of each, spread over the list.

    Raises
    ------
    DsuError
        If there is one speaker only.

    Example
    -------
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> root, entries = getfixture("tmp_path"), {}
    >>> for take, level in enumerate([0.02, 0.5] * 2):
    ...     wav = torch.randn(8000).cumsum(0) if take % 2 else torch.randn(8000)
    ...     write_audio(root / f"{take}.wav", level * wav / wav.abs().max(), 16000)
    ...     speaker = ["ann", "bob"][take % 2]
    ...     entries[str(take)] = {"wav": root / f"{take}.wav", "spk_id": speaker}
    >>> SpeakerProbe(entries)(torch.randn(8000), 16000)
    'ann'
    """

    def __init__(self, entries: Entries, per_speaker: int = 200):
        by_speaker: dict[str, list[str]] = {}
        for key in sorted(entries):
            by_speaker.setdefault(entries[key]["spk_id"], []).append(key)
        self.speakers = sorted(by_speaker)
        if len(self.speakers) < 2:
            raise DsuError(f"a probe needs two speakers, got {self.speakers}")
        features, labels = [], []
        for label, name in enumerate(self.speakers):
            keys = by_speaker[name]
            for key in keys[:: max(len(keys) // per_speaker, 1)]:
                wav, _ = read_audio(entries[key]["wav"], SPEAKER_RATE)
                features.append(_statistics(wav))
                labels.append(label)
        self.probe: LinearProbe = fit_probe(torch.stack(features), torch.tensor(labels))

    def __call__(self, wav: Tensor, sample_rate: int) -> str:
        """The speaker of ``wav [time]``."""
        wav = resample(wav, sample_rate, SPEAKER_RATE)
        return self.speakers[int(self.probe.predict(_statistics(wav)[None])[0])]


def _statistics(wav: Tensor) -> Tensor:
    # Nothing above 4 kHz: recordings of other rates differ there, not speakers.
    low = resample(resample(wav, SPEAKER_RATE, 8000), 8000, SPEAKER_RATE)
    missing = max(400 - len(low), 0)
    return mfcc_statistics(torch.nn.functional.pad(low, (0, missing))[None])[0]


def conversion_report(
    convert: Convert,
    transcribe: Transcribe,
    probe: Callable[[Tensor, int], str],
    entries: Entries,
    voices: Sequence[str],
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Content and speaker of recordings converted to every voice but their own.

    Arguments
    ---------
    convert : callable
        Samples ``[time]``, rate and voice to samples and rate.
    transcribe : callable
        Samples and rate to text: a recogniser trained on other speech.
    probe : callable
        Samples and rate to a speaker: ``SpeakerProbe``.
    entries : mapping
        Recordings with ``wav``, ``text`` and ``spk_id``, not in anybody's training.
    voices : sequence of str
        Targets that the probe knows.
    limit : int, optional
        So many recordings, spread over the list.

    Returns
    -------
    list of dict
        For the recordings as they are, each voice and all together: ``to``,
        ``items``, ``content`` (share with the right text), ``speaker`` (share heard
        as the target; of the recordings: as the one who spoke) and ``source`` (share
        heard as the one who spoke).
    """
    keys = sorted(entries)
    keys = keys[:: max(len(keys) // (limit or len(keys)), 1)][:limit]
    marks: dict[str, list[tuple[bool, bool, bool]]] = {}
    for key in keys:
        entry = entries[key]
        wav, rate = read_audio(entry["wav"])
        said, spoke = entry["text"], entry["spk_id"]
        heard = probe(wav, rate)
        right = transcribe(wav, rate) == said
        marks.setdefault("(recording)", []).append((right, *2 * (heard == spoke,)))
        for voice in voices:
            if voice == spoke:
                continue
            made, made_rate = convert(wav, rate, voice)
            heard = probe(made, made_rate)
            right = transcribe(made, made_rate) == said
            marks.setdefault(voice, []).append((right, heard == voice, heard == spoke))
    together = [mark for voice in voices for mark in marks.get(voice, [])]
    return [_row(name, found) for name, found in marks.items()] + [
        _row("(all voices)", together)
    ]


def _row(name: str, marks: Sequence[tuple[bool, bool, bool]]) -> dict[str, Any]:
    shares = torch.tensor(marks).double().mean(0).tolist()
    names = ("content", "speaker", "source")
    return {"to": name, "items": len(marks), **dict(zip(names, shares, strict=True))}
