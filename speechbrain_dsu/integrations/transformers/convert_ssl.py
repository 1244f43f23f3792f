"""Weights of transformers' HuBERT, wav2vec 2.0 and WavLM in modules of this package.

What comes out needs no transformers any more: it trains on, is tapped by
``lobes.ssl.SSLLayers`` and exported like every encoder here, with the same states.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers.loading import (
    make_config,
    read_pretrained,
)
from speechbrain_dsu.lobes.encoders.front_ends import WaveformFrontEnd
from speechbrain_dsu.lobes.encoders.ssl import SSLEncoder
from speechbrain_dsu.nnet.transformer_encoder import TransformerEncoder
from speechbrain_dsu.utils.errors import DsuError

State = dict[str, Tensor]

_KINDS = ("hubert", "wav2vec2", "wavlm")
_NEEDED_BY = "an SSL encoder"
_BLOCK = r"encoder\.layers\.(\d+)\."
_RENAMED = [
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"front_end.convs.\1."),
    (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"front_end.norms.\1."),
    (r"feature_projection\.layer_norm\.", "feature_norm."),
    (r"feature_projection\.projection\.", "projection."),
    (r"masked_spec_embed", "mask_vector"),
    (r"encoder\.pos_conv_embed\.conv\.", "transformer.positions.conv."),
    (r"encoder\.layer_norm\.", "transformer.norm."),
    (r"encoder\.layers\.0\.attention\.rel_attn_embed\.", "transformer.bias.table."),
    (_BLOCK + r"attention\.out_proj\.", r"transformer.blocks.\1.attention.output."),
    (
        _BLOCK + r"attention\.gru_rel_pos_const",
        r"transformer.blocks.\1.attention.gate.scale",
    ),
    (
        _BLOCK + r"attention\.gru_rel_pos_linear\.",
        r"transformer.blocks.\1.attention.gate.linear.",
    ),
    (_BLOCK + r"attention\.", r"transformer.blocks.\1.attention."),
    (_BLOCK + r"layer_norm\.", r"transformer.blocks.\1.attention_norm."),
    (_BLOCK + r"feed_forward\.intermediate_dense\.", r"transformer.blocks.\1.wide."),
    (_BLOCK + r"feed_forward\.output_dense\.", r"transformer.blocks.\1.narrow."),
    (_BLOCK + r"final_layer_norm\.", r"transformer.blocks.\1.ffn_norm."),
]
# Of a published model, but behind the encoder.
_BEHIND = re.compile(r"adapter\..*|intermediate_ffn\..*")
# Settings that only one value of is built here.
_FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "conv_pos_batch_norm": False,
    "adapter_attn_dim": None,
}


def convert_pretrained(source: str | Path, revision: str | None = None) -> SSLEncoder:
    """HuBERT, wav2vec 2.0 or WavLM from a folder or the Hub.

    Arguments
    ---------
    source : str or Path
        A folder with ``config.json`` and safetensors, or the name of a repository.
    revision : str, optional
        Commit or tag of the repository.

    Returns
    -------
    SSLEncoder
        In evaluation mode.

    Raises
    ------
    DsuError
        If it is another model or its weights do not fit.
    """
    config, state, extra = read_pretrained(source, _KINDS, revision, _NEEDED_BY)
    return convert_encoder(config, state, bool(extra.get("do_normalize", False)))


def convert_encoder(
    config: Mapping[str, Any], state: Mapping[str, Tensor], normalize: bool = False
) -> SSLEncoder:
    """HuBERT, wav2vec 2.0 or WavLM from a configuration and weights.

    Arguments
    ---------
    config : mapping
        As in ``config.json``, with ``model_type``.
    state : mapping
        All weights of transformers' plain model, the positional convolution with its
        weight norm in either spelling or folded.
    normalize : bool
        Whether it was trained on signals of zero mean and unit variance.

    Returns
    -------
    SSLEncoder
        In evaluation mode.

    Raises
    ------
    DsuError
        If the configuration asks for what our modules can't do, or weights are
        missing or left over.
    """
    encoder = build_encoder(config, normalize)
    _load(encoder, rename_encoder(state), str(config["model_type"]))
    return encoder.eval()


def build_encoder(config: Mapping[str, Any], normalize: bool = False) -> SSLEncoder:
    """An encoder as a configuration of transformers describes it, freshly started.

    Arguments
    ---------
    config : mapping
        As in ``config.json``, with ``model_type``; dropout is left at our defaults.
    normalize : bool
        As in ``convert_encoder``.

    Raises
    ------
    DsuError
        If the configuration asks for what our modules can't do.
    """
    settings = make_config(config, _KINDS, _NEEDED_BY)
    for key, value in _FIXED.items():
        if getattr(settings, key, value) != value:
            raise DsuError(
                f"{key}={getattr(settings, key)!r} is not built here: run this model "
                "through integrations.transformers.ssl.TransformersEncoder"
            )
    wavlm = settings.model_type == "wavlm"
    front_end = WaveformFrontEnd(
        settings.conv_dim,
        settings.conv_kernel,
        settings.conv_stride,
        norm=settings.feat_extract_norm,
        bias=settings.conv_bias,
    )
    transformer = TransformerEncoder(
        settings.hidden_size,
        settings.num_hidden_layers,
        settings.num_attention_heads,
        settings.intermediate_size,
        norm_first=settings.do_stable_layer_norm,
        positions=settings.num_conv_pos_embeddings,
        position_groups=settings.num_conv_pos_embedding_groups,
        relative_buckets=settings.num_buckets if wavlm else 0,
        relative_reach=settings.max_bucket_distance if wavlm else 800,
    )
    project_norm = getattr(settings, "feat_proj_layer_norm", True)
    return SSLEncoder(front_end, transformer, project_norm, normalize)


def rename_encoder(state: Mapping[str, Tensor]) -> State:
    """Weights of transformers' plain model under our names.

    Queries, keys and values become one matrix, the positional convolution's weight a
    length and a direction. A key that nobody knows keeps its name, and is then left
    over.
    """
    found = {k: v.detach() for k, v in state.items() if not _BEHIND.fullmatch(k)}
    _join_inputs(found)
    found = {_rename(key): value for key, value in found.items()}
    _part_weight(found, "transformer.positions.conv.")
    return found


def rename_pretraining(state: Mapping[str, Tensor]) -> State:
    """Weights of ``Wav2Vec2ForPreTraining`` as ``MaskedContrast`` names them.

    Its quantizer is a ``GumbelProduct``, whose count of steps starts at 0.
    """
    inner = {k[9:]: v for k, v in state.items() if k.startswith("wav2vec2.")}
    found = {f"encoder.{key}": value for key, value in rename_encoder(inner).items()}
    entries = state["quantizer.codevectors"].detach()[0]
    # One row of logits per entry; groups lie one behind the other in both.
    width = state["project_q.weight"].shape[1] // entries.shape[1]
    found["quantizer.entries"] = entries.view(width, -1, entries.shape[1])
    found["quantizer.steps"] = torch.zeros((), dtype=torch.int64)
    for theirs, ours in (
        ("quantizer.weight_proj", "quantizer.logits"),
        ("project_hid", "prediction"),
        ("project_q", "target"),
    ):
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"].detach()
    return found


def _rename(key: str) -> str:
    for pattern, name in _RENAMED:
        renamed, hits = re.subn(f"^{pattern}", name, key)
        if hits:
            return renamed
    return key


def _join_inputs(state: State) -> None:
    """Queries, keys and values of each block, one below the other."""
    pattern = re.compile(r"(.*\.attention\.)q_proj\.(weight|bias)")
    for match in [m for m in map(pattern.fullmatch, list(state)) if m]:
        stem, kind = match.groups()
        names = [f"{stem}{part}_proj.{kind}" for part in "qkv"]
        if all(name in state for name in names):
            joined = torch.cat([state.pop(name) for name in names])
            state[f"{stem}inputs.{kind}"] = joined


def _part_weight(state: State, stem: str) -> None:
    """The three ways to keep a normalised weight, all brought to today's."""
    length, direction = (f"{stem}parametrizations.weight.original{k}" for k in (0, 1))
    if f"{stem}weight_g" in state:
        state[length] = state.pop(f"{stem}weight_g")
        state[direction] = state.pop(f"{stem}weight_v")
    elif f"{stem}weight" in state:
        state[direction] = state.pop(f"{stem}weight")
        state[length] = state[direction].norm(dim=(0, 1), keepdim=True)


def _load(model: nn.Module, state: State, where: str) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DsuError(f"{where}: weights don't fit: {reason}") from None
