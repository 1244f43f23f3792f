"""The probe: a short clip and what the system made of it, kept in the bundle.

Hashes show that a file is the one that was published. They can't show that the files
belong together: centroids of layer 9 beside an encoder that stops at layer 12 hash
well and give wrong tokens silently. So loading runs the clip and compares.
"""

import importlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError

MAX_DIFFERENT = 0.01
"""Largest share of tokens that may differ (rounding on another machine)."""
MAX_ERROR = 1e-2
"""Largest error of real-valued outputs relative to their size."""
SECONDS = 3.0

Runner = Callable[[Mapping[str, nn.Module], Tensor, int], dict[str, Tensor]]


def run_tokenizer(
    modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
) -> dict[str, Tensor]:
    """Probe of a tokenizer: the codes ``[1, frames, codebooks]`` of the clip."""
    tokens = modules["tokenizer"].encode(wav.unsqueeze(0), sample_rate=sample_rate)
    return {"codes": tokens.codes.cpu()}


def runner_of(modules: Mapping[str, nn.Module], interface: str) -> Runner:
    """How to run the probe of a system: its interface's ``run_probe``.

    The interface's name comes from the manifest, so only those of this package count.
    """
    if set(modules) == {"tokenizer"}:
        return run_tokenizer
    pattern = r"speechbrain_dsu\.inference\.[a-z]\w*\.[A-Z]\w*"
    if not re.fullmatch(pattern, str(interface), re.ASCII):
        raise DsuError(f"the interface {interface!r} is not one of speechbrain_dsu")
    module, _, name = interface.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name).run_probe
    except (ModuleNotFoundError, AttributeError):
        raise DsuError(f"there is no interface {interface} with a run_probe") from None


def default_clip(sample_rate: int) -> Tensor:
    """Two seconds of a gliding voice-like tone with noise and pauses: ``[time]``.

    Real speech of the right kind is the better probe; this one needs no file.

    Example
    -------
    >>> default_clip(16000).shape
    torch.Size([32000])
    """
    time = torch.arange(2 * sample_rate, dtype=torch.float64) / sample_rate
    pitch = 110 + 60 * torch.sin(2 * math.pi * 0.7 * time)
    phase = 2 * math.pi * pitch.cumsum(0) / sample_rate
    tone = sum(
        torch.sin(k * phase) / k for k in range(1, 20) if k * 180 < sample_rate / 2
    )
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    voiced = torch.sin(2 * math.pi * 1.5 * time).clamp(min=0)
    hiss = torch.sin(2 * math.pi * 1.5 * time + 2).clamp(min=0)
    return (0.2 * voiced * tone + 0.05 * hiss * noise + 0.001 * noise).float()


def write_clip(clip: str | Path | Tensor | None, path: Path, sample_rate: int) -> None:
    """Write the probe clip at the system's rate, at most ``SECONDS`` long."""
    if clip is None:
        wav = default_clip(sample_rate)
    elif isinstance(clip, Tensor):
        wav = clip.reshape(-1)
    else:
        wav, _ = read_audio(clip, sample_rate)
    write_audio(path, wav[: round(SECONDS * sample_rate)], sample_rate)


@torch.no_grad()
def run_probe(
    modules: Mapping[str, nn.Module], clip: Path, interface: str
) -> dict[str, Tensor]:
    """Outputs of a system for its probe clip, in float32 on the device it is on."""
    wav, rate = read_audio(clip)
    run = runner_of(modules, interface)
    try:
        return run(modules, wav, rate)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        kind = type(error).__name__
        raise DsuError(f"{clip}: the probe can't be run: {kind}: {error}") from error


def compare(found: Mapping[str, Tensor], kept: Mapping[str, Tensor], where: Any) -> str:
    """Compare recomputed probe outputs with the kept ones.

    Returns
    -------
    str
        How well they agree.

    Raises
    ------
    DsuError
        If more than 1 % of the tokens differ (real values: 1 % of their size).

    Example
    -------
    >>> compare({"codes": torch.zeros(1, 4, 1)}, {"codes": torch.zeros(1, 4, 1)}, "x")
    'codes: equal'
    """
    advice = (
        "the parts do not belong together (another layer, normalisation, encoder or "
        "other centroids); get the whole bundle again from where it was published"
    )
    if set(found) != set(kept):
        raise DsuError(
            f"{where}: probe has {sorted(kept)}, not {sorted(found)}; {advice}"
        )
    notes = []
    for key, old in kept.items():
        new = found[key]
        if new.shape != old.shape:
            shapes = f"{list(new.shape)}, not {list(old.shape)}"
            raise DsuError(f"{where}: the probe's {key} are {shapes}; {advice}")
        if torch.equal(new, old.to(new.dtype)):
            notes.append(f"{key}: equal")
            continue
        if old.is_floating_point():
            share = float((new - old).norm() / old.norm().clamp(min=1e-12))
            limit = MAX_ERROR
        else:
            share, limit = float((new != old).float().mean()), MAX_DIFFERENT
        # NaN is never within a limit.
        if not share <= limit:
            raise DsuError(
                f"{where}: {share:.1%} of the probe's {key} differ; {advice}"
            )
        notes.append(f"{key}: {share:.2%} differ")
    return ", ".join(notes)
