"""What is built from a third party's configuration, as modules and as YAML."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.utils.errors import DsuError

State = dict[str, Tensor]


class Plan:
    """A module to be built: its class and arguments, which may be plans themselves.

    Arguments
    ---------
    kind : type
        The class.
    **settings : object
        Its arguments: plain values and plans.

    Example
    -------
    >>> plan = Plan(nn.Linear, in_features=2, out_features=3)
    >>> plan.build()
    Linear(in_features=2, out_features=3, bias=True)
    >>> print("layer:", plan.yaml())
    layer: !new:torch.nn.modules.linear.Linear
        in_features: 2
        out_features: 3
    """

    def __init__(self, kind: type, **settings: Any):
        self.kind, self.settings = kind, settings

    def build(self) -> nn.Module:
        """A fresh module."""
        return self.kind(
            **{
                key: value.build() if isinstance(value, Plan) else value
                for key, value in self.settings.items()
            }
        )

    def yaml(self, depth: int = 1) -> str:
        """What HyperPyYAML builds the same from, behind a key at ``depth - 1``."""
        lines = [f"!new:{self.kind.__module__}.{self.kind.__qualname__}"]
        for key, value in self.settings.items():
            text = (
                value.yaml(depth + 1) if isinstance(value, Plan) else json.dumps(value)
            )
            lines.append(f"{'    ' * depth}{key}: {text}")
        return "\n".join(lines)


class CodecParts(NamedTuple):
    """The three parts of a codec, in evaluation mode."""

    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module


class Weights(dict):
    """Weights by name, which know what was asked for."""

    def __init__(self, state: State):
        super().__init__(state)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.taken.add(key)
        return super().__getitem__(key)

    def __missing__(self, key: str) -> Tensor:
        raise DsuError(f"weights don't fit: {key} is missing")


Plans = tuple[Plan, Plan, Plan]
Filled = tuple[list[tuple[nn.Module, Tensor]], State]
"""Vectors for codebooks, and all other weights under our names."""


class Maker(NamedTuple):
    """How one kind of codec is planned and filled."""

    plan: Callable[[Any, int], Plans]
    fill: Callable[[Any, Weights, CodecParts], Filled]


def residual(n_codebooks: int, size: int, dim: int, **settings: Any) -> Plan:
    """A chain of codebooks that never starts one anew."""
    return Plan(
        ResidualVQ,
        n_codebooks=n_codebooks,
        size=size,
        dim=dim,
        revive_below=0.0,
        **settings,
    )
