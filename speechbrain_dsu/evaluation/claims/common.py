"""What claim checks share: shipped blocks, real speech by seed, and rows.

A row compares a system with a baseline over seeds, by one rule for all claims.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError

NOT_STATED = "none stated"
"""Expectation of a row that the claim says nothing about."""

RULE = (
    "A row is shown when the difference has the expected sign in every seed and its "
    "mean is larger than its standard deviation over seeds (spread)."
)


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Torch's global draws inside follow the seed and leave no trace outside.

    Example
    -------
    >>> with seeded(3) as generator:
    ...     first = torch.rand(2), torch.rand(2, generator=generator)
    >>> with seeded(3):
    ...     bool((torch.rand(2) == first[0]).all())
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def find_files(data: Path, pattern: str, user: str, at_least: int = 1) -> list[Path]:
    """Files of the speech folder, sorted; DsuError when ``user`` needs more."""
    files = sorted(data.glob(pattern))
    if len(files) < at_least:
        raise DsuError(
            f"{data}: {len(files)} files {pattern}, {user} needs {at_least} or more"
        )
    return files


def frames_of(wavs: Sequence[Tensor], features: nn.Module) -> Tensor:
    """Frames ``[n, dim]`` of waveforms ``[time]``, one after another."""
    return torch.cat([features(wav.unsqueeze(0))[0] for wav in wavs])


def log_mel_8k() -> nn.Module:
    """40 log-mel channels every 10 ms, for the 8 kHz of the spoken digits.

    Example
    -------
    >>> log_mel_8k()(torch.zeros(1, 800)).shape
    torch.Size([1, 11, 40])
    """
    sizes = {"hop": 80, "win": 200, "n_fft": 256, "n_mels": 40}
    return block("log_mel_80", sample_rate=8000, **sizes)


class Cepstra(nn.Module):
    """Low mel cepstra of ``log_mel_8k``, orthonormal, without the loudness.

    Arguments
    ---------
    size : int
        Coefficients from the first on.

    Example
    -------
    >>> Cepstra(12)(torch.zeros(1, 800)).shape
    torch.Size([1, 11, 12])
    """

    def __init__(self, size: int = 12):
        super().__init__()
        self.features = log_mel_8k()
        self.sample_rate, self.channels = self.features.sample_rate, self.features.dim
        steps = (torch.arange(self.channels) + 0.5) * math.pi / self.channels
        table = torch.outer(steps, torch.arange(1, size + 1)).cos()
        self.register_buffer("table", table * (2 / self.channels) ** 0.5)

    def forward(self, wavs: Tensor) -> Tensor:
        """Cepstra ``[batch, frames, size]`` of waveforms ``[batch, time]``."""
        return self.features(wavs) @ self.table

    def decibels(self, frames: Tensor, decoded: Tensor) -> float:
        """Mean over frames of the difference of their spectra, in dB."""
        difference = (frames - decoded).square().sum(-1).div(self.channels).sqrt()
        return float(difference.double().mean()) * 20 / math.log(10)


class Digit(NamedTuple):
    """A spoken digit: who said which, and its frames ``[n, dim]``."""

    digit: int
    speaker: str
    frames: Tensor


class Digits(NamedTuple):
    """Spoken digits of a seed: training speakers, and one nobody trained on."""

    train: list[Digit]
    test: list[Digit]

    def standardised(self) -> "Digits":
        """Zero mean and unit variance per channel, by the training frames."""
        frames = joined(self.train)
        mean, std = frames.mean(0), frames.std(0).clamp(min=1e-5)
        return Digits(
            *([d._replace(frames=(d.frames - mean) / std) for d in p] for p in self)
        )


def read_digits(
    data: Path, features: nn.Module, claim: int, seed: int, takes: int
) -> Digits:
    """Recordings of the Free Spoken Digit Dataset, drawn by seed.

    Arguments
    ---------
    data : Path
        With fsdd/recordings/.
    features : nn.Module
        Waveforms to frames; its sample rate is what the files are read at.
    claim : int
        For the error.
    seed : int
        Takes the held-out speaker in turn and draws the takes.
    takes : int
        Of every digit by every speaker.

    Returns
    -------
    Digits
        Each with ``takes`` recordings per digit and speaker, or all there are.

    Raises
    ------
    DsuError
        If there are fewer than two speakers.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    for path in find_files(data, "fsdd/recordings/*_*_*.wav", f"claim {claim}"):
        digit, speaker, _ = path.stem.split("_")
        files.setdefault((speaker, digit), []).append(path)
    speakers = sorted({speaker for speaker, _ in files})
    if len(speakers) < 2:
        raise DsuError(f"{data}: claim {claim} needs digits of two or more speakers")
    held_out = speakers[seed % len(speakers)]
    generator = torch.Generator().manual_seed(seed)
    parts = Digits([], [])
    for (speaker, digit), paths in sorted(files.items()):
        order = torch.randperm(len(paths), generator=generator)[:takes]
        part = parts.test if speaker == held_out else parts.train
        for place in order.tolist():
            wav = read_audio(paths[place], features.sample_rate)[0]
            frames = frames_of([wav], features)
            part.append(Digit(int(digit), speaker, frames))
    return parts


