"""Units of spoken digits, for claims about language models of speech."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.claims.common import Digit, Digits, joined
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.utils.nearest import nearest_centers

WORDS = "zero one two three four five six seven eight nine".split()


class Spoken(NamedTuple):
    """A digit as units without repetitions.

    Arguments
    ---------
    digit : int
        Which.
    speaker : str
        Who.
    units : Tensor
        int64 ``[runs]``.
    """

    digit: int
    speaker: str
    units: Tensor


def unit_digits(
    digits: Digits, size: int, generator: torch.Generator
) -> tuple[list[Spoken], list[Spoken]]:
    """Training and test digits as units of a k-means of the training frames.

    Arguments
    ---------
    digits : Digits
        See ``read_digits``.
    size : int
        Number of units.
    generator : torch.Generator
        Draws the first centres.

    Returns
    -------
    train, test : list of Spoken
    """
    centers = lloyd(joined(digits.train), size, generator, iterations=15)

    def write(part: Sequence[Digit]) -> list[Spoken]:
        found = []
        for digit, speaker, frames in part:
            codes = nearest_centers(frames, centers)[0]
            found.append(Spoken(digit, speaker, torch.unique_consecutive(codes)))
        return found

    return write(digits.train), write(digits.test)


def draw_strings(
    spoken: Sequence[Spoken], count: int, length: int, generator: torch.Generator
) -> list[list[Spoken]]:
    """Strings of digits, each by one speaker.

    Arguments
    ---------
    spoken : sequence of Spoken
        What they are made of.
    count, length : int
        How many strings, of how many digits.
    generator : torch.Generator
        Draws speakers, then digits.
    """
    speakers = sorted({item.speaker for item in spoken})
    groups = [[item for item in spoken if item.speaker == name] for name in speakers]
    found = []
    for place in torch.randint(len(groups), (count,), generator=generator).tolist():
        group = groups[place]
        picks = torch.randint(len(group), (length,), generator=generator).tolist()
        found.append([group[pick] for pick in picks])
    return found
