"""Where the package's own data lie: configurations and shipped bundles."""

import json
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def hparams_dir() -> Path:
    """The folder of shipped YAML files (``blocks``, ``systems``, ``training``).

    Installed, it lies inside the package; in a source tree, beside it.

    Example
    -------
    >>> (hparams_dir() / "systems").is_dir()
    True
    """
    installed = _PACKAGE / "hparams"
    return installed if installed.is_dir() else _PACKAGE.parent / "hparams"


def bundles_dir() -> Path:
    """The folder of bundles that come with the package.

    Example
    -------
    >>> bundles_dir().name
    'bundles'
    """
    return _PACKAGE / "bundles"


def shipped_bundles(kind: str | None = None) -> list[str]:
    """Names that are accepted wherever the source of a system is, sorted.

    Arguments
    ---------
    kind : str, optional
        Only bundles whose manifest says so, e.g. "tokenizer".

    Example
    -------
    >>> "dmel" in shipped_bundles("tokenizer")
    True
    """
    manifests = sorted(bundles_dir().glob("*/manifest.json"))
    if kind is not None:
        manifests = [m for m in manifests if json.loads(m.read_text())["kind"] == kind]
    return [manifest.parent.name for manifest in manifests]
