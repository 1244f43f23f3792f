"""Contrastive prediction of quantized latents: wav2vec 2.0."""

from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.ssl import SSLEncoder, prepare_signal
from speechbrain_dsu.lobes.pretraining.base import (
    PretrainingOutput,
    feature_penalty,
    set_quantizer_step,
)
from speechbrain_dsu.nnet.losses.contrastive import contrastive_loss
from speechbrain_dsu.nnet.masking import pack, sample_negatives, span_mask
from speechbrain_dsu.nnet.quantizers.base import Quantizer
from speechbrain_dsu.utils.lengths import relative_lengths


class MaskedContrast(nn.Module):
    """wav2vec 2.0's objective: which quantized latents were behind the mask.

    Baevski et al., "wav2vec 2.0" (2020), section 3. Only masked frames are quantized,
    so that the quantizer's diversity is that of targets. Losses: "contrastive", a mean
    over masked frames; those of the quantizer, weighted by itself ("diversity");
    "features", the mean square of the front end's frames, if asked for.

    Arguments
    ---------
    encoder : SSLEncoder
        What is trained.
    quantizer : Quantizer
        Takes the front end's frames: ``GumbelProduct`` in the paper.
    dim : int
        Size in which predictions and targets are compared.
    negatives : int
        Other masked frames of the utterance that each is compared with.
    temperature : float
        Divides the cosines.
    mask_probability : float
        Share of frames that begin a span.
    mask_length : int
        Frames of a span.
    quantizer_dropout : float
        Of the frames that are quantized.
    feature_penalty : bool
        Whether there is a loss "features".

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.encoders.front_ends import WaveformFrontEnd
    >>> from speechbrain_dsu.nnet.quantizers.gumbel import GumbelProduct
    >>> from speechbrain_dsu.nnet.transformer_encoder import TransformerEncoder
    >>> sizes = {"positions": 4, "position_groups": 2}
    >>> encoder = SSLEncoder(
    ...     WaveformFrontEnd(channels=[8] * 7),
    ...     TransformerEncoder(dim=16, layers=1, heads=2, ffn=32, **sizes),
    ... )
    >>> objective = MaskedContrast(encoder, GumbelProduct(8, size=6), dim=4)
    >>> sorted(objective(torch.randn(2, 16000)).losses)
    ['contrastive', 'diversity']
    """

    def __init__(
        self,
        encoder: SSLEncoder,
        quantizer: Quantizer,
        dim: int = 256,
        negatives: int = 100,
        temperature: float = 0.1,
        mask_probability: float = 0.065,
        mask_length: int = 10,
        quantizer_dropout: float = 0.1,
        feature_penalty: bool = False,
    ):
        super().__init__()
        self.encoder, self.quantizer = encoder, quantizer
        self.prediction = nn.Linear(encoder.dim, dim)
        size = getattr(quantizer, "out_dim", quantizer.dim)
        self.target = nn.Linear(size, dim)
        self.negatives, self.temperature = negatives, temperature
        self.mask_probability, self.mask_length = mask_probability, mask_length
        self.quantizer_dropout = nn.Dropout(quantizer_dropout)
        self.feature_penalty = feature_penalty

    def set_step(self, step: int) -> None:
        """Tell the quantizer's schedule how many updates were made."""
        set_quantizer_step(self.quantizer, step)

    def forward(
        self, wavs: Tensor, lens: Tensor | None = None, labels: None = None
    ) -> PretrainingOutput:
        """Losses of a batch of wavs ``[batch, time]``; there are no labels.

        ``lens`` are relative lengths ``[batch]``.
        """
        wavs, counts = prepare_signal(wavs, lens, self.encoder.normalize)
        latents = self.encoder.latents(wavs, counts)
        valid = latents.valid
        mask = span_mask(
            valid.sum(1), valid.shape[1], self.mask_probability, self.mask_length
        )
        masked = mask.sum(1)
        hidden = pack(latents.normed, mask)
        others = sample_negatives(masked, hidden.shape[1], self.negatives)
        lens = relative_lengths(masked, hidden.shape[1])
        found = self.quantizer(self.quantizer_dropout(hidden), lens)
        predicted = self.prediction(pack(self.encoder.context(latents, mask), mask))
        loss, accuracy = contrastive_loss(
            predicted,
            self.target(found.quantized),
            others,
            masked,
            found.codes,
            self.temperature,
        )
        losses = {"contrastive": loss, **found.losses}
        if self.feature_penalty:
            losses["features"] = feature_penalty(latents)
        share = masked.sum() / valid.sum().clamp(min=1)
        stats = {"accuracy": accuracy, "masked_share": share}
        return PretrainingOutput(losses, stats, found.usage)
