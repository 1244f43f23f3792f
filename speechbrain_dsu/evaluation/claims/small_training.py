"""A short plain training, for claims whose models fit into a minute of one core."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.utils.paths import hparams_dir


def system(name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Parts of a shipped codec, ``hparams/systems/codecs/<name>.yaml``.

    Example
    -------
    >>> system("spectral_codec", {"hop": 400})["codec"].encoder.hop
    400
    """
    with open(hparams_dir() / "systems" / "codecs" / f"{name}.yaml") as file:
        return load_hyperpyyaml(file, overrides)


def small_codec(dim: int = 32, decoder_dim: int | None = None) -> dict[str, Any]:
    """A small encoder and decoder, 50 frames a second, by spectral_codec.yaml.

    Log-mel frames of one band and ConvNeXt blocks; ConvNeXt blocks and an inverse
    Fourier transform. Both look ahead.

    Arguments
    ---------
    dim : int
        Of the latents.
    decoder_dim : int, optional
        Of what the decoder takes, when that is more than the latents.

    Returns
    -------
    dict
        ``encoder``, ``decoder``, and ``codec`` with a quantizer to replace.

    Example
    -------
    >>> parts = small_codec(16)
    >>> parts["codec"].quantizer = block("quantizer_vq", size=8, dim=16)
    >>> parts["codec"](torch.randn(1, 640)).quantized.codes.shape
    torch.Size([1, 2, 1])
    """
    small = {"channels": 64, "hidden": 128, "layers": 2}
    fine = {"fine_layers": 1, "upsample": 2, "dim": decoder_dim or dim}
    return system(
        "spectral_codec",
        {
            **{"hop": 320, "win": 640, "dim": dim, "bands": 1},
            "encoder": small,
            "quantizer": {"dim": dim},
            "decoder": {**small, **fine},
        },
    )


def spectral_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """Mel and complex spectra of two windows: the sum of the shipped loss's terms."""
    loss = block("loss_spectral_speech", windows=[256, 1024], n_mels=[40, 80])
    return lambda estimate, target: sum(loss(estimate, target).values())


def draw_crops(
    tracks: Sequence[tuple[Tensor, ...]],
    frames: int,
    batch: int,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """Random stretches, the same of every track of an utterance.

    Arguments
    ---------
    tracks : sequence of tuple of Tensor
        Per utterance, tracks ``[n, ...]`` of one length, ``frames`` or more.
    frames, batch : int
        Length of a stretch, and how many.
    generator : torch.Generator
        Draws utterances, then places.

    Returns
    -------
    tuple of Tensor
        ``[batch, frames, ...]`` for each track.

    Example
    -------
    >>> tracks = [(torch.arange(9), torch.arange(9) + 100)]
    >>> first, second = draw_crops(tracks, 3, 2, torch.Generator().manual_seed(0))
    >>> first.shape, (second - first).unique()
    (torch.Size([2, 3]), tensor([100]))
    """
    drawn = []
    for place in torch.randint(len(tracks), (batch,), generator=generator).tolist():
        last = len(tracks[place][0]) - frames
        start = int(torch.randint(last + 1, (), generator=generator))
        drawn.append([track[start : start + frames] for track in tracks[place]])
    return tuple(torch.stack(parts) for parts in zip(*drawn, strict=True))


def train(
    model: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float = 2e-3
) -> None:
    """Train by AdamW with a rate that falls along a cosine; then evaluation mode.

    Arguments
    ---------
    model : nn.Module
        Changed in place.
    loss : callable
        Draws a batch and gives its loss.
    steps : int
        Optimizer steps.
    rate : float
        Learning rate of the first step.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.8, 0.95))
    model.train()
    for step in range(steps):
        share = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * max(share, 0.02)
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    model.eval()
