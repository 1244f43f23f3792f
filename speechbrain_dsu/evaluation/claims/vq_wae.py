"""Claim 223: optimal transport keeps a codebook in use where plain VQ lets it die.

Vuong et al., "Vector Quantized Wasserstein Auto-Encoder" (2023), evaluated on images.
Here: the same small autoencoder of log-mel frames of spoken digits with three
codebooks, from the same random start and for as many steps: trained by gradient
(VQ-VAE), by moving averages, and by the transport loss, with weights that are learned
and with uniform ones. None of them restarts dead codes. Once more from a start far
away from all latents.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    joined,
    log_mel_8k,
    make_result,
    make_row,
    read_digits,
    seeded,
)
from speechbrain_dsu.evaluation.claims.frame_codec import (
    FrameCodec,
    train_codec,
    usage,
)

CLAIM = (
    "Optimal transport uses the codebook better than plain VQ and no worse than "
    "moving averages, and reconstructs no worse than plain VQ."
)
_DIM = 64
_BARE = {"kmeans_start": False, "revive_below": 0.0}
_SYSTEMS = {
    "plain VQ": ("quantizer_vq", {"update": "gradient", **_BARE}),
    "VQ by averages": ("quantizer_vq", _BARE),
    "transport": ("quantizer_transport", {}),
    "transport, uniform": ("quantizer_transport", {"learned_weights": False}),
}
_FAR = 10.0
_ZERO = "no transport cost where every frame is a vector of equal weight"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, less speech, fewer steps, one small codebook.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = [32] if quick else [256, 512]
    seeds = range(2 if quick else 3)
    found: dict[tuple[str, str], list[float]] = {}
    laws = {_ZERO: True}
    for seed in seeds:
        takes = 2 if quick else 20
        digits = read_digits(data, log_mel_8k(), 223, seed, takes).standardised()
        train, test = joined(digits.train), joined(digits.test)
        for size in sizes:
            cases = [(name, False) for name in _SYSTEMS]
            if size == sizes[0]:
                cases += [(name, True) for name in _SYSTEMS]
            for name, far in cases:
                with seeded(seed) as generator:
                    codec = _codec(name, size, train.shape[1], far)
                    train_codec(codec, train, 10 if quick else 250, generator)
                where = f"K={size}{', far start' if far else ''}"
                _measure(found, f"{name}, {where}", codec, test)
            with seeded(seed):
                _keep_laws(laws, size)
    rows = [row for size in sizes for row in _rows(found, f"K={size}")]
    rows += _far_rows(found, f"K={sizes[0]}, far start")
    return make_result(223, "VQ-WAE", CLAIM, _setup(len(seeds)), rows, laws)


def _codec(name: str, size: int, dim: int, far: bool) -> FrameCodec:
    shipped, settings = _SYSTEMS[name]
    codec = FrameCodec(dim, block(shipped, size=size, dim=_DIM, **settings))
    quantizer = codec.quantizer
    with torch.no_grad():
        # All from the same vectors, of the scale of fresh latents or far from them.
        vectors = torch.randn(size, _DIM) / _DIM**0.5 + (_FAR if far else 0)
        if shipped == "quantizer_vq":
            quantizer.set_vectors(vectors)
        else:
            quantizer.vectors.copy_(vectors)
    return codec


def _measure(
    found: dict[tuple[str, str], list[float]],
    key: str,
    codec: FrameCodec,
    test: Tensor,
) -> None:
    codes = codec.encode(test)
    size = codec.quantizer.codebook_sizes[0]
    error = float((codec.decode(codes) - test).abs().mean())
    found.setdefault((key, "L1"), []).append(error)
    perplexity = usage(codes, size)[1]
    found.setdefault((key, "perplexity"), []).append(perplexity)


def _keep_laws(laws: dict[str, bool], size: int) -> None:
    quantizer: nn.Module = block("quantizer_transport", size=size, dim=_DIM)
    frames = quantizer.vectors.detach().unsqueeze(0)
    cost = quantizer.eval()(frames).losses["transport"]
    apart = (frames[0, 0] - frames[0, 1]).square().mean()
    laws[_ZERO] &= bool(cost < 1e-3 * apart)


def _setup(seeds: int) -> str:
    return (
        "Log-mel frames of spoken digits (FSDD, 40 channels, 10 ms, standardised), one "
        f"autoencoder per codebook, {_DIM} latent channels, equal random starts, no "
        "revival. Perplexity of the codes and mean absolute error, both on a speaker "
        f"nobody trained on. Far start: all vectors shifted by {_FAR:.0f} in every "
        f"channel. {seeds} seeds for split, start and batches. {RULE}"
    )


def _rows(found: dict[tuple[str, str], list[float]], where: str) -> list[dict]:
    plan = [
        ("perplexity", "plain VQ", "VQ by averages", "higher"),
        ("perplexity", "plain VQ", "transport", "higher"),
        ("perplexity", "VQ by averages", "transport", "not lower"),
        ("L1", "plain VQ", "transport", "not higher"),
        ("L1", "VQ by averages", "transport", NOT_STATED),
        ("perplexity", "transport", "transport, uniform", NOT_STATED),
        ("L1", "transport", "transport, uniform", NOT_STATED),
    ]
    return [_row(found, where, *line) for line in plan]


def _far_rows(found: dict[tuple[str, str], list[float]], where: str) -> list[dict]:
    return [
        _row(found, where, "perplexity", "transport", name, NOT_STATED)
        for name in ("transport, uniform", "plain VQ", "VQ by averages")
    ]


def _row(
    found: dict[tuple[str, str], list[float]],
    where: str,
    measure: str,
    baseline: str,
    system: str,
    expected: str,
) -> dict[str, Any]:
    return make_row(
        f"{measure}, {where}",
        (baseline, found[f"{baseline}, {where}", measure]),
        (system, found[f"{system}, {where}", measure]),
        expected,
    )
