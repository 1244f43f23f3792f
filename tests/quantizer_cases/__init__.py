"""Quantizers for the laws: each module here names its own.

CASES: name -> factory of a small quantizer with few codes (laws run on 2 x 40 frames).
EXCEPT (optional): law -> {name: why it can't hold for this quantizer}. A law is the
name of its test without ``test_``; a case without an exception must obey.
NEAREST (optional): names of single codebooks whose code is the nearest vector.
RESIDUAL (optional): names of those whose error falls with every codebook.
"""

import importlib
import pkgutil


def collect(name):
    """One dict of all that the modules here call ``name``."""
    merged = {}
    for info in pkgutil.iter_modules(__path__):
        found = getattr(importlib.import_module(f"{__name__}.{info.name}"), name, {})
        for key, value in found.items() if isinstance(found, dict) else ():
            if isinstance(value, dict):
                merged.setdefault(key, {}).update(value)
            else:
                assert key not in merged, f"two quantizer cases are named {key}"
                merged[key] = value
    return merged


def collect_names(name):
    """One set of all that the modules here call ``name``."""
    names = set()
    for info in pkgutil.iter_modules(__path__):
        names |= set(
            getattr(importlib.import_module(f"{__name__}.{info.name}"), name, ())
        )
    return names
