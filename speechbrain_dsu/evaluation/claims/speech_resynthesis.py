"""Claim 43: units, pitch and speaker apart give speech whose parts can be controlled.

Polyak et al., "Speech Resynthesis from Discrete Disentangled Self-Supervised
Representations" (2021). In place of HuBERT units stand k-means units of log-mel frames,
in place of HiFi-GAN the shipped level decoder. What is checked: that each stream brings
what it should, and that another speaker can be put in.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    RULE,
    Digit,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.evaluation.claims.pretraining import Signal, maker, probe_pooled
from speechbrain_dsu.evaluation.pitch import pitch
from speechbrain_dsu.evaluation.rates import rates
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.lengths import length_mask, pad_stack
from speechbrain_dsu.utils.nearest import nearest_centers

CLAIM = (
    "Speech can be made again from units of its content, codes of its pitch and its "
    "speaker; each stream controls its own part, at some hundred bits a second."
)
_RATE, _HOP, _UNITS, _PITCHES, _EVERY = 16000, 320, 100, 20, 4
_CONTENT, _PITCH, _ALL, _SWAPPED = "units", "+ pitch", "+ speaker", "speaker swapped"
_ADDS = "bits a second are those of the streams together, entropy-coded not more"


class _Sizes(NamedTuple):
    seeds: int = 3
    takes: int = 16
    steps: int = 600
    judged: int = 100


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, less speech, fewer steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = _Sizes(2, 4, 3, 6) if quick else _Sizes()
    found: dict[tuple[str, str], list[float]] = {}
    laws = {_ADDS: True}
    for seed in range(sizes.seeds):
        digits = read_digits(data, Signal(), 43, seed, sizes.takes).train
        # Every other take is held out; voices must be known.
        known, held = digits[::2], digits[1::2]
        held = held[:: max(len(held) // sizes.judged, 1)][: sizes.judged]
        with seeded(seed) as generator:
            units = Units(known, generator)
            voices = sorted({digit.speaker for digit in known})
            for name in (_CONTENT, _PITCH, _ALL):
                model = make_vocoder(name, voices)
                items = [_item(model, units, digit) for digit in known]
                train(model, items, sizes.steps, generator)
                for changed in (False, True) if name == _ALL else (False,):
                    label = _SWAPPED if changed else name
                    heard = judge(model, units, known, held, voices, changed)
                    for measure, value in heard.items():
                        found.setdefault((measure, label), []).append(value)
            laws[_ADDS] &= rates_add_up(model, units, held)
    return make_result(
        43, "Speech Resynthesis", CLAIM, _setup(sizes), _rows(found), laws
    )


def _setup(sizes: _Sizes) -> str:
    return (
        f"{_UNITS} k-means units of log-mel frames every 20 ms, {_PITCHES} codes of "
        f"normalised pitch every {20 * _EVERY} ms, voices from a table; the level "
        f"decoder at 64 channels, {sizes.steps} steps each. Digits of four speakers "
        f"(FSDD, {sizes.takes} takes, every other one held out; {sizes.judged} of them "
        "made again). Pitch error: share of frames voiced in one only or further apart "
        "than a fifth. Speaker and digit: linear probes of log-mel frames of real "
        "training takes, asked about what was made of held-out ones. "
        f"{sizes.seeds} seeds for speakers, takes, initial values and clusters. {RULE}"
    )


class Units:
    """Log-mel frames of digits and their k-means units.

    Arguments
    ---------
    digits : sequence of Digit
        What the centres are fitted to; their frames are waveforms.
    generator : torch.Generator
        Of the first centres.
    """

    def __init__(self, digits: Sequence[Digit], generator: torch.Generator):
        sizes = {"hop": _HOP, "win": 640, "n_fft": 640, "power": 1}
        self.features = block("log_mel_80", sample_rate=_RATE, **sizes)
        frames = torch.cat([self.frames(digit.frames) for digit in digits])
        self.centers = lloyd(frames, _UNITS, generator, iterations=15)

    def frames(self, wav: Tensor) -> Tensor:
        """Log-mel frames ``[frames, 80]`` without the recording's mean."""
        frames = self.features(wav.unsqueeze(0))[0]
        return frames - frames.mean(0)

    def __call__(self, wav: Tensor) -> Tensor:
        """Units ``[frames, 1]`` of ``[time]``."""
        return nearest_centers(self.frames(wav), self.centers)[0].unsqueeze(1)


