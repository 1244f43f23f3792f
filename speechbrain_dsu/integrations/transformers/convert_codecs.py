"""Weights of transformers' codecs in modules of this package.

What comes out needs no transformers any more: it streams, trains and exports like
every other codec here, and gives the same codes and audio.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers.loading import (
    fold_state,
    load_state,
    make_config,
    read_pretrained,
)
from speechbrain_dsu.lobes.encoders.seanet import (
    SEANetEncoder,
    SEANetTransformerEncoder,
)
from speechbrain_dsu.lobes.encoders.snake import SnakeEncoder
from speechbrain_dsu.lobes.vocoders.seanet import (
    SEANetDecoder,
    SEANetTransformerDecoder,
)
from speechbrain_dsu.lobes.vocoders.snake import SnakeDecoder
from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.nnet.quantizers.composed import Projected, Split
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.utils.errors import DsuError

State = dict[str, Tensor]

_SET_APART = {
    "encodec": r"quantizer\..*\.codebook\..*",
    "mimi": r"quantizer\..*\.codebook\..*|.*\.(k|v)_proj\..*",
    "dac": r"(?!)",
}
"""Keys that do not go into a place of their own."""


class CodecParts(NamedTuple):
    """The three parts of a codec, in evaluation mode."""

    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module


def convert_pretrained(source: str | Path, revision: str | None = None) -> CodecParts:
    """EnCodec, DAC or Mimi from a folder or the Hub.

    Arguments
    ---------
    source : str or Path
        A folder with ``config.json`` and safetensors, or the name of a repository.
    revision : str, optional
        Commit or tag of the repository.

    Raises
    ------
    DsuError
        If it is another model or its weights do not fit.
    """
    config, state, _ = read_pretrained(source, list(_MAKERS), revision, "a codec")
    return convert_codec(config, state)


def convert_codec(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> CodecParts:
    """EnCodec, DAC or Mimi from a configuration and weights.

    Arguments
    ---------
    config : mapping
        As in ``config.json``.
    state : mapping
        All weights of transformers' model, in either spelling of weight
        normalisation, which is folded in.

    Returns
    -------
    CodecParts
        Ours.

    Raises
    ------
    DsuError
        If the configuration asks for what our modules can't do, or weights are
        missing or left over.
    """
    settings = make_config(config, list(_MAKERS), "a codec")
    kind = settings.model_type
    weights = _Weights(fold_state(state))
    parts, vectors, renamed = _MAKERS[kind](settings, weights)
    load_state(_Named(parts), renamed, _SET_APART[kind], kind)
    for codebook, values in vectors:
        codebook.set_vectors(values)
    return CodecParts(*(part.eval() for part in parts))


class _Weights(dict):
    """Weights by name, which know what was asked for."""

    def __init__(self, state: State):
        super().__init__(state)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.taken.add(key)
        return super().__getitem__(key)

    def __missing__(self, key: str) -> Tensor:
        raise DsuError(f"weights don't fit: {key} is missing")


class _Named(nn.Module):
    """The parts under the names that renamed keys begin with.

    A codebook's state is not loaded but set: it is more than its vectors.
    """

    def __init__(self, parts: CodecParts):
        super().__init__()
        self.encoder, self.quantizer, self.decoder = parts

    def state_dict(self, *args: Any, **kwargs: Any) -> State:
        """Weights that are loaded."""
        state = super().state_dict(*args, **kwargs)
        ending = re.compile(r".*\.(vectors|sums|counts|initialised|draws)")
        return {key: value for key, value in state.items() if not ending.match(key)}

    def load_state_dict(self, state: State) -> None:
        """Load what ``state_dict`` names."""
        super().load_state_dict(state, strict=False)


Codebooks = list[tuple[nn.Module, Tensor]]
Made = tuple[CodecParts, Codebooks, State]


def _seanet(settings: Any, lstm_layers: int) -> dict[str, Any]:
    """Arguments that encoder and decoder share."""
    if settings.audio_channels != 1 or not settings.use_causal_conv:
        raise DsuError(
            "only causal SEANets of one channel are converted; run this model through "
            "integrations.transformers.codecs"
        )
    return {
        "sample_rate": settings.sampling_rate,
        "n_filters": settings.num_filters,
        "dim": settings.hidden_size,
        "kernel": settings.kernel_size,
        "last_kernel": settings.last_kernel_size,
        "residual_kernel": settings.residual_kernel_size,
        "dilations": [
            settings.dilation_growth_rate**i
            for i in range(settings.num_residual_layers)
        ],
        "compress": settings.compress,
        "shortcut": settings.use_conv_shortcut,
        "lstm_layers": lstm_layers,
        "pad_mode": settings.pad_mode,
    }


def _encodec(settings: Any, state: State) -> Made:
    if settings.norm_type != "weight_norm":
        raise DsuError(
            "EnCodec at 48 kHz normalises over time and is not converted; run it "
            "through integrations.transformers.codecs"
        )
    shared = _seanet(settings, settings.num_lstm_layers)
    strides = list(settings.upsampling_ratios)
    quantizer = _residual(
        settings.num_quantizers, settings.codebook_size, settings.codebook_dim
    )
    parts = CodecParts(
        SEANetEncoder(strides=strides[::-1], **shared),
        quantizer,
        SEANetDecoder(strides=strides, **shared),
    )
    vectors = [
        (level, state[f"quantizer.layers.{index}.codebook.embed"])
        for index, level in enumerate(quantizer.levels)
    ]
    return parts, vectors, {_unwrap(key): value for key, value in state.items()}


def _unwrap(key: str) -> str:
    """transformers' convolutions lie in a module of their own; ours are it."""
    return key.replace(".conv.", ".")


