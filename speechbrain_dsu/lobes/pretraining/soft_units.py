"""Soft units: a projection that predicts hard units, taken before the decision."""

from torch import Tensor, nn

from speechbrain_dsu.lobes.encoders.ssl import count_frames, prepare_signal
from speechbrain_dsu.lobes.pretraining.base import PretrainingOutput, align_labels
from speechbrain_dsu.nnet.quantizers.soft import SoftCodebook
from speechbrain_dsu.utils.lengths import relative_lengths


class ProjectedFeatures(nn.Module):
    """Frames of a front end behind a linear map: same contract, another size.

    Arguments
    ---------
    features : nn.Module
        Of ``lobes.features`` or ``lobes.ssl``.
    dim : int
        Size of a projected frame.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> ProjectedFeatures(LogMel(), dim=4)(torch.randn(1, 1600)).shape
    torch.Size([1, 9, 4])
    """

    def __init__(self, features: nn.Module, dim: int = 256):
        super().__init__()
        self.features, self.dim = features, dim
        self.projection = nn.Linear(features.dim, dim)
        self.sample_rate, self.hop = features.sample_rate, features.hop
        self.min_samples = features.min_samples
        self.frame_offset = features.frame_offset
        self.receptive_field = features.receptive_field
        self.masks_padding = features.masks_padding

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.features.num_frames(n_samples)

    def forward(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Projected frames ``[batch, frames, dim]`` of wavs ``[batch, time]``."""
        return self.projection(self.features(wavs, counts))


class SoftUnitPrediction(nn.Module):
    """The soft content encoder's objective: hard units out of a projection.

    Van Niekerk et al., "A Comparison of Discrete and Soft Speech Units for Improved
    Voice Conversion" (2022), section 2.2. The encoder is fine-tuned to predict the
    units that k-means gave its frames, by cosines to an embedding of each unit. The
    soft unit is the projected frame (``features``); ``soft`` gives the mean embedding
    instead, which becomes the hard unit's as the temperature falls. Loss: "units", a
    mean over valid labelled frames.

    Arguments
    ---------
    features : nn.Module
        ``ProjectedFeatures`` over ``lobes.ssl.SSLLayers(frozen=False)``.
    codebook : SoftCodebook
        Embeddings of the units.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> features = ProjectedFeatures(LogMel(), dim=4)
    >>> objective = SoftUnitPrediction(features, SoftCodebook(size=10, dim=4))
    >>> labels = torch.zeros(1, 9, dtype=torch.int64)
    >>> sorted(objective(torch.randn(1, 1600), labels=labels).losses)
    ['units']
    """

    def __init__(self, features: nn.Module, codebook: SoftCodebook):
        super().__init__()
        self.features, self.codebook = features, codebook

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
            One unit per frame, int64 ``[batch, frames]`` or ``[batch, frames, 1]``;
            -1 where there is none.
        """
        frames, frame_lens = self._frames(wavs, lens)
        labels = align_labels(labels.flatten(1), frames.shape[1])
        loss = self.codebook.cross_entropy(frames, labels, frame_lens)
        return PretrainingOutput({"units": loss}, {})

    def soft(self, wavs: Tensor, lens: Tensor | None = None) -> Tensor:
        """Mean unit embeddings ``[batch, frames, dim]`` of wavs ``[batch, time]``."""
        frames, _ = self._frames(wavs, lens)
        return self.codebook(frames).quantized

    def _frames(
        self, wavs: Tensor, lens: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        wavs, counts = prepare_signal(wavs, lens, normalize=False)
        frames = self.features(wavs, counts)
        if counts is None:
            return frames, None
        ends = count_frames(self.features, counts)
        return frames, relative_lengths(ends, frames.shape[1])
