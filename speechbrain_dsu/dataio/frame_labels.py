"""Labels of frames, found by time: for any crop, hop and speed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError


class FrameLabels:
    """One label (or several, side by side) for every frame of some recordings.

    A target tokenizer labels whole recordings once; a model that hears a crop of one,
    perhaps faster or slower, asks for the labels nearest in time to its own frames.

    Arguments
    ---------
    codes : mapping
        Recording's id to int ``[frames]`` or ``[frames, codebooks]``; a ``TokenStore``
        through its ``codes`` is one as well as a dict.
    hop : int
        Samples from label to label, at the rate of the audio.
    offset : float
        Sample on which label 0 is centred.

    Example
    -------
    >>> labels = FrameLabels({"a": torch.arange(10)}, hop=320, offset=0.0)
    >>> labels.at("a", torch.tensor([0.0, 150.0, 170.0, 640.0, 99999.0]))
    tensor([0, 0, 1, 2, 9])
    """

    def __init__(self, codes: Mapping[str, Tensor], hop: int, offset: float = 0.0):
        self.codes, self.hop, self.offset = codes, hop, offset

    @classmethod
    def of(cls, tokenizer: Any, codes: Mapping[str, Tensor]) -> "FrameLabels":
        """Labels that a tokenizer gave, with its own hop and offset."""
        return cls(codes, tokenizer.hop, tokenizer.frame_offset)

    def at(self, recording: str, centres: Tensor) -> Tensor:
        """Labels nearest to sample positions.

        Arguments
        ---------
        recording : str
            Its id.
        centres : Tensor
            Positions ``[frames]`` in samples of the whole recording.

        Returns
        -------
        Tensor
            int64 ``[frames]`` or ``[frames, codebooks]``.

        Raises
        ------
        DsuError
            If the recording has no labels.
        """
        codes = self.codes.get(recording)
        if codes is None or len(codes) == 0:
            raise DsuError(
                f"there are no labels for '{recording}': label the data that is "
                "trained on, with the same ids"
            )
        places = ((centres.double() - self.offset) / self.hop).round().long()
        return codes[places.clamp(0, len(codes) - 1)].long()


def frame_centres(model: Any, n_samples: int) -> Tensor:
    """Sample positions of a model's frames: float64 ``[num_frames(n_samples)]``.

    Arguments
    ---------
    model : object
        With ``num_frames(n)``, ``hop`` and ``frame_offset``, as encoders have.
    n_samples : int
        Length of the input.
    """
    steps = torch.arange(model.num_frames(n_samples), dtype=torch.float64)
    return steps * model.hop + model.frame_offset
