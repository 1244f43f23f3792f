"""Text in, 16 kHz speech and its aligned phones out, by flite or by espeak-ng."""

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechbrain_dsu.dataio.corpora import synth_espeak
from speechbrain_dsu.dataio.corpora.synth_voices import Speaker
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample

SAMPLE_RATE = 16000
"""Hertz of all generated speech."""

SILENCE = "sil"
"""The phone of pauses; all others are IPA without length and stress."""

_IPA = dict(
    pair.split(":")
    for pair in "pau:sil aa:ɑ ae:æ ah:ʌ ao:ɔ aw:aʊ ax:ə ay:aɪ b:b ch:tʃ d:d dh:ð eh:ɛ "
    "er:ɜ ey:eɪ f:f g:ɡ hh:h ih:ɪ iy:i jh:dʒ k:k l:l m:m n:n ng:ŋ ow:oʊ oy:ɔɪ p:p r:ɹ "
    "s:s sh:ʃ t:t th:θ uh:ʊ uw:u v:v w:w y:j z:z zh:ʒ".split()
)
_STOPS = tuple("ptkbdɡɟcqʔ")
# Quiet is what espeak-ng leaves between its pieces: zeros, or the rest of an echo.
_QUIET = 33
_SHORTEST_PAUSE = 0.03
_LEVEL = 0.06  # root mean square of an utterance; voices differ by 20 dB
_PEAK = 0.95
_SPEAKS_WITHIN = 120  # seconds


@dataclass(frozen=True)
class Spoken:
    """An utterance: ``[time]`` samples in [-1, 1], phones and where each ends.

    Phone i reaches from ``ends[i - 1]`` (0 for the first) to ``ends[i]``, in samples;
    the last one ends with the utterance.
    """

    wav: Tensor
    phones: list[str]
    ends: list[int]


def check_engines(engines: Sequence[str]) -> None:
    """See whether the synthesisers are there.

    Raises
    ------
    DsuError
        Naming the Debian package of the one that is missing.
    """
    if "flite" in engines and not shutil.which("flite"):
        raise DsuError("the command flite is missing: install the Debian package flite")
    if "espeak-ng" in engines:
        try:
            ctypes.CDLL(synth_espeak.LIBRARY)
        except OSError:
            raise DsuError(
                f"{synth_espeak.LIBRARY} is missing: install the Debian package "
                "espeak-ng"
            ) from None


def say(speaker: Speaker, text: str, speed: float = 1.0) -> Spoken:
    """Synthesise one utterance.

    The same arguments give the same samples, whatever was said before.

    Arguments
    ---------
    speaker : Speaker
        From ``speakers_of``.
    text : str
        In the speaker's language.
    speed : float
        Relative to the speaker's usual one.

    Returns
    -------
    Spoken

    Raises
    ------
    DsuError
        If the synthesiser fails, or says nothing.
    """
    engine = _say_flite if speaker.engine == "flite" else _say_espeak
    wav, rate, phones, ends = engine(speaker, text, speed)
    if not phones or not wav.any():
        raise DsuError(f"{speaker.id} says nothing to {text!r}")
    # Higher frequencies: the samples are played at a higher rate.
    rate = rate * speaker.tract // 100
    out = resample(torch.from_numpy(wav), rate, SAMPLE_RATE)
    out = out * min(_LEVEL / out.square().mean().sqrt(), _PEAK / out.abs().max())
    ends = [min(round(end * SAMPLE_RATE / rate), len(out)) for end in ends[:-1]]
    return Spoken(out, *_joined(phones, [*ends, len(out)]))


