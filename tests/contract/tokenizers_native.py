"""Small EnCodec, DAC and Mimi of our own modules, from the systems' YAML, overridden.

Weights are random and seeded; codebooks begin at latents of the bundled clip.
"""

import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.tokenizers.codec import CodecTokenizer
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

TRANSFORMER = {"dim": 16, "n_layers": 2, "n_heads": 2, "context": 20}
MIMI = {
    "seanet": {"n_filters": 3, "dim": 16},
    "transformer": TRANSFORMER | {"layer_scale": 0.5},
}
CHAIN = {"size": 256, "dim": 8}
NATIVE = {
    "native_encodec_24khz": {
        "dim": 12,
        "encoder": {"n_filters": 3},
        "decoder": {"n_filters": 3},
        "quantizer": {"n_codebooks": 4, "size": 64},
    },
    "native_dac_16khz": {
        "dim": 16,
        "encoder": {"n_filters": 3},
        "decoder": {"channels": 48},
        "quantizer": {"n_codebooks": 4, "size": 64, "codebook_dim": 4},
    },
    "native_mimi": {
        "encoder": MIMI,
        "quantizer": {
            "semantic": {"quantizer": CHAIN, "dim": 16},
            "acoustic": {"quantizer": CHAIN | {"n_codebooks": 3}, "dim": 16},
        },
        "decoder": MIMI,
    },
}
"""Overrides that make a system small."""


def native_text(name: str) -> str:
    """The flat YAML of a system, made small."""
    system = name.removeprefix("native_")
    path = hparams_dir() / "systems" / "codecs" / f"{system}.yaml"
    return flatten_yaml(path, NATIVE[name])


def build_native(name: str) -> CodecTokenizer:
    """The codec with signals that get through and codes that are all in use."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = load_hyperpyyaml(native_text(name))["tokenizer"]
        rate = tokenizer.sample_rate
        wav = read_audio(bundles_dir() / "speech.wav", rate)[0][: 3 * rate]
        with torch.no_grad():
            for key, weight in tokenizer.codec.encoder.named_parameters():
                if weight.ndim > 1 and not key.endswith("alpha"):
                    weight *= 2.0
            tokenizer.codec.train()(wav.unsqueeze(0))
    return tokenizer.eval()
