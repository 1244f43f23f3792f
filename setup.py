"""Package metadata of speechbrain_dsu."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "speechbrain_dsu/__init__.py").read_text()
).group(1)

EXTRAS = {
    "hf": ["transformers>=4.46", "peft"],
    "ray": ["ray[data]"],
    "eval": ["pystoi", "pesq", "jiwer", "sacrebleu"],
    "onnx": ["onnx", "onnxruntime"],
    "log": ["tensorboard"],
}
EXTRAS["dev"] = [
    *EXTRAS["hf"],
    *EXTRAS["eval"],
    *EXTRAS["onnx"],
    *EXTRAS["log"],
    # Peers that tests and benchmarks compare with.
    "encodec",
    "scikit-learn",
    "vector-quantize-pytorch",
    "hypothesis",
    "pandas",
    "pytest",
    "pytest-xdist",
    "ruff",
]

setup(
    name="speechbrain_dsu",
    version=VERSION,
    description="Discrete speech units for SpeechBrain: tokenizers, codecs and models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # The YAML files lie at the top level, where users look for them, and travel
    # inside the package.
    packages=[
        *find_packages(include=["speechbrain_dsu", "speechbrain_dsu.*"]),
        "speechbrain_dsu.hparams",
    ],
    package_dir={"speechbrain_dsu.hparams": "hparams"},
    package_data={
        "speechbrain_dsu": ["bundles/**/*", "evaluation/templates/*"],
        "speechbrain_dsu.hparams": ["**/*.yaml"],
    },
    install_requires=[
        # 1.x moves dotted names that YAML files use without leaving aliases.
        "speechbrain>=1.1.2,<1.2",
        # torchaudio 2.11.0 refuses to import beside a newer torch, which a plain
        # install would bring; 2.11.1 is built for a newer torch and does not load
        # beside 2.11 (undefined symbol). Lift both caps together.
        "torch>=2.7.1,<2.12",
        "torchaudio>=2.7.1,<2.11.1",
        "hyperpyyaml",
        "sentencepiece",
        "numpy",
        "safetensors",
        "huggingface_hub",
        "soundfile",
        "pyarrow",
        "tqdm",
        "matplotlib",
        "jinja2",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["dsu = speechbrain_dsu.cli.main:main"]},
)
