"""Autoregressive predictive coding: the frame some steps ahead."""

from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.autoregressive import AutoregressiveEncoder
from speechbrain_dsu.lobes.encoders.ssl import count_frames, prepare_signal
from speechbrain_dsu.lobes.pretraining.base import PretrainingOutput
from speechbrain_dsu.nnet.losses.masking import masked_mean
from speechbrain_dsu.utils.errors import DsuError


class FramePrediction(nn.Module):
    """APC's objective: the mean absolute error of a guess ``ahead`` frames later.

    Chung and Glass, "Generative Pre-Training for Speech with Autoregressive Predictive
    Coding" (2020), equation 1. Loss: "prediction", over frames whose target lies
    before the item's end. The stat "copying" is what repeating the present frame
    would lose.

    Arguments
    ---------
    encoder : AutoregressiveEncoder
        What is trained; its front end's frames are the targets.
    ahead : int
        Frames from the last one that is seen to the one that is guessed.

    Raises
    ------
    DsuError
        If ``ahead`` is not positive.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.encoders.autoregressive import RecurrentStack
    >>> from speechbrain_dsu.lobes.encoders.front_ends import StackedFeatures
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> objective = FramePrediction(
    ...     AutoregressiveEncoder(
    ...         StackedFeatures(LogMel(n_mels=8), stack=1), RecurrentStack(dim=4)
    ...     )
    ... )
    >>> sorted(objective(torch.randn(2, 1600)).losses)
    ['prediction']
    """

    def __init__(self, encoder: AutoregressiveEncoder, ahead: int = 3):
        super().__init__()
        if ahead < 1:
            raise DsuError(f"ahead={ahead}: take at least one frame")
        self.encoder, self.ahead = encoder, ahead
        self.guess = nn.Linear(encoder.dim, encoder.front_end.dim)

    def forward(
        self, wavs: Tensor, lens: Tensor | None = None, labels: None = None
    ) -> PretrainingOutput:
        """Losses of a batch of wavs ``[batch, time]``; there are no labels.

        ``lens`` are relative lengths ``[batch]``.
        """
        wavs, counts = prepare_signal(wavs, lens, normalize=False)
        frames = self.encoder.front_end(wavs, counts)
        if counts is not None:
            counts = (count_frames(self.encoder, counts) - self.ahead).clamp(min=0)
        past, target = frames[:, : -self.ahead], frames[:, self.ahead :].detach()
        guess = self.guess(self.encoder(past)).float()
        loss = masked_mean((guess - target.float()).abs(), counts)
        copying = masked_mean((past.detach() - target).float().abs(), counts)
        return PretrainingOutput({"prediction": loss}, {"copying": copying})
