"""Claim 111: masked channels keep the first codebook from taking everything.

Ji et al., "Language-Codec: Reducing the Gaps Between Discrete Codec Representation
and Speech Language Models" (2024): when each of the first codebooks sees only its own
channels, information is spread over them, which eases the language model that has to
predict the first one. Here: four codebooks of 128, as a plain residual chain and with
three masked ones, on latents of a small autoencoder of log-mel frames that are trained
with each quantizer, and on principal components under a random rotation.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    RULE,
    Digits,
    Found,
    digit_frames,
    guess_accuracy,
    joined,
    make_result,
    seeded,
    share_of_error,
)
from speechbrain_dsu.evaluation.claims.frame_codec import FrameCodec, train_codec

CLAIM = (
    "With masked channels the first codebook explains less of the latents, all "
    "together explain nearly as much, and the first codebook is easier to predict "
    "from text."
)
_DIM, _SIZE = 24, 128
_CHAIN = {"n_codebooks": 4, "size": _SIZE, "dim": _DIM, "dropout": 0.0}
_SYSTEMS = {
    "RVQ": ("quantizer_rvq", {**_CHAIN, "commitment": 1.0}),
    "masked": (
        "quantizer_masked_channels",
        {**_CHAIN, "masked": 3, "commitment": 1.0, "revive_below": 0.1},
    ),
}
# "Nearly equal" as a number, fixed before the first run.
_NEARLY = "within 0.05"
_SLOTS = 10
_SAME = "forward and decode(encode(x)) are the same"


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
    laws = {_SAME: True}
    for seed, digits in digit_frames(data, 111, seeds, takes):
        for name, (shipped, settings) in _SYSTEMS.items():
            with seeded(seed) as generator:
                codec = FrameCodec(
                    digits.train[0].frames.shape[1], block(shipped, **settings)
                )
                train_codec(codec, joined(digits.train), steps, generator)
                trained = _mapped(digits, codec.latents)
                rotated = _mapped(digits, _rotated_components(digits))
                other = block(shipped, **settings)
                train_quantizer(other, joined(rotated.train), steps, generator)
            cases = {"trained": (codec.quantizer, trained), "rotated": (other, rotated)}
            for where, (quantizer, latents) in cases.items():
                laws[_SAME] &= _forward_is_decoded(quantizer, latents)
                for measure, value in _measures(quantizer, latents).items():
                    found.note(f"{measure}, {where}", name, value)
    expected = {"book 1 explains": "lower", "all explain": _NEARLY}
    expected["book 1 guessed"] = "higher"
    rows = [
        found.row(f"{measure}, {where}", "RVQ", "masked", wanted)
        for where in ("trained", "rotated")
        for measure, wanted in expected.items()
    ]
    return make_result(111, "Language-Codec", CLAIM, _setup(seeds), rows, laws)


def _setup(seeds: int) -> str:
    return (
        f"4 x {_SIZE} codes a frame on {_DIM} latent channels of spoken digits (FSDD, "
        "log-mel, 40 channels, 10 ms, standardised). Explained: share of the latents' "
        "squares, by the first codebook alone and by all, on a speaker nobody trained "
        "on. Guessed: accuracy of the commonest first code of the training speakers, "
        f"given the digit and the tenth of the word. {seeds} seeds for split, initial "
        f"values and batches. {RULE} Nearly as much: no seed differs by more than 0.05."
    )


def _mapped(digits: Digits, function: Any) -> Digits:
    return Digits(
        *([d._replace(frames=function(d.frames)) for d in part] for part in digits)
    )


def _rotated_components(digits: Digits) -> Any:
    """Principal components of the training frames, randomly rotated."""
    frames = joined(digits.train)
    _, scales, directions = torch.pca_lowrank(frames, _DIM, center=False, niter=4)
    rotation, _ = torch.linalg.qr(torch.randn(_DIM, _DIM))
    # Components keep their scales: after the rotation each channel has some of all.
    scale = len(frames) ** 0.5 / scales[0]
    matrix = directions @ rotation * scale
    return lambda rows: rows @ matrix


def train_quantizer(
    quantizer: nn.Module,
    frames: Tensor,
    steps: int,
    generator: torch.Generator,
    batch: int = 512,
) -> None:
    """Let a quantizer of moving averages learn from batches of frames ``[n, dim]``."""
    quantizer.train()
    with torch.no_grad():
        for _ in range(steps):
            picks = torch.randint(len(frames), (batch,), generator=generator)
            quantizer(frames[picks].unsqueeze(0))
    quantizer.eval()


def _forward_is_decoded(quantizer: nn.Module, latents: Digits) -> bool:
    batch = latents.test[0].frames.unsqueeze(0)
    with torch.no_grad():
        forward = quantizer(batch).quantized
        decoded = quantizer.decode(quantizer.encode(batch))
    return bool(torch.allclose(forward, decoded, atol=1e-5))


def _measures(quantizer: nn.Module, latents: Digits) -> dict[str, float]:
    test = joined(latents.test).unsqueeze(0)
    with torch.no_grad():
        codes = quantizer.encode(test)
        one, full = (quantizer.decode(codes[..., :k]) for k in (1, None))
        guessed = guess_accuracy(*(_first_codes(quantizer, part) for part in latents))
    return {
        "book 1 explains": 1 - share_of_error(test, one),
        "all explain": 1 - share_of_error(test, full),
        "book 1 guessed": guessed,
    }


def _first_codes(quantizer: nn.Module, part: list) -> tuple[Tensor, Tensor]:
    """What is known of each frame, as one id, and its first code."""
    known, codes = [], []
    for digit, _, frames in part:
        tenth = torch.arange(len(frames)) * _SLOTS // len(frames)
        known.append(digit * _SLOTS + tenth)
        codes.append(quantizer.encode(frames.unsqueeze(0))[0, :, 0])
    return torch.cat(known), torch.cat(codes)
