"""Shipped blocks by name, for whatever is measured or checked here."""

import json
from typing import Any

from hyperpyyaml import load_hyperpyyaml
from torch import nn

from speechbrain_dsu.utils.paths import hparams_dir


def block(name: str, **overrides: Any) -> nn.Module:
    """A part from ``hparams/blocks/<name>.yaml``.

    Arguments
    ---------
    name : str
        Of the file, without its ending.
    **overrides
        Plain values, as below an ``!include:``.

    Example
    -------
    >>> block("quantizer_fsq", dim=16).codebook_sizes
    (65536,)
    """
    lines = [f"part: !include:{hparams_dir() / 'blocks' / name}.yaml"]
    lines += [f"    {key}: {json.dumps(value)}" for key, value in overrides.items()]
    return load_hyperpyyaml("\n".join(lines) + "\n")["part"]
