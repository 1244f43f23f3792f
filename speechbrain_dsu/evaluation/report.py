"""Tables for the terminal and pages without a single outside file."""

import base64
import contextlib
import io
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError

NOTHING = "–"
"""Stands for a value that isn't there."""


@dataclass(frozen=True)
class Column:
    """A column of the demo's table.

    Arguments
    ---------
    key : str
        Of the row.
    head : str
        Title, short.
    text : callable
        Value to text.
    meaning : str
        One or two sentences for a reader who meets it for the first time.
    """

    key: str
    head: str
    text: Callable[[Any], str]
    meaning: str

    def cell(self, row: dict[str, Any]) -> str:
        """The row's value as text; a dash where there is none."""
        value = row.get(self.key)
        return NOTHING if value is None else self.text(value)


def _sizes(sizes: Sequence[int]) -> str:
    kinds = set(sizes)
    if len(kinds) == 1:
        return f"{len(sizes)} × {sizes[0]}"
    return f"{len(sizes)} × {min(kinds)}-{max(kinds)}"


def _grouped(value: float) -> str:
    return f"{value:,.0f}"


def _three(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else _grouped(value)


COLUMNS = (
    Column("name", "tokenizer", str, "Name that loads it."),
    Column(
        "frame_rate",
        "frames/s",
        "{:g}".format,
        "Steps per second. A sequence model sees so many positions, or fewer once "
        "repeated units are joined.",
    ),
    Column(
        "sizes",
        "codebooks",
        _sizes,
        "Ids per frame × number of different ids. 1 × 100: one of 100 units; 8 × 1024: "
        "eight ids, each one of 1024.",
    ),
    Column(
        "bitrate",
        "bit/s",
        _grouped,
        "Nominal rate: frames per second × log2 of the codebook sizes. Compare "
        "tokenizers at equal rates.",
    ),
    Column(
        "entropy_bitrate",
        "coded bit/s",
        _grouped,
        "What an ideal coder needs that knows how often each id occurs in this clip. "
        "One clip shows too few ids, so this is too low; measure it on a corpus.",
    ),
    Column("tokens", "tokens", _grouped, "Ids that the clip became, all codebooks."),
    Column(
        "usage",
        "used",
        "{:.0%}".format,
        "Share of the ids that occur in the clip, mean over codebooks.",
    ),
    Column(
        "perplexity",
        "perplexity",
        "{:.1f}".format,
        "How many equally frequent ids would be as diverse, mean over codebooks.",
    ),
    Column(
        "stoi",
        "STOI",
        "{:.2f}".format,
        "Intelligibility of the decoded speech against the original, 0 to 1, higher "
        "is better (Taal et al., 2011).",
    ),
    Column(
        "mel_l1",
        "mel dB",
        "{:.1f}".format,
        "Mean difference of the two log-mel spectrograms in decibels, lower is better.",
    ),
    Column(
        "rtf_encode",
        "RTF enc",
        _three,
        "Real-time factor: seconds of computing per second of speech, on this "
        "machine. 0.01 is a hundred times faster than speech.",
    ),
    Column("rtf_decode", "RTF dec", _three, "The same for decoding."),
)
"""The demo's table, in the terminal and on the page."""


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of ``run_demo`` as text.

    Arguments
    ---------
    rows : sequence of dict
        With the keys of ``COLUMNS`` (a missing one is a dash) and ``notes``.

    Returns
    -------
    str
        One line per row under a line of titles, then the notes.

    Example
    -------
    >>> row = {"name": "units", "sizes": (100,), "frame_rate": 50.0, "bitrate": 332.2}
    >>> print(format_table([row]).splitlines()[1][:39])
    units            50    1 × 100    332
    """
    lines = [tuple(column.head for column in COLUMNS)]
    lines += [tuple(column.cell(row) for column in COLUMNS) for row in rows]
    notes = [f"{row['name']}: {note}" for row in rows for note in row.get("notes", ())]
    return "\n".join([*align_columns(lines, right=range(1, len(COLUMNS))), *notes])


def align_columns(
    lines: Sequence[Sequence[str]], right: Collection[int] = ()
) -> list[str]:
    """Lines of cells as text with straight columns, two spaces between them.

    Arguments
    ---------
    lines : sequence of sequence of str
        Equally many cells in each.
    right : collection of int
        Columns that are set flush right, numbers usually.

    Returns
    -------
    list of str
        One per line.

    Example
    -------
    >>> align_columns([("a", "n"), ("bb", "10")], right=[1])
    ['a    n', 'bb  10']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def png_uri(values: Tensor, colors: str) -> str:
    """A picture as ``data:image/png``, the first row at the bottom.

    Arguments
    ---------
    values : Tensor
        ``[rows, columns]``; 0 is the first color, 1 the last, beyond is cut.
    colors : str
        Name of a matplotlib color map.

    Returns
    -------
    str
        For ``src=``.

    Example
    -------
    >>> png_uri(torch.rand(2, 3), "magma")[:22]
    'data:image/png;base64,'
    """
    import matplotlib
    from PIL import Image

    levels = (values.clamp(0, 1) * 255).round().to(torch.uint8).flip(0)
    palette = (matplotlib.colormaps[colors](range(256))[:, :3] * 255).round()
    picture = Image.fromarray(levels.contiguous().numpy(), mode="L")
    # One byte a pixel, colored by a palette: a third of the size of RGB.
    picture.putpalette(palette.astype("uint8").tobytes())
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return _data_uri("image/png", file.getvalue())


def audio_uri(wav: Tensor, sample_rate: int) -> str:
    """``[time]`` as ``data:audio/flac`` with 16 bits, cut to [-1, 1].

    Every current browser plays FLAC, at half the size of WAV.

    Example
    -------
    >>> audio_uri(torch.zeros(4), 16000)[:23]
    'data:audio/flac;base64,'
    """
    import soundfile

    file = io.BytesIO()
    data = wav.detach().cpu().clamp(-1, 1).numpy()
    soundfile.write(file, data, sample_rate, format="FLAC", subtype="PCM_16")
    return _data_uri("audio/flac", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def render(template: str, **values: Any) -> str:
    """A page from a template of this package; values are escaped.

    Arguments
    ---------
    template : str
        File name in ``evaluation/templates``.
    **values
        What the template shows; a missing one raises.

    Returns
    -------
    str
        HTML.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("speechbrain_dsu.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(template).render(**values)


def write_page(path: str | Path, text: str) -> Path:
    """Write a text file whole or not at all, making its folder.

    Raises
    ------
    DsuError
        If the place can't be written to.

    Example
    -------
    >>> write_page(getfixture("tmp_path") / "a" / "index.html", "<p>").name
    'index.html'
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DsuError(f"{path}: cannot be written ({error.strerror})") from None
    return path
