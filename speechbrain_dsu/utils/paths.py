"""Where the package's own data lie: configurations and shipped bundles."""

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


def shipped_bundles() -> list[str]:
    """Names that are accepted wherever a tokenizer's source is, sorted.

    Example
    -------
    >>> "dmel" in shipped_bundles()
    True
    """
    return sorted(p.parent.name for p in bundles_dir().glob("*/manifest.json"))
