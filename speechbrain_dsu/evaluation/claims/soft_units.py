"""Claim 53: soft units keep more content than hard ones, and more of the speaker.

Van Niekerk et al., "A Comparison of Discrete and Soft Speech Units for Improved Voice
Conversion" (2022). In place of HuBERT stands a small network that tells phones of
synthetic voices; its hidden frames get units by k-means, and the shipped soft units
learn to predict these. The hard unit is the vector of the likeliest one, the soft unit
the mean vector under the distribution: the same table for both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Digit,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.evaluation.claims.pretraining import (
    Corpus,
    Signal,
    maker,
    phone_labels,
    plain_frames,
    pretrain,
    probe_pooled,
    read_corpus,
)
from speechbrain_dsu.evaluation.claims.soft_conversion import spoken_measures
from speechbrain_dsu.utils.nearest import nearest_centers

CLAIM = (
    "Hard units remove the speaker but lose content; soft units keep more of the "
    "content, so that converted speech is more intelligible, and more of the speaker."
)
_UNITS, _DIM = 50, 64
_FRAMES, _HARD, _SOFT, _SPEECH = "frames", "hard", "soft", "real speech"
_COLD = "at a temperature near 0 the soft unit is the hard one"


class _Sizes(NamedTuple):
    seeds: int = 3
    speech: int = 160
    takes: int = 16
    steps: int = 300


class PhoneFrames(nn.Module):
    """Hidden frames of a network that tells phones: a front end by contract.

    Arguments
    ---------
    features : nn.Module
        Of ``lobes.features``.
    classes : int
        Number of phones.
    width : int
        Frames that it sees at once, an odd number.

    Example
    -------
    >>> PhoneFrames(block("log_mel_80"), 5)(torch.randn(1, 1600)).shape
    torch.Size([1, 9, 64])
    """

    def __init__(self, features: nn.Module, classes: int, width: int = 9):
        super().__init__()
        self.features, self.width, self.dim = features, width, _DIM
        for name in ("sample_rate", "hop", "min_samples", "frame_offset"):
            setattr(self, name, getattr(features, name))
        self.masks_padding, self.receptive_field = False, (None, None)
        self.norm = nn.BatchNorm1d(features.dim, affine=False, momentum=None)
        self.hidden = nn.Sequential(
            nn.Linear(width * features.dim, 128), nn.ReLU(), nn.Linear(128, _DIM)
        )
        self.guess = nn.Linear(_DIM, classes)

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.features.num_frames(n_samples)

    def forward(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Hidden frames ``[batch, frames, 64]`` of wavs ``[batch, time]``."""
        frames = self.features(wavs, counts)
        normed = self.norm(frames.transpose(1, 2)).transpose(1, 2)
        return self.hidden(spliced(normed, self.width)).relu()


def spliced(frames: Tensor, width: int) -> Tensor:
    """Each frame with its neighbours: ``[batch, frames, width * dim]``.

    Example
    -------
    >>> spliced(torch.tensor([[[1.0], [2.0], [3.0]]]), 3)[0].tolist()
    [[1.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 3.0]]
    """
    half = width // 2
    padded = F.pad(frames.transpose(1, 2), (half, half), "replicate")
    return padded.unfold(2, width, 1).permute(0, 2, 3, 1).flatten(2)


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/, and synth/ of recipes/Synth.
    quick : bool
        Two seeds, less speech, fewer steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = _Sizes(2, 12, 2, 3) if quick else _Sizes()
    found: dict[tuple[str, str], list[float]] = {}
    laws = {_COLD: True}
    for seed in range(sizes.seeds):
        corpus = read_corpus(data, 53, seed, sizes.speech, 1)
        digits = read_digits(data, Signal(), 53, seed, sizes.takes)
        # Every other take of the training speakers is held out.
        known, held, new = digits.train[::2], digits.train[1::2], digits.test
        with seeded(seed) as generator:
            phones = _train_phones(corpus, sizes.steps, generator)
            units = _train_soft(phones, known, sizes.steps, generator)
            laws[_COLD] &= _cold_is_hard(units, held[0].frames)
            models = {_FRAMES: phones, **units}
            states = {
                name: [
                    plain_frames(model, [d.frames for d in p])
                    for p in (known, held, new)
                ]
                for name, model in models.items()
            }
            for name, frames in states.items():
                for measure, value in _probes(frames, known, held, new).items():
                    found.setdefault((measure, name), []).append(value)
            errors = _errors(states, phones.features, (known, new), sizes.steps)
            heard = {name: (frames[0], frames[2]) for name, frames in states.items()}
            spoken = spoken_measures(
                heard, phones.features, known, new, 2 * sizes.steps
            )
        for name, value in errors.items():
            found.setdefault(("digit error, converted", name), []).append(value)
        for key, value in spoken.items():
            found.setdefault(key, []).append(value)
    return make_result(53, "Soft-VC", CLAIM, _setup(sizes), _rows(found), laws)


