"""Are tokens stable? Unit edit rates under changes that a listener hardly hears."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.distances import edit_distances
from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample

Change = Callable[[Tensor, int], Tensor]
"""``(wav [time], sample_rate)`` to the changed ``[time]``."""


class EditRate(NamedTuple):
    """Edits between two token sequences of one utterance, means over codebooks.

    Arguments
    ---------
    frames : float
        Edit distance of the frames' units over the frames of the first sequence.
    runs : float
        The same after joining repeated units: what a model of units meets (the unit
        edit distance of Gat et al., 2023, "Augmentation Invariant Discrete
        Representation for Generative Spoken Language Modeling").
    flips : float or None
        Share of frames whose unit is another one; None if the numbers of frames
        differ.
    """

    frames: float
    runs: float
    flips: float | None


def unit_edit_rate(tokens: Tokens, changed: Tokens) -> EditRate:
    """How far the tokens of a changed utterance are from the original's.

    It also compares tokens of one waveform from two devices, precisions or exports:
    there ``flips`` is the number to look at.

    Arguments
    ---------
    tokens, changed : Tokens
        One utterance each, of one tokenizer.

    Returns
    -------
    EditRate
        0 for equal tokens.

    Raises
    ------
    DsuError
        If they are not one utterance each with frames, of the same codebooks.

    Example
    -------
    >>> make = lambda ids: Tokens.from_list([torch.tensor(ids)[:, None]], 50, (9,), "-")
    >>> unit_edit_rate(make([1, 1, 2, 3]), make([1, 2, 2, 3]))
    EditRate(frames=0.25, runs=0.0, flips=0.25)
    """
    if len(tokens) != 1 or len(changed) != 1 or tokens.sizes != changed.sizes:
        raise DsuError(
            f"compare one utterance with one: got {len(tokens)} of sizes "
            f"{tokens.sizes} and {len(changed)} of sizes {changed.sizes}"
        )
    # One row per codebook: each is a sequence of its own.
    first, second = (t.unpad()[0].T.cpu() for t in (tokens, changed))
    if not first.shape[1]:
        raise DsuError("an utterance without frames has no edit rate")
    frames = _rate(first, None, second, None)
    runs = [deduplicate(ids) for ids in (first, second)]
    joined = _rate(*[x for r in runs for x in (r.units, (r.durations > 0).sum(1))])
    same = first.shape == second.shape
    flips = float((first != second).double().mean()) if same else None
    return EditRate(frames, joined, flips)


def perturbations(seed: int = 0) -> dict[str, Change]:
    """The changes that ``dsu eval`` tries, by name.

    Arguments
    ---------
    seed : int
        Of the noise: the same for every utterance of one length.

    Returns
    -------
    dict of str to callable
        ``gain -6 dB``; ``noise 20 dB`` (white, signal to noise); ``shift 10 ms``
        (the beginning is cut); ``resample 44.1 kHz`` (there and back); ``half
        band`` (through half the sample rate and back); ``speed 1.1`` (faster and
        higher); ``pitch +1`` (a semitone higher, as long as before).

    Example
    -------
    >>> changed = perturbations()["shift 10 ms"](torch.zeros(16000), 16000)
    >>> len(changed)
    15840
    """

    def gain(wav: Tensor, rate: int) -> Tensor:
        return wav * 10 ** (-6 / 20)

    def noise(wav: Tensor, rate: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        level = wav.square().mean().sqrt() / 10
        return wav + level * torch.randn(wav.shape, generator=generator)

    def shift(wav: Tensor, rate: int) -> Tensor:
        return wav[round(0.01 * rate) :]

    def there_and_back(wav: Tensor, rate: int) -> Tensor:
        return resample(resample(wav, rate, 44100), 44100, rate)[: len(wav)]

    def half_band(wav: Tensor, rate: int) -> Tensor:
        return resample(resample(wav, rate, rate // 2), rate // 2, rate)[: len(wav)]

    def speed(wav: Tensor, rate: int) -> Tensor:
        return resample(wav, 11, 10)

    return {
        "gain -6 dB": gain,
        "noise 20 dB": noise,
        "shift 10 ms": shift,
        "resample 44.1 kHz": there_and_back,
        "half band": half_band,
        "speed 1.1": speed,
        "pitch +1": semitone_up,
    }


def semitone_up(wav: Tensor, sample_rate: int) -> Tensor:
    """The same speech a semitone (18 / 17) higher and as long as before.

    Stretched in time by a phase vocoder, then played faster. torchaudio's own
    ``pitch_shift`` resamples by rates without a common factor, which takes far longer.

    Example
    -------
    >>> semitone_up(torch.randn(16000), 16000).shape
    torch.Size([16000])
    """
    from torchaudio.functional import phase_vocoder

    n_fft = 2 ** round(math.log2(0.032 * sample_rate))
    window, hop = torch.hann_window(n_fft), n_fft // 4
    spectrum = torch.stft(
        wav, n_fft, hop, window=window, pad_mode="constant", return_complex=True
    )
    advance = torch.linspace(0, math.pi * hop, n_fft // 2 + 1).unsqueeze(1)
    longer = round(len(wav) * 18 / 17)
    stretched = torch.istft(
        phase_vocoder(spectrum, 17 / 18, advance),
        n_fft,
        hop,
        window=window,
        length=longer,
    )
    return resample(stretched, 18, 17)[: len(wav)]


def stability(
    encode: Callable[[Tensor], Tokens],
    wav: Tensor,
    sample_rate: int,
    changes: Mapping[str, Change] | None = None,
) -> dict[str, EditRate]:
    """Edit rate of one utterance under each change.

    Arguments
    ---------
    encode : callable
        ``[time]`` at ``sample_rate`` to tokens of one utterance:
        ``tokenizer.encode_long``.
    wav : Tensor
        ``[time]``.
    sample_rate : int
        In hertz.
    changes : mapping of str to callable, optional
        ``perturbations()`` by default.

    Returns
    -------
    dict of str to EditRate
        By the change's name.

    Raises
    ------
    DsuError
        If the utterance has no frames.

    Example
    -------
    >>> def encode(wav):
    ...     units = (wav[::160] > 0).long().unsqueeze(1)
    ...     return Tokens.from_list([units], 100.0, (2,), "-")
    >>> wav = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    >>> found = stability(encode, wav, 16000)
    >>> found["gain -6 dB"].flips
    0.0
    """
    before = encode(wav)
    changes = perturbations() if changes is None else changes
    return {
        name: unit_edit_rate(before, encode(change(wav, sample_rate)))
        for name, change in changes.items()
    }


def _rate(first: Tensor, n: Tensor | None, second: Tensor, m: Tensor | None) -> float:
    """Mean over codebooks of edits per unit of the first sequence."""
    n = torch.full((len(first),), first.shape[1]) if n is None else n
    m = torch.full((len(second),), second.shape[1]) if m is None else m
    return float((edit_distances(first, n, second, m) / n.double()).mean())
