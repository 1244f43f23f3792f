"""Prediction of quantized latents some steps ahead: vq-wav2vec, wav2vec."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.ssl import count_frames, prepare_signal
from speechbrain_dsu.lobes.pretraining.base import (
    PretrainingOutput,
    set_quantizer_step,
)
from speechbrain_dsu.nnet.losses.contrastive import future_loss
from speechbrain_dsu.nnet.masking import sample_negatives
from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.utils.lengths import relative_lengths


class FutureContrast(nn.Module):
    """vq-wav2vec's objective: tell coming latents from others of the utterance.

    Baevski et al., "vq-wav2vec" (2020), section 3. The front end's frames are
    quantized; an aggregator gathers what came up to a frame; an affine map per step
    guesses the quantized latents 1, 2, ... frames later. With the quantizer
    ``Identity`` this is wav2vec. Losses: "future", see ``future_loss``; those of the
    quantizer, weighted by itself. Front end and quantizer are the tokenizer
    (``tokenizers.features.FeatureTokenizer``).

    Arguments
    ---------
    front_end : nn.Module
        Of ``lobes.encoders.front_ends``.
    quantizer : Quantizer
        ``GumbelProduct``, or ``GroupedVQ`` with ``update="gradient"``.
    aggregator : nn.Module
        ``[batch, frames, dim]`` to the same, causal; with ``dim``.
    steps : int
        How far to look ahead, in frames.
    negatives : int
        Other frames that each is compared with.

    Example
    -------
    >>> from speechbrain_dsu.lobes.encoders.aggregator import Aggregator
    >>> from speechbrain_dsu.lobes.encoders.front_ends import WaveformFrontEnd
    >>> from speechbrain_dsu.nnet.quantizers.gumbel import GumbelProduct
    >>> objective = FutureContrast(
    ...     WaveformFrontEnd([8] * 2, [10, 8], [5, 4], norm="global"),
    ...     GumbelProduct(8, size=6, diversity_weight=0.0),
    ...     Aggregator(8, kernels=[2, 3]),
    ...     steps=3,
    ... )
    >>> sorted(objective(torch.randn(2, 1600)).losses)
    ['future']
    """

    def __init__(
        self,
        front_end: nn.Module,
        quantizer: Quantizer,
        aggregator: nn.Module,
        steps: int = 8,
        negatives: int = 10,
    ):
        super().__init__()
        self.front_end, self.quantizer = front_end, quantizer
        self.aggregator, self.steps, self.negatives = aggregator, steps, negatives
        size = getattr(quantizer, "out_dim", quantizer.dim)
        self.guess = nn.Linear(aggregator.dim, steps * size)

    def set_step(self, step: int) -> None:
        """Tell the quantizer's schedule how many updates were made."""
        set_quantizer_step(self.quantizer, step)

    def forward(
        self, wavs: Tensor, lens: Tensor | None = None, labels: None = None
    ) -> PretrainingOutput:
        """Losses of a batch of wavs ``[batch, time]``; there are no labels.

        ``lens`` are relative lengths ``[batch]``.
        """
        wavs, counts = prepare_signal(wavs, lens, normalize=False)
        frames = self.front_end(wavs, counts)
        size = frames.shape[1]
        ends = count_frames(self.front_end, counts)
        if ends is None:
            ends = torch.full((len(wavs),), size, device=wavs.device)
        found = self.quantizer(frames, relative_lengths(ends, size))
        guesses = self.guess(self.aggregator(found.quantized))
        loss, accuracy = future_loss(
            guesses.unflatten(2, (self.steps, -1)),
            found.quantized,
            sample_negatives(ends, size, self.negatives),
            ends,
        )
        losses = {"future": loss, **found.losses}
        return PretrainingOutput(losses, {"accuracy": accuracy}, found.usage)
