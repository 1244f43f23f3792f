"""Claim 95: dMel's error is the same everywhere, a fitted quantizer's is not.

He Bai et al., "dMel: Speech Tokenization made Simple" (2024): bins that are fitted on
nothing can't be wrong about a new voice. Log-mel frames of three voices fit a residual
k-means (the quantizer inside RVQ codecs, without a codec around it); both then code
frames of the same voices, of a new voice, in noise and from another recording world.
Once with the residual quantizer's usual 8 x 128 ids (56 bits a frame), once with as
many stages as take dMel's 320 bits. Then digits of a new speaker are recognised from
dMel, from the log-mel frames that it codes, and from k-means units of MFCC.
"""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims import digit_asr as asr
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    find_files,
    frames_of,
    make_result,
    make_row,
    seeded,
)
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers
from speechbrain_dsu.utils.paths import hparams_dir

CLAIM = (
    "A residual quantizer fitted on three voices is better than dMel on those voices, "
    "dMel is better on a new voice and in noise. Digits are recognised from dMel as "
    "from the mel frames themselves."
)
_EXPECTED = {
    "seen voices": "higher",
    "new voice": "lower",
    "noise 10 dB": "lower",
    "noise 0 dB": "lower",
    "other recordings": NOT_STATED,
}
_TRAIN_VOICES = {
    "LJSpeech": "LJSpeech-mini/wavs/*.wav",
    "p225": "VCTK-mini/p225/*.wav",
    "p226": "VCTK-mini/p226/*.wav",
}
_NEW_VOICE = "VCTK-mini/p227/*.wav"
_NEW_WORLD = "fsdd/recordings/*_0.wav"
_NOISES = {"noise 10 dB": 10.0, "noise 0 dB": 0.0}
_RVQ = [128] * 8
_HALF_BIN = "|x - decode(encode(x))| <= half a bin inside the range"
_INVERSE = "encode(decode(q)) = q"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With LJSpeech-mini/, VCTK-mini/ and fsdd/.
    quick : bool
        Two seeds, less speech, fewer iterations.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    parts = _load()
    features, shipped = parts["features"], parts["quantizer"]
    bits = sum(math.log2(size) for size in shipped.codebook_sizes)
    matched = stage_sizes(bits)
    baselines = {
        "k-means 8 x 128, 56 bit": _RVQ,
        f"k-means {len(matched)} stages, {bits:.0f} bit": matched,
    }
    seeds = range(2 if quick else 3)
    errors: dict[tuple[str, str], list[float]] = {}
    outside: dict[tuple[str, str], list[float]] = {}
    laws = {_HALF_BIN: True, _INVERSE: True}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        train, tests = _splits(data, features, generator, quick)
        ends = {"low": float(train.min()), "high": float(train.max())}
        fitted = _load({"quantizer": ends})["quantizer"]
        systems = {"dMel": shipped, "dMel, min to max": fitted}
        # The first stages of the long quantizer are fitted like the short one's.
        stages = fit_stages(train, matched, generator, iterations=4 if quick else 25)
        for condition, frames in tests.items():
            for name, dmel in systems.items():
                decoded = dmel.decode(dmel.encode(frames.unsqueeze(0)))[0]
                _note(errors, (condition, name), (frames - decoded).square())
                _note(outside, (condition, name), ~_inside(dmel, frames))
                laws[_HALF_BIN] &= inside_error(dmel, frames) <= dmel.width / 2 + 1e-5
                laws[_INVERSE] &= codes_survive(dmel)
            for name, sizes in baselines.items():
                decoded = residual_decode(frames, stages[: len(sizes)])
                _note(errors, (condition, name), (frames - decoded).square())
    rows = list(_rows(errors, outside, list(systems), list(baselines)))
    rows += list(_recognised(data, seeds, quick))
    setup = _setup(shipped, len(seeds))
    return make_result(95, "dMel", CLAIM, setup, rows, laws)


