"""Whether decoded speech keeps the speaker: cosine of two speaker vectors."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.resynthesis import align
from speechbrain_dsu.utils.errors import DsuError

SPEAKER_RATE = 16000
"""Speaker vectors are taken at this rate, whatever the signals' own."""

Embed = Callable[[Tensor], Tensor]


def speaker_similarity(
    embed: Embed,
    reference: Tensor,
    reference_rate: int,
    decoded: Tensor,
    decoded_rate: int,
) -> float:
    """Cosine of the speaker vectors of original and decoded speech.

    Arguments
    ---------
    embed : callable
        ``[1, time]`` at 16 kHz to a vector of any shape: ``encode_batch`` of
        SpeechBrain's ``EncoderClassifier`` (ECAPA, x-vectors), or
        ``mfcc_statistics``.
    reference, decoded : Tensor
        ``[time]``.
    reference_rate, decoded_rate : int
        In hertz.

    Returns
    -------
    float
        -1 to 1. Values of different ``embed`` are not comparable.

    Raises
    ------
    DsuError
        If a vector is zero or not finite, or as ``resynthesis.align``.

    Example
    -------
    >>> wav = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    >>> same = speaker_similarity(mfcc_statistics, wav, 16000, wav, 16000)
    >>> round(same, 4)
    1.0
    """
    pair = align(reference, reference_rate, decoded, decoded_rate, SPEAKER_RATE)
    with torch.no_grad():
        first, second = (embed(wav.unsqueeze(0)).flatten().double() for wav in pair)
    norm = float(first.norm() * second.norm())
    if not 0 < norm < float("inf"):
        raise DsuError("speaker similarity: a speaker vector is zero or not finite")
    return float(first @ second) / norm


def mfcc_statistics(wavs: Tensor) -> Tensor:
    """Mean and standard deviation over time of 19 MFCC: no speaker model.

    A stand-in where no speaker encoder is at hand. It follows voice, channel and
    noise alike and knows nothing of who speaks: use it to see that a codec departs
    from the original, not to rank voice conversion. The level (coefficient 0) is
    left out.

    Arguments
    ---------
    wavs : Tensor
        ``[batch, time]`` at 16 kHz, not padded, 25 ms at least.

    Returns
    -------
    Tensor
        float32 ``[batch, 38]``.

    Example
    -------
    >>> mfcc_statistics(torch.randn(2, 8000)).shape
    torch.Size([2, 38])
    """
    if wavs.ndim != 2 or wavs.shape[1] < 400:
        raise DsuError(
            f"mfcc_statistics takes [batch, time] of 400 samples, got "
            f"{list(wavs.shape)}"
        )
    coefficients = _mfcc()(wavs.float())[:, 1:]
    mean, std = coefficients.mean(-1), coefficients.std(-1, correction=0)
    return torch.cat([mean, std], dim=1)


@lru_cache(maxsize=1)
def _mfcc():
    from torchaudio.transforms import MFCC

    frames = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 40}
    return MFCC(SPEAKER_RATE, n_mfcc=20, melkwargs=frames)
