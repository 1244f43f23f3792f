"""Claim 179: what sets the variants of vector quantization apart, at equal bits.

"Discrete Tokenization for Multimodal LLMs: A Comprehensive Survey" (2025) orders
vector quantization into variants and names codebook collapse as its first open
problem. Here each variant with an implementation that ships sits in the same small
autoencoder of log-mel frames of spoken digits, with 10 bits a frame, and is trained
for the same number of steps; a held-out speaker is decoded.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Found,
    digit_frames,
    joined,
    make_result,
    make_row,
    seeded,
    share_of_error,
)
from speechbrain_dsu.evaluation.claims.frame_codec import (
    FrameCodec,
    train_codec,
    usage,
)

CLAIM = (
    "At equal bits a residual quantizer's error falls with every stage; FSQ, LFQ and "
    "BSQ use nearly all ids where plain VQ collapses; a k-means start with restarts "
    "raises the perplexity; product VQ beats one VQ of the same memory at many bits."
)
_BITS, _DIM = 10, 32
_SIZE = 2**_BITS
_PLAIN = {"update": "gradient", "kmeans_start": False, "revive_below": 0.0}
_VARIANTS = {
    "plain VQ": ("quantizer_vq", {"size": _SIZE, "dim": _DIM, **_PLAIN}),
    "VQ, start + restart": ("quantizer_vq", {"size": _SIZE, "dim": _DIM}),
    "RVQ 5 x 4": ("quantizer_rvq", {"n_codebooks": 5, "size": 4, "dim": _DIM}),
    "product 2 x 32": ("quantizer_grouped", {"groups": 2, "size": 32, "dim": _DIM}),
    "additive 2 x 32": (
        "quantizer_additive",
        {"n_codebooks": 2, "size": 32, "dim": _DIM},
    ),
    "FSQ 4^5": ("quantizer_fsq", {"levels": [4] * 5, "dim": 5}),
    "LFQ": ("quantizer_lfq", {"bits": _BITS, "dim": _BITS}),
    "BSQ": ("quantizer_bsq", {"bits": _BITS, "dim": _BITS}),
    # Of equal memory, not of equal bits.
    "VQ 256, 8 bit": ("quantizer_vq", {"size": 256, "dim": _DIM}),
    "product 2 x 256, 16 bit": (
        "quantizer_grouped",
        {"groups": 2, "size": 256, "dim": _DIM},
    ),
}
_WITHOUT_TABLE = ("FSQ 4^5", "LFQ", "BSQ")
_SINGLE_STAGE = ("plain VQ", "VQ, start + restart", "product 2 x 32", "LFQ", "BSQ")
_RANGE = "ids in range"
_SAVED = "the same codes after saving and loading"
_INVERSE = "codes -> vectors -> codes (VQ, product, LFQ, BSQ, FSQ with clamp)"


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
    seeds, takes, steps = (2, 2, 20) if quick else (3, 20, 1500)
    found = Found()
    laws = {_RANGE: True, _SAVED: True, _INVERSE: _clamped_fsq_inverts()}
    for seed, digits in digit_frames(data, 179, seeds, takes):
        train, test = joined(digits.train), joined(digits.test)
        for name, (shipped, settings) in _VARIANTS.items():
            with seeded(seed) as generator:
                codec = FrameCodec(train.shape[1], block(shipped, **settings))
                train_codec(codec, train, steps, generator)
            codes = codec.encode(train)
            _keep_laws(laws, name, codec.quantizer, codec.latents(test), codes)
            sizes = codec.quantizer.codebook_sizes
            used = usage(_joint_ids(codes, sizes), math.prod(sizes))
            stages = range(1, codes.shape[1] + 1) if "RVQ" in name else [None]
            for stage in stages:
                decoded = codec.decode(codec.encode(test)[:, :stage])
                key = name if stage is None else f"{name}, stage {stage}"
                found.note("error", key, share_of_error(test, decoded))
            found.note_all(name, {"used": used[0], "perplexity": used[1]})
    return make_result(
        179, "VQ-Survey", CLAIM, _setup(seeds), _rows(found, seeds), laws
    )


def _setup(seeds: int) -> str:
    return (
        "Log-mel frames of spoken digits (FSDD, 40 channels, 10 ms, standardised), "
        "one autoencoder per variant, frame by frame. Error: squared error of a "
        "speaker nobody trained on, as a share of the frames' squares. Used ids and "
        "perplexity: over the training frames, codebooks taken together as one id. "
        f"{seeds} seeds for split, initial values and batches. {RULE}"
    )


def _rows(found: Found, seeds: int) -> list[dict]:
    rvq = [f"RVQ 5 x 4, stage {stage}" for stage in range(1, 6)]
    rows = [
        found.row("error", one, more, "lower")
        for one, more in zip(rvq, rvq[1:], strict=False)
    ]
    for name in _WITHOUT_TABLE:
        rows.append(found.row("used", "plain VQ", name, "higher"))
        # "Nearly all" as a number, fixed before the first run.
        nearly = "nine of ten ids", [0.9] * seeds
        rows.append(make_row("used", nearly, (name, found["used", name]), "higher"))
    start = "VQ, start + restart"
    rows += [
        found.row("perplexity", "plain VQ", start, "higher"),
        found.row("error", "VQ 256, 8 bit", "product 2 x 256, 16 bit", "lower"),
    ]
    rivals = [n for n in _VARIANTS if n != start and "bit" not in n and "RVQ" not in n]
    rows += [found.row("error", start, name, NOT_STATED) for name in [*rivals, rvq[-1]]]
    return rows


def _joint_ids(codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    ids = torch.zeros_like(codes[:, 0])
    for column, size in zip(codes.unbind(1), sizes, strict=True):
        ids = ids * size + column
    return ids


def _keep_laws(
    laws: dict[str, bool],
    name: str,
    quantizer: nn.Module,
    latents: Tensor,
    codes: Tensor,
) -> None:
    sizes = torch.tensor(quantizer.codebook_sizes)
    laws[_RANGE] &= bool(((codes >= 0) & (codes < sizes)).all())
    shipped, settings = _VARIANTS[name]
    with seeded(1):
        other = block(shipped, **settings).eval()
    other.load_state_dict(quantizer.state_dict())
    batch = latents.unsqueeze(0)
    laws[_SAVED] &= torch.equal(other.encode(batch), quantizer.encode(batch))
    if name in _SINGLE_STAGE:
        laws[_INVERSE] &= codes_survive(quantizer, codes.unique(dim=0))


def _clamped_fsq_inverts() -> bool:
    quantizer = block("quantizer_fsq", levels=[4] * 5, dim=5, bound="clamp")
    return codes_survive(quantizer, torch.arange(_SIZE).unsqueeze(1))


def codes_survive(quantizer: nn.Module, codes: Tensor) -> bool:
    """Whether decoding codes ``[n, codebooks]`` and encoding gives them again.

    Example
    -------
    >>> quantizer = block("quantizer_lfq", bits=3, dim=3)
    >>> codes_survive(quantizer, torch.arange(8).unsqueeze(1))
    True
    """
    codes = codes.unsqueeze(0)
    with torch.no_grad():
        return torch.equal(quantizer.encode(quantizer.decode(codes)), codes)