def _setup(sizes: _Sizes) -> str:
    return (
        "Frames: 64 hidden values every 10 ms of a network of two layers over 9 "
        f"log-mel frames that tells phones of {sizes.speech} synthetic English "
        f"utterances; {_UNITS} units by k-means of them on digits (FSDD, "
        f"{sizes.takes} takes). Hard and soft units share one table of vectors and a "
        f"temperature of 0.1. {sizes.steps} steps for each network. Accuracy of linear "
        "probes pooled over thirds: held-out takes of the training speakers, digits "
        "of a new speaker too. Converted: a network maps units of one training "
        "speaker to log-mel frames; the new speaker's units go through it, and a "
        "probe of real log-mel frames tells the digit. Spoken: the shipped vocoder, "
        f"{2 * sizes.steps} steps on all training speakers, makes waveforms of the new "
        "speaker's units in their voices, and the same probe reads those. "
        f"{sizes.seeds} seeds for draws, initial values and clusters. {RULE}"
    )


def _train_phones(
    corpus: Corpus, steps: int, generator: torch.Generator
) -> PhoneFrames:
    sizes = {"hop": 160, "win": 400, "n_fft": 512, "power": 2, "floor": 1e-8}
    model = PhoneFrames(block("log_mel_80", **sizes), len(corpus.ids))
    frames = plain_frames(model.features, [spoken.wav for spoken in corpus.train])
    labels = torch.cat(phone_labels(corpus.train, frames, model, corpus.ids))
    model.norm(torch.cat(frames))  # its statistics are those of all frames
    model.norm.eval()
    inputs = torch.cat([spliced(model.norm(x).unsqueeze(0), 9)[0] for x in frames])
    inputs, labels = inputs[labels >= 0], labels[labels >= 0]

    def loss(rows: Tensor) -> Tensor:
        hidden = model.hidden(inputs[rows]).relu()
        return F.cross_entropy(model.guess(hidden), labels[rows])

    _descend(model, loss, len(labels), steps, generator)
    return model.eval().requires_grad_(False)


