"""Front ends of self-supervised encoders: waveforms to the frames that get masked.

All have the same contract: ``sample_rate``, ``hop``, ``dim``, ``min_samples``,
``frame_offset``, ``receptive_field``, ``masks_padding``, ``num_frames(n)`` and
``forward(wavs, counts)``, wavs ``[batch, time]`` zero behind each item's end, frames
``[batch, frames, dim]`` that hold anything there.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.utils.errors import DsuError

_KERNELS = (10, 3, 3, 3, 3, 2, 2)
_STRIDES = (5, 2, 2, 2, 2, 2, 2)
# Samples whose frames fit a cache: whole utterances take a third longer on a CPU.
_PIECE = 32000


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of ``[batch, channels, frames]``.

    Example
    -------
    >>> import torch
    >>> ChannelNorm(4)(torch.randn(1, 4, 3)).mean(1).abs().max().item() < 1e-6
    True
    """

    def forward(self, frames: Tensor) -> Tensor:
        """Each frame by itself: same shape."""
        return super().forward(frames.transpose(1, 2)).transpose(1, 2)


def make_norm(kind: str, channels: int) -> nn.Module:
    """A norm of ``[batch, channels, frames]``.

    Arguments
    ---------
    kind : "group", "layer" or "global"
        Each channel over time, each frame over its channels, or all at once.
    channels : int
        Number of channels.

    Raises
    ------
    DsuError
        If the kind is unknown.

    Example
    -------
    >>> make_norm("global", 4)
    GroupNorm(1, 4, eps=1e-05, affine=True)
    """
    if kind == "layer":
        return ChannelNorm(channels)
    if kind not in ("group", "global"):
        raise DsuError(f"norm={kind!r}: take one of group, layer, global")
    return nn.GroupNorm(channels if kind == "group" else 1, channels)


