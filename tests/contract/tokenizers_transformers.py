"""Small tokenizers over models of transformers, for the contract.

Weights are random and seeded; codebooks and centres are frames of the bundled clip,
so that every id has frames near it. ``FACTORIES`` builds them, ``YAMLS`` holds the
flat YAML of each.
"""

import json
from collections.abc import Callable

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.paths import bundles_dir

PACKAGE = "speechbrain_dsu.integrations.transformers"
BLOCKS = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
FRONT = {
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
HUBERT = BLOCKS | FRONT | {"model_type": "hubert"}
SSL = {
    "hubert_kmeans": (HUBERT, [2], True),
    "wavlm_kmeans": (BLOCKS | FRONT | STABLE | {"model_type": "wavlm"}, [2], True),
    "wav2vec2_kmeans": (
        BLOCKS | FRONT | STABLE | {"model_type": "wav2vec2", "conv_bias": True},
        [3],
        True,
    ),
    "w2vbert_kmeans": (BLOCKS | {"model_type": "wav2vec2-bert"}, [2, 1], False),
}
"""Configuration, layers, whether the signal is normalised."""

SEANET = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64}
DAC = {
    "model_type": "dac",
    "encoder_hidden_size": 4,
    "decoder_hidden_size": 64,
    "downsampling_ratios": [2, 4, 5, 8],
    "codebook_size": 64,
    "n_codebooks": 4,
}
CODECS = {
    "encodec_24k": (
        "EncodecTokenizer",
        SEANET | {"model_type": "encodec", "target_bandwidths": [0.9, 1.8]},
    ),
    "encodec_48k": (
        "ChunkedEncodecTokenizer",
        SEANET
        | {
            "model_type": "encodec",
            "target_bandwidths": [1.8, 3.6],
            "sampling_rate": 48000,
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 1.0,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
        },
    ),
    "dac": ("DacTokenizer", DAC),
    "mimi": (
        "MimiTokenizer",
        SEANET
        | BLOCKS
        | {
            "model_type": "mimi",
            "num_key_value_heads": 2,
            "sliding_window": 20,
            "codebook_dim": 8,
            "vector_quantization_hidden_dimension": 8,
            "num_quantizers": 4,
            "upsample_groups": 16,
            "layer_scale_initial_scale": 0.5,
        },
    ),
    "xcodec": (
        "XCodecTokenizer",
        {
            "model_type": "xcodec",
            "codebook_size": 64,
            "target_bandwidths": [0.6, 1.2],
            "semantic_model_config": HUBERT,
            "acoustic_model_config": DAC
            | {"downsampling_ratios": [8, 5, 4, 2], "hidden_size": 16},
        },
    ),
}
"""Class and configuration."""

MODULES = "modules:\n    tokenizer: !ref <tokenizer>\n"


def _ssl_yaml(name: str) -> str:
    config, layers, normalize = SSL[name]
    return f"""
tokenizer: !new:speechbrain_dsu.tokenizers.features.FeatureTokenizer
    features: !new:speechbrain_dsu.lobes.ssl.SSLLayers
        encoder: !new:{PACKAGE}.ssl.TransformersEncoder
            config: {json.dumps(config)}
            normalize: {normalize}
        layers: {layers}
    quantizer: !new:speechbrain_dsu.nnet.quantizers.clustering.KMeans
        size: 32
        dim: 16
        groups: {len(layers)}
{MODULES}"""


def _codec_yaml(name: str) -> str:
    kind, config = CODECS[name]
    return f"""
tokenizer: !new:{PACKAGE}.codecs.{kind}
    config: {json.dumps(config)}
{MODULES}"""


def _clip(rate: int) -> Tensor:
    return read_audio(bundles_dir() / "speech.wav", rate)[0]


def _pick(frames: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Frames at random, moved apart a little: ``[size, dim]``."""
    picked = frames[torch.randint(len(frames), (size,), generator=generator)]
    return picked + 0.3 * frames.std() * torch.randn(picked.shape, generator=generator)


def spread_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Weights of unit gain: under the tiny ones of a fresh model all frames agree."""
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim > 1 and "embed" not in name:
            size = weight[0].numel()
            weight.data = torch.randn(weight.shape, generator=generator) / size**0.5
            weight.data *= 1.3


@torch.no_grad()
def fill_codebooks(codec: Tokenizer, generator: torch.Generator) -> None:
    """Codebooks of residual frames of the clip, level after level."""

    def fill_first(level, encode):
        def run(states: Tensor) -> Tensor:
            book = level.codebook
            vectors = book.embed_sum if hasattr(book, "embed_sum") else book.embed
            frames = states.transpose(1, 2).flatten(0, 1)
            vectors.copy_(_pick(frames, len(vectors), generator))
            book._embed = None
            return encode(states)

        return run

    def fill_dac(level, args) -> None:
        frames = level.in_proj(args[0]).transpose(1, 2).flatten(0, 1)
        vectors = level.codebook.weight
        vectors.copy_(_pick(frames, len(vectors), generator))

    hooks, wrapped = [], []
    for part in codec.modules():
        kind = type(part).__name__
        if kind == "DacVectorQuantize":
            hooks.append(part.register_forward_pre_hook(fill_dac))
        elif kind.endswith("VectorQuantization") and "Residual" not in kind:
            part.encode = fill_first(part, part.encode)
            wrapped.append(part)
    codec.encode(_clip(codec.sample_rate)[: 3 * codec.sample_rate].unsqueeze(0))
    for hook in hooks:
        hook.remove()
    for part in wrapped:
        del part.encode
        vars(part.codebook).pop("_embed", None)
        if hasattr(part.codebook, "embed_sum"):
            part.codebook._embed = None


def _load(text: str) -> Tokenizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load_hyperpyyaml(text)["tokenizer"].eval()


def _build_codec(name: str) -> Tokenizer:
    generator = torch.Generator().manual_seed(0)
    codec = _load(_codec_yaml(name))
    spread_weights(codec.model, generator)
    fill_codebooks(codec, generator)
    return codec


def _build_ssl(name: str) -> Tokenizer:
    generator = torch.Generator().manual_seed(0)
    tokenizer = _load(_ssl_yaml(name))
    features, quantizer = tokenizer.features, tokenizer.quantizer
    spread_weights(features.encoder.model, generator)
    groups, size, dim = quantizer.centers.shape
    with torch.no_grad():
        frames = features(_clip(features.sample_rate).unsqueeze(0))[0]
    slices = frames.view(len(frames), groups, dim).unbind(1)
    quantizer.set_centers(torch.stack([_pick(s, size, generator) for s in slices]))
    return tokenizer


FACTORIES: dict[str, Callable[[], Tokenizer]] = {
    **{name: (lambda name=name: _build_codec(name)) for name in CODECS},
    **{name: (lambda name=name: _build_ssl(name)) for name in SSL},
}
YAMLS: dict[str, Callable[[], str]] = {
    **{name: (lambda name=name: _codec_yaml(name)) for name in CODECS},
    **{name: (lambda name=name: _ssl_yaml(name)) for name in SSL},
}