def _descend(
    model: nn.Module, loss: Any, rows: int, steps: int, generator: torch.Generator
) -> None:
    """Adam on the loss of 256 random rows a step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(rows, (256,), generator=generator)).backward()
        optimizer.step()


def _train_soft(
    phones: PhoneFrames,
    digits: Sequence[Digit],
    steps: int,
    generator: torch.Generator,
) -> dict[str, nn.Module]:
    """Hard and soft units as front ends."""
    wavs = [digit.frames for digit in digits]
    frames = plain_frames(phones, wavs)
    centers = lloyd(torch.cat(frames), _UNITS, generator, iterations=15)
    labels = [nearest_centers(x, centers)[0] for x in frames]
    features = maker("lobes.pretraining.soft_units.ProjectedFeatures")(phones, _DIM)
    objective = maker("lobes.pretraining.soft_units.SoftUnitPrediction")(
        features, block("quantizer_soft", size=_UNITS, dim=_DIM)
    )
    parts = {"objective": objective, "loss_weights": {"units": 1.0}}
    pretrain(parts, wavs, steps, generator, labels, phones.hop)
    return {_HARD: Units(objective, hard=True), _SOFT: Units(objective, hard=False)}


class Units(nn.Module):
    """Vectors of hard or soft units of waveforms.

    Arguments
    ---------
    objective : nn.Module
        ``SoftUnitPrediction``.
    hard : bool
        The likeliest unit's vector, or the mean.
    """

    def __init__(self, objective: nn.Module, hard: bool):
        super().__init__()
        self.objective, self.hard = objective, hard

    def forward(self, wavs: Tensor) -> Tensor:
        """Vectors ``[batch, frames, dim]`` of wavs ``[batch, time]``."""
        if not self.hard:
            return self.objective.soft(wavs)
        codebook = self.objective.codebook
        return codebook.decode(codebook.encode(self.objective.features(wavs)))


@torch.no_grad()
def _cold_is_hard(units: dict[str, nn.Module], wav: Tensor) -> bool:
    objective = units[_SOFT].objective
    cold = block("quantizer_soft", size=_UNITS, dim=_DIM, temperature=1e-7).eval()
    cold.load_state_dict(objective.codebook.state_dict())
    soft = cold(objective.features(wav.unsqueeze(0))).quantized
    return torch.allclose(soft, units[_HARD](wav.unsqueeze(0)), atol=1e-5)


def _probes(
    frames: Sequence[list[Tensor]],
    known: Sequence[Digit],
    held: Sequence[Digit],
    new: Sequence[Digit],
) -> dict[str, float]:
    said = [[digit.digit for digit in part] for part in (known, held, new)]
    voices = [[digit.speaker for digit in part] for part in (known, held)]
    return {
        "digits": probe_pooled((frames[0], said[0]), (frames[1], said[1])),
        "digits, new speaker": probe_pooled((frames[0], said[0]), (frames[2], said[2])),
        "speakers": probe_pooled((frames[0], voices[0]), (frames[1], voices[1])),
    }


def _errors(
    states: dict[str, list[list[Tensor]]],
    features: nn.Module,
    parts: tuple[Sequence[Digit], Sequence[Digit]],
    steps: int,
) -> dict[str, float]:
    """Digit errors on the new speaker's speech, and on it in another's voice."""
    known, new = parts
    real = [plain_frames(features, [d.frames for d in part]) for part in parts]
    said = [[digit.digit for digit in part] for part in parts]
    errors = {_SPEECH: 1 - probe_pooled((real[0], said[0]), (real[1], said[1]))}
    voice = known[0].speaker
    own = [k for k, digit in enumerate(known) if digit.speaker == voice]
    target = torch.cat([real[0][k] for k in own])
    for name, frames in states.items():
        heard = torch.cat([spliced(frames[0][k].unsqueeze(0), 5)[0] for k in own])
        with seeded(0) as generator:
            decoder = nn.Sequential(
                nn.Linear(heard.shape[1], 128), nn.ReLU(), nn.Linear(128, features.dim)
            )

            def loss(rows: Tensor, model: nn.Module = decoder, x: Tensor = heard):
                return (model(x[rows]) - target[rows]).square().mean()

            _descend(decoder, loss, len(target), steps, generator)
        with torch.no_grad():
            made = [decoder(spliced(x.unsqueeze(0), 5)[0]) for x in frames[2]]
        errors[name] = 1 - probe_pooled((real[0], said[0]), (made, said[1]))
    return errors


def _rows(found: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    converted, spoken = "digit error, converted", "digit error, spoken"
    plan = [
        ("digits", _FRAMES, _HARD, "lower"),
        ("speakers", _FRAMES, _HARD, "lower"),
        ("digits", _HARD, _SOFT, "higher"),
        ("digits, new speaker", _HARD, _SOFT, "higher"),
        ("speakers", _HARD, _SOFT, "higher"),
        (converted, _HARD, _SOFT, "lower"),
        (spoken, _HARD, _SOFT, "lower"),
        ("target voice, spoken", _HARD, _SOFT, NOT_STATED),
        (converted, _FRAMES, _SOFT, NOT_STATED),
        (converted, _SPEECH, _SOFT, NOT_STATED),
    ]
    return [
        make_row(measure, (a, found[measure, a]), (b, found[measure, b]), expected)
        for measure, a, b, expected in plan
    ]