def _residual(n_codebooks: int, size: int, dim: int, **settings: Any) -> ResidualVQ:
    return ResidualVQ(n_codebooks, size, dim, revive_below=0.0, **settings)


def _mimi(settings: Any, state: State) -> Made:
    shared = _seanet(settings, 0)
    strides = list(settings.upsampling_ratios)
    stride = round(settings.sampling_rate / settings.frame_rate)
    for one in strides:
        stride //= one
    encoder = SEANetEncoder(strides=strides[::-1], **shared)
    decoder = SEANetDecoder(strides=strides, **shared)
    inner = settings.vector_quantization_hidden_dimension
    counts = settings.num_semantic_quantizers
    counts = counts, settings.num_quantizers - counts
    chains = [_residual(count, settings.codebook_size, inner) for count in counts]
    projected = [Projected(chain, settings.hidden_size, bias=False) for chain in chains]
    parts = CodecParts(
        SEANetTransformerEncoder(encoder, _mimi_transformer(settings), stride),
        Split(*projected),
        SEANetTransformerDecoder(decoder, _mimi_transformer(settings), stride),
    )
    vectors: Codebooks = []
    for kind, chain in zip(("semantic", "acoustic"), chains, strict=True):
        for index, level in enumerate(chain.levels):
            stem = f"quantizer.{kind}_residual_vector_quantizer.layers.{index}.codebook"
            usage = state[f"{stem}.cluster_usage"].clamp(min=1e-5)
            vectors.append((level, state[f"{stem}.embed_sum"] / usage[:, None]))
    return parts, vectors, dict(_mimi_keys(state))


def _mimi_transformer(settings: Any) -> Transformer:
    return Transformer(
        settings.hidden_size,
        settings.num_hidden_layers,
        settings.num_attention_heads,
        settings.intermediate_size,
        settings.num_key_value_heads,
        context=settings.sliding_window,
        rotary_base=float(settings.rope_parameters["rope_theta"]),
        bias=settings.attention_bias,
        layer_scale=settings.layer_scale_initial_scale,
        final_norm=False,
        eps=settings.norm_eps,
    )


