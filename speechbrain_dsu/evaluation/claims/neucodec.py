"""Claim 85: codes of FSQ survive wrong bits better than those of RVQ.

Julian et al., "Finite Scalar Quantization Enables Redundant and Transmission-Robust
Neural Audio Compression at Low Bit-rates" (NeuCodec, 2025): neighbouring FSQ codes
mean similar frames, so a flipped bit costs little. Here: one small autoencoder of
log-mel frames is trained with NeuCodec's quantizer (8 channels of 4 levels) and with
residual codebooks of as many bits, 16 a frame; the bits of a new speaker's codes are
then flipped with growing probability before decoding. And a second encoder, half as
wide, learns to feed the first one's quantizer and decoder, which stay as they are: its
codes differ, what is decoded hardly.
"""

import copy
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
    seeded,
    share_of_error,
)
from speechbrain_dsu.evaluation.claims.frame_codec import FrameCodec, train_codec
from speechbrain_dsu.tokens.edits import bit_channel

CLAIM = (
    "At 16 bits a frame FSQ is worse than RVQ without bit errors, and better when one "
    "bit in twenty arrives wrong; a second encoder gives other codes and as good a "
    "reconstruction."
)
_DIM = 32
_FSQ = "FSQ 4^8"
_RIVALS = ("RVQ 2 x 256", "RVQ 4 x 16")
_SYSTEMS = {
    _FSQ: ("quantizer_fsq", {"levels": [4] * 8, "dim": 8}),
    "RVQ 2 x 256": ("quantizer_rvq", {"n_codebooks": 2, "size": 256, "dim": _DIM}),
    "RVQ 4 x 16": ("quantizer_rvq", {"n_codebooks": 4, "size": 16, "dim": _DIM}),
}
_DIGITS = {_FSQ: [4] * 8, "RVQ 2 x 256": [256], "RVQ 4 x 16": [16]}
_EXPECTED = {0.0: "higher", 0.01: NOT_STATED, 0.05: "lower", 0.1: "lower"}
_CLEAN = "without flips every code arrives as it was sent"
_BITS = "both spend 16 bits a frame"
_FROZEN = "the second encoder leaves quantizer and decoder as they were"
_FIRST, _SECOND = "first encoder", "second encoder"


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
    seeds, takes, steps = (2, 2, 20) if quick else (3, 20, 3000)
    found = Found()
    laws = {_CLEAN: True, _BITS: True, _FROZEN: True}
    for seed, digits in digit_frames(data, 85, seeds, takes):
        train, test = joined(digits.train), joined(digits.test)
        for name, (shipped, settings) in _SYSTEMS.items():
            with seeded(seed) as generator:
                codec = FrameCodec(train.shape[1], block(shipped, **settings))
                train_codec(codec, train, steps, generator)
                if name == _FSQ:
                    other = second_encoder(codec, train, steps, generator)
                    laws[_FROZEN] &= same_weights(codec, other)
                    twins = compare_encoders(codec, other, test)
                    for (twin, measure), value in twins.items():
                        found.note(measure, twin, value)
            codes = codec.encode(test)
            laws[_BITS] &= total_bits(codec.quantizer.codebook_sizes) == 16
            for flip in _EXPECTED:
                channel = torch.Generator().manual_seed(seed)
                heard = bit_channel(codes, _DIGITS[name], flip, generator=channel)
                laws[_CLEAN] &= flip > 0 or torch.equal(heard, codes)
                error = share_of_error(test, codec.decode(heard))
                found.note(f"{flip:.0%} of bits wrong", name, error)
    rows = [
        found.row(f"{flip:.0%} of bits wrong", rival, _FSQ, expected)
        for rival in _RIVALS
        for flip, expected in _EXPECTED.items()
    ]
    rows += [
        found.row("ids that agree", "half of them", _SECOND, "lower"),
        found.row("error", _FIRST, _SECOND, "within 0.05"),
    ]
    return make_result(85, "NeuCodec", CLAIM, _setup(seeds), rows, laws)


def second_encoder(
    codec: FrameCodec, frames: Tensor, steps: int, generator: torch.Generator
) -> FrameCodec:
    """The codec with another encoder, half as wide, trained for what is behind it."""
    other = copy.deepcopy(codec)
    wide, last = codec.encoder[0], codec.encoder[2]
    half = wide.out_features // 2
    other.encoder = nn.Sequential(
        nn.Linear(wide.in_features, half), nn.GELU(), nn.Linear(half, last.out_features)
    )
    other.quantizer.requires_grad_(False)
    other.decoder.requires_grad_(False)
    return train_codec(other, frames, steps, generator)


def same_weights(codec: FrameCodec, other: FrameCodec) -> bool:
    """Whether the quantizers and the decoders of two codecs are equal."""
    states = [
        (c.quantizer.state_dict(), c.decoder.state_dict()) for c in (codec, other)
    ]
    return all(
        torch.equal(first[key], second[key])
        for first, second in zip(*states, strict=True)
        for key in first
    )


def compare_encoders(
    codec: FrameCodec, other: FrameCodec, frames: Tensor
) -> dict[tuple[str, str], float]:
    """How often two encoders give a frame one id, and the error of either."""
    first, second = codec.encode(frames), other.encode(frames)
    return {
        ("half of them", "ids that agree"): 0.5,
        (_SECOND, "ids that agree"): float((first == second).double().mean()),
        (_FIRST, "error"): share_of_error(frames, codec.decode(first)),
        (_SECOND, "error"): share_of_error(frames, codec.decode(second)),
    }


def total_bits(sizes: tuple[int, ...]) -> int:
    """Bits of one code per codebook, for sizes that are powers of two.

    Example
    -------
    >>> total_bits((256, 16))
    12
    """
    return sum(size.bit_length() - 1 for size in sizes)


def _setup(seeds: int) -> str:
    return (
        "Log-mel frames of spoken digits (FSDD, 40 channels, 10 ms, standardised); "
        "encoder, quantizer and decoder trained together, frame by frame, for equal "
        "steps. Squared error of a speaker nobody trained on, as a share of the "
        "frames' squares; every bit flips independently, natural binary codes. The "
        "second encoder learns by reconstruction, as many steps; it shall agree with "
        "the first one on less than half of the ids. "
        f"{seeds} seeds for split, initial values, batches and flips. {RULE}"
    )