class WaveformFrontEnd(nn.Module):
    """Convolutions over the waveform, as in wav2vec 2.0, HuBERT and WavLM.

    Baevski et al., "wav2vec 2.0" (2020), section 2. SpeechBrain's
    ``W2VLatentExtractor`` has layer norms only, a kernel of 11 taps in front, no
    biases and no choice of widths per layer that would take published weights.

    Arguments
    ---------
    channels : sequence of int
        Width of each convolution; few and narrow ones make a slim front end.
    kernels, strides : sequence of int
        Taps and steps of each.
    norm : "group", "layer" or "global"
        group: over time, per channel, behind the first convolution only (the BASE
        models; sees behind an item's end); layer: over the channels of each frame,
        behind every convolution (the LARGE models; padding is never seen); global:
        over channels and time together behind every one (vq-wav2vec).
    bias : bool
        Whether the convolutions have biases.
    activation : "gelu" or "relu"
        Behind each.
    compress : bool
        Take ``log(1 + x)`` of the magnitudes at the end (vq-wav2vec).
    sample_rate : int
        In hertz.

    Raises
    ------
    DsuError
        If the lists don't agree or a name is unknown.

    Example
    -------
    >>> import torch
    >>> front = WaveformFrontEnd(channels=[8] * 7, norm="layer")
    >>> front(torch.randn(1, 16000)).shape, front.num_frames(16000), front.hop
    (torch.Size([1, 49, 8]), 49, 320)
    """

    def __init__(
        self,
        channels: Sequence[int] = (512,) * 7,
        kernels: Sequence[int] = _KERNELS,
        strides: Sequence[int] = _STRIDES,
        norm: str = "group",
        bias: bool = False,
        activation: str = "gelu",
        compress: bool = False,
        sample_rate: int = 16000,
    ):
        super().__init__()
        if not len(channels) == len(kernels) == len(strides) > 0:
            raise DsuError(
                f"a front end needs as many channels as kernels and strides, got "
                f"{list(channels)}, {list(kernels)}, {list(strides)}"
            )
        if activation not in ("gelu", "relu"):
            raise DsuError(f"activation={activation!r}: take gelu or relu")
        self.norm, self.compress, self.activation = norm, compress, activation
        pairs = zip((1, *channels[:-1]), channels, kernels, strides, strict=True)
        self.convs = nn.ModuleList(nn.Conv1d(*pair, bias=bias) for pair in pairs)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)
        normed = channels[:1] if norm == "group" else channels
        self.norms = nn.ModuleList(make_norm(norm, size) for size in normed)
        stack = ConvStack(Conv(k, s) for k, s in zip(kernels, strides, strict=True))
        self.stack, self.sample_rate, self.hop = stack, sample_rate, stack.hop
        self.dim, self.min_samples = channels[-1], stack.min_samples()
        self.frame_offset = stack.frame_offset
        self.masks_padding = norm == "layer"

    @property
    def receptive_field(self) -> tuple[int | None, int | None]:
        """Samples that a frame sees, as in ``ConvStack``; None: all of them."""
        return self.stack.receptive_field if self.norm == "layer" else (None, None)

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        layers = [(c.kernel_size[0], c.stride[0]) for c in self.convs]
        return (
            f"layers={layers}, norm={self.norm}, activation={self.activation}, "
            f"compress={self.compress}, sample_rate={self.sample_rate}"
        )

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.stack.num_frames(n_samples)

    def forward(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Frames ``[batch, frames, dim]`` of wavs ``[batch, time]``.

        ``counts`` is not looked at: no valid frame sees behind the end, or all do.
        """
        pieces = wavs.device.type == "cpu" and not torch.is_grad_enabled()
        if pieces and self.norm != "global" and wavs.shape[1] >= self.min_samples:
            return torch.stack([self._in_pieces(wav) for wav in wavs])
        return self._run(wavs.unsqueeze(1))

    def _run(
        self, frames: Tensor, first: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """All layers; ``first`` are weight and bias that stand for layer and norm."""
        for index, conv in enumerate(self.convs):
            if index == 0 and first is not None:
                frames = F.conv1d(frames, *first, stride=conv.stride)
            else:
                frames = conv(frames)
                if index < len(self.norms):
                    frames = self.norms[index](frames)
            frames = F.gelu(frames) if self.activation == "gelu" else F.relu(frames)
        if self.compress:
            frames = frames.abs().log1p()
        return frames.transpose(1, 2)

    def _in_pieces(self, wav: Tensor) -> Tensor:
        """The same for one item, piece by piece: the first layers stay in the cache."""
        first = self._fold_norm(wav) if self.norm == "group" else None
        total, step = self.num_frames(len(wav)), max(1, _PIECE // self.hop)
        _, reach = self.stack.receptive_field
        found = []
        for start in range(0, total, step):
            stop = min(start + step, total)
            piece = wav[start * self.hop : (stop - 1) * self.hop + reach]
            found.append(self._run(piece.view(1, 1, -1), first)[0])
        return torch.cat(found)

    def _fold_norm(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer with its group norm in it, for one item.

        Mean and variance of a channel over time follow from those of the windows that
        its taps see: a matrix of taps by taps, instead of a pass over all channels.
        """
        conv, norm = self.convs[0], self.norms[0]
        taps = conv.weight[:, 0].double()
        windows = wav.double().unfold(0, conv.kernel_size[0], conv.stride[0])
        mean = windows.mean(0)
        spread = (windows - mean).t() @ (windows - mean) / len(windows)
        variance = ((taps @ spread) * taps).sum(1)
        scale = norm.weight / (variance + norm.eps).sqrt()
        # A bias of the convolution would be taken off with the mean.
        bias = norm.bias - scale * (taps @ mean)
        weight = (taps * scale.unsqueeze(1)).unsqueeze(1)
        return weight.to(wav.dtype), bias.to(wav.dtype)


class StackedFeatures(nn.Module):
    """Spectral features, several frames side by side: the cheapest front end.

    Arguments
    ---------
    features : nn.Module
        Of ``lobes.features``, ``LogMel`` for instance.
    stack : int
        Consecutive frames that become one; the hop grows by as much.
    center, spread : float
        Taken off every value, then divided by: fixed numbers that bring features to
        about unit range without looking at an utterance, so that its level stays.

    Raises
    ------
    DsuError
        If ``stack`` or ``spread`` is not positive.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> front = StackedFeatures(LogMel(hop=160, win=400, n_fft=512), stack=2)
    >>> front(torch.randn(1, 16000)).shape, front.num_frames(16000), front.hop
    (torch.Size([1, 50, 160]), 50, 320)
    """

    def __init__(
        self,
        features: nn.Module,
        stack: int = 2,
        center: float = 0.0,
        spread: float = 1.0,
    ):
        super().__init__()
        if stack < 1 or spread <= 0:
            raise DsuError(f"stack={stack} and spread={spread} must be positive")
        self.features, self.stack = features, stack
        self.center, self.spread = float(center), float(spread)
        self.sample_rate, self.hop = features.sample_rate, features.hop * stack
        self.dim, self.masks_padding = features.dim * stack, features.masks_padding
        self.frame_offset = features.frame_offset + (stack - 1) * features.hop / 2
        self.min_samples = features.min_samples
        while self.num_frames(self.min_samples) < 1:
            self.min_samples += 1

    @property
    def receptive_field(self) -> tuple[int | None, int | None]:
        """Samples from ``t * hop`` back and on that frame ``t`` sees; None: all."""
        left, right = self.features.receptive_field
        more = (self.stack - 1) * self.features.hop
        return left, None if right is None else right + more

    def extra_repr(self) -> str:
        """Settings that decide the frames; part of the fingerprint."""
        return f"stack={self.stack}, center={self.center}, spread={self.spread}"

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.features.num_frames(n_samples) // self.stack

    def forward(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Frames ``[batch, frames, dim]`` of wavs ``[batch, time]``."""
        frames = (self.features(wavs, counts) - self.center) / self.spread
        kept = frames.shape[1] // self.stack * self.stack
        return frames[:, :kept].reshape(len(frames), -1, self.dim)
