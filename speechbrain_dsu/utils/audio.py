"""Audio files in and out, by soundfile alone: no torchaudio backend, no ffmpeg.

A fault in a file is an ``AudioError`` that begins with the file's path, so that a
corpus job can report it in one line and go on.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au")
"""File names that a folder is searched for."""


class AudioError(DsuError):
    """An audio file can't be used: ``<path>: <reason>``."""


@dataclass(frozen=True)
class AudioInfo:
    """Header of an audio file: samples per channel, hertz, channels."""

    n_samples: int
    sample_rate: int
    channels: int


def audio_info(path: str | Path) -> AudioInfo:
    """Read an audio file's header.

    Raises
    ------
    AudioError
        If the path is missing, a folder, empty or not audio.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.zeros(100), 8000)
    >>> audio_info(path)
    AudioInfo(n_samples=100, sample_rate=8000, channels=1)
    """
    import soundfile

    _check_file(path)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: not readable as audio ({_reason(error)})") from None
    if info.frames == 0:
        raise AudioError(f"{path}: holds no samples")
    return AudioInfo(info.frames, info.samplerate, info.channels)


def read_audio(
    path: str | Path,
    sample_rate: int | None = None,
    start: int = 0,
    stop: int | None = None,
) -> tuple[Tensor, int]:
    """Read a file, or a stretch of it, as one channel.

    Several channels are averaged. Integer files are scaled to [-1, 1].

    Arguments
    ---------
    path : str or Path
        Any format that libsndfile reads.
    sample_rate : int, optional
        Resample to this rate in hertz.
    start, stop : int
        Stretch in samples of the file, before resampling.

    Returns
    -------
    wav : Tensor
        float32 ``[time]``.
    rate : int
        ``sample_rate``, or the file's own rate when none was asked for.

    Raises
    ------
    AudioError
        If the file is missing, empty, not audio, cut short or holds NaN or infinity.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.zeros(441), 22050)
    >>> read_audio(path, sample_rate=16000)[0].shape
    torch.Size([320])
    """
    import soundfile

    info = audio_info(path)
    stop = info.n_samples if stop is None else stop
    try:
        data, rate = soundfile.read(
            str(path), start=start, stop=stop, dtype="float32", always_2d=True
        )
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: cannot be decoded ({_reason(error)})") from None
    if len(data) < stop - start:
        raise AudioError(
            f"{path}: cut short, the header promises {info.n_samples} samples and "
            f"{start + len(data)} are there"
        )
    if not np.isfinite(data).all():
        bad = int(np.argwhere(~np.isfinite(data).all(axis=1))[0, 0]) + start
        raise AudioError(f"{path}: not a number at sample {bad}")
    wav = torch.from_numpy(data[:, 0] if data.shape[1] == 1 else data.mean(axis=1))
    if sample_rate is None:
        return wav, rate
    return resample(wav, rate, sample_rate), sample_rate


def _check_file(path: str | Path) -> None:
    path = Path(path)
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, not an audio file")
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened ({error.strerror})") from None
    if size == 0:
        raise AudioError(f"{path}: the file is empty")
    _check_wav_is_whole(path, size)


def _check_wav_is_whole(path: Path, size: int) -> None:
    """libsndfile quietly shortens a WAV whose data end early; here it is a fault."""
    if path.suffix.lower() != ".wav":
        return
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            # 0 and 0xffffffff are what streaming writers leave: length unknown.
            if head[:4] == b"data":
                there = size - file.tell()
                if length not in (0, 0xFFFFFFFF) and there < length:
                    raise AudioError(
                        f"{path}: cut short, the header promises {length} bytes of "
                        f"audio and {there} are there"
                    )
                return
            file.seek(length + length % 2, 1)


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")


def write_audio(path: str | Path, wav: Tensor, sample_rate: int) -> None:
    """Write ``[time]`` as 16-bit PCM (the format follows from the file's name).

    Samples outside [-1, 1] are clipped. The file appears whole or not at all.

    Arguments
    ---------
    path : str or Path
        With a suffix that libsndfile knows.
    wav : Tensor
        float ``[time]``.
    sample_rate : int
        In hertz.

    Example
    -------
    >>> write_audio(getfixture("tmp_path") / "a.flac", torch.zeros(10), 16000)
    """
    import soundfile

    path = Path(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    data = wav.detach().cpu().clamp(-1, 1).numpy()
    try:
        soundfile.write(str(part), data, sample_rate, subtype="PCM_16")
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise AudioError(f"{path}: cannot be written ({_reason(error)})") from None
    part.replace(path)


class AudioReader:
    """Stretches of a recording at one sample rate, read when they are asked for.

    Memory does not depend on the recording's length. Resampled stretches equal the
    same stretches of the recording resampled as a whole.

    Arguments
    ---------
    source : Tensor, str or Path
        ``[time]`` samples, or a file.
    sample_rate : int
        The rate to deliver, in hertz.
    source_rate : int, optional
        The rate of a Tensor source; ``sample_rate`` if not given.

    Example
    -------
    >>> wav = torch.sin(torch.arange(2205) * 0.05)
    >>> reader = AudioReader(wav, 16000, source_rate=22050)
    >>> whole = resample(wav, 22050, 16000)
    >>> (
    ...     reader.n_samples,
    ...     torch.allclose(reader.read(700, 900), whole[700:900], atol=1e-6),
    ... )
    (1600, True)
    """

    # Input samples on either side that the resampling filter can reach, per unit of
    # the rates' ratio (its half width is 6 zero crossings, 6.1 with the roll-off).
    _REACH = 8

    def __init__(
        self,
        source: Tensor | str | Path,
        sample_rate: int,
        source_rate: int | None = None,
    ):
        self.source = source
        self.sample_rate = sample_rate
        if isinstance(source, Tensor):
            self._total, self._rate = len(source), source_rate or sample_rate
        else:
            info = audio_info(source)
            self._total, self._rate = info.n_samples, info.sample_rate
        self.n_samples = math.ceil(self._total * sample_rate / self._rate)

    def read(self, start: int, stop: int) -> Tensor:
        """Samples ``start`` to ``stop`` within the ends, float32 ``[time]``."""
        start, stop = max(start, 0), min(stop, self.n_samples)
        if start >= stop:
            return torch.zeros(0)
        if self._rate == self.sample_rate:
            return self._raw(start, stop)
        common = math.gcd(self._rate, self.sample_rate)
        step_in, step_out = self._rate // common, self.sample_rate // common
        # A stretch must begin at a whole period of both rates to keep the phase.
        reach = self._REACH * max(1, math.ceil(step_in / step_out))
        first = max(0, (start // step_out) - math.ceil(reach / step_in))
        end = math.ceil(stop * step_in / step_out) + reach
        raw = self._raw(first * step_in, min(end, self._total))
        wav = resample(raw, self._rate, self.sample_rate)
        offset = first * step_out
        return wav[start - offset : stop - offset]

    def _raw(self, start: int, stop: int) -> Tensor:
        if isinstance(self.source, Tensor):
            return self.source[start:stop]
        return read_audio(self.source, None, start, stop)[0]
