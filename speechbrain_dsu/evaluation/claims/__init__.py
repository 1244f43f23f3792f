"""Small-scale checks of what published systems claim: ``dsu claim <id>``.

A claim is checked as its module says, on real speech, over several seeds. Nothing in
it is tuned until it passes: "not shown" with its numbers is a result.
"""

import importlib
import os
import textwrap
from pathlib import Path
from typing import Any

from speechbrain_dsu.evaluation.report import align_columns
from speechbrain_dsu.utils.errors import DsuError

_PLACES = {
    3: "vq_wav2vec",
    9: "speech_tokenizer",
    25: "secodec",
    31: "hebtts",
    37: "s2ut",
    43: "speech_resynthesis",
    53: "soft_units",
    65: "vq_vae",
    85: "neucodec",
    91: "discrete_challenge",
    95: "dmel",
    99: "gslm",
    101: "dau_bpe",
    109: "universal_tokens",
    111: "language_codec",
    113: "spectral_codec",
    153: "wav2vec2",
    157: "hubert",
    169: "pcg",
    179: "vq_survey",
    199: "sutlm",
    217: "dqr_tts",
    223: "vq_wae",
    229: "apc",
}
"""Module of this folder by the system's id in the table of systems."""

SPEECH_VARIABLE = "DSU_SPEECH_DATA"
"""Environment variable with the folder of speech, where none is given."""


def known_claims() -> list[int]:
    """Ids that ``run_claim`` takes.

    Example
    -------
    >>> 95 in known_claims()
    True
    """
    return sorted(_PLACES)


def run_claim(
    id: int, quick: bool = False, data: str | Path | None = None
) -> dict[str, Any]:
    """Check one claim.

    Arguments
    ---------
    id : int
        Of the system.
    quick : bool
        Fewer data and seeds: to see that it runs, not for its numbers.
    data : str or Path, optional
        Folder of speech, with the folders that the claim names;
        ``$DSU_SPEECH_DATA`` if not given.

    Returns
    -------
    dict
        Plain values for JSON: ``id``, ``title``, ``claim``, ``setup``, ``rows`` (each
        with ``baseline``, ``system``, ``difference``, ``spread`` over seeds and
        ``verdict``), ``laws``, ``verdict`` ("shown" or "not shown") and ``command``.

    Raises
    ------
    DsuError
        If there is no such claim, or the data are not there.

    Example
    -------
    >>> run_claim(7)
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: no claim with the id 7; there are: ...95...
    """
    if id not in _PLACES:
        known = ", ".join(map(str, known_claims()))
        raise DsuError(f"no claim with the id {id}; there are: {known}")
    data = data or os.environ.get(SPEECH_VARIABLE)
    if data is None:
        raise DsuError(
            f"claim {id} is checked on speech: name its folder (--data) or set "
            f"{SPEECH_VARIABLE}"
        )
    if not Path(data).is_dir():
        raise DsuError(f"{data}: no such folder of speech for claim {id}")
    module = importlib.import_module(f"{__name__}.{_PLACES[id]}")
    result = module.run(Path(data), quick)
    result["command"] = f"dsu claim {id} --data {data}" + (" --quick" if quick else "")
    return result


def format_claim(result: dict[str, Any]) -> str:
    """A result as text for the terminal.

    Arguments
    ---------
    result : dict
        Of ``run_claim``.

    Returns
    -------
    str
        Claim, setup, one line per row, laws, verdict and the command to repeat it.

    Example
    -------
    >>> row = {"condition": "in", "baseline_name": "a", "system_name": "b"}
    >>> row |= {"baseline": 1.0, "system": 0.5, "difference": -0.5, "spread": 0.125}
    >>> row |= {"expected": "lower", "verdict": "shown"}
    >>> result = {"title": "T", "id": 1, "claim": "C.", "setup": "S.", "rows": [row]}
    >>> result |= {"laws": {"law": True}, "verdict": "shown", "command": "dsu claim 1"}
    >>> print(format_claim(result).splitlines()[5])
    in         a         b       1.000  0.500      -0.500   0.125  lower     shown
    """
    heads = ("condition", "baseline", "system", "value", "value")
    lines = [(*heads, "difference", "spread", "expected", "verdict", "note")]
    lines += [
        (
            *(row[key] for key in ("condition", "baseline_name", "system_name")),
            *(f"{row[key]:.3f}" for key in ("baseline", "system")),
            f"{row['difference']:+.3f}",
            f"{row['spread']:.3f}",
            row["expected"],
            row["verdict"],
            row.get("note", ""),
        )
        for row in result["rows"]
    ]
    laws = [
        f"law: {law}: {'holds' if holds else 'BROKEN'}"
        for law, holds in result["laws"].items()
    ]
    return "\n".join(
        [
            f"{result['title']} (claim {result['id']})",
            *textwrap.wrap(result["claim"], 88),
            *textwrap.wrap(result["setup"], 88),
            "",
            *align_columns(lines, right=range(3, 7)),
            "",
            *laws,
            f"verdict: {result['verdict']}",
            f"again: {result['command']}",
        ]
    )
