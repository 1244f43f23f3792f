"""Systems of the package's ``hparams`` folder, built for a recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from speechbrain_dsu.utils.paths import hparams_dir

Flatten = Callable[..., str]
"""``inference.flatten.flatten_yaml``, which recipes' scripts hand over."""


def build_system(
    flatten: Flatten,
    system_file: str,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a system's YAML builds.

    Arguments
    ---------
    flatten : callable
        ``inference.flatten.flatten_yaml``: overrides then reach into included blocks.
    system_file : str
        Below the package's ``hparams``, e.g. "systems/ssl/hubert_units.yaml".
    overrides : mapping, optional
        New values for its keys.

    Returns
    -------
    dict
        By the YAML's keys.
    """
    from hyperpyyaml import load_hyperpyyaml

    text = flatten(hparams_dir() / system_file)
    return load_hyperpyyaml(text, dict(overrides or {}))
