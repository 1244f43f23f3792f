"""Copies of recordings that sound otherwise: more voices, tempos, rooms to train on.

Copies are made before tokens are: whatever the tokenizer, it hears them as recordings.
SpeechBrain's augmentations change batches in training, whose tokens could not be kept.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.utils.audio import audio_info, read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample

Entries = Mapping[str, Mapping[str, Any]]


def at_speeds(
    entries: Entries, speeds: Sequence[int], folder: str | Path
) -> dict[str, dict[str, Any]]:
    """Entries of a manifest, again for every speed.

    Pitch and formants move with the tempo, as for a shorter or taller speaker (Ko et
    al., "Audio Augmentation for Speech Recognition", 2015).

    Arguments
    ---------
    entries : mapping
        Id to entry with ``wav`` and ``duration``.
    speeds : sequence of int
        In percent; 100 is the recording itself.
    folder : str or Path
        Gets the copies; those that are there stay.

    Returns
    -------
    dict
        Entries with ids like ``name@110``, and those at 100 as they are.

    Raises
    ------
    DsuError
        If a speed isn't between 50 and 200.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.zeros(1600), 16000)
    >>> entries = {"a": {"wav": str(folder / "a.wav"), "duration": 0.1}}
    >>> found = at_speeds(entries, [100, 125], folder / "speeds")
    >>> sorted(found), found["a@125"]["duration"]
    (['a', 'a@125'], 0.08)
    """
    wrong = [speed for speed in speeds if not 50 <= speed <= 200]
    if wrong or not speeds:
        raise DsuError(f"speeds={list(speeds)}: percent between 50 and 200")
    found: dict[str, dict[str, Any]] = {}
    for speed in speeds:
        if speed == 100:
            found |= {name: dict(entry) for name, entry in entries.items()}
            continue

        def change(
            wav: Tensor, rate: int, name: str, speed: int = speed
        ) -> tuple[Tensor, int]:
            return resample(wav, speed, 100), rate

        found |= _copies(entries, str(speed), change, folder)
    return found


def at_rate(
    entries: Entries, rate: int, folder: str | Path
) -> dict[str, dict[str, Any]]:
    """Entries of a manifest, none with more bandwidth than ``rate`` has room for.

    Recordings of several corpora sound alike then: a model that learns from wideband
    speech beside telephone speech would learn the corpus.

    Arguments
    ---------
    entries : mapping
        Id to entry with ``wav``.
    rate : int
        In hertz; a recording of a higher one is resampled.
    folder : str or Path
        Gets the copies; those that are there stay.

    Returns
    -------
    dict
        Entries with the same ids.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.zeros(1600), 16000)
    >>> found = at_rate({"a": {"wav": str(folder / "a.wav")}}, 8000, folder / "narrow")
    >>> audio_info(found["a"]["wav"]).sample_rate
    8000
    """

    def change(wav: Tensor, before: int, name: str) -> tuple[Tensor, int]:
        return resample(wav, before, rate), rate

    wide = {k: e for k, e in entries.items() if audio_info(e["wav"]).sample_rate > rate}
    copies = _copies(wide, str(rate), change, folder)
    narrow = {name: copies[f"{name}@{rate}"] for name in wide}
    return {name: dict(narrow.get(name, e)) for name, e in entries.items()}


def in_noise(
    entries: Entries, snrs: Sequence[float], folder: str | Path, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Entries of a manifest in white noise, by SpeechBrain's ``AddNoise``.

    Arguments
    ---------
    entries : mapping
        Id to entry with ``wav``.
    snrs : (float, float)
        Signal-to-noise ratios in dB: each copy's is drawn between the two.
    folder : str or Path
        Gets the copies; those that are there stay.
    seed : int
        With the id, it decides a copy's noise.

    Returns
    -------
    dict
        Entries with ids like ``name@noise10-40``.

    Raises
    ------
    DsuError
        If these aren't two ratios in ascending order.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.ones(16000) / 2, 16000)
    >>> found = in_noise({"a": {"wav": str(folder / "a.wav")}}, [20, 20], folder / "n")
    >>> wav, _ = read_audio(found["a@noise20-20"]["wav"])
    >>> round(float((wav - wav.mean()).std() / wav.mean()), 1)  # 20 dB
    0.1
    """
    from speechbrain.augment.time_domain import AddNoise

    if len(snrs) != 2 or snrs[0] > snrs[1]:
        raise DsuError(f"noise={list(snrs)}: the lowest and the highest ratio, in dB")
    add = AddNoise(snr_low=snrs[0], snr_high=snrs[1])

    def change(wav: Tensor, rate: int, name: str) -> tuple[Tensor, int]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            return add(wav.unsqueeze(0), torch.ones(1))[0], rate

    # Other ratios are other copies.
    return _copies(entries, f"noise{snrs[0]:g}-{snrs[1]:g}", change, folder)


def spoken_again(
    entries: Entries, codecs: Mapping[str, Any], folder: str | Path
) -> dict[str, dict[str, Any]]:
    """Entries of a manifest, tokenized and decoded: what speech loses on the way.

    Arguments
    ---------
    entries : mapping
        Id to entry with ``wav``.
    codecs : mapping
        Name to a ``UnitTokenizer`` with a decoder.
    folder : str or Path
        Gets the copies; those that are there stay.

    Returns
    -------
    dict
        Entries with ids like ``name@codec-1k``.

    Raises
    ------
    DsuError
        If a tokenizer has no decoder.
    """
    found: dict[str, dict[str, Any]] = {}
    for mark, codec in codecs.items():

        def change(
            wav: Tensor, rate: int, name: str, codec: Any = codec
        ) -> tuple[Tensor, int]:
            tokens = codec.encode_batch(wav.unsqueeze(0), sample_rate=rate)
            return codec.decode(tokens)[0][0].cpu(), codec.sample_rate

        found |= _copies(entries, mark, change, folder)
    return found


def copies_of(
    train: Entries,
    speeds: Sequence[int],
    options: Mapping[str, Any],
    place: str | Path,
) -> dict[str, Any]:
    """The training data and what was asked for beside it.

    Arguments
    ---------
    train : mapping
        Id to entry.
    speeds : sequence of int
        In percent.
    options : mapping
        ``copies`` of ``training.asr.train_and_seal_asr``.
    place : str or Path
        Keeps the copies for the next run.

    Returns
    -------
    dict
        Id to entry.

    Raises
    ------
    DsuError
        If there are no copies of such a name.
    """
    rate = options.get("max_rate")
    unknown = sorted(options.keys() - {"noise", "through", "max_rate"})
    if unknown:
        raise DsuError(f"copies: '{unknown[0]}'; there are max_rate, noise, through")
    place = Path(place) / (f"{rate}Hz" if rate else "")  # narrower ones are kept apart
    data = at_rate(train, rate, place) if rate else train
    found = at_speeds(data, speeds, place / "speeds")
    if "noise" in options:
        found |= in_noise(data, options["noise"], place / "noise")
    return found | spoken_again(data, options.get("through", {}), place / "through")


def _copies(
    entries: Entries,
    mark: str,
    change: Callable[[Tensor, int, str], tuple[Tensor, int]],
    folder: str | Path,
) -> dict[str, dict[str, Any]]:
    """``change`` takes samples, their rate and an id, and gives samples and a rate."""
    found: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        path = Path(folder) / mark / f"{name}.wav"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, *change(*read_audio(entry["wav"]), name))
        info = audio_info(path)
        seconds = info.n_samples / info.sample_rate
        found[f"{name}@{mark}"] = {**entry, "wav": str(path), "duration": seconds}
    return found
