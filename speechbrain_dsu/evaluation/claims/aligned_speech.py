"""Synthetic speech with aligned phones, and a phone classifier trained on it.

The classifier stands in for a self-supervised teacher, and judges what was decoded.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.alignments import (
    Alignment,
    frame_labels,
    phone_ids,
    read_alignments,
)
from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.small_training import draw_crops, train
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError

RATE = 16000
"""Of all waveforms here, in hertz."""

HOP = 320
"""Samples per frame of the phone classifier."""

# Utterances are cut to a multiple of it: whole frames of 320 and of 200 samples.
_WHOLE = 1600
_SECONDS = 1.5
# Reading a signal at another rate moves its spectrum as another vocal tract does.
_TRACTS = (0.88, 0.94, 1.0, 1.06, 1.12)


class Spoken(NamedTuple):
    """An utterance: its speaker, what it says, its phones, and 16 kHz ``[time]``."""

    speaker: str
    content: str
    alignment: Alignment
    wav: Tensor

    def labels(self, ids: dict[str, int], hop: int = HOP) -> Tensor:
        """The phone at the middle of each frame, int64; -1 where ``ids`` has none."""
        times = (torch.arange(len(self.wav) // hop) + 0.5) * (hop / RATE)
        return frame_labels(self.alignment, times, ids)


class Aligned(NamedTuple):
    """Speech of a seed: for training, new sentences of its voices, new voices."""

    train: list[Spoken]
    sentences: list[Spoken]
    voices: list[Spoken]

    def ids(self, silence: bool = False) -> dict[str, int]:
        """Numbers of the phones that the training speech has."""
        alignments = {str(k): item.alignment for k, item in enumerate(self.train)}
        return phone_ids(alignments, () if silence else ("sil",))

    def speakers(self) -> list[str]:
        """Of the training speech, sorted."""
        return sorted({item.speaker for item in self.train})


def read_aligned(
    data: Path,
    claim: int,
    generator: torch.Generator,
    speakers: int,
    each: int,
    held_out: int,
) -> Aligned:
    """English utterances of 1.5 s or more of a synthetic corpus, drawn by seed.

    Arguments
    ---------
    data : Path
        With synth/, as recipes/Synth/synth_prepare.py leaves it.
    claim : int
        For the error.
    generator : torch.Generator
        Draws the utterances.
    speakers : int
        The training speakers with the most utterances, one of each voice.
    each : int
        Training utterances of each.
    held_out : int
        Of each training speaker, with contents that the training speech lacks; and of
        each voice that only the test set has.

    Returns
    -------
    Aligned
        Fewer where there are fewer.

    Raises
    ------
    DsuError
        If a manifest is missing or has fewer speakers.
    """
    known = _by_speaker(data, "train", claim)
    voices: dict[str, str] = {}
    for name in sorted(known, key=lambda name: (-len(known[name]), name)):
        voices.setdefault(known[name][0]["voice"], name)
    chosen = list(voices.values())[:speakers]
    if len(chosen) < speakers:
        raise DsuError(f"{data}: claim {claim} needs {speakers} English voices")
    parts = Aligned([], [], [])
    rest = []
    for name in sorted(chosen):
        drawn = _shuffled(known[name], generator)
        parts.train.extend(map(_read, drawn[:each]))
        rest.append(drawn[each:])
    said = {item.content for item in parts.train}
    for drawn in rest:
        new = [entry for entry in drawn if entry["content"] not in said]
        parts.sentences.extend(map(_read, new[:held_out]))
    for _, entries in sorted(_by_speaker(data, "test", claim).items()):
        drawn = _shuffled(entries, generator)
        parts.voices.extend(map(_read, drawn[:held_out]))
    return parts


def english_entries(data: Path, part: str, claim: int) -> dict[str, dict]:
    """English utterances of a part of a synthetic corpus, as its manifest has them.

    Arguments
    ---------
    data : Path
        With synth/, as recipes/Synth/synth_prepare.py leaves it.
    part : str
        Name of the manifest.
    claim : int
        For the error.

    Returns
    -------
    dict
        By id: the entry with the full path as ``wav`` and an ``alignment``.

    Raises
    ------
    DsuError
        If there is no manifest, or no English in it.
    """
    path = data / "synth" / "manifests" / f"{part}.json"
    if not path.is_file():
        raise DsuError(
            f"{path}: no such file; claim {claim} needs aligned speech, made by "
            f"recipes/Synth/synth_prepare.py --out {data / 'synth'}"
        )
    alignments, found = read_alignments(path), {}
    for name, entry in json.loads(path.read_text("utf-8")).items():
        if entry["language"] == "en":
            wav = entry["wav"].format(data_root=data / "synth")
            found[name] = {**entry, "wav": wav, "alignment": alignments[name]}
    if not found:
        raise DsuError(f"{path}: holds no English, which claim {claim} needs")
    return found


def _by_speaker(data: Path, part: str, claim: int) -> dict[str, list[dict]]:
    out: dict[str, list[dict]] = {}
    for entry in english_entries(data, part, claim).values():
        if entry["duration"] >= _SECONDS:
            out.setdefault(entry["spk_id"], []).append(entry)
    return out


def _shuffled(entries: list[dict], generator: torch.Generator) -> list[dict]:
    order = torch.randperm(len(entries), generator=generator).tolist()
    return [entries[place] for place in order]


def read_spoken(entry: dict) -> Spoken:
    """The utterance of an entry of ``english_entries``."""
    wav = read_audio(entry["wav"], RATE)[0]
    return Spoken(entry["spk_id"], entry["content"], entry["alignment"], wav)


def _read(entry: dict) -> Spoken:
    spoken = read_spoken(entry)
    return spoken._replace(wav=spoken.wav[: len(spoken.wav) // _WHOLE * _WHOLE])


def log_mel_50(tract: float = 1.0) -> nn.Module:
    """40 log-mel channels of 20 ms up to 7 kHz, each utterance's mean taken off.

    Arguments
    ---------
    tract : float
        Length of the vocal tract that the speech then seems to have, as a share.
    """
    return block(
        "log_mel_80",
        sample_rate=round(RATE * tract),
        hop=HOP,
        win=2 * HOP,
        n_mels=40,
        f_max=7000,
    )


def mel_frames(wav: Tensor, features: nn.Module) -> Tensor:
    """Frames ``[n, 40]``, each in the middle of its hop, of ``[n * HOP]``."""
    frames = features(wav[HOP // 2 :].unsqueeze(0))[0]
    return frames - frames.mean(0)


class PhoneClassifier(nn.Module):
    """Phones of frames, by one hidden layer over nine frames.

    Arguments
    ---------
    classes : int
        Number of phones.
    hidden : int
        Width of the hidden layer, which is what a student is taught.
    context : int
        Frames on either side.
    """

    def __init__(self, classes: int, hidden: int = 192, context: int = 4):
        super().__init__()
        self.features = log_mel_50()
        self.span = 2 * context + 1
        self.inner = nn.Linear(self.span * self.features.dim, hidden)
        self.outer = nn.Linear(hidden, classes)

    def hidden(self, mel: Tensor) -> Tensor:
        """Hidden layer ``[..., n, hidden]`` of mel frames ``[..., n, 40]``."""
        around = self.span // 2
        padded = nn.functional.pad(mel, (0, 0, around, around))
        stacked = padded.unfold(-2, self.span, 1).flatten(-2)
        return self.inner(stacked / math.sqrt(10)).relu()

    def forward(self, mel: Tensor) -> Tensor:
        """Scores ``[..., n, classes]``."""
        return self.outer(self.hidden(mel))

    @torch.no_grad()
    def teach(self, wav: Tensor) -> Tensor:
        """Hidden layer ``[n, hidden]`` of ``[n * HOP]`` samples."""
        return self.hidden(mel_frames(wav, self.features))

    @torch.no_grad()
    def accuracy(self, wavs: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
        """Share of labelled frames of waveforms ``[n * HOP]`` that it names."""
        found = torch.cat([self(mel_frames(w, self.features)).argmax(1) for w in wavs])
        told = torch.cat(list(labels))
        return float((found == told)[told >= 0].double().mean())


def train_classifier(
    speech: Aligned, steps: int, generator: torch.Generator
) -> PhoneClassifier:
    """A phone classifier on the training speech, as of vocal tracts of five lengths.

    Arguments
    ---------
    speech : Aligned
        Its classes are ``speech.ids(silence=True)``.
    steps : int
        Optimizer steps of 8 stretches of 64 frames.
    generator : torch.Generator
        Draws them.

    Returns
    -------
    PhoneClassifier
        In evaluation mode.
    """
    ids = speech.ids(silence=True)
    fronts = [log_mel_50(tract) for tract in _TRACTS]
    tracks = [
        (mel_frames(item.wav, front), item.labels(ids))
        for item in speech.train
        for front in fronts
    ]
    model = PhoneClassifier(len(ids))

    def loss() -> Tensor:
        mel, labels = draw_crops(tracks, 64, 8, generator)
        scores = model(mel).flatten(0, 1)
        return nn.functional.cross_entropy(scores, labels.flatten(), ignore_index=-1)

    train(model, loss, steps, rate=2e-3)
    return model
