"""Weights of transformers' codecs in modules of this package.

What comes out needs no transformers any more: it streams, trains and exports like
every other codec here, and gives the same codes and audio.
"""

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers import convert_dac
from speechbrain_dsu.integrations.transformers.convert_plans import (
    CodecParts,
    Filled,
    Maker,
    Plan,
    Plans,
    State,
    Weights,
    residual,
)
from speechbrain_dsu.integrations.transformers.loading import (
    fold_state,
    load_state,
    make_config,
    read_pretrained,
)
from speechbrain_dsu.lobes.codec import Codec
from speechbrain_dsu.lobes.encoders.seanet import (
    SEANetEncoder,
    SEANetTransformerEncoder,
)
from speechbrain_dsu.lobes.vocoders.seanet import (
    SEANetDecoder,
    SEANetTransformerDecoder,
)
from speechbrain_dsu.nnet.quantizers.composed import Projected, Split
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokenizers.codec import CodecTokenizer
from speechbrain_dsu.utils.errors import DsuError

_SET_APART = {
    "encodec": r"quantizer\..*\.codebook\..*",
    "mimi": r"quantizer\..*\.codebook\..*|.*\.(k|v)_proj\..*",
    "dac": r"(?!)",
}
"""Keys that do not go into a place of their own."""


def native_codec(
    source: str | Path,
    revision: str | None = None,
    n_codebooks: int | None = None,
    precise: bool = False,
) -> CodecTokenizer:
    """EnCodec, DAC or Mimi from a folder or the Hub, without transformers from then on.

    Arguments
    ---------
    source : str or Path
        A folder with ``config.json`` and safetensors, or the name of a repository.
    revision : str, optional
        Commit or tag of the repository.
    n_codebooks : int, optional
        Keep the first ``n_codebooks`` codebooks; all if not given. Of Mimi at least 2.
    precise : bool
        See ``CodecTokenizer``. These encoders are large: in float64 a stream's tokens
        are exactly those of one pass, at several times the cost. In float32 they
        differ where two codes are equally near.

    Returns
    -------
    CodecTokenizer
        In evaluation mode. ``native_yaml`` gives the YAML to save it with.

    Raises
    ------
    DsuError
        If it is another model, its weights do not fit, or it has fewer codebooks.
    """
    config, state, _ = read_pretrained(source, list(_MAKERS), revision, "a codec")
    parts = convert_codec(config, state, n_codebooks)
    return CodecTokenizer(Codec(*parts), precise).eval()


def native_yaml(
    config: Mapping[str, Any], n_codebooks: int | None = None, precise: bool = False
) -> str:
    """The flat YAML of what ``native_codec`` gives, for ``inference.save_bundle``.

    Arguments
    ---------
    config : mapping
        As in ``config.json``.
    n_codebooks, precise
        As in ``native_codec``.

    Returns
    -------
    str
        It names no class of transformers.

    Raises
    ------
    DsuError
        If the configuration asks for what our modules can't do.
    """
    settings = make_config(config, list(_MAKERS), "a codec")
    plans = _MAKERS[settings.model_type].plan(settings, _kept(settings, n_codebooks))
    codec = Plan(Codec, **dict(zip(CodecParts._fields, plans, strict=True)))
    tokenizer = Plan(CodecTokenizer, codec=codec, precise=precise)
    return f"tokenizer: {tokenizer.yaml()}\nmodules:\n    tokenizer: !ref <tokenizer>\n"


