"""Pairs for the codec benchmark: our modules with a peer's weights, and the peer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.optional import require

NAMES = {"encodec": "EnCodec 24 kHz", "dac": "DAC 16 kHz", "mimi": "Mimi"}
_SMALL = {
    "encodec": {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16},
    "dac": {"encoder_hidden_size": 4, "decoder_hidden_size": 64, "hidden_size": 32},
    "mimi": {
        "num_filters": 4,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "upsample_groups": 32,
        "num_quantizers": 4,
        "vector_quantization_hidden_dimension": 8,
        "codebook_dim": 8,
    },
}
_RATIOS = {"downsampling_ratios": [2, 4, 5, 8]}


@dataclass(frozen=True)
class Pair:
    """One codec on both sides.

    Arguments
    ---------
    name, peer : str
        What is timed, and beside whom.
    sample_rate : int
        Of the audio.
    encoder, decoder : nn.Module
        Ours: ``[1, time]`` to ``[1, frames, dim]`` and back.
    encode, decode : callable
        The peer's, on a batch, in our axes.
    same : bool
        Whether the weights are the same.
    """

    name: str
    peer: str
    sample_rate: int
    encoder: nn.Module
    decoder: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    same: bool = True


def _models(convert: Callable[..., tuple], kind: str, quick: bool) -> tuple:
    """transformers' model with random weights, and our encoder and decoder."""
    transformers = require("transformers", extra="hf", needed_by="the codec bench")
    values: dict[str, Any] = dict(_SMALL[kind]) if quick else {}
    if kind == "dac":
        values |= {"sampling_rate": 16000} | _RATIOS
    stem = kind.capitalize()
    config = getattr(transformers, f"{stem}Config")(**values)
    theirs = getattr(transformers, f"{stem}Model")(config).eval()
    encoder, _, decoder = convert(config.to_dict(), theirs.state_dict())
    return theirs, config, encoder, decoder


def _transformers(kind: str, convert: Callable[..., tuple], quick: bool) -> Pair:
    theirs, config, encoder, decoder = _models(convert, kind, quick)

    def encode(wavs: Tensor) -> Tensor:
        if kind == "mimi":
            found = theirs.encoder(wavs.unsqueeze(1), use_streaming=False).latents
        else:
            found = theirs.encoder(wavs.unsqueeze(1))
        return found.transpose(1, 2)

    def decode(latents: Tensor) -> Tensor:
        found = theirs.decoder(latents.transpose(1, 2))
        return (found.audio_values if kind == "mimi" else found).squeeze(1)

    peer, rate = "transformers", config.sampling_rate
    return Pair(NAMES[kind], peer, rate, encoder, decoder, encode, decode)


def _encodec(convert: Callable[..., tuple], quick: bool) -> Pair:
    seanet = require("encodec.modules", extra="dev", needed_by="the codec bench")
    theirs, config, encoder, decoder = _models(convert, "encodec", quick)
    settings = {
        "dimension": config.hidden_size,
        "n_filters": config.num_filters,
        "norm": "weight_norm",
        "causal": True,
        "true_skip": False,
    }
    sides = seanet.SEANetEncoder(**settings), seanet.SEANetDecoder(**settings)
    for side, weights in zip(sides, (theirs.encoder, theirs.decoder), strict=True):
        _copy(side.eval().parameters(), weights.parameters())
    return Pair(
        NAMES["encodec"],
        "encodec",
        config.sampling_rate,
        encoder,
        decoder,
        lambda wavs: sides[0](wavs.unsqueeze(1)).transpose(1, 2),
        lambda latents: sides[1](latents.transpose(1, 2)).squeeze(1),
    )


@torch.no_grad()
def _copy(into: Iterable[nn.Parameter], values: Iterable[nn.Parameter]) -> None:
    """Both packages name the weights differently but list them in one order."""
    for place, value in zip(into, values, strict=True):
        place.copy_(value)


def _moshi(convert: Callable[..., tuple], quick: bool) -> Pair:
    loaders = require("moshi.models.loaders", extra="dev", needed_by="the codec bench")
    if quick:
        raise DsuError("moshi builds Mimi in its full size only: not in quick form")
    _, config, encoder, decoder = _models(convert, "mimi", quick)
    theirs = loaders.get_mimi(None, device="cpu").eval()

    def encode(wavs: Tensor) -> Tensor:
        return theirs.encode_to_latent(wavs.unsqueeze(1), quantize=False)

    def decode(latents: Tensor) -> Tensor:
        frames = theirs._to_encoder_framerate(latents.transpose(1, 2))
        (frames,) = theirs.decoder_transformer(frames)
        return theirs.decoder(frames).squeeze(1)

    peer, rate = "moshi", config.sampling_rate
    return Pair(NAMES["mimi"], peer, rate, encoder, decoder, encode, decode, False)


PEERS: dict[str, Callable[[Callable[..., tuple], bool], Pair]] = {
    "EnCodec, transformers": partial(_transformers, "encodec"),
    "EnCodec, encodec": _encodec,
    "DAC, transformers": partial(_transformers, "dac"),
    "Mimi, transformers": partial(_transformers, "mimi"),
    "Mimi, moshi": _moshi,
}
"""Builders of the pairs; each takes ``convert`` and ``quick``."""