def digit_frames(
    data: Path, claim: int, seeds: int, takes: int
) -> Iterator[tuple[int, Digits]]:
    """Seeds and their standardised log-mel frames of spoken digits.

    Arguments
    ---------
    data : Path
        With fsdd/recordings/.
    claim, takes : int
        As for ``read_digits``.
    seeds : int
        How many.

    Returns
    -------
    iterator of (int, Digits)
        One after another, read when it is asked for.
    """
    for seed in range(seeds):
        yield seed, read_digits(data, log_mel_8k(), claim, seed, takes).standardised()


def joined(recordings: Sequence[Digit]) -> Tensor:
    """All their frames ``[n, dim]``."""
    return torch.cat([recording.frames for recording in recordings])


def share_of_error(frames: Tensor, decoded: Tensor) -> float:
    """Squared error as a share of the frames' squares: 1 for decoding to zero.

    Example
    -------
    >>> share_of_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]]))
    0.64
    """
    error = (frames - decoded).double().square().sum()
    return float(error / frames.double().square().sum())


def guess_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """How often the commonest training answer to what is given is the right one.

    With the same pair twice this is the purity of what is given.

    Arguments
    ---------
    train, test : tuple of Tensor
        What is given ``[n]`` and the answers ``[n]``, int64, not negative.

    Returns
    -------
    float
        0 to 1.

    Example
    -------
    >>> train = torch.tensor([0, 0, 0, 1]), torch.tensor([5, 5, 6, 7])
    >>> guess_accuracy(train, (torch.tensor([0, 1]), torch.tensor([5, 6])))
    0.5
    """
    given, answers = (torch.cat(pair) for pair in zip(train, test, strict=True))
    table = torch.zeros(int(given.max()) + 1, int(answers.max()) + 1)
    table.index_put_(train, torch.ones(len(train[0])), accumulate=True)
    return float((table.argmax(1)[test[0]] == test[1]).double().mean())


def make_row(
    condition: str,
    baseline: tuple[str, Sequence[float]],
    system: tuple[str, Sequence[float]],
    expected: str,
    note: str = "",
) -> dict[str, Any]:
    """A comparison over seeds.

    Arguments
    ---------
    condition : str
        What is measured, and on what.
    baseline, system : tuple
        Name and one value per seed.
    expected : str
        Of the system: "higher" or "lower" (by ``RULE``); "not higher" or "not lower"
        (unless the opposite is clear by the same rule); "within X" (no seed differs
        by more); or ``NOT_STATED``.
    note : str
        Printed at the end.

    Returns
    -------
    dict
        As ``run_claim`` promises.

    Example
    -------
    >>> row = make_row("error", ("old", [2.0, 3.0]), ("new", [1.0, 1.5]), "lower")
    >>> row["difference"], row["verdict"]
    (-1.25, 'shown')
    """
    change = [s - b for s, b in zip(system[1], baseline[1], strict=True)]
    middle, spread = fmean(change), stdev(change)
    return {
        "condition": condition,
        "baseline_name": baseline[0],
        "system_name": system[0],
        "baseline": fmean(baseline[1]),
        "system": fmean(system[1]),
        "difference": middle,
        "spread": spread,
        "per_seed": change,
        "expected": expected,
        "verdict": _verdict(change, middle, spread, expected),
        "note": note,
    }


class Found:
    """What a claim measures: one value for each seed, by measure and by name.

    Example
    -------
    >>> found = Found()
    >>> for value in (2.0, 3.0):
    ...     found.note("error", "old", value)
    ...     found.note_all("new", {"error": value / 2})
    >>> found["error", "new"]
    [1.0, 1.5]
    >>> found.row("error", "old", "new", "lower")["verdict"]
    'shown'
    """

    def __init__(self):
        self.values: dict[tuple[str, str], list[float]] = {}

    def __getitem__(self, key: tuple[str, str]) -> list[float]:
        return self.values[key]

    def note(self, measure: str, name: str, value: float) -> None:
        """Keep the value of the next seed."""
        self.values.setdefault((measure, name), []).append(value)

    def note_all(self, name: str, measured: Mapping[str, float]) -> None:
        """Keep the next seed's values of several measures."""
        for measure, value in measured.items():
            self.note(measure, name, value)

    def row(
        self, measure: str, baseline: str, system: str, expected: str
    ) -> dict[str, Any]:
        """``make_row`` of two names' values."""
        values = self[measure, baseline], self[measure, system]
        return make_row(measure, (baseline, values[0]), (system, values[1]), expected)


def _verdict(change: list[float], middle: float, spread: float, expected: str) -> str:
    if expected == NOT_STATED:
        return "-"
    kind, _, word = expected.rpartition(" ")
    if kind == "within":
        held = max(map(abs, change)) <= float(word)
        return "shown" if held else "not shown"
    sign = {"higher": 1, "lower": -1}[word]
    clear = all(sign * c > 0 for c in change) and abs(middle) > spread
    return "shown" if clear != (kind == "not") else "not shown"


def make_result(
    id: int,
    title: str,
    claim: str,
    setup: str,
    rows: Sequence[dict[str, Any]],
    laws: dict[str, bool],
) -> dict[str, Any]:
    """A result as ``run_claim`` returns it: shown when all stated rows and laws hold.

    Example
    -------
    >>> make_result(1, "T", "C.", "S.", [], {"law": False})["verdict"]
    'not shown'
    """
    stated = [row for row in rows if row["expected"] != NOT_STATED]
    held = all(row["verdict"] == "shown" for row in stated) and all(laws.values())
    return {
        "id": id,
        "title": title,
        "claim": claim,
        "setup": setup,
        "rows": list(rows),
        "laws": laws,
        "verdict": "shown" if held else "not shown",
    }
