"""Side-by-side timings against other packages: `run_bench` and its sections.

A section is a module here with ``run(quick, **parts) -> list of rows``. What is
timed arrives as an argument, as everywhere in `evaluation`; the command line knows
which part a section takes. Every row has case, peer, ours_s, peer_s and
ratio = peer_s / ours_s (above 1 we are faster), and columns of its own.
"""

import importlib
from typing import Any

from speechbrain_dsu.utils.errors import DsuError

SECTIONS = {
    "codecs": "speechbrain_dsu.evaluation.bench.codecs",
    "kmeans": "speechbrain_dsu.evaluation.bench.kmeans",
    "lm": "speechbrain_dsu.evaluation.bench.lm",
    "quantizer-choice": "speechbrain_dsu.evaluation.bench.quantizer_choice",
    "quantizers": "speechbrain_dsu.evaluation.bench.quantizers",
    "tokenize": "speechbrain_dsu.evaluation.bench.tokenize",
}


def run_bench(section: str, quick: bool = False, **parts: Any) -> list[dict[str, Any]]:
    """Run one section of the benchmark.

    Arguments
    ---------
    section : str
        One of `SECTIONS`.
    quick : bool
        Small sizes: shows that it runs, its timings mean nothing.
    **parts : object
        What the section times, e.g. ``fit=fit_kmeans`` for "kmeans".

    Returns
    -------
    list of dict
        One row per case and peer.

    Raises
    ------
    DsuError
        If there is no such section, or a peer's package is missing.

    Example
    -------
    >>> run_bench("kmean")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: no benchmark section 'kmean': ...
    """
    if section not in SECTIONS:
        raise DsuError(
            f"no benchmark section '{section}': take one of {', '.join(SECTIONS)}"
        )
    return importlib.import_module(SECTIONS[section]).run(quick=quick, **parts)
