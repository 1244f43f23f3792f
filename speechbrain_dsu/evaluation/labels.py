"""Who speaks which utterance, and which alignment is whose."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from speechbrain_dsu.evaluation.alignments import Alignment, read_alignments
from speechbrain_dsu.utils.errors import DsuError

Label = TypeVar("Label")
_IDS, _SPEAKERS = ("utterance", "ID", "id"), ("speaker", "spk_id")


def read_speakers(path: str | Path) -> dict[str, str]:
    """Speakers by utterance, from a table or a manifest.

    Arguments
    ---------
    path : str or Path
        A ``.csv`` or ``.tsv`` file with a column ``utterance`` (or ``ID``) and a
        column ``speaker`` (or ``spk_id``), or a ``.json`` manifest whose entries have
        one of these keys.

    Returns
    -------
    dict of str to str
        Empty if nothing says who speaks.

    Raises
    ------
    DsuError
        If the file can't be read.

    Example
    -------
    >>> path = getfixture("tmp_path") / "speakers.csv"
    >>> _ = path.write_text("utterance,speaker\\nu1,ann\\n")
    >>> read_speakers(path)
    {'u1': 'ann'}
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            entries = json.loads(path.read_text(encoding="utf-8"))
            rows = [{"id": key, **value} for key, value in entries.items()]
        else:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DsuError(f"{path}: cannot be read as labels ({error})") from None
    pairs = [(_first(row, _IDS), _first(row, _SPEAKERS)) for row in rows]
    return {key: str(name) for key, name in pairs if key is not None and name}


def speakers_by_pattern(ids: Iterable[str], pattern: str) -> dict[str, str]:
    """Speakers out of the utterances' ids.

    Arguments
    ---------
    ids : iterable of str
        Of utterances.
    pattern : str
        A regular expression that is searched for; its first group, or all of it, is
        the speaker.

    Returns
    -------
    dict of str to str
        Only the ids in which it is found.

    Raises
    ------
    DsuError
        If it is no regular expression or found nowhere.

    Example
    -------
    >>> speakers_by_pattern(["p225/p225_001", "p226/p226_004"], "^p[0-9]+")
    {'p225/p225_001': 'p225', 'p226/p226_004': 'p226'}
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DsuError(f"{pattern!r} is no regular expression ({error})") from None
    group = 1 if compiled.groups else 0
    found = {key: match[group] for key in ids if (match := compiled.search(key))}
    if not found:
        raise DsuError(f"speakers: {pattern!r} is found in no utterance's id")
    return found


def match_labels(ids: Iterable[str], labels: Mapping[str, Label]) -> dict[str, Label]:
    """Labels for utterances, by the whole id or by its last part.

    A folder's ids are paths (``p225/p225_001``), those of label files often names
    alone. The last part counts where it is the last part of one id only.

    Arguments
    ---------
    ids : iterable of str
        Of utterances.
    labels : mapping
        By the label file's ids.

    Returns
    -------
    dict
        By utterance; those without a label are left out.

    Example
    -------
    >>> match_labels(["a/u1", "b/u2", "c/u2"], {"u1": 1, "u2": 2, "c/u2": 3})
    {'a/u1': 1, 'c/u2': 3}
    """
    ids = list(ids)
    names = Counter(_last(key) for key in ids)
    kept = Counter(_last(key) for key in labels)
    by_name = {_last(k): v for k, v in labels.items() if kept[_last(k)] == 1}
    found = {}
    for key in ids:
        if key in labels:
            found[key] = labels[key]
        elif names[_last(key)] == 1 and _last(key) in by_name:
            found[key] = by_name[_last(key)]
    return found


def find_phones(
    ids: Iterable[str], data: str | Path, given: str | Path | None = None
) -> dict[str, Alignment]:
    """Alignments of utterances: those given, or those of the manifest itself.

    Arguments
    ---------
    ids : iterable of str
        Of utterances.
    data : str or Path
        Where they come from; a ``.json`` manifest may hold phones.
    given : str or Path, optional
        See ``alignments.read_alignments``.

    Returns
    -------
    dict of str to Alignment
        By utterance; empty if nothing was given and the data hold none.

    Raises
    ------
    DsuError
        If the given ones fit no utterance.

    Example
    -------
    >>> find_phones(["u1"], "corpus/")
    {}
    """
    if given is not None:
        found = match_labels(ids, read_alignments(given))
        if not found:
            raise DsuError(f"{given}: aligns none of the utterances of {data}")
        return found
    if Path(data).suffix != ".json":
        return {}
    return match_labels(ids, read_alignments(data, needed=False))


def find_speakers(
    ids: Iterable[str], data: str | Path, given: str | None = None
) -> dict[str, str]:
    """Speakers of utterances: those given, or those of the manifest itself.

    Arguments
    ---------
    ids : iterable of str
        Of utterances.
    data : str or Path
        Where they come from; a manifest may hold speakers.
    given : str, optional
        A file for ``read_speakers``, or a pattern for ``speakers_by_pattern``.

    Returns
    -------
    dict of str to str
        By utterance; empty if nothing was given and the data hold none.

    Example
    -------
    >>> find_speakers(["p225/one"], "corpus/", "^p[0-9]+")
    {'p225/one': 'p225'}
    """
    if given is not None and not Path(given).is_file():
        return speakers_by_pattern(ids, given)
    source = data if given is None else given
    if Path(source).suffix not in (".json", ".csv", ".tsv"):
        return {}
    found = match_labels(ids, read_speakers(source))
    if given is not None and not found:
        raise DsuError(f"{given}: names the speaker of none of the utterances")
    return found


def _last(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _first(row: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) not in (None, "")), None)
