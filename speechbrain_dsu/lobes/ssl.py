"""Layers of self-supervised speech models as frames to quantize.

An *encoder* is any ``nn.Module`` with

- ``sample_rate``, ``hop``, ``min_samples``, ``frame_offset``, ``masks_padding`` as in
  ``tokenizers.base``, and ``num_frames(n)``;
- ``dim`` (size of a layer), ``n_layers`` (layers 0 to ``n_layers`` exist; layer 0 is
  what enters the first block);
- ``normalize`` (whether it was trained on signals of zero mean and unit variance);
- ``hidden_states(wavs, counts, layers)``: a list of ``[batch, frames, dim]`` in the
  order of ``layers``, frames behind an item's end arbitrary;
- ``up_to(layer)``: an encoder without what lies above, sharing weights; itself if
  nothing does.

``integrations.transformers.ssl.TransformersEncoder`` is one, ``SpeechBrainEncoder``
below another.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import length_mask


class SSLLayers(nn.Module):
    """Chosen layers of an encoder, side by side in the order they were asked for.

    The front end of Mousavi et al., "How Should We Extract Discrete Audio Tokens from
    Self-Supervised Models?" (2024): with ``KMeans(groups=len(layers))`` behind it each
    layer gets a codebook of its own. Layers above the highest one asked for are
    neither computed nor part of the weights.

    Arguments
    ---------
    encoder : nn.Module
        As described on top of this file.
    layers : sequence of int
        In the order in which they shall come out; none twice.
    normalize_signal : bool, optional
        Bring each utterance to zero mean and unit variance over its valid samples;
        None: as the encoder was trained.
    frozen : bool
        The encoder stays in evaluation mode and gets no gradients.

    Raises
    ------
    DsuError
        If a layer does not exist or is named twice.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
    >>> from speechbrain.lobes.models.wav2vec import EncoderWrapper, W2VLatentExtractor
    >>> encoder = SpeechBrainEncoder(
    ...     W2VLatentExtractor(out_channels=[8] * 7),
    ...     EncoderWrapper(8, 16, TransformerEncoder(3, 2, 32, d_model=16)),
    ... )
    >>> layers = SSLLayers(encoder, layers=[2, 0])
    >>> layers(torch.randn(1, 16000)).shape, layers.num_frames(16000)
    (torch.Size([1, 48, 32]), 48)
    """

    receptive_field = (None, None)

    def __init__(
        self,
        encoder: nn.Module,
        layers: Sequence[int],
        normalize_signal: bool | None = None,
        frozen: bool = True,
    ):
        super().__init__()
        self.layers = tuple(layers)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise DsuError(f"layers must be different numbers, got {list(layers)}")
        for layer in self.layers:
            if not 0 <= layer <= encoder.n_layers:
                raise DsuError(
                    f"layer {layer} asked of an encoder with layers 0 to "
                    f"{encoder.n_layers}"
                )
        self.encoder = encoder.up_to(max(self.layers))
        self.normalize_signal = (
            encoder.normalize if normalize_signal is None else normalize_signal
        )
        self.sample_rate, self.hop = encoder.sample_rate, encoder.hop
        self.dim = encoder.dim * len(self.layers)
        self.min_samples = encoder.min_samples
        self.frame_offset = encoder.frame_offset
        self.masks_padding = encoder.masks_padding
        self.frozen = frozen
        if frozen:
            self.encoder.requires_grad_(False)
            self.encoder.eval()

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        return f"layers={list(self.layers)}, normalize_signal={self.normalize_signal}"

    def train(self, mode: bool = True) -> "SSLLayers":
        """Set the mode; a frozen encoder stays in evaluation mode (no dropout)."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.encoder.num_frames(n_samples)

    def measure(self, stretches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Statistics of a recording ``[time]`` that comes in stretches."""
        return signal_statistics(stretch.unsqueeze(0) for stretch in stretches)

    def forward(
        self,
        wavs: Tensor,
        counts: Tensor | None = None,
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Frames of the layers.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``.
        counts : Tensor, optional
            Valid samples of each item, int64 ``[batch]``; None if all are valid.
        statistics : (Tensor, Tensor), optional
            Mean and scale ``[batch, 1]`` to use where the signal is normalised, as
            ``signal_statistics`` gives them; those of each item by default.

        Returns
        -------
        Tensor
            float32 ``[batch, frames, len(layers) * dim of a layer]``.
        """
        if self.normalize_signal:
            if statistics is None:
                statistics = signal_statistics([wavs], counts)
            mean, scale = (s.to(wavs.device, wavs.dtype) for s in statistics)
            wavs = (wavs - mean) / scale
        if counts is not None:
            # What lies behind the end is zero for the model as well.
            wavs = wavs * length_mask(counts, wavs.shape[1])
        states = self.encoder.hidden_states(wavs, counts, self.layers)
        return torch.cat(states, dim=-1)


class LayerMean(SSLLayers):
    """The mean of chosen layers of an encoder, frame by frame.

    What SpeechTokenizer's first codebook is taught (Zhang et al., "SpeechTokenizer",
    2023, section 3.3: the average over all of a HuBERT's layers). A waveform that is
    quantized wants ``SSLLayers``.

    Arguments
    ---------
    encoder : nn.Module
        As described on top of this file.
    layers : sequence of int
        Whose mean is taken.
    normalize_signal, frozen : bool
        As in ``SSLLayers``.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
    >>> from speechbrain.lobes.models.wav2vec import EncoderWrapper, W2VLatentExtractor
    >>> encoder = SpeechBrainEncoder(
    ...     W2VLatentExtractor(out_channels=[8] * 7),
    ...     EncoderWrapper(8, 16, TransformerEncoder(3, 2, 32, d_model=16)),
    ... )
    >>> LayerMean(encoder, layers=[0, 1, 2])(torch.randn(1, 16000)).shape
    torch.Size([1, 48, 16])
    """

    def __init__(
        self,
        encoder: nn.Module,
        layers: Sequence[int],
        normalize_signal: bool | None = None,
        frozen: bool = True,
    ):
        super().__init__(encoder, layers, normalize_signal, frozen)
        self.dim = encoder.dim

    def forward(
        self,
        wavs: Tensor,
        counts: Tensor | None = None,
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Frames ``[batch, frames, dim of a layer]``; see ``SSLLayers.forward``."""
        states = super().forward(wavs, counts, statistics)
        return states.unflatten(-1, (len(self.layers), self.dim)).mean(-2)


def signal_statistics(
    stretches: Iterable[Tensor], counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and scale of signals over their valid samples, summed in float64.

    The scale is the root of the variance plus 1e-7, as the feature extractors of
    transformers have it.

    Arguments
    ---------
    stretches : iterable of Tensor
        ``[batch, time]``: the signals, or one stretch of them after another.
    counts : Tensor, optional
        Valid samples ``[batch]``, when there is a single stretch.

    Returns
    -------
    mean, scale : Tensor
        float64 ``[batch, 1]``.

    Example
    -------
    >>> mean, scale = signal_statistics(
    ...     [torch.tensor([[1.0, 3.0, 99.0]])], torch.tensor([2])
    ... )
    >>> mean.item(), round(scale.item(), 6)
    (2.0, 1.0)
    """
    total, square, size = 0.0, 0.0, 0.0
    for stretch in stretches:
        wide = stretch.double()
        if counts is None:
            size = size + wide.shape[1]
        else:
            wide = wide * length_mask(counts, wide.shape[1])
            size = size + counts.unsqueeze(1)
        total = total + wide.sum(1, keepdim=True)
        square = square + wide.square().sum(1, keepdim=True)
    mean = total / size
    variance = (square / size - mean.square()).clamp(min=0)
    return mean, (variance + 1e-7).sqrt()


class SpeechBrainEncoder(nn.Module):
    """SpeechBrain's own wav2vec 2.0 (``speechbrain.lobes.models.wav2vec``) to tap.

    Layer ``k`` is the output of block ``k``; the highest is what the recipe calls
    "embeddings", behind the encoder's final norm.

    Arguments
    ---------
    extractor : nn.Module
        ``W2VLatentExtractor``.
    wrapper : nn.Module
        ``EncoderWrapper`` around a ``TransformerEncoder``.
    sample_rate : int
        In hertz.

    Example
    -------
    See ``SSLLayers``.
    """

    normalize = True
    masks_padding = True
    """Valid convolutions and a norm per frame: nothing sees behind the end."""

    def __init__(
        self, extractor: nn.Module, wrapper: nn.Module, sample_rate: int = 16000
    ):
        super().__init__()
        self.extractor, self.wrapper = extractor, wrapper
        stack = ConvStack(
            Conv(kernel, stride)
            for kernel, stride in zip(
                extractor.kernel_sizes, extractor.strides, strict=True
            )
        )
        self.stack = stack
        self.sample_rate, self.hop = sample_rate, stack.hop
        self.min_samples, self.frame_offset = stack.min_samples(), stack.frame_offset
        self.dim = wrapper.input_projector.out_features
        self.n_layers = len(wrapper.latent_encoder.layers)

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.stack.num_frames(n_samples)

    def up_to(self, layer: int) -> "SpeechBrainEncoder":
        """Itself: its blocks are few, and its final norm belongs to the last."""
        return self

    def hidden_states(
        self, wavs: Tensor, counts: Tensor | None, layers: Sequence[int]
    ) -> list[Tensor]:
        """Outputs ``[batch, frames, dim]`` of ``layers``, in their order."""
        latents = self.extractor(wavs, normalize_signal=False)
        mask = None
        if counts is not None:
            frames = [self.num_frames(count) for count in counts.tolist()]
            frames = torch.tensor(frames, device=wavs.device)
            mask = ~length_mask(frames, latents.shape[1])
        blocks = self.wrapper.latent_encoder.layers
        with Taps(blocks) as taps:
            top = self.wrapper(latents, padding_mask=mask)["embeddings"]
        return [top if k == len(blocks) else taps.states[k] for k in layers]


class Taps:
    """Records what goes into a list of blocks and what comes out, while it is open.

    Arguments
    ---------
    blocks : sequence of nn.Module
        Called one after another with the hidden state ``[batch, frames, dim]`` first;
        a block may return a tuple, whose first element counts.

    Example
    -------
    >>> blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    >>> with Taps(blocks) as taps:
    ...     out = blocks[1](blocks[0](torch.ones(1, 1, 2)))
    >>> len(taps.states), torch.equal(taps.states[2], out)
    (3, True)
    """

    def __init__(self, blocks: Sequence[nn.Module]):
        self.blocks = blocks
        self.states: dict[int, Tensor] = {}

    def __enter__(self) -> "Taps":
        def enter(block, args, kwargs):
            self.states[0] = args[0] if args else next(iter(kwargs.values()))

        def leave(index):
            def hook(block, args, output):
                self.states[index] = output[0] if isinstance(output, tuple) else output

            return hook

        self._hooks = [
            block.register_forward_hook(leave(index))
            for index, block in enumerate(self.blocks, start=1)
        ]
        if len(self.blocks):
            first = self.blocks[0]
            self._hooks.append(first.register_forward_pre_hook(enter, with_kwargs=True))
        return self

    def __exit__(self, *error) -> None:
        for hook in self._hooks:
            hook.remove()
