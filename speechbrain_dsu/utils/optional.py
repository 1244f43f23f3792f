"""Optional packages: imported when an object needs them, named when they are absent."""

import importlib
from types import ModuleType

from speechbrain_dsu.utils.errors import DsuError


def require(module: str, extra: str, needed_by: str) -> ModuleType:
    """Import an optional package or say how to install it.

    Arguments
    ---------
    module : str
        Dotted module name, e.g. ``"transformers"``.
    extra : str
        The extra of this package that installs it, e.g. ``"hf"``.
    needed_by : str
        What the user asked for, named in the message.

    Returns
    -------
    ModuleType
        The imported module.

    Raises
    ------
    DsuError
        If the package is not installed.

    Example
    -------
    >>> require("json", extra="hf", needed_by="this example").loads("[1]")
    [1]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A missing dependency *of* the package is another fault: show it as it is.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise DsuError(
            f"{needed_by} needs the package '{error.name}': "
            f"pip install 'speechbrain_dsu[{extra}]'"
        ) from None
