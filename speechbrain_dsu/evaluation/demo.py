"""One clip through every tokenizer: a table, and a page to look at and listen to."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.demo_models import play_models
from speechbrain_dsu.evaluation.rates import rates
from speechbrain_dsu.evaluation.report import (
    COLUMNS,
    audio_uri,
    png_uri,
    render,
    write_page,
)
from speechbrain_dsu.evaluation.resynthesis import score
from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import audio_info, read_audio, resample
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir

MAX_SECONDS = 30.0
"""A longer recording is cut here, so that the page stays a few megabytes."""

_RANGE_DB = 70.0
_TOP_HERTZ = 8000.0
# A clip of a few samples would otherwise be a timeline without extent.
_SHORTEST = 0.05
# Below this a run takes no measurable time.
_SHORTEST_TIMED = 0.1
_REPEAT_BELOW = 2.0


@dataclass(frozen=True)
class Clip:
    """The speech that the demo runs on.

    Arguments
    ---------
    name : str
        Of the file.
    wav : Tensor
        float32 ``[time]``.
    sample_rate : int
        In hertz.
    full_seconds : float
        Of the whole file, of which ``wav`` may be the beginning.
    channels : int
        Of the file; they were averaged.
    """

    name: str
    wav: Tensor
    sample_rate: int
    full_seconds: float
    channels: int

    @property
    def seconds(self) -> float:
        """Length of ``wav``."""
        return len(self.wav) / self.sample_rate


@dataclass(frozen=True)
class Lane:
    """A strip of the page's timeline.

    Arguments
    ---------
    kind : str
        ``spectrogram``, ``map`` (several codebooks) or ``units`` (one).
    title : str
        What it shows.
    image : str
        Picture as a data URI; units have none.
    box : str
        The picture's place on the timeline, as CSS.
    kilohertz : float
        Upper edge of a spectrogram.
    books : int
        Codebooks of a map.
    runs : tuple of dict
        Of units: ``unit``, ``frames``, ``start``, ``box``, ``color``.
    """

    kind: str
    title: str
    image: str = ""
    box: str = ""
    kilohertz: float = 0.0
    books: int = 0
    runs: tuple[dict[str, Any], ...] = ()


def run_demo(
    source: str | Path | None,
    out: str | Path,
    tokenizers: Mapping[str, Any],
    max_seconds: float = MAX_SECONDS,
    models: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Run a clip through tokenizers and write ``out/index.html``.

    The page is one file: pictures, audio and style are inside.

    Arguments
    ---------
    source : str, Path or None
        A recording; None is the clip that comes with the package.
    out : str or Path
        Folder of the page; made if it is not there.
    tokenizers : mapping of str to Tokenizer or UnitTokenizer
        By the name to show.
    max_seconds : float
        Only the beginning of a longer recording is used; the page says so.
    models : mapping, optional
        Interfaces of models on units by name, see ``demo_models.play_models``.

    Returns
    -------
    list of dict
        For each tokenizer the values of ``report.COLUMNS`` (None where there is
        none) and ``notes``, why. One that raises a DsuError has its message there.

    Raises
    ------
    AudioError
        If the recording can't be read.
    DsuError
        If there are no tokenizers or the page can't be written.
    """
    if not tokenizers:
        raise DsuError("the demo needs at least one tokenizer")
    clip = read_clip(source, max_seconds)
    rows, sections = [], []
    for name, given in tokenizers.items():
        # The interface of a bundle holds the tokenizer among its modules.
        tokenizer = given.mods.tokenizer if hasattr(given, "mods") else given
        row, section = _run_one(name, tokenizer, clip)
        rows.append(row)
        sections.append(section)
    page = render(
        "demo.html",
        clip=clip,
        original=audio_uri(clip.wav, clip.sample_rate),
        rows=rows,
        sections=sections,
        columns=COLUMNS,
        scenes=play_models(models or {}, source),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )
    write_page(Path(out) / "index.html", page)
    return rows


