"""Claim 109: tokens near features in recognition, and what speech they make.

Yang et al., "Towards Universal Speech Discrete Tokens: A Case Study for ASR and TTS"
(2024). Recognition: log-mel frames against k-means tokens of the same frames and units
of the shipped encoder, on a speaker nobody trained on. Synthesis: a network says each
frame of a digit from the digit, the voice and the place in it, once as mel levels, once
as tokens; both go through one Griffin-Lim, and the recogniser of real log-mel frames
reads what comes out. Listeners and a trained vocoder with acoustic context, on which
the paper's second half rests, are left out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims import digit_asr as asr
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    make_result,
    make_row,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.evaluation.claims.small_training import train
from speechbrain_dsu.utils.nearest import nearest_centers
from speechbrain_dsu.utils.paths import hparams_dir

CLAIM = (
    "Recognisers of tokens come near those of features, nearer with tokens hidden in "
    "training; speech from predicted tokens is read at least as well as from "
    "predicted mel levels."
)
_POINTS = 5.0
_OWN = "k-means tokens are the nearest centres' own"


class _Table(nn.Module):
    """Centres as the vectors a reader begins with."""

    def __init__(self, centers: Tensor):
        super().__init__()
        self.centers, self.codebook_sizes = centers, (len(centers),)

    def embed(self, codes: Tensor) -> Tensor:
        return self.centers[codes]


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, fewer takes, centres and steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    takes, steps, size = (4, 3, 30) if quick else (24, 350, 500)
    seeds = range(2 if quick else 3)
    dmel, ssl = asr.shipped_tokenizer("dmel"), asr.shipped_tokenizer("ssl-k500")
    errors: dict[str, list[float]] = {}
    laws = {_OWN: True}
    for seed in seeds:
        parts = asr.read_digits(data, 109, seed, takes)
        texts = [[one.text for one in part] for part in parts]
        mel = asr.encoded(dmel, parts, "frames")
        with seeded(seed) as generator:
            centers = lloyd(torch.cat(mel.train), size, generator, 5 if quick else 15)
        units = _tokens(mel, centers)
        laws[_OWN] &= _own(centers)
        given = {"mel": mel, "k-means": units, "ssl-k500": None}
        given["ssl-k500"] = asr.encoded(ssl, parts, "units")
        hidden = {"time_mask": 0.0, "unit_dropout": 0.0}
        given["k-means, nothing hidden"] = units
        models = {}
        for name, one in given.items():
            with seeded(seed) as generator:
                model = asr.recogniser(one, **(hidden if "nothing" in name else {}))
                models[name] = asr.fit(model, one, texts[0], steps, generator)
            error = asr.digit_error(models[name], one.test, texts[1])
            errors.setdefault(name, []).append(error)
        with seeded(seed) as generator:
            made = _speech(parts[0], mel, centers, 20 if quick else 400, generator)
        for name, frames in made.items():
            said = list(asr.WORDS) * (len(frames) // 10)
            error = asr.digit_error(models["mel"], frames, said)
            errors.setdefault(f"from {name}", []).append(error)
    setup = f"{asr.SETUP} {size} centres, {steps} steps. {len(seeds)} seeds. {RULE}"
    return make_result(109, "UniversalTokens", CLAIM, setup, _rows(errors), laws)


def _rows(errors: dict[str, list[float]]) -> list[dict[str, Any]]:
    def row(old: str, new: str, expected: str) -> dict[str, Any]:
        return make_row("error, %", (old, errors[old]), (new, errors[new]), expected)

    return [
        row("mel", "k-means", f"within {_POINTS:g}"),
        row("mel", "ssl-k500", NOT_STATED),
        row("k-means, nothing hidden", "k-means", "lower"),
        row("from mel levels", "from tokens", "not higher"),
        row("mel", "from own tokens", NOT_STATED),
    ]


def _tokens(mel: asr.Input, centers: Tensor) -> asr.Input:
    train_part, test = (
        [nearest_centers(frames, centers)[0][:, None] for frames in part]
        for part in (mel.train, mel.test)
    )
    return asr.Input(train_part, test, (len(centers),), mel.rate, _Table(centers))


def _own(centers: Tensor) -> bool:
    found = nearest_centers(centers, centers)[0]
    return bool(torch.equal(centers[found], centers))


class _Voice(nn.Module):
    """A frame from the digit, the voice and the place: levels or scores of tokens."""

    def __init__(self, speakers: int, out: int):
        super().__init__()
        self.digit, self.speaker = nn.Embedding(10, 64), nn.Embedding(speakers, 64)
        self.layers = nn.Sequential(
            nn.Linear(64 * 2 + 16, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU()
        )
        self.head = nn.Linear(256, out)

    def forward(self, digit: Tensor, speaker: Tensor, place: Tensor) -> Tensor:
        waves = place.unsqueeze(-1) * torch.pi * torch.arange(1, 9)
        known = [self.digit(digit), self.speaker(speaker), waves.sin(), waves.cos()]
        return self.head(self.layers(torch.cat(known, -1)))


class _Frames(NamedTuple):
    digit: Tensor
    speaker: Tensor
    place: Tensor
    frame: Tensor


def _frames(spoken: Sequence[asr.Spoken], frames: Sequence[Tensor]) -> _Frames:
    names = sorted({one.speaker for one in spoken})
    columns = []
    for one, levels in zip(spoken, frames, strict=True):
        whole = torch.ones(len(levels), dtype=torch.int64)
        digit, speaker = asr.WORDS.index(one.text), names.index(one.speaker)
        place = torch.linspace(0, 1, len(levels))
        columns.append((whole * digit, whole * speaker, place, levels))
    return _Frames(*(torch.cat(column) for column in zip(*columns, strict=True)))


def _speech(
    spoken: Sequence[asr.Spoken],
    mel: asr.Input,
    centers: Tensor,
    steps: int,
    generator: torch.Generator,
) -> dict[str, list[Tensor]]:
    """Log-mel frames, after Griffin-Lim, of every digit by every voice."""
    known = _frames(spoken, mel.train)
    tokens = nearest_centers(known.frame, centers)[0]
    speakers = int(known.speaker.max()) + 1
    middle, scale = known.frame.mean(0), known.frame.std(0)
    levels, scores = _Voice(speakers, 80), _Voice(speakers, len(centers))

    def loss(model: nn.Module, of: Any):
        def draw() -> Tensor:
            some = torch.randint(len(tokens), (512,), generator=generator)
            given = (column[some] for column in known[:3])
            return of(model(*given), some)

        return draw

    wanted = (known.frame - middle) / scale
    train(levels, loss(levels, lambda y, i: F.mse_loss(y, wanted[i])), steps)
    train(scores, loss(scores, lambda y, i: F.cross_entropy(y, tokens[i])), steps)
    length = round(sum(map(len, mel.train)) / len(mel.train))
    made: dict[str, list[Tensor]] = {"mel levels": [], "tokens": [], "own tokens": []}
    with torch.no_grad():
        for speaker in range(speakers):
            for digit in range(10):
                whole = torch.ones(length, dtype=torch.int64)
                given = whole * digit, whole * speaker, torch.linspace(0, 1, length)
                made["mel levels"].append(levels(*given) * scale + middle)
                made["tokens"].append(centers[scores(*given).argmax(-1)])
                own = tokens[(known.digit == digit) & (known.speaker == speaker)]
                # The first recording's.
                first = _first(spoken, mel.train, digit, speaker)
                made["own tokens"].append(centers[own[: len(first)]])
        return {name: [_heard(one) for one in frames] for name, frames in made.items()}


def _first(
    spoken: Sequence[asr.Spoken], frames: Sequence[Tensor], digit: int, speaker: int
) -> Tensor:
    names = sorted({one.speaker for one in spoken})
    wanted = asr.WORDS[digit], names[speaker]
    places = (i for i, one in enumerate(spoken) if (one.text, one.speaker) == wanted)
    return frames[next(places)]


def _heard(levels: Tensor) -> Tensor:
    """Log-mel frames of what Griffin-Lim makes of log-mel frames."""
    features = block("log_mel_80")
    with open(hparams_dir() / "systems" / "tokenizers" / "dmel.yaml") as file:
        vocoder = load_hyperpyyaml(file)["vocoder"]
    return features(vocoder(levels[None]))[0]
