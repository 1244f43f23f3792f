"""Small codecs of our own for the contract, from the systems' YAML with few channels.

Weights are random and seeded; latents are spread over the codes, so that every change
of the input shows in them.
"""

import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.lobes.codec import Codec
from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
from speechbrain_dsu.lobes.encoders.stft_frames import StftFrames
from speechbrain_dsu.lobes.vocoders.vocos import VocosDecoder
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
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
    "dim: 384": "dim: 24",
    "n_filters: 32": "n_filters: 4",
}
CODECS = ("codec_16k", "codec_1k", "spectral_codec")
PADDED = ("language_codec",)
"""Whose streams begin late (reflected padding), and which ONNX has no graph for."""


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
        return spread_codes(load_hyperpyyaml(codec_yaml(name))["tokenizer"])


def build_plain() -> CodecTokenizer:
    """A causal codec of spectra, a residual chain and Vocos, of no system."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"channels": 12, "hidden": 16, "layers": 2}
        encoder = ConvNextEncoder(StftFrames(), dim=16, **sizes)
        decoder = VocosDecoder(16, fine_layers=1, **sizes)
        codec = Codec(encoder, ResidualVQ(8, 64, 16), decoder)
        return spread_codes(CodecTokenizer(codec))


@torch.no_grad()
def spread_codes(tokenizer: CodecTokenizer) -> CodecTokenizer:
    """Weights of more gain, and codebooks around the latents of the clip."""
    for weight in tokenizer.parameters():
        if weight.ndim > 1:
            weight.data *= 2.0
    codec, rate = tokenizer.codec, tokenizer.sample_rate
    wav = read_audio(bundles_dir() / "speech.wav", rate)[0][: 3 * rate]
    frames = codec.encoder(wav.unsqueeze(0))[0]
    if isinstance(codec.quantizer, ResidualVQ):
        for index, level in enumerate(codec.quantizer.levels):
            spread = torch.randn(level.size, level.dim) * frames.std(0)
            center = frames.mean(0) if index == 0 else 0.0
            level.set_vectors(center + spread * 0.7**index)
    return tokenizer.eval()