def _run(command: list[str], about: str, request: str | None = None) -> bytes:
    try:
        done = subprocess.run(
            command,
            input=None if request is None else request.encode(),
            stdin=subprocess.DEVNULL if request is None else None,
            capture_output=True,
            timeout=_SPEAKS_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DsuError(f"{about}: {error}") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().split("\n")
        raise DsuError(f"{about}: exit status {done.returncode}: {lines[-1]}")
    return done.stdout


def _say_flite(speaker: Speaker, text: str, speed: float):
    stretch = speaker.tract / 100 / speed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        command = ["flite", "-voice", speaker.voice, "-psdur"]
        command += ["--setf", f"duration_stretch={stretch:.4f}"]
        # A leading space: flite never takes the text for the name of a file.
        printed = _run(
            [*command, "-t", f" {text}", "-o", str(path)], f"flite: {text!r}"
        )
        wav, rate = read_audio(path)
    pairs = [item.rsplit(":", 1) for item in printed.decode().split()]
    phones = [_IPA.get(phone, phone) for phone, _ in pairs]
    # The last pause is reported longer than it is written.
    return wav.numpy(), rate, phones, [round(float(end) * rate) for _, end in pairs]


def _say_espeak(speaker: Speaker, text: str, speed: float):
    request = {
        "voice": speaker.voice,
        "text": text,
        "rate": round(speaker.rate * speed),
        "pitch": speaker.pitch,
        "pitch_range": speaker.pitch_range,
    }
    command = [sys.executable, "-I", "-S", synth_espeak.__file__]
    output = _run(command, f"espeak-ng: {text!r}", json.dumps(request))
    head, _, data = output.partition(b"\n")
    answer = json.loads(head)
    samples = np.frombuffer(data, "<i2")
    phones, ends = _from_marks(answer["marks"], samples, answer["rate"])
    return samples.astype(np.float32) / 32768, answer["rate"], phones, ends


def _from_marks(
    marks: Sequence[tuple[int, str]], samples: np.ndarray, rate: int
) -> tuple[list[str], list[int]]:
    """Phones and ends from espeak-ng's marks, which stand at each phone's sound.

    espeak-ng marks a stop at its release and leaves the closure, which is silent, to
    the phone before: here it goes to the stop. Before any other phone a silence of
    30 ms or more is a pause.
    """
    names = [SILENCE, *(_plain(name) for _, name in marks)]
    starts = [0, *(min(sample, len(samples)) for sample, _ in marks)]
    stops = [*starts[1:], len(samples)]
    loud = np.abs(samples.astype(np.int32)) > _QUIET
    phones, ends = [], []
    following = [*names[1:], SILENCE]
    for name, start, stop, after in zip(names, starts, stops, following, strict=True):
        heard = np.flatnonzero(loud[start:stop])
        if name == SILENCE and phones and 2 * len(heard) > stop - start:
            # A glide between two words, which has no name: part of the first.
            ends[-1] = stop
            continue
        last = start + (int(heard[-1]) + 1 if len(heard) else 0)
        if name == SILENCE or last == stop or last == start:
            # Nothing to share out: a pause, or a phone that sounds to its end.
            last = stop
        elif not after.startswith(_STOPS) and stop - last < _SHORTEST_PAUSE * rate:
            last = stop
        phones.append(name)
        ends.append(last)
        if last < stop and not after.startswith(_STOPS):
            phones.append(SILENCE)
            ends.append(stop)
    return phones, [*ends[:-1], len(samples)]


def _plain(name: str) -> str:
    """IPA without length and stress; pauses have no name, or one without letters."""
    name = "".join(c for c in name if c not in "ːˑˈˌ'‿_:|-")
    return name or SILENCE


def _joined(phones: Sequence[str], ends: Sequence[int]) -> tuple[list[str], list[int]]:
    """Without phones of no length, and with neighbouring pauses as one."""
    kept: list[str] = []
    until: list[int] = []
    start = 0
    for phone, end in zip(phones, ends, strict=True):
        if end <= start:
            continue
        if kept and phone == kept[-1] == SILENCE:
            until[-1] = end
        else:
            kept.append(phone)
            until.append(end)
        start = end
    return kept, until
