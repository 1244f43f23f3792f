"""Every tokenizer that the contract is tested on.

A case builds a small tokenizer and names the YAML that builds it again. Models of
third parties have random weights: the contract does not ask for good units.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml

from contract.tokenizers_codecs import CODECS, PADDED, build_codec, codec_yaml
from contract.tokenizers_native import NATIVE, build_native, native_text
from contract.tokenizers_transformers import FACTORIES, YAMLS
from speechbrain_dsu.inference.bundles import load_bundle
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir, shipped_bundles

CLIP = bundles_dir() / "speech.wav"


@dataclass(frozen=True)
class Case:
    """A tokenizer under test: ``build()`` and the flat YAML of the same system."""

    build: Callable[[], Tokenizer]
    yaml: Callable[[], str]


def fit_on_clip(tokenizer: Tokenizer) -> Tokenizer:
    """Centres from frames of the bundled clip: spread out, and the same every time."""
    features, quantizer = tokenizer.features, tokenizer.quantizer
    wav = read_audio(CLIP, features.sample_rate)[0].unsqueeze(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if getattr(features, "normalize", None) == "global":
            frames = features.frames(wav)[0]
            features.set_statistics(frames.mean(0), frames.std(0))
        frames = features(wav)[0]
        groups, size, dim = quantizer.centers.shape
        picks = torch.randint(len(frames), (groups, size), generator=generator)
        slices = frames.view(len(frames), groups, dim)
        centers = torch.stack([slices[picks[g], g] for g in range(groups)])
        noise = torch.randn(centers.shape, generator=generator)
        quantizer.set_centers(centers + 0.3 * frames.std() * noise)
    return tokenizer


def system(name: str, fit: bool) -> Case:
    """A case from a YAML in ``hparams/systems/tokenizers``."""
    path: Path = hparams_dir() / "systems" / "tokenizers" / f"{name}.yaml"

    def build() -> Tokenizer:
        with open(path, encoding="utf-8") as file:
            tokenizer = load_hyperpyyaml(file)["tokenizer"].eval()
        return fit_on_clip(tokenizer) if fit else tokenizer

    return Case(build, lambda: flatten_yaml(path))


def shipped(name: str) -> Case:
    """A case from a bundle that comes with the package, weights and all."""
    folder = bundles_dir() / name

    def build() -> Tokenizer:
        return load_bundle(folder, verify="none").modules["tokenizer"]

    return Case(build, lambda: (folder / "hyperparams.yaml").read_text("utf-8"))


CASES: dict[str, Case] = {
    "dmel": system("dmel", fit=False),
    "mfcc_kmeans": system("mfcc_kmeans", fit=True),
    "logmel_kmeans": system("logmel_kmeans", fit=True),
    "ssl_units": system("ssl_units", fit=True),
}
CASES |= {name: Case(FACTORIES[name], YAMLS[name]) for name in FACTORIES}
CASES |= {
    name: Case(partial(build_codec, name), partial(codec_yaml, name))
    for name in (*CODECS, *PADDED)
}
CASES |= {
    name: Case(partial(build_native, name), partial(native_text, name))
    for name in NATIVE
}
CASES |= {f"bundle {name}": shipped(name) for name in shipped_bundles("tokenizer")}