def make_vocoder(name: str, voices: Sequence[str]) -> nn.Module:
    """A shipped vocoder with the streams of a name.

    Arguments
    ---------
    name : str
        "units", "+ pitch" or "+ speaker".
    voices : sequence of str
        Speakers; all are one voice to the first two.

    Example
    -------
    >>> make_vocoder("units", ["ann", "bob"]).voices
    ('anyone',)
    """
    place = "lobes.vocoders.conditions."
    contours = {}
    if name != _CONTENT:
        codes = block("quantizer_vq", size=_PITCHES, dim=16)
        tracker = maker("lobes.contours.PitchTracker")(_RATE, _HOP)
        contour = maker(place + "CodedContour")(tracker, codes, 16, _EVERY)
        contours["pitch"] = contour
    dim = 64 + 16 + 16 * len(contours)
    small = {"channels": 64, "hidden": 128, "layers": 3, "win": None, "rounds": 8}
    return maker("lobes.vocoders.unit_vocoder.UnitVocoder")(
        block("decoder_levels", dim=dim, sample_rate=_RATE, hop=_HOP, **small),
        maker(place + "UnitContent")([_UNITS], 64),
        maker(place + "Voices")(list(voices) if name == _ALL else ["anyone"], 16),
        contours,
    )


class Item(NamedTuple):
    """What a vocoder learns from.

    Arguments
    ---------
    content : Tensor
        ``[frames, codebooks]`` or ``[frames, size]``.
    wav : Tensor
        ``[frames * hop]``.
    contours : dict
        Name to ``[frames, values]``.
    voice : str
        One of the vocoder's.
    """

    content: Tensor
    wav: Tensor
    contours: dict[str, Tensor]
    voice: str


