"""Distance between written and measured levels."""

from torch import Tensor, nn

from speechbrain_dsu.nnet.losses.masking import masked_mean
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths


class LevelLoss(nn.Module):
    """Mean absolute difference of mel levels, in nepers.

    For codecs whose decoder writes levels (``lobes.vocoders.levels``): no waveform
    has to be made in training.

    Arguments
    ---------
    frames : nn.Module
        Waveforms ``[batch, time]`` to levels ``[batch, frames, values]``.
    size : float
        Nepers per unit of these levels.

    Example
    -------
    >>> import torch
    >>> loss = LevelLoss(lambda wavs: wavs.unfold(1, 2, 2), size=2.0)
    >>> wavs = torch.zeros(1, 4)
    >>> loss(torch.tensor([[[1.0, 1.0], [9.0, 9.0]]]), wavs, torch.tensor([0.5]))
    {'levels': tensor(2.)}
    """

    of = "levels"
    """The part of a codec's output that is compared."""

    def __init__(self, frames: nn.Module, size: float = 2.5):
        super().__init__()
        self.frames, self.size = frames, size

    def forward(
        self, levels: Tensor, target: Tensor, lens: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Distance of levels ``[batch, frames, values]`` from those of waveforms.

        Raises
        ------
        DsuError
            If the waveforms have other levels in number.
        """
        wanted = self.frames(target.detach().float())
        if wanted.shape != levels.shape:
            raise DsuError(
                f"levels {list(levels.shape)}, of the target {list(wanted.shape)}: "
                "give LevelLoss the frames that the decoder writes"
            )
        counts = None if lens is None else absolute_lengths(lens, levels.shape[1])
        distance = self.size * (levels.float() - wanted).abs()
        return {"levels": masked_mean(distance, counts)}