_MIMI_NAMES = {
    r"(en|de)coder\.\1coder_": r"\1coder.",
    r"\.self_attn\.o_proj": ".attention.out",
    r"\.mlp\.fc1": ".feed_forward.into",
    r"\.mlp\.fc2": ".feed_forward.out",
    r"\.input_layernorm": ".attention_norm",
    r"\.post_attention_layernorm": ".feed_norm",
    r"\.self_attn_layer_scale": ".attention_scale",
    r"\.mlp_layer_scale": ".feed_scale",
    r"(semantic|acoustic)_residual_vector_quantizer": r"\1",
    r"(in|out)put_proj": r"project_\1",
    r"\.conv\.": ".",
}


def _mimi_keys(state: State) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        stem, found, kind = key.partition(".self_attn.q_proj.")
        if found:
            value = torch.cat(
                [state[f"{stem}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            key = f"{stem}.attention.project.{kind}"
        for pattern, name in _MIMI_NAMES.items():
            key = re.sub(pattern, name, key)
        if key.startswith("quantizer.") and value.ndim == 3:
            value = value.squeeze(-1)
        yield key, value


def _dac(settings: Any, state: _Weights) -> Made:
    down, up = settings.downsampling_ratios, settings.upsampling_ratios
    quantizer = _residual(
        settings.n_codebooks,
        settings.codebook_size,
        settings.hidden_size,
        codebook_dim=settings.codebook_dim,
        update="gradient",
        metric="cosine",
        kmeans_start=False,
    )
    parts = CodecParts(
        SnakeEncoder(
            settings.sampling_rate,
            settings.encoder_hidden_size,
            down,
            settings.hidden_size,
        ),
        quantizer,
        SnakeDecoder(
            settings.sampling_rate,
            settings.decoder_hidden_size,
            up,
            settings.hidden_size,
        ),
    )
    renamed, vectors = {}, []
    stems = {"encoder": _dac_encoder(len(down)), "decoder": _dac_decoder(len(up))}
    for side, names in stems.items():
        module = getattr(parts, side)
        for (ours, part), theirs in zip(_weighted(module), names, strict=True):
            for name, value in part.named_parameters():
                found = state[f"{side}.{theirs}.{name}"]
                renamed[f"{side}.{ours}.{name}"] = found.reshape(value.shape)
    for index, level in enumerate(quantizer.levels):
        stem = f"quantizer.quantizers.{index}"
        vectors.append((level.quantizer, state[f"{stem}.codebook.weight"]))
        for way in ("in", "out"):
            ours = f"quantizer.levels.{index}.project_{way}"
            renamed[f"{ours}.weight"] = state[f"{stem}.{way}_proj.weight"].squeeze(-1)
            renamed[f"{ours}.bias"] = state[f"{stem}.{way}_proj.bias"]
    renamed |= {key: value for key, value in state.items() if key not in state.taken}
    return parts, vectors, renamed


def _weighted(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Parts with weights of their own, in the order of their use."""
    for name, part in module.named_modules():
        if any(True for _ in part.parameters(recurse=False)):
            yield name, part


def _dac_units(block: int) -> Iterator[str]:
    for unit in (1, 2, 3):
        for part in ("snake1", "conv1", "snake2", "conv2"):
            yield f"block.{block}.res_unit{unit}.{part}"


def _dac_encoder(blocks: int) -> Iterator[str]:
    yield "conv1"
    for block in range(blocks):
        yield from _dac_units(block)
        yield f"block.{block}.snake1"
        yield f"block.{block}.conv1"
    yield "snake1"
    yield "conv2"


def _dac_decoder(blocks: int) -> Iterator[str]:
    yield "conv1"
    for block in range(blocks):
        yield f"block.{block}.snake1"
        yield f"block.{block}.conv_t1"
        yield from _dac_units(block)
    yield "snake1"
    yield "conv2"


_MAKERS = {"encodec": _encodec, "mimi": _mimi, "dac": _dac}