def train(
    model: nn.Module, items: Sequence[Item], steps: int, generator: torch.Generator
) -> None:
    """Adam on the levels (and the pitch codes) of 16 random recordings a step.

    Arguments
    ---------
    model : nn.Module
        A vocoder whose generator writes levels; in evaluation mode afterwards.
    items : sequence of Item
        Recordings.
    steps : int
        Of Adam.
    generator : torch.Generator
        Draws the recordings.
    """
    target = model.generator.target()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(len(items), (16,), generator=generator).tolist()
        some = [items[row] for row in rows]
        content, counts = pad_stack([item.content for item in some])
        wavs = pad_stack([item.wav for item in some])[0]
        contours = {
            name: pad_stack([item.contours[name] for item in some])[0]
            for name in model.contours
        }
        speakers = [item.voice for item in some]
        output = model(content, counts / content.shape[1], speakers, **contours)
        mask = length_mask(counts, content.shape[1]).unsqueeze(-1)
        error = (output.levels - target(wavs)).abs() * mask
        loss = error.sum() / mask.sum() / error.shape[-1] + sum(output.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def fitted(wav: Tensor, frames: int, hop: int) -> Tensor:
    """A waveform as long as its frames: cut, or silence behind.

    Example
    -------
    >>> fitted(torch.ones(5), 2, 3).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    """
    return F.pad(wav, (0, max(frames * hop - len(wav), 0)))[: frames * hop]


def _item(model: nn.Module, units: Units, digit: Digit) -> Item:
    codes = units(digit.frames)
    wav = fitted(digit.frames, len(codes), _HOP)
    contours = model.follow(wav.unsqueeze(0), len(codes))
    contours = {name: contour[0] for name, contour in contours.items()}
    return Item(codes, wav, contours, _voice(model, digit.speaker))


def _voice(model: nn.Module, speaker: str) -> str:
    return speaker if speaker in model.voices else model.voices[0]


@torch.no_grad()
def judge(
    model: nn.Module,
    units: Units,
    known: Sequence[Digit],
    held: Sequence[Digit],
    voices: Sequence[str],
    swap: bool,
) -> dict[str, float]:
    """Pitch error, speaker and digit of digits made again.

    Arguments
    ---------
    model : nn.Module
        A trained vocoder.
    units : Units
        Its units.
    known, held : sequence of Digit
        What the probes learn from, and what is made again.
    voices : sequence of str
        The speakers.
    swap : bool
        Make each digit in the next speaker's voice.
    """
    made, wanted, errors = [], [], []
    for digit in held:
        codes, wav, contours, _ = _item(model, units, digit)
        place = voices.index(digit.speaker)
        other = voices[(place + 1) % len(voices)]
        target = other if swap else digit.speaker
        wanted.append(other)
        voice = model.speakers(_voice(model, target), 1)
        given = {name: contour.unsqueeze(0) for name, contour in contours.items()}
        found = model.decode_frames([codes], voice, given)[0][0]
        errors.append(_pitch_error(wav, found))
        made.append(_levels(units, found))
    real = [_levels(units, digit.frames) for digit in known]
    said = [[digit.digit for digit in part] for part in (known, held)]
    who = [[digit.speaker for digit in part] for part in (known, held)]
    return {
        "pitch error": sum(errors) / len(errors),
        "true speaker": probe_pooled((real, who[0]), (made, who[1])),
        "next speaker": probe_pooled((real, who[0]), (made, wanted)),
        "digit error": 1 - probe_pooled((real, said[0]), (made, said[1])),
    }


def _levels(units: Units, wav: Tensor) -> Tensor:
    return units.features(wav.unsqueeze(0))[0]


def _pitch_error(wav: Tensor, made: Tensor) -> float:
    first, second = (pitch(x) for x in (wav, made))
    first, second = first[: len(second)], second[: len(first)]
    voiced = (first > 0) & (second > 0)
    ratio = second.clamp(min=1) / first.clamp(min=1)
    far = voiced & ((ratio > 1.2) | (ratio < 1 / 1.2))
    return float((((first > 0) != (second > 0)) | far).double().mean())


def rates_add_up(model: nn.Module, units: Units, digits: Sequence[Digit]) -> bool:
    """Whether streams cost what their sizes say, and their entropy no more."""
    streams: list[list[Tensor]] = [[], []]
    for digit in digits:
        codes, _, contours, _ = _item(model, units, digit)
        streams[0].append(codes)
        streams[1].append(model.contours["pitch"].codes(contours["pitch"][None])[0])
    sizes, every = (_UNITS, _PITCHES), (1, _EVERY)
    tokens = [
        Tokens.from_list(stream, _RATE / _HOP / step, (size,), "-")
        for stream, size, step in zip(streams, sizes, every, strict=True)
    ]
    nominal = sum(stream.bitrate for stream in tokens)
    bits = torch.tensor(sizes).double().log2() / torch.tensor(every) * _RATE / _HOP
    coded = sum(rates(stream).entropy_bitrate for stream in tokens)
    return abs(nominal - float(bits.sum())) < 1e-6 and coded <= nominal + 1e-6


def _rows(found: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    plan = [
        ("pitch error", _CONTENT, _PITCH, "lower"),
        ("true speaker", _PITCH, _ALL, "higher"),
        ("next speaker", _ALL, _SWAPPED, "higher"),
        ("digit error", _ALL, _SWAPPED, "not higher"),
        ("digit error", _CONTENT, _ALL, "not higher"),
    ]
    return [
        make_row(measure, (a, found[measure, a]), (b, found[measure, b]), expected)
        for measure, a, b, expected in plan
    ]
