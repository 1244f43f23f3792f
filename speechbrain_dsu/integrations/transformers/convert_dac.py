"""DAC of transformers in modules of this package; see ``convert_codecs``."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from speechbrain_dsu.integrations.transformers.convert_plans import (
    CodecParts,
    Filled,
    Plan,
    Plans,
    Weights,
    residual,
)
from speechbrain_dsu.lobes.encoders.snake import SnakeEncoder
from speechbrain_dsu.lobes.vocoders.snake import SnakeDecoder


def plan(settings: Any, kept: int) -> Plans:
    """Our encoder, quantizer and decoder."""
    shared = {"sample_rate": settings.sampling_rate, "dim": settings.hidden_size}
    quantizer = residual(
        kept,
        settings.codebook_size,
        settings.hidden_size,
        codebook_dim=settings.codebook_dim,
        update="gradient",
        metric="cosine",
        kmeans_start=False,
    )
    down, up = list(settings.downsampling_ratios), list(settings.upsampling_ratios)
    channels = settings.encoder_hidden_size, settings.decoder_hidden_size
    return (
        Plan(SnakeEncoder, n_filters=channels[0], strides=down, **shared),
        quantizer,
        Plan(SnakeDecoder, channels=channels[1], strides=up, **shared),
    )


def fill(settings: Any, state: Weights, parts: CodecParts) -> Filled:
    """Weights under our names, in the order of their use on both sides."""
    renamed, vectors = {}, []
    stems = {
        "encoder": _encoder(len(settings.downsampling_ratios)),
        "decoder": _decoder(len(settings.upsampling_ratios)),
    }
    for side, names in stems.items():
        module = getattr(parts, side)
        for (ours, part), theirs in zip(_weighted(module), names, strict=True):
            for name, value in part.named_parameters():
                found = state[f"{side}.{theirs}.{name}"]
                renamed[f"{side}.{ours}.{name}"] = found.reshape(value.shape)
    levels = parts.quantizer.levels
    for index, level in enumerate(levels):
        stem = f"quantizer.quantizers.{index}"
        vectors.append((level.quantizer, state[f"{stem}.codebook.weight"]))
        for way in ("in", "out"):
            ours = f"quantizer.levels.{index}.project_{way}"
            renamed[f"{ours}.weight"] = state[f"{stem}.{way}_proj.weight"].squeeze(-1)
            renamed[f"{ours}.bias"] = state[f"{stem}.{way}_proj.bias"]
    above = tuple(
        f"quantizer.quantizers.{index}."
        for index in range(len(levels), settings.n_codebooks)
    )
    return vectors, renamed | {
        key: value
        for key, value in state.items()
        if key not in state.taken and not key.startswith(above)
    }


def _weighted(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Parts with weights of their own, in the order of their use."""
    for name, part in module.named_modules():
        if any(True for _ in part.parameters(recurse=False)):
            yield name, part


def _units(block: int) -> Iterator[str]:
    for unit in (1, 2, 3):
        for part in ("snake1", "conv1", "snake2", "conv2"):
            yield f"block.{block}.res_unit{unit}.{part}"


def _encoder(blocks: int) -> Iterator[str]:
    yield "conv1"
    for block in range(blocks):
        yield from _units(block)
        yield f"block.{block}.snake1"
        yield f"block.{block}.conv1"
    yield "snake1"
    yield "conv2"


def _decoder(blocks: int) -> Iterator[str]:
    yield "conv1"
    for block in range(blocks):
        yield f"block.{block}.snake1"
        yield f"block.{block}.conv_t1"
        yield from _units(block)
    yield "snake1"
    yield "conv2"