def _load(overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    with open(hparams_dir() / "systems" / "tokenizers" / "dmel.yaml") as file:
        return load_hyperpyyaml(file, overrides)


def _note(table: dict, key: tuple[str, str], values: Tensor) -> None:
    table.setdefault(key, []).append(float(values.double().mean()))


def _setup(dmel: nn.Module, seeds: int) -> str:
    return (
        f"Mean squared error of {dmel.dim} log-mel channels (natural logarithm). dMel "
        f"has {dmel.levels} bins, as shipped from {dmel.low} to {dmel.high}, and once "
        "more from the least to the largest value of the training frames. Trained on "
        "LJSpeech, p225 and p226; new voice p227; other recordings: FSDD, 8 kHz; white "
        f"noise. {seeds} seeds for split, fit and noise. Digits: {asr.SETUP} {RULE}"
    )


def _rows(
    errors: dict[tuple[str, str], list[float]],
    outside: dict[tuple[str, str], list[float]],
    systems: list[str],
    baselines: list[str],
) -> Iterator[dict[str, Any]]:
    for name, rival in product(systems, baselines):
        for condition, expected in _EXPECTED.items():
            yield make_row(
                condition,
                (rival, errors[condition, rival]),
                (name, errors[condition, name]),
                expected,
                f"{fmean(outside[condition, name]):.1%} beyond the bins",
            )


def _recognised(data: Path, seeds: range, quick: bool) -> Iterator[dict[str, Any]]:
    """Digit errors from frames, dMel and units, see ``digit_asr``."""
    takes, steps = (4, 3) if quick else (24, 350)
    dmel, mfcc = asr.shipped_tokenizer("dmel"), asr.shipped_tokenizer("mfcc-k100")
    feeds = {
        "log-mel": (dmel, "frames"),
        "dMel": (dmel, "units"),
        "MFCC k-means": (mfcc, "units"),
    }
    errors: dict[str, list[float]] = {name: [] for name in feeds}
    for seed in seeds:
        parts = asr.read_digits(data, 95, seed, takes)
        texts = [[one.text for one in part] for part in parts]
        for name, (tokenizer, feed) in feeds.items():
            given = asr.encoded(tokenizer, parts, feed)
            with seeded(seed) as generator:
                model = asr.recogniser(given)
                asr.fit(model, given, texts[0], steps, generator)
            errors[name].append(asr.digit_error(model, given.test, texts[1]))
    for rival, expected in (("log-mel", "within 5"), ("MFCC k-means", NOT_STATED)):
        found = ("dMel", errors["dMel"])
        yield make_row("digit error, %", (rival, errors[rival]), found, expected)


def _splits(
    data: Path, features: nn.Module, generator: torch.Generator, quick: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Training frames ``[n, dim]`` and test frames by condition, drawn by seed."""
    train, seen = [], []
    n_train, n_test = (3, 1) if quick else (8, 2)
    for pattern in _TRAIN_VOICES.values():
        files = find_files(data, pattern, "claim 95", n_train + n_test)
        order = torch.randperm(len(files), generator=generator).tolist()
        wavs = [_read(files[i], features) for i in order[: n_train + n_test]]
        train += wavs[:n_train]
        seen += wavs[n_train:]
    new = [
        _read(path, features)
        for path in find_files(data, _NEW_VOICE, "claim 95")[: 2 if quick else 10]
    ]
    # One take of every digit by every speaker, 8 kHz: no sound above 4 kHz at all.
    world = [_read(path, features) for path in find_files(data, _NEW_WORLD, "claim 95")]
    tests = {
        "seen voices": frames_of(seen, features),
        "new voice": frames_of(new, features),
    }
    for condition, level in _NOISES.items():
        noisy = [add_noise(wav, level, generator) for wav in seen]
        tests[condition] = frames_of(noisy, features)
    tests["other recordings"] = frames_of(world, features)
    return frames_of(train, features), tests


def _read(path: Path, features: nn.Module) -> Tensor:
    return read_audio(path, features.sample_rate)[0]


def add_noise(wav: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """White noise at ``level`` dB of signal over noise, over the whole of ``[time]``.

    Example
    -------
    >>> wav = torch.ones(10000)
    >>> noise = add_noise(wav, 20.0, torch.Generator().manual_seed(0)) - wav
    >>> round(float(noise.square().mean()), 3)
    0.01
    """
    noise = torch.randn(wav.shape, generator=generator)
    ratio = wav.square().mean() / noise.square().mean()
    return wav + noise * (ratio / 10 ** (level / 10)).sqrt()


def stage_sizes(bits: float, size: int = 128) -> list[int]:
    """Codebook sizes of a residual quantizer that takes exactly ``bits`` a frame.

    Example
    -------
    >>> stage_sizes(17)
    [128, 128, 8]
    """
    whole, rest = divmod(round(bits), round(math.log2(size)))
    return [size] * whole + ([2**rest] if rest else [])


def fit_stages(
    frames: Tensor, sizes: list[int], generator: torch.Generator, iterations: int
) -> list[Tensor]:
    """Residual k-means: each stage's centres ``[size, dim]`` on what is left over.

    Example
    -------
    >>> generator = torch.Generator().manual_seed(0)
    >>> frames = torch.tensor([[0.0], [1.0], [10.0], [11.0]]).repeat(5, 1)
    >>> first, second = fit_stages(frames, [2, 2], generator, 10)
    >>> float((frames - residual_decode(frames, [first, second])).abs().max())
    0.0
    """
    left, stages = frames, []
    for size in sizes:
        centers = lloyd(left, size, generator, iterations)
        left = left - centers[nearest_centers(left, centers)[0]]
        stages.append(centers)
    return stages


def lloyd(
    frames: Tensor, size: int, generator: torch.Generator, iterations: int
) -> Tensor:
    """Centres ``[size, dim]`` of plain k-means, started on random frames.

    A centre that loses all its frames moves to a random one.

    Example
    -------
    >>> frames = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
    >>> lloyd(frames, 2, torch.Generator().manual_seed(0), 9).sort(0).values.tolist()
    [[1.0], [10.0]]
    """
    if len(frames) < size:
        raise DsuError(
            f"k-means with {size} centres needs as many frames, got {len(frames)}"
        )
    centers = frames[torch.randperm(len(frames), generator=generator)[:size]]
    for _ in range(iterations):
        ids = nearest_centers(frames, centers, exact=False)[0]
        counts = torch.bincount(ids, minlength=size)
        sums = torch.zeros_like(centers).index_add_(0, ids, frames)
        spare = frames[torch.randint(len(frames), (size,), generator=generator)]
        alive = (counts > 0).unsqueeze(1)
        centers = torch.where(alive, sums / counts.clamp(min=1).unsqueeze(1), spare)
    return centers


def residual_decode(frames: Tensor, stages: list[Tensor]) -> Tensor:
    """Frames ``[n, dim]`` after coding by every stage in turn: the sum of centres."""
    decoded = torch.zeros_like(frames)
    for centers in stages:
        decoded = decoded + centers[nearest_centers(frames - decoded, centers)[0]]
    return decoded


def _inside(dmel: nn.Module, frames: Tensor) -> Tensor:
    return (frames >= dmel.low) & (frames <= dmel.high)


def inside_error(dmel: nn.Module, frames: Tensor) -> float:
    """Largest error of values inside the bins' range; 0 if there are none."""
    decoded = dmel.decode(dmel.encode(frames.unsqueeze(0)))[0]
    inside = _inside(dmel, frames)
    return float((frames - decoded).abs()[inside].max()) if inside.any() else 0.0


def codes_survive(dmel: nn.Module) -> bool:
    """Whether every id of every channel comes back from its own bin centre."""
    codes = torch.arange(dmel.levels).view(1, -1, 1).expand(1, -1, dmel.dim)
    return bool((dmel.encode(dmel.decode(codes)) == codes).all())
