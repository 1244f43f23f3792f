"""Phone alignments: read from plain files, and laid over frames."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError

SILENCES = ("", "sil", "sp", "spn", "pau", "h#", "<eps>")
"""Labels that are no phones: their frames count nowhere."""

_COLUMNS = ("utterance", "start", "end", "phone")
_TIER = re.compile(r'name = "([^"]*)"(.*?)(?=item \[\d+\]:|\Z)', re.DOTALL)
_INTERVAL = re.compile(
    r'xmin = ([-\d.eE+]+)\s+xmax = ([-\d.eE+]+)\s+text = "((?:[^"]|"")*)"'
)


@dataclass(frozen=True, eq=False)
class Alignment:
    """The phones of one utterance, one after another.

    Arguments
    ---------
    starts, ends : Tensor
        Seconds, float64 ``[phones]``; in order, not overlapping.
    phones : tuple of str
        Their names.

    Raises
    ------
    DsuError
        If the intervals are out of order, overlap or are of unequal number.

    Example
    -------
    >>> said = Alignment(torch.tensor([0.0, 0.1]), torch.tensor([0.1, 0.3]), ("a", "b"))
    >>> said.at(torch.tensor([0.05, 0.1, 0.3]))
    tensor([ 0,  1, -1])
    """

    starts: Tensor
    ends: Tensor
    phones: tuple[str, ...]

    def __post_init__(self):
        if not len(self.starts) == len(self.ends) == len(self.phones):
            raise DsuError(
                f"{len(self.starts)} starts, {len(self.ends)} ends and "
                f"{len(self.phones)} phones"
            )
        # Times are rounded in files: neighbours may overlap by that much.
        bad = self.ends < self.starts
        bad[1:] |= self.starts[1:] < self.ends[:-1] - 1e-4
        if bool(bad.any()):
            k = int(bad.nonzero()[0])
            raise DsuError(
                f"phone {k} ({self.phones[k]!r}, {float(self.starts[k]):.4f} to "
                f"{float(self.ends[k]):.4f} s) ends before it starts or overlaps the "
                "one before"
            )

    def at(self, times: Tensor) -> Tensor:
        """Index of the phone that is spoken at each time, -1 where none is.

        Arguments
        ---------
        times : Tensor
            Seconds ``[frames]``: the frames' centres.

        Returns
        -------
        Tensor
            int64 ``[frames]``; an interval holds its start, not its end.
        """
        if not self.phones:
            return torch.full((len(times),), -1, dtype=torch.int64)
        times = times.to(self.starts.dtype).contiguous()
        index = torch.searchsorted(self.starts.contiguous(), times, right=True) - 1
        inside = (index >= 0) & (times < self.ends[index.clamp(min=0)])
        return torch.where(inside, index, -1)


def phone_ids(
    alignments: Mapping[str, Alignment], silences: Sequence[str] = SILENCES
) -> dict[str, int]:
    """A number for each phone that occurs, in alphabetical order; none for silences.

    Example
    -------
    >>> one = torch.tensor([0.0])
    >>> phone_ids({"u": Alignment(one, one + 1, ("b",))})
    {'b': 0}
    """
    names = {phone for item in alignments.values() for phone in item.phones}
    return {name: k for k, name in enumerate(sorted(names - set(silences)))}


def frame_labels(alignment: Alignment, times: Tensor, ids: Mapping[str, int]) -> Tensor:
    """The phone of each frame, by the frame's centre.

    Arguments
    ---------
    alignment : Alignment
        Of the utterance.
    times : Tensor
        Centres of the frames in seconds ``[frames]``, ``tokenizer.frame_times(n)``.
    ids : mapping of str to int
        As of ``phone_ids``.

    Returns
    -------
    Tensor
        int64 ``[frames]``; -1 between phones and in those that ``ids`` lacks.

    Example
    -------
    >>> said = Alignment(torch.tensor([0.0, 0.1]), torch.tensor([0.1, 0.2]), ("a", ""))
    >>> frame_labels(said, torch.tensor([0.0, 0.05, 0.15]), {"a": 0})
    tensor([ 0,  0, -1])
    """
    table = torch.tensor([ids.get(phone, -1) for phone in alignment.phones] + [-1])
    # Index -1, outside, is the last entry.
    return table[alignment.at(times)]


def read_alignments(
    path: str | Path, tier: str = "phones", needed: bool = True
) -> dict[str, Alignment]:
    """Alignments of a corpus, by utterance.

    - A ``.csv`` or ``.tsv`` file with a head line and the columns ``utterance``,
      ``start``, ``end`` (seconds) and ``phone``; other columns are not read.
    - A ``.json`` manifest whose entries have ``phones`` and ``phone_ends`` (seconds),
      both separated by spaces, the first phone starting at 0.
    - A folder of ``.TextGrid`` files in Praat's long text form, as the Montreal
      Forced Aligner writes them; an utterance's id is the file's path in the folder
      without suffix. Empty intervals are left out.

    Arguments
    ---------
    path : str or Path
        File or folder.
    tier : str
        Name of the interval tier in TextGrids (also ``"<speaker> - phones"``).
    needed : bool
        Raise if there are none.

    Returns
    -------
    dict of str to Alignment
        By utterance.

    Raises
    ------
    DsuError
        If there is nothing at ``path``, or an entry can't be read: says where.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.csv"
    >>> _ = path.write_text("utterance,start,end,phone\\nu1,0,0.1,ah\\n")
    >>> read_alignments(path)["u1"].phones
    ('ah',)
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.TextGrid"))
        found = {
            file.relative_to(path).with_suffix("").as_posix(): _text_grid(file, tier)
            for file in files
        }
    elif path.suffix in (".csv", ".tsv"):
        found = _table(path)
    elif path.suffix == ".json":
        found = _manifest(path)
    else:
        raise DsuError(f"{path}: give a .csv, .tsv or .json file or TextGrids' folder")
    if needed and not found:
        raise DsuError(f"{path}: holds no alignments")
    return found


