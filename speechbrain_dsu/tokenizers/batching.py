"""Which items run together, and how a long recording is cut."""

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor

from speechbrain_dsu.utils.audio import AudioReader, resample
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

Batching = Literal["auto", "solo", "equal", "padded"]
Field = tuple[int | None, int | None]


def valid_items(
    wavs: Tensor, lens: Tensor | None, rate_in: int | None, rate_out: int
) -> list[Tensor]:
    """The valid samples of each item, at the model's rate.

    Arguments
    ---------
    wavs : Tensor
        Floating point ``[batch, time]``.
    lens : Tensor, optional
        Relative lengths ``[batch]``.
    rate_in : int, optional
        Of ``wavs`` in hertz; None: already ``rate_out``.
    rate_out : int
        The rate to deliver.

    Returns
    -------
    list of Tensor
        float32 ``[time_i]``.

    Raises
    ------
    DsuError
        If the shape, a length or a value is wrong.

    Example
    -------
    >>> import torch
    >>> items = valid_items(torch.zeros(2, 8), torch.tensor([1.0, 0.5]), None, 16000)
    >>> [len(item) for item in items]
    [8, 4]
    """
    if wavs.ndim != 2 or not wavs.is_floating_point():
        raise DsuError(
            "audio must be floating point [batch, time] in [-1, 1], got "
            f"{wavs.dtype} {list(wavs.shape)}"
        )
    if lens is not None and len(lens) != len(wavs):
        raise DsuError(f"{len(wavs)} items of audio with {len(lens)} lengths")
    counts = absolute_lengths(lens, wavs.shape[1], len(wavs)).tolist()
    items = [wav[:n].float() for wav, n in zip(wavs, counts, strict=True)]
    for index, item in enumerate(items):
        if not bool(item.isfinite().all()):
            raise DsuError(f"audio item {index} holds NaN or infinity")
    if rate_in is not None and rate_in != rate_out:
        items = [resample(item, rate_in, rate_out) for item in items]
    return items


def group_items(counts: Sequence[int], mode: Batching, limit: float) -> list[list[int]]:
    """Groups of item indices to run in one call.

    Arguments
    ---------
    counts : sequence of int
        Samples of each item.
    mode : "solo", "equal" or "padded"
        One item at a time, items of one length, or items of similar length.
    limit : float
        Samples per group, padding included; a longer item runs alone.

    Returns
    -------
    list of list of int
        Every index once. Items without samples form groups of their own.

    Example
    -------
    >>> group_items([5, 0, 5, 3], "equal", limit=100)
    [[1], [3], [0, 2]]
    >>> group_items([5, 0, 5, 3], "padded", limit=10)
    [[1], [3, 0], [2]]
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(counts)), key=lambda i: (counts[i], i)):
        # In ascending order the newcomer is the longest of its group.
        joins = bool(groups) and mode != "solo" and counts[groups[-1][0]] > 0
        if joins and mode == "equal":
            joins = counts[groups[-1][0]] == counts[index]
        if joins and (len(groups[-1]) + 1) * counts[index] <= limit:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def overlapping_chunks(
    reader: AudioReader, total: int, hop: int, step: int, least: int, field: Field
) -> Iterator[tuple[Tensor, slice]]:
    """Chunks of a recording with the context that their frames need.

    Arguments
    ---------
    reader : AudioReader
        The recording.
    total : int
        Frames of the whole recording.
    hop : int
        Samples per frame.
    step : int
        Frames per chunk.
    least : int
        Samples that one frame takes: so much context there is in any case.
    field : (int or None, int or None)
        Receptive field: frame ``t`` depends on samples ``t * hop - left`` up to
        ``t * hop + right``. None: no bound, a quarter of a chunk is taken.

    Yields
    ------
    wav : Tensor
        ``[time]``, beginning at a whole frame.
    own : slice
        The frames of ``wav`` that this chunk is for.
    """
    open_end = max(-(-least // hop), step // 4)
    left, right = (open_end if side is None else -(-side // hop) for side in field)
    for first in range(0, total, step):
        last = min(first + step, total)
        begin = max(first - left, 0)
        # The final chunk takes all that is left: its end is the recording's end.
        end = reader.n_samples if last == total else (last + right) * hop
        yield reader.read(begin * hop, end), slice(first - begin, last - begin)
