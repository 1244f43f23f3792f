"""Distances between waveforms."""

from torch import Tensor, nn

from speechbrain_dsu.nnet.losses.masking import masked_mean
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths


class WaveformLoss(nn.Module):
    """Mean absolute or squared difference of samples, padding left out.

    Arguments
    ---------
    power : int
        1 (EnCodec's time-domain loss, Défossez et al., 2022, section 3.4) or 2.

    Raises
    ------
    DsuError
        If the power is another.

    Example
    -------
    >>> import torch
    >>> loss = WaveformLoss()
    >>> loss(torch.tensor([[1.0, 9.0]]), torch.zeros(1, 2), torch.tensor([0.5]))
    {'waveform': tensor(1.)}
    """

    def __init__(self, power: int = 1):
        super().__init__()
        if power not in (1, 2):
            raise DsuError(f"power={power}: take 1 or 2")
        self.power = power

    def forward(
        self, estimate: Tensor, target: Tensor, lens: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Distance of waveforms ``[batch, time]``, as ``{"waveform": scalar}``."""
        difference = (estimate.float() - target.detach().float()).abs() ** self.power
        counts = None if lens is None else absolute_lengths(lens, estimate.shape[1])
        return {"waveform": masked_mean(difference, counts)}
