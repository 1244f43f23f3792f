"""Masked prediction of units: HuBERT."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.ssl import SSLEncoder, prepare_signal
from speechbrain_dsu.lobes.pretraining.base import (
    PretrainingOutput,
    align_labels,
    feature_penalty,
)
from speechbrain_dsu.nnet.losses.prediction import cosine_logits, unit_loss
from speechbrain_dsu.nnet.masking import span_mask
from speechbrain_dsu.utils.errors import DsuError


class UnitHead(nn.Module):
    """Cosines between a projection of frames and an embedding of each unit.

    Hsu et al., "HuBERT" (2021), equation 3.

    Arguments
    ---------
    dim : int
        Size of a frame.
    n_units : int
        Number of units.
    size : int
        Size of projections and embeddings.
    temperature : float
        Divides the cosines.

    Example
    -------
    >>> UnitHead(dim=8, n_units=5, size=4)(torch.randn(3, 8)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self, dim: int, n_units: int, size: int = 256, temperature: float = 0.1
    ):
        super().__init__()
        self.projection = nn.Linear(dim, size)
        self.units = nn.Parameter(torch.empty(n_units, size).uniform_())
        self.temperature = temperature

    def extra_repr(self) -> str:
        """Settings that weights don't show."""
        return f"temperature={self.temperature}"

    def forward(self, frames: Tensor) -> Tensor:
        """Logits, float32 ``[n, n_units]``, of frames ``[n, dim]``."""
        return cosine_logits(self.projection(frames), self.units, self.temperature)


class MaskedUnitPrediction(nn.Module):
    """HuBERT's objective: the units of frames that the encoder can't see.

    Hsu et al., "HuBERT" (2021), section II. Losses: "masked", the mean cross-entropy
    over masked frames and codebooks; "unmasked", the same over the others, if asked
    for; "features", the mean square of the front end's frames, if asked for. Frames
    behind an item's end and frames without a label count nowhere.

    Labels may come at another rate and another place in time than the frames: each
    frame takes the label whose centre is nearest.

    Arguments
    ---------
    encoder : SSLEncoder
        What is trained.
    n_units : int or sequence of int
        Units of each codebook of the labels; one number is one codebook.
    head_dim : int
        Size of the unit embeddings.
    temperature : float
        Divides the cosines.
    mask_probability : float
        Share of frames that begin a span.
    mask_length : int
        Frames of a span.
    unmasked : bool
        Whether the frames that are seen are predicted too.
    feature_penalty : bool
        Whether there is a loss "features".
    label_hop : int, optional
        Samples from label to label; None: as the encoder's frames.
    label_offset : float, optional
        Sample on which label 0 is centred, 0 for the units of ``lobes.features``;
        None: as the encoder's frames.

    Raises
    ------
    DsuError
        If a forward pass gets no labels, or not as many codebooks as ``n_units``.

    Example
    -------
    >>> from speechbrain_dsu.lobes.encoders.front_ends import WaveformFrontEnd
    >>> from speechbrain_dsu.nnet.transformer_encoder import TransformerEncoder
    >>> sizes = {"positions": 4, "position_groups": 2}
    >>> objective = MaskedUnitPrediction(
    ...     SSLEncoder(
    ...         WaveformFrontEnd(channels=[8] * 7, norm="layer"),
    ...         TransformerEncoder(dim=16, layers=1, heads=2, ffn=32, **sizes),
    ...     ),
    ...     n_units=10,
    ... )
    >>> found = objective(torch.randn(2, 16000), labels=torch.ones(2, 50).long())
    >>> sorted(found.losses), sorted(found.stats)
    (['masked'], ['accuracy', 'masked_share'])
    """

    def __init__(
        self,
        encoder: SSLEncoder,
        n_units: int | Sequence[int],
        head_dim: int = 256,
        temperature: float = 0.1,
        mask_probability: float = 0.08,
        mask_length: int = 10,
        unmasked: bool = False,
        feature_penalty: bool = False,
        label_hop: int | None = None,
        label_offset: float | None = None,
    ):
        super().__init__()
        sizes = [n_units] if isinstance(n_units, int) else list(n_units)
        self.encoder, self.n_units = encoder, sizes
        self.heads = nn.ModuleList(
            UnitHead(encoder.dim, size, head_dim, temperature) for size in sizes
        )
        self.mask_probability, self.mask_length = mask_probability, mask_length
        self.unmasked, self.feature_penalty = unmasked, feature_penalty
        hop = encoder.hop if label_hop is None else label_hop
        first = encoder.frame_offset if label_offset is None else label_offset
        self.label_step = encoder.hop / hop
        self.label_shift = (encoder.frame_offset - first) / hop

    def forward(
        self, wavs: Tensor, lens: Tensor | None = None, labels: Tensor | None = None
    ) -> PretrainingOutput:
        """Losses of a batch.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``.
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        labels : Tensor
            int64 ``[batch, labels]`` or ``[batch, labels, codebooks]``, padded with -1.
        """
        wavs, counts = prepare_signal(wavs, lens, self.encoder.normalize)
        latents = self.encoder.latents(wavs, counts)
        valid = latents.valid
        mask = span_mask(
            valid.sum(1), valid.shape[1], self.mask_probability, self.mask_length
        )
        labels = self.frame_labels(labels, valid.shape[1])
        context = self.encoder.context(latents, mask)
        losses, stats = {}, {}
        losses["masked"], stats["accuracy"] = self._predict(context, labels, mask)
        if self.unmasked:
            seen = valid & ~mask
            losses["unmasked"], stats["accuracy_unmasked"] = self._predict(
                context, labels, seen
            )
        if self.feature_penalty:
            losses["features"] = feature_penalty(latents)
        stats["masked_share"] = mask.sum() / valid.sum().clamp(min=1)
        return PretrainingOutput(losses, stats)

    def frame_labels(self, labels: Tensor | None, size: int) -> Tensor:
        """Labels ``[batch, size, codebooks]`` of the encoder's frames."""
        books = len(self.n_units)
        if labels is not None and labels.ndim == 2:
            labels = labels.unsqueeze(-1)
        if labels is None or labels.ndim != 3 or labels.shape[2] != books:
            found = None if labels is None else list(labels.shape)
            raise DsuError(f"labels must be [batch, labels, {books}], got {found}")
        return align_labels(labels, size, self.label_step, self.label_shift)

    def _predict(
        self, context: Tensor, labels: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        frames, units = context[chosen], labels[chosen]
        found = [
            unit_loss(head(frames), units[:, book])
            for book, head in enumerate(self.heads)
        ]
        losses, accuracies = zip(*found, strict=True)
        return torch.stack(losses).mean(), torch.stack(accuracies).mean()