def convert_codec(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    n_codebooks: int | None = None,
) -> CodecParts:
    """EnCodec, DAC or Mimi from a configuration and weights.

    Arguments
    ---------
    config : mapping
        As in ``config.json``.
    state : mapping
        All weights of transformers' model, in either spelling of weight
        normalisation, which is folded in.
    n_codebooks : int, optional
        Keep the first ``n_codebooks`` codebooks; all if not given.

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
    maker = _MAKERS[settings.model_type]
    plans = maker.plan(settings, _kept(settings, n_codebooks))
    parts = CodecParts(*(plan.build() for plan in plans))
    vectors, renamed = maker.fill(settings, Weights(fold_state(state)), parts)
    where = settings.model_type
    load_state(_Named(parts), renamed, _SET_APART[where], where)
    for codebook, values in vectors:
        codebook.set_vectors(values)
    return CodecParts(*(part.eval() for part in parts))


def _kept(settings: Any, n_codebooks: int | None) -> int:
    total = getattr(settings, "n_codebooks", None) or settings.num_quantizers
    least = getattr(settings, "num_semantic_quantizers", 0) + 1
    kept = total if n_codebooks is None else n_codebooks
    if not least <= kept <= total:
        raise DsuError(
            f"n_codebooks={n_codebooks} asked of a {settings.model_type} with {total}: "
            f"take {least} to {total}"
        )
    return kept


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


def _encodec_plan(settings: Any, kept: int) -> Plans:
    if settings.norm_type != "weight_norm":
        raise DsuError(
            "EnCodec at 48 kHz normalises over time and is not converted; run it "
            "through integrations.transformers.codecs"
        )
    shared = _seanet(settings, settings.num_lstm_layers)
    strides = list(settings.upsampling_ratios)
    return (
        Plan(SEANetEncoder, strides=strides[::-1], **shared),
        residual(kept, settings.codebook_size, settings.codebook_dim),
        Plan(SEANetDecoder, strides=strides, **shared),
    )


def _encodec_fill(settings: Any, state: Weights, parts: CodecParts) -> Filled:
    vectors = [
        (level, state[f"quantizer.layers.{index}.codebook.embed"])
        for index, level in enumerate(parts.quantizer.levels)
    ]
    return vectors, {_unwrap(key): value for key, value in state.items()}


def _unwrap(key: str) -> str:
    """transformers' convolutions lie in a module of their own; ours are it."""
    return key.replace(".conv.", ".")


def _mimi_plan(settings: Any, kept: int) -> Plans:
    shared = _seanet(settings, 0)
    strides = list(settings.upsampling_ratios)
    stride = round(settings.sampling_rate / settings.frame_rate) // prod(strides)
    outer, inner = (
        settings.hidden_size,
        settings.vector_quantization_hidden_dimension,
    )
    counts = {"semantic": settings.num_semantic_quantizers}
    counts["acoustic"] = kept - counts["semantic"]
    chains = {
        name: Plan(
            Projected,
            quantizer=residual(count, settings.codebook_size, inner),
            dim=outer,
            bias=False,
        )
        for name, count in counts.items()
    }
    around = {"transformer": _mimi_transformer(settings), "stride": stride}
    encoder = Plan(SEANetEncoder, strides=strides[::-1], **shared)
    decoder = Plan(SEANetDecoder, strides=strides, **shared)
    return (
        Plan(SEANetTransformerEncoder, seanet=encoder, **around),
        Plan(Split, **chains),
        Plan(SEANetTransformerDecoder, seanet=decoder, **around),
    )


def _mimi_fill(settings: Any, state: Weights, parts: CodecParts) -> Filled:
    vectors = []
    for kind in ("semantic", "acoustic"):
        for index, level in enumerate(getattr(parts.quantizer, kind).quantizer.levels):
            stem = f"quantizer.{kind}_residual_vector_quantizer.layers.{index}.codebook"
            usage = state[f"{stem}.cluster_usage"].clamp(min=1e-5)
            vectors.append((level, state[f"{stem}.embed_sum"] / usage[:, None]))
    return vectors, dict(_mimi_keys(state))


def _mimi_transformer(settings: Any) -> Plan:
    return Plan(
        Transformer,
        dim=settings.hidden_size,
        n_layers=settings.num_hidden_layers,
        n_heads=settings.num_attention_heads,
        ffn_dim=settings.intermediate_size,
        kv_heads=settings.num_key_value_heads,
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


_MAKERS = {
    "encodec": Maker(_encodec_plan, _encodec_fill),
    "mimi": Maker(_mimi_plan, _mimi_fill),
    "dac": Maker(convert_dac.plan, convert_dac.fill),
}