def read_clip(source: str | Path | None, max_seconds: float = MAX_SECONDS) -> Clip:
    """The beginning of a recording, or the clip that comes with the package.

    Example
    -------
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.zeros(16000), 8000)
    >>> clip = read_clip(path, max_seconds=0.5)
    >>> clip.seconds, clip.full_seconds
    (0.5, 2.0)
    """
    path = bundles_dir() / "speech.wav" if source is None else Path(source)
    info = audio_info(path)
    stop = min(info.n_samples, max(1, round(max_seconds * info.sample_rate)))
    wav, rate = read_audio(path, stop=stop)
    if rate > 48000:
        wav, rate = resample(wav, rate, 48000), 48000
    full = info.n_samples / info.sample_rate
    return Clip(path.name, wav, rate, full, info.channels)


def _run_one(
    name: str, tokenizer: Any, clip: Clip
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Row of the table and section of the page."""
    rate = tokenizer.sample_rate
    wav = resample(clip.wav, clip.sample_rate, rate)
    row: dict[str, Any] = {column.key: None for column in COLUMNS}
    row |= {
        "name": name,
        "frame_rate": tokenizer.frame_rate,
        "sizes": tuple(tokenizer.codebook_sizes),
        "bitrate": tokenizer.bitrate,
        "sample_rate": rate,
        "fingerprint": None,
        "notes": [],
    }
    section: dict[str, Any] = {"row": row, "lanes": [], "decoded": None}
    decoded: Tensor | None = None
    tokens: Tokens | None = None
    try:
        tokens, row["rtf_encode"] = _timed(
            lambda x: tokenizer.encode(x.unsqueeze(0)).to("cpu"),
            wav[: rate // 2],
            wav,
            clip.seconds,
        )
        _count(row, tokens)
        if tokenizer.has_decoder:
            decoded = _decode(row, tokenizer, wav, tokens, clip)
        else:
            row["notes"].append("no vocoder: nothing to listen to")
    except DsuError as error:
        row["notes"].append(str(error))
    span = max(clip.seconds, _SHORTEST)
    section["lanes"].append(_spectrogram("original", wav, rate, span, wav))
    if decoded is not None:
        section["decoded"] = audio_uri(decoded, rate)
        section["lanes"].append(_spectrogram("decoded", decoded, rate, span, wav))
    if tokens is not None:
        times = tokenizer.frame_times(len(wav)).tolist()
        half = tokenizer.hop / rate / 2
        section["lanes"].append(_token_lane(tokens, times, half, span))
    section |= {"span": span, "ticks": _ticks(span)}
    return row, section


def _decode(
    row: dict[str, Any], tokenizer: Any, wav: Tensor, tokens: Tokens, clip: Clip
) -> Tensor | None:
    decoded, row["rtf_decode"] = _timed(
        lambda x: tokenizer.decode(x)[0][0].cpu(),
        tokenizer.encode(wav[None, : tokenizer.sample_rate // 2]),
        tokens,
        clip.seconds,
    )
    found = score(clip.wav, clip.sample_rate, decoded, tokenizer.sample_rate)
    row["stoi"], row["mel_l1"] = found["stoi"], found["mel_l1"]
    row["notes"] += dict.fromkeys(found.reasons.values())
    return decoded if len(decoded) else None


def _timed(
    run: Callable[[Any], Any], short: Any, whole: Any, seconds: float
) -> tuple[Any, float | None]:
    """Result and real-time factor; what only the first call costs is left out."""
    run(short)
    times: list[float] = []
    # A quick one runs again: kernels may be compiled for each new length.
    while len(times) < 2 and sum(times) < _REPEAT_BELOW:
        began = time.perf_counter()
        found = run(whole)
        times.append(time.perf_counter() - began)
    return found, min(times) / seconds if seconds >= _SHORTEST_TIMED else None


def _count(row: dict[str, Any], tokens: Tokens) -> None:
    found = rates(tokens)
    books = len(tokens.sizes)
    row |= {
        "fingerprint": tokens.fingerprint,
        "frames": found.frames,
        "tokens": found.frames * books,
        "entropy_bitrate": found.entropy_bitrate,
        "usage": sum(found.usage) / books,
        "perplexity": sum(found.perplexities) / books,
        "runs_per_second": found.runs_per_second / books,
    }


def _spectrogram(
    title: str, wav: Tensor, rate: int, span: float, reference: Tensor
) -> Lane:
    """A lane with levels from the reference's loudest point 70 dB downwards."""
    top = float(_levels(reference, rate)[0].max())
    levels, step = _levels(wav, rate)
    picture = png_uri((levels - top + _RANGE_DB) / _RANGE_DB, "magma")
    place = _box(-step / 2, levels.shape[1] * step, span)
    edge = min(_TOP_HERTZ, rate / 2) / 1000
    return Lane("spectrogram", title, picture, place, kilohertz=edge)


def _levels(wav: Tensor, rate: int) -> tuple[Tensor, float]:
    """Levels in dB ``[frequencies, frames]`` up to 8 kHz, and seconds per frame."""
    win = max(16, round(0.025 * rate))
    # At most 1500 columns: more than a screen shows.
    hop = max(round(0.004 * rate), len(wav) // 1500, 1)
    n_fft = 2 ** (win - 1).bit_length()
    spectrum = torch.stft(
        wav,
        n_fft,
        hop,
        win,
        torch.hann_window(win),
        pad_mode="constant",
        return_complex=True,
    )
    rows = int(min(_TOP_HERTZ, rate / 2) / rate * n_fft) + 1
    return 20 * spectrum[:rows].abs().clamp(min=1e-6).log10(), hop / rate


def _box(start: float, length: float, span: float) -> str:
    """Place on the timeline, as CSS."""
    return f"left:{100 * start / span:.4f}%;width:{100 * length / span:.4f}%"


def _token_lane(tokens: Tokens, times: list[float], half: float, span: float) -> Lane:
    """Runs of one codebook, or a heat map of several."""
    codes = tokens.codes[0, : len(times)]
    if len(tokens.sizes) > 1 and times:
        picture = (codes / (torch.tensor(tokens.sizes) - 1).clamp(min=1)).T
        place = _box(times[0] - half, 2 * half * len(times), span)
        books = len(tokens.sizes)
        return Lane("map", "tokens", png_uri(picture, "viridis"), place, books=books)
    runs, first = [], 0
    found = deduplicate(codes[None, :, 0])
    pairs = zip(found.units[0].tolist(), found.durations[0].tolist(), strict=True)
    for unit, frames in pairs:
        start = max(0.0, times[first] - half)
        length = min(span, times[first + frames - 1] + half) - start
        place = _box(start, length, span)
        look = {"start": start, "box": place, "color": _color(unit)}
        runs.append({"unit": unit, "frames": frames, **look})
        first += frames
    return Lane("units", "units", runs=tuple(runs))


def _color(unit: int) -> str:
    """Neighbouring ids get distant hues: multiples of the golden angle."""
    return f"hsl({unit * 137.508 % 360:.0f} 62% {(58, 70, 80)[unit % 3]}%)"


def _ticks(span: float) -> list[dict[str, Any]]:
    """Labels of the time axis: major ones, and four between for a closer look."""
    steps = (m * 10.0**e for e in range(-3, 3) for m in (1, 2, 5))
    major = next((step for step in steps if span / step <= 8), span)
    minor = major / 5
    return [
        {
            "at": f"{100 * i * minor / span:.4f}%",
            "text": f"{i * minor:g}" + (" s" if i == 0 else ""),
            "major": i % 5 == 0,
        }
        for i in range(int(span / minor) + 1)
    ]
