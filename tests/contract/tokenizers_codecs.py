"""Small codecs of our own for the contract, from the systems' YAML with few channels.

Weights are random and seeded; latents are spread over the codes, so that every change
of the input shows in them.
"""

import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.tokenizers.codec import CodecTokenizer
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

SMALL = {
    "channels: 256": "channels: 12",
    "channels: 96": "channels: 8",
    "hidden: 256": "hidden: 16",
    "hidden: 640": "hidden: 16",
    "hidden: 768": "hidden: 16",
    "layers: 4": "layers: 2",
    "layers: 3": "layers: 1",
    "size: 1024": "size: 64",
    "win: 1280": "win: 640",
    "dim: 64": "dim: 16",
}
CODECS = ("codec_16k", "codec_1k", "spectral_codec")


def codec_yaml(name: str) -> str:
    """The flat YAML of a system, made small."""
    text = flatten_yaml(hparams_dir() / "systems" / "codecs" / f"{name}.yaml")
    for large, small in SMALL.items():
        text = text.replace(large, small)
    return text


def build_codec(name: str) -> CodecTokenizer:
    """The codec with latents of the clip in the middle of its codes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = load_hyperpyyaml(codec_yaml(name))["tokenizer"]
        for weight in tokenizer.parameters():
            if weight.ndim > 1:
                weight.data *= 2.0
        codec = tokenizer.codec
        rate = tokenizer.sample_rate
        wav = read_audio(bundles_dir() / "speech.wav", rate)[0][: 3 * rate]
        with torch.no_grad():
            frames = codec.encoder(wav.unsqueeze(0))[0]
            for index, level in enumerate(getattr(codec.quantizer, "levels", ())):
                if isinstance(level, torch.nn.Module):  # FSQ's levels are numbers
                    spread = torch.randn(level.size, level.dim) * frames.std(0)
                    center = frames.mean(0) if index == 0 else 0.0
                    level.set_vectors(center + spread * 0.7**index)
            codec.decoder.head.out.bias[: codec.decoder.head.inverse.win // 2] -= 2.0
    return tokenizer.eval()
