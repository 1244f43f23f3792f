"""Encoders of self-supervised models: a front end, a projection, a transformer.

An ``SSLEncoder`` is what ``lobes.ssl.SSLLayers`` taps and what the objectives in
``lobes.pretraining`` train.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechbrain_dsu.lobes.ssl import signal_statistics
from speechbrain_dsu.nnet.gradients import scale_gradient
from speechbrain_dsu.nnet.transformer_encoder import TransformerEncoder
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


@dataclass(frozen=True, eq=False)
class Latents:
    """What the front end gives.

    Arguments
    ---------
    frames : Tensor
        ``[batch, frames, front_end.dim]`` as they come.
    normed : Tensor
        The same behind the layer norm: what is quantized and projected.
    counts : Tensor or None
        Valid frames, int64 ``[batch]``; None if all are valid.
    """

    frames: Tensor
    normed: Tensor
    counts: Tensor | None

    @property
    def valid(self) -> Tensor:
        """True where a frame is valid: bool ``[batch, frames]``."""
        batch, size = self.frames.shape[:2]
        if self.counts is None:
            return self.frames.new_ones(batch, size, dtype=torch.bool)
        return length_mask(self.counts, size)


class SSLEncoder(nn.Module):
    """wav2vec 2.0, HuBERT or WavLM, or a small relative of theirs.

    Layer ``k`` leaves block ``k``, layer 0 enters the first block. Utterances are the
    same alone and in a padded batch where the front end allows it (``masks_padding``).

    Arguments
    ---------
    front_end : nn.Module
        Of ``lobes.encoders.front_ends``.
    transformer : TransformerEncoder
        The context network.
    project_norm : bool
        Layer norm of the front end's frames.
    normalize : bool
        Whether it is trained on signals of zero mean and unit variance.
    feature_dropout : float
        Behind the projection.
    feature_gradient : float
        Factor on the gradient that reaches the front end (0.1 in the BASE models);
        0 freezes it.

    Example
    -------
    >>> from speechbrain_dsu.lobes.encoders.front_ends import WaveformFrontEnd
    >>> sizes = {"positions": 4, "position_groups": 2}
    >>> encoder = SSLEncoder(
    ...     WaveformFrontEnd(channels=[8] * 7, norm="layer"),
    ...     TransformerEncoder(dim=16, layers=3, heads=2, ffn=32, **sizes),
    ... )
    >>> states = encoder.hidden_states(torch.randn(1, 16000), None, [2, 0])
    >>> [list(state.shape) for state in states]
    [[1, 49, 16], [1, 49, 16]]
    """

    receptive_field = (None, None)

    def __init__(
        self,
        front_end: nn.Module,
        transformer: TransformerEncoder,
        project_norm: bool = True,
        normalize: bool = False,
        feature_dropout: float = 0.1,
        feature_gradient: float = 1.0,
    ):
        super().__init__()
        self.front_end, self.transformer = front_end, transformer
        size, dim = front_end.dim, transformer.dim
        self.feature_norm = nn.LayerNorm(size) if project_norm else nn.Identity()
        self.projection = nn.Linear(size, dim)
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.mask_vector = nn.Parameter(torch.empty(dim).uniform_())
        self.normalize, self.feature_gradient = normalize, feature_gradient
        self.sample_rate, self.hop = front_end.sample_rate, front_end.hop
        self.min_samples = front_end.min_samples
        self.frame_offset = front_end.frame_offset
        self.masks_padding = front_end.masks_padding
        self.dim, self.n_layers = dim, len(transformer.blocks)

    def extra_repr(self) -> str:
        """Settings that decide the states and that weights don't show."""
        return f"normalize={self.normalize}"

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.front_end.num_frames(n_samples)

    def up_to(self, layer: int) -> "SSLEncoder":
        """The same encoder without the blocks above ``layer``; weights are shared."""
        blocks = self.transformer.blocks
        if not 0 <= layer <= len(blocks):
            raise DsuError(f"layer {layer} of an encoder up to layer {len(blocks)}")
        if layer == len(blocks):
            return self
        short, short.transformer = twin(self), twin(self.transformer)
        short.transformer.blocks = blocks[:layer]
        return short

    def latents(self, wavs: Tensor, counts: Tensor | None = None) -> Latents:
        """Frames of the front end.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``, zero behind each item's end.
        counts : Tensor, optional
            Valid samples of each item, int64 ``[batch]``; None if all are valid.
        """
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and self.feature_gradient != 0
        ):
            frames = self.front_end(wavs, counts)
        if self.feature_gradient != 1:
            frames = scale_gradient(frames, self.feature_gradient)
        return Latents(frames, self.feature_norm(frames), count_frames(self, counts))

    def context(self, latents: Latents, mask: Tensor | None = None) -> Tensor:
        """The transformer's output ``[batch, frames, dim]``.

        Arguments
        ---------
        latents : Latents
            Of ``latents``.
        mask : Tensor, optional
            True where the learned mask vector stands for the frame: bool
            ``[batch, frames]``.
        """
        return self.transformer(self._project(latents, mask), latents.counts)

    def forward(self, wavs: Tensor, lens: Tensor | None = None) -> Tensor:
        """Contextual frames ``[batch, frames, dim]`` of wavs ``[batch, time]``.

        ``lens`` are relative lengths ``[batch]``; None if all are full.
        """
        wavs, counts = prepare_signal(wavs, lens, self.normalize)
        return self.context(self.latents(wavs, counts))

    def hidden_states(
        self, wavs: Tensor, counts: Tensor | None, layers: Sequence[int]
    ) -> list[Tensor]:
        """States ``[batch, frames, dim]`` of some layers, in their order.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``, normalised if ``normalize`` says so, zero behind
            each item's end.
        counts : Tensor, optional
            Valid samples of each item, int64 ``[batch]``; None if all are valid.
        layers : sequence of int
            As they are wanted.
        """
        latents = self.latents(wavs, counts)
        hidden = self._project(latents, None)
        return self.transformer.states(hidden, latents.counts, layers)

    def _project(self, latents: Latents, mask: Tensor | None) -> Tensor:
        hidden = self.feature_dropout(self.projection(latents.normed))
        if mask is None:
            return hidden
        vector = self.mask_vector.to(hidden.dtype)
        return torch.where(mask.unsqueeze(-1), vector, hidden)