def _table(path: Path) -> dict[str, Alignment]:
    rows: dict[str, list[tuple[float, float, str]]] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            reader = csv.DictReader(file, delimiter=delimiter)
            missing = [x for x in _COLUMNS if x not in (reader.fieldnames or ())]
            if missing:
                raise DsuError(f"{path}: has no column {', '.join(missing)}")
            for row in reader:
                try:
                    entry = float(row["start"]), float(row["end"]), row["phone"]
                except (TypeError, ValueError):
                    raise DsuError(
                        f"{path}:{reader.line_num}: start and end must be seconds, "
                        f"got {row['start']!r} and {row['end']!r}"
                    ) from None
                rows.setdefault(row["utterance"], []).append(entry)
    except (OSError, UnicodeDecodeError) as error:
        raise DsuError(f"{path}: cannot be read ({error})") from None
    return {name: _alignment(sorted(r), f"{path}: {name}") for name, r in rows.items()}


def _manifest(path: Path) -> dict[str, Alignment]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DsuError(f"{path}: cannot be read ({error})") from None
    found = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if not isinstance(entry, dict) or not {"phones", "phone_ends"} <= set(entry):
            continue
        phones, ends = entry["phones"].split(), entry["phone_ends"].split()
        try:
            stops = list(map(float, ends))
            starts = [0.0, *stops[:-1]]
            rows = list(zip(starts, stops, phones, strict=True))
        except ValueError:
            raise DsuError(
                f"{path}: {name}: {len(phones)} phones with the ends {ends}"
            ) from None
        found[name] = _alignment(rows, f"{path}: {name}")
    return found


def _text_grid(path: Path, tier: str) -> Alignment:
    raw = path.read_bytes()
    code = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    tiers = dict(_TIER.findall(raw.decode(code, errors="replace")))
    names = [x for x in tiers if x == tier or x.endswith(f" - {tier}")]
    if len(names) != 1:
        raise DsuError(
            f"{path}: wanted one tier {tier!r}, there are {sorted(tiers) or 'none'} "
            "(short text form is not read: save it as a text file)"
        )
    found = _INTERVAL.findall(tiers[names[0]])
    rows = [(float(a), float(b), c.replace('""', '"').strip()) for a, b, c in found]
    return _alignment([row for row in rows if row[2]], str(path))


def _alignment(rows: list[tuple[float, float, str]], where: str) -> Alignment:
    starts = torch.tensor([row[0] for row in rows], dtype=torch.float64)
    ends = torch.tensor([row[1] for row in rows], dtype=torch.float64)
    try:
        return Alignment(starts, ends, tuple(row[2] for row in rows))
    except DsuError as error:
        raise DsuError(f"{where}: {error}") from None
