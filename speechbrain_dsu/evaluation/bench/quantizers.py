"""Quantizers against their peers: encoding and a training step.

Same process, same weights, same latents, runs in turn, medians. A training step is
forward and backward in training mode, down to the latents and whatever the quantizer
learns by itself; no optimizer. Every shape has a fresh pair, since training moves the
weights of each in its own way. ``disagreements`` counts codes that differ in encoding,
the megabytes are those that a run holds at most beyond what it was given. The peer
"plain" is the limit: a matrix product and an argmax per codebook.
"""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.bench.quantizer_memory import peak_bytes
from speechbrain_dsu.evaluation.bench.quantizer_peers import CHAINS, Case
from speechbrain_dsu.evaluation.bench.quantizer_peers_scalar import SCALARS
from speechbrain_dsu.utils.errors import DsuError

logger = logging.getLogger(__name__)

SHAPES = ((16, 150), (1, 7500))
"""Batch and frames of the latents."""

_QUICK_SHAPES = ((2, 20),)
_SECONDS = 2.0  # per side and row, about
_MOST = 200


def run(quick: bool = False, only: str = "") -> list[dict[str, Any]]:
    """All rows of the section; cases whose package is missing are left out.

    Arguments
    ---------
    quick : bool
        One short shape, one turn.
    only : str
        Cases whose name contains it.

    Returns
    -------
    list of dict
        Rows with case, peer, ours_s, peer_s, ratio, ours_mb and peer_mb; encoding
        adds disagreements.

    Example
    -------
    >>> row = run(quick=True, only="random projection, SpeechBrain")[0]
    >>> row["case"], row["disagreements"]
    ('random projection 8192x16, encode 2x20', 0)
    """
    rows = []
    for name, build in {**CHAINS, **SCALARS}.items():
        if only not in name:
            continue
        for shape in _QUICK_SHAPES if quick else SHAPES:
            torch.manual_seed(0)
            try:
                case = build()
            except DsuError as error:
                logger.warning("left out: %s: %s", name, error)
                break
            rows += _rows(case, shape, quick)
    return rows


def _rows(case: Case, shape: tuple[int, int], quick: bool) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(*shape, case.dim, generator=generator)
    size = f"{shape[0]}x{shape[1]}"
    rows = []
    if case.encode is not None:
        case.set_training(False)
        with torch.no_grad():
            codes = [encode(latents) for encode in case.encode]
            pair = [_thunk(encode, latents) for encode in case.encode]
            row = _measure(f"{case.name}, encode {size}", case.peer, pair, quick)
        wrong = int((codes[0].reshape(-1) != codes[1].reshape(-1)).sum())
        rows.append(row | {"disagreements": wrong})
    if case.loss is not None:
        case.set_training(True)
        pair = [_thunk(_step, loss, latents) for loss in case.loss]
        rows.append(_measure(f"{case.name}, train {size}", case.peer, pair, quick))
    return rows


def _step(loss: Callable[[Tensor], Tensor], latents: Tensor) -> None:
    loss(latents.clone().requires_grad_()).backward()


def _thunk(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: function(*args)


def _measure(
    case: str, peer: str, pair: list[Callable[[], Any]], quick: bool
) -> dict[str, Any]:
    """Both in turn; as many turns as fit the time, at least five."""
    spent: list[list[float]] = [[], []]
    begin = time.perf_counter()
    while not _enough(spent, begin, quick):
        for side, run_once in zip(spent, pair, strict=True):
            start = time.perf_counter()
            run_once()
            side.append(time.perf_counter() - start)
    # The first turn warms up.
    ours, theirs = (side[1:] or side for side in spent)
    # Turn by turn: a busy machine slows both sides of one turn.
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "case": case,
        "peer": peer,
        "ours_s": round(statistics.median(ours), 6),
        "peer_s": round(statistics.median(theirs), 6),
        "ratio": round(statistics.median(ratios), 2),
        "ours_mb": round(peak_bytes(pair[0]) / 1e6, 2),
        "peer_mb": round(peak_bytes(pair[1]) / 1e6, 2),
    }


def _enough(spent: list[list[float]], begin: float, quick: bool) -> bool:
    turns = len(spent[0])
    if quick:
        return turns >= 1
    late = time.perf_counter() - begin > 2 * _SECONDS
    return turns >= _MOST or (turns >= 6 and late)