def prepare_signal(
    wavs: Tensor, lens: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor | None]:
    """A batch as an encoder takes it: normalised per item, zero behind the end.

    Arguments
    ---------
    wavs : Tensor
        float32 ``[batch, time]``.
    lens : Tensor, optional
        Relative lengths ``[batch]``.
    normalize : bool
        Bring each item to zero mean and unit variance over its valid samples.

    Returns
    -------
    wavs : Tensor
        ``[batch, time]``, a copy where anything changes.
    counts : Tensor or None
        Valid samples, int64 ``[batch]``; None if ``lens`` is.

    Example
    -------
    >>> prepare_signal(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([2 / 3]), True)
    (tensor([[-1.,  1.,  0.]]), tensor([2]))
    """
    counts = None
    if lens is not None:
        counts = absolute_lengths(lens, wavs.shape[1]).to(wavs.device)
    if normalize:
        mean, scale = signal_statistics([wavs], counts)
        wavs = (wavs - mean.to(wavs.dtype)) / scale.to(wavs.dtype)
    if counts is not None:
        wavs = wavs * length_mask(counts, wavs.shape[1])
    return wavs, counts


def count_frames(model: nn.Module, counts: Tensor | None) -> Tensor | None:
    """Frames of items with so many samples, int64 ``[batch]``; None of None.

    Arguments
    ---------
    model : nn.Module
        With ``num_frames(n)``.
    counts : Tensor or None
        Samples, int64 ``[batch]``.
    """
    if counts is None:
        return None
    frames = [model.num_frames(count) for count in counts.tolist()]
    return torch.tensor(frames, device=counts.device)


def twin(module: nn.Module) -> nn.Module:
    """A module object of its own around the same parts.

    Example
    -------
    >>> stack = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    >>> short = twin(stack)
    >>> del short[1]
    >>> len(stack), len(short), short[0] is stack[0]
    (2, 1, True)
    """
    twin = copy.copy(module)
    twin._modules = module._modules.copy()
    return twin
