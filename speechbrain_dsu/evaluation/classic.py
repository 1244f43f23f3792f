"""Classic speech codecs as baselines: Codec 2 and Opus, by their own commands."""

import shutil
import subprocess
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample

_SECONDS = 600


class Resynthesized(NamedTuple):
    """Speech that went through a codec.

    Arguments
    ---------
    wav : Tensor
        float32 ``[time]`` at the codec's rate, as long as the input.
    bits : int
        What the encoder wrote, without the file format's own.
    """

    wav: Tensor
    bits: int


@dataclass(frozen=True)
class Codec2:
    """Codec 2 (Rowe, 2010), by ``c2enc`` and ``c2dec`` of Debian's ``codec2``.

    Arguments
    ---------
    mode : str
        Bit rate as the command names it: 3200, 2400, 1600, 1400, 1300, 1200, 700C.

    Raises
    ------
    DsuError
        If the mode is unknown or a command isn't installed.
    """

    mode: str = "1300"
    sample_rate = 8000

    def __post_init__(self):
        modes = ("3200", "2400", "1600", "1400", "1300", "1200", "700C")
        if self.mode not in modes:
            raise DsuError(f"codec2:{self.mode}: take one of {', '.join(modes)}")
        _need(("c2enc", "c2dec"), "codec2")

    @property
    def delay(self) -> int:
        """Samples by which the decoder lags; ``run`` takes them off.

        Found by correlating the envelopes of real speech before and after.
        """
        return 232 if self.mode == "700C" else 144

    @property
    def name(self) -> str:
        """Codec and mode."""
        return f"codec2:{self.mode}"

    @property
    def bitrate(self) -> float:
        """Nominal bits per second."""
        return float(self.mode.rstrip("C"))

    def run(self, wav: Tensor, sample_rate: int) -> Resynthesized:
        """Encode and decode ``[time]``."""
        signal = resample(wav, sample_rate, self.sample_rate)
        frame = 160 if self.mode in ("3200", "2400") else 320
        frames = -(-(len(signal) + self.delay) // frame)
        full = torch.nn.functional.pad(signal, (0, frames * frame - len(signal)))
        coded = _pipe(["c2enc", self.mode, "-", "-"], _to_pcm(full))
        decoded = _from_pcm(_pipe(["c2dec", self.mode, "-", "-"], coded))
        cut = decoded[self.delay : self.delay + len(signal)]
        # The file rounds each frame up to whole bytes; on air it would not.
        bits = round(frames * frame * self.bitrate / self.sample_rate)
        return Resynthesized(cut, bits)


@dataclass(frozen=True)
class Opus:
    """Opus (RFC 6716) at a constant rate, by Debian's ``opus-tools``.

    Arguments
    ---------
    bits_per_second : int
        6000 or more.

    Raises
    ------
    DsuError
        If the rate is below 6000 or a command isn't installed.
    """

    bits_per_second: int = 6000
    sample_rate = 16000

    def __post_init__(self):
        if not 6000 <= self.bits_per_second <= 256000:
            raise DsuError(
                f"opus:{self.bits_per_second}: Opus takes 6000 to 256000 bit/s"
            )
        _need(("opusenc", "opusdec"), "opus-tools")

    @property
    def name(self) -> str:
        """Codec and rate."""
        return f"opus:{self.bits_per_second}"

    @property
    def bitrate(self) -> float:
        """Nominal bits per second."""
        return float(self.bits_per_second)

    def run(self, wav: Tensor, sample_rate: int) -> Resynthesized:
        """Encode and decode ``[time]``."""
        signal = resample(wav, sample_rate, self.sample_rate)
        rate = str(self.sample_rate)
        encode = ["opusenc", "--quiet", "--speech", "--hard-cbr", "--padding", "0"]
        encode += ["--bitrate", str(self.bits_per_second / 1000), "--raw"]
        encode += ["--raw-rate", rate, "--raw-chan", "1", "-", "-"]
        coded = _pipe(encode, _to_pcm(signal))
        decode = ["opusdec", "--quiet", "--no-dither", "--rate", rate, "-", "-"]
        decoded = _from_pcm(_pipe(decode, coded))
        missing = max(0, len(signal) - len(decoded))
        decoded = torch.nn.functional.pad(decoded, (0, missing))
        return Resynthesized(decoded[: len(signal)], 8 * _ogg_payload(coded))


def make_classic(name: str) -> Codec2 | Opus:
    """A codec by name: ``codec2``, ``codec2:700C``, ``opus``, ``opus:12000``.

    Raises
    ------
    DsuError
        If there is no such codec, or its command isn't installed.

    Example
    -------
    >>> make_classic("mp3")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: no baseline 'mp3': take codec2[:MODE] ...
    """
    kind, _, setting = name.partition(":")
    if kind == "codec2":
        return Codec2(setting) if setting else Codec2()
    if kind == "opus" and (not setting or setting.isdigit()):
        return Opus(int(setting)) if setting else Opus()
    raise DsuError(
        f"no baseline {name!r}: take codec2[:MODE] or opus[:BITS_PER_SECOND]"
    )


def _need(commands: tuple[str, ...], package: str) -> None:
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        raise DsuError(
            f"no command {' or '.join(missing)}: install the package {package} "
            f"(Debian: apt-get install {package})"
        )


def _pipe(command: list[str], given: bytes) -> bytes:
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DsuError(f"{command[0]}: no result after {_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["failed"]
        raise DsuError(f"{command[0]}: {lines[-1]}")
    return done.stdout


def _to_pcm(wav: Tensor) -> bytes:
    scaled = (wav.detach().cpu().float() * 32768).round().clamp(-32768, 32767)
    return scaled.numpy().astype("<i2").tobytes()


def _from_pcm(data: bytes) -> Tensor:
    samples = np.frombuffer(data, dtype="<i2").astype(np.float32)
    return torch.from_numpy(samples / 32768)


def _ogg_payload(data: bytes) -> int:
    """Bytes of audio in an Ogg Opus file: all but page headers and the two first."""
    place, total, page = 0, 0, 0
    while place + 27 <= len(data) and data[place : place + 4] == b"OggS":
        segments = data[place + 26]
        size = sum(data[place + 27 : place + 27 + segments])
        # The head and the comments have a page each (RFC 7845, section 3).
        total += size if page >= 2 else 0
        place, page = place + 27 + segments + size, page + 1
    return total
