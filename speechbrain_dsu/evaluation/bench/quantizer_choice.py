"""Which quantizer when: every shipped block on the same real frames.

Each block of ``hparams/blocks/quantizer_*.yaml`` that codes frame by frame is fitted on
MFCC and on log-mel frames of two voices, all for the same number of steps, and codes
the frames of two other voices. Its encoding and a training step are timed on the
log-mel frames beside a plain codebook of 1024 vectors, in turn.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims import SPEECH_VARIABLE
from speechbrain_dsu.evaluation.claims.common import (
    find_files,
    frames_of,
    seeded,
    share_of_error,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.evaluation.rates import entropy
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError

TRAIN = ("LJSpeech-mini/wavs/*.wav", "VCTK-mini/p225/*.wav")
TEST = ("VCTK-mini/p226/*.wav", "VCTK-mini/p227/*.wav")
BLOCKS: dict[str, dict[str, Any]] = {
    "vq": {},
    "transport": {},
    "soft": {},
    "labelled": {},
    "growing": {},
    # As many frames and centres as there is speech for.
    "entropy": {"nodes": 2000},
    "merged": {"fine": 4096, "size": 1024},
    "hash": {},
    "lfq": {},
    "bsq": {},
    "fsq": {},
    "random_projection": {},
    "gumbel": {},
    "gumbel_vq_wav2vec": {},
    "grouped": {},
    "grouped_residual": {},
    "masked_channels": {},
    "additive": {},
    "mvq": {},
    "fsq_grouped": {},
    "split": {},
    "rvq": {},
    "dac": {},
}
"""Blocks of the table and what is overridden besides ``dim``. Not here: those that code
windows or several layers at once, and continuous latents."""

_STEPS, _BATCH, _RATE = 100, 512, 1e-2
_TURNS = 7
# Frames that are coded for usage and for errors, and frames that are timed.
_CODED, _TIMED = 2000, 512


def run(
    quick: bool = False, features: Mapping[str, nn.Module] | None = None, only: str = ""
) -> list[dict[str, Any]]:
    """All rows of the section.

    Arguments
    ---------
    quick : bool
        Little speech, few steps, one turn.
    features : mapping of str to nn.Module
        Front ends by name; the last one's frames are timed.
    only : str
        Blocks whose name contains it.

    Returns
    -------
    list of dict
        Rows with case, peer, ours_s, peer_s and ratio of encoding; bits and entropy of
        a frame, share of the ids used, error per front end, train_ratio.

    Raises
    ------
    DsuError
        If there is no speech or no front end.
    """
    folder = os.environ.get(SPEECH_VARIABLE)
    if not folder or not features:
        raise DsuError(
            f"this section needs speech, set {SPEECH_VARIABLE}, and front ends"
        )
    sets = {name: read_sets(Path(folder), f, quick) for name, f in features.items()}
    train, test = list(sets.values())[-1]
    steps = 3 if quick else _STEPS
    with seeded(0) as generator:
        peer = block("quantizer_vq", size=16 if quick else 1024, dim=train.shape[1])
        fit(peer, train, steps, generator)
    names = [name for name in BLOCKS if only in name]
    return [_row(name, sets, peer, steps, quick) for name in names]


def _row(
    name: str,
    sets: Mapping[str, tuple[Tensor, Tensor]],
    peer: nn.Module,
    steps: int,
    quick: bool,
) -> dict[str, Any]:
    errors = {}
    for kind, (train, test) in sets.items():
        with seeded(0) as generator:
            quantizer = build(name, train.shape[1], quick)
            fit(quantizer, train, steps, generator)
        with torch.no_grad():
            decoded = quantizer.decode(quantizer.encode(test.unsqueeze(0)))[0]
        errors[f"error {kind}"] = share_of_error(test, decoded)
    with torch.no_grad():
        codes = quantizer.encode(train[:_CODED].unsqueeze(0))[0]
    sizes = quantizer.codebook_sizes
    columns = zip(codes.unbind(1), sizes, strict=True)
    counts = [torch.bincount(column, minlength=size) for column, size in columns]
    turns = 1 if quick else _TURNS
    pair = [_encoding(side, test[:_TIMED]) for side in (quantizer, peer)]
    ours, theirs, ratio = compare(*pair, turns)
    # The quantizer of the last front end is no longer needed: it may learn on.
    pair = [_training(side, train[:_BATCH]) for side in (quantizer, peer)]
    learns = hasattr(quantizer, "fit") or name == "random_projection"
    return {
        "case": name,
        "peer": "vq 1024",
        "ours_s": round(ours, 6),
        "peer_s": round(theirs, 6),
        "ratio": round(ratio, 3),
        "bits": round(sum(map(math.log2, sizes)), 1),
        "entropy": round(sum(map(entropy, counts)), 1),
        "used": round(
            statistics.fmean(float((c > 0).float().mean()) for c in counts), 2
        ),
        **{key: round(value, 3) for key, value in errors.items()},
        "train_ratio": "-" if learns else round(compare(*pair, turns)[2], 3),
    }


def build(name: str, dim: int, quick: bool = False) -> nn.Module:
    """A shipped block for frames of ``dim``.

    Example
    -------
    >>> build("split", 36).dim
    36
    """
    settings: dict[str, Any] = {"dim": dim, **BLOCKS[name]}
    if name == "split":
        del settings["dim"]
        settings |= {"semantic": {"dim": dim}, "acoustic": {"dim": dim}}
    if name == "gumbel":
        settings["out_dim"] = dim
    if quick:
        settings |= {
            "entropy": {"nodes": 40, "size": 40},
            "merged": {"fine": 32, "size": 16},
        }.get(name, {})
    return block(f"quantizer_{name}", **settings)


def fit(
    quantizer: nn.Module, frames: Tensor, steps: int, generator: torch.Generator
) -> None:
    """Train on random batches, or fit what is fitted; ends in evaluation mode.

    Arguments
    ---------
    quantizer : nn.Module
        By the quantizer contract.
    frames : Tensor
        ``[n, dim]``.
    steps : int
        Batches, or iterations of k-means.
    generator : torch.Generator
        Draws the batches.
    """
    if hasattr(quantizer, "medoids"):
        centers = lloyd(frames, len(quantizer.centers), generator, min(steps, 10))
        quantizer.fit(centers)
    elif hasattr(quantizer, "fit"):
        order = torch.randperm(len(frames), generator=generator)
        quantizer.fit(frames[order[: len(quantizer.frames)]])
    else:
        _train(quantizer, frames, steps, generator)
    quantizer.eval()


def _train(
    quantizer: nn.Module, frames: Tensor, steps: int, generator: torch.Generator
) -> None:
    weights = list(quantizer.parameters())
    optimizer = torch.optim.Adam(weights, lr=_RATE) if weights else None
    quantizer.train()
    for _ in range(steps):
        picks = torch.randint(len(frames), (_BATCH,), generator=generator)
        loss = _loss(quantizer, frames[picks])
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _loss(quantizer: nn.Module, frames: Tensor) -> Tensor:
    found = quantizer(frames.unsqueeze(0))
    error = (found.quantized[0] - frames).square().mean()
    return error + sum(found.losses.values())


def _encoding(quantizer: nn.Module, frames: Tensor) -> Callable[[], Any]:
    def encode() -> None:
        with torch.no_grad():
            quantizer.eval().encode(frames.unsqueeze(0))

    return encode


def _training(quantizer: nn.Module, frames: Tensor) -> Callable[[], Any]:
    def train() -> None:
        # The latents have a gradient, as behind an encoder.
        _loss(quantizer.train(), frames.clone().requires_grad_()).backward()

    return train


def compare(
    ours: Callable[[], Any], theirs: Callable[[], Any], turns: int
) -> tuple[float, float, float]:
    """Median CPU seconds of both, in turn, and the median ratio theirs / ours.

    CPU time, so that a busy machine does not decide.

    Example
    -------
    >>> frames = torch.randn(200, 200)
    >>> compare(lambda: None, lambda: frames @ frames @ frames, turns=3)[1] > 0
    True
    """
    spent: list[tuple[float, float]] = []
    for _ in range(turns + 1):
        start = time.process_time()
        ours()
        middle = time.process_time()
        theirs()
        spent.append((middle - start, time.process_time() - middle))
    spent = spent[1:]  # the first turn warms up
    mine, other = (statistics.median(side) for side in zip(*spent, strict=True))
    return mine, other, statistics.median(b / max(a, 1e-9) for a, b in spent)


def read_sets(
    data: Path, features: nn.Module, quick: bool = False
) -> tuple[Tensor, Tensor]:
    """Frames ``[n, dim]`` of training and of new voices, standardised by the first.

    Arguments
    ---------
    data : Path
        With LJSpeech-mini/ and VCTK-mini/.
    features : nn.Module
        Waveforms to frames.
    quick : bool
        Two files of each voice.

    Returns
    -------
    tuple of Tensor
        Training frames, and test frames as they are coded; both in random order.
    """
    parts = []
    for patterns in (TRAIN, TEST):
        files = []
        for pattern in patterns:
            found = find_files(data, pattern, "the choice of quantizers")
            files += found[: 2 if quick else 60]
        wavs = [read_audio(path, features.sample_rate)[0] for path in files]
        parts.append(frames_of(wavs, features))
    mean, std = parts[0].mean(0), parts[0].std(0).clamp(min=1e-5)
    draws = torch.Generator().manual_seed(0)
    train, test = (
        ((frames - mean) / std)[torch.randperm(len(frames), generator=draws)]
        for frames in parts
    )
    return train, test[:_CODED]
