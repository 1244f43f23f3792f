"""Known words as labels of frames: the most likely alignment of their phones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError


def align_phones(
    log_probabilities: Tensor, pronunciations: Sequence[Sequence[int]], silence: int
) -> Tensor:
    """The best path through one of a word's pronunciations.

    Silence may stand before, behind and between phones. This is the alignment that
    connectionist temporal classification gives with silence in the place of its blank
    (Graves et al. 2006), found by torchaudio.

    Arguments
    ---------
    log_probabilities : Tensor
        float ``[frames, phones]``, of each frame.
    pronunciations : sequence of sequence of int
        Phones of the word, in each of the ways that it may be said.
    silence : int
        The phone that is none.

    Returns
    -------
    Tensor
        int32 ``[frames]``: the phone of each frame; all -1 (no label) where the
        recording is too short for every pronunciation.

    Raises
    ------
    DsuError
        If there is no pronunciation.

    Example
    -------
    >>> frames = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]])
    >>> align_phones(frames.log_softmax(-1), [[1, 2], [2, 1]], silence=0)
    tensor([0, 1, 1, 2, 0], dtype=torch.int32)
    """
    from torchaudio.functional import forced_align

    if not pronunciations:
        raise DsuError("a word to be aligned needs a pronunciation")
    best, found = float("-inf"), None
    for phones in pronunciations:
        # Between two equal phones the path needs a silence.
        repeats = sum(a == b for a, b in zip(phones, phones[1:], strict=False))
        if len(phones) + repeats > len(log_probabilities):
            continue
        targets = torch.tensor([list(phones)])
        path, scores = forced_align(
            log_probabilities.float().unsqueeze(0), targets, blank=silence
        )
        if float(scores.mean()) > best:
            best, found = float(scores.mean()), path[0]
    if found is None:
        return torch.full((len(log_probabilities),), -1, dtype=torch.int32)
    return found.to(torch.int32)
