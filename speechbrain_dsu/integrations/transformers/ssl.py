"""Self-supervised encoders of transformers, to tap with ``lobes.ssl.SSLLayers``."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers import loading
from speechbrain_dsu.integrations.transformers.ssl_fbank import KaldiFbank
from speechbrain_dsu.lobes.ssl import Taps
from speechbrain_dsu.nnet.convolution import Conv, ConvStack
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import length_mask

_KINDS = ("hubert", "wavlm", "wav2vec2", "wav2vec2-bert")
_NAME = "TransformersEncoder"
# Of a published model, but of no use for its layers: the vector of masked training,
# adapters and feed-forwards behind the encoder, and the norm below.
_UNUSED = r"masked_spec_embed|adapter\..*|intermediate_ffn\..*|encoder\.layer_norm\..*"


class TransformersEncoder(nn.Module):
    """HuBERT, WavLM, wav2vec 2.0 or w2v-BERT 2.0, ready to be tapped at any layer.

    Layer ``k`` is ``hidden_states[k]`` of transformers 5: layer 0 enters the first
    block, layer ``k`` leaves block ``k``. Only what the highest layer needs is built.
    Weights are random until they are loaded: ``from_pretrained``, or a bundle.

    ``masks_padding`` holds for models with layer norms in the front end (the large
    ones, XLS-R, w2v-BERT): nothing in them sees behind an item's end. A group norm
    over time (the base models) can't be kept from seeing it.

    Arguments
    ---------
    config : mapping
        As in the model's ``config.json``; ``model_type`` must be there.
    top_layer : int, optional
        The highest layer that will be asked for; None: the last one.
    normalize : bool
        Whether it was trained on signals of zero mean and unit variance
        (``do_normalize`` in the model's ``preprocessor_config.json``). w2v-BERT takes
        filter banks, which are always normalised here.
    final_norm : bool
        Give the last layer of a model with ``do_stable_layer_norm`` behind the
        encoder's final norm, as transformers did before version 5. K-means models
        fitted to those states need it.
    sample_rate : int
        In hertz.

    Raises
    ------
    DsuError
        If the configuration is another model's or the layer does not exist.

    Example
    -------
    >>> config = {"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 3}
    >>> config |= {"num_attention_heads": 2, "intermediate_size": 32}
    >>> config |= {"conv_dim": [8] * 7, "num_conv_pos_embedding_groups": 2}
    >>> encoder = TransformersEncoder(config)
    >>> encoder.n_layers, encoder.num_frames(16000), encoder.masks_padding
    (3, 49, False)
    >>> states = encoder.hidden_states(torch.randn(1, 16000), None, [2, 0])
    >>> [list(state.shape) for state in states]
    [[1, 49, 16], [1, 49, 16]]
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        top_layer: int | None = None,
        normalize: bool = False,
        final_norm: bool = False,
        sample_rate: int = 16000,
    ):
        super().__init__()
        settings = loading.make_config(config, _KINDS, _NAME)
        self.config = loading.describe_config(settings)
        self.n_layers = settings.num_hidden_layers
        self.top_layer = self.n_layers if top_layer is None else top_layer
        if not 0 <= self.top_layer <= self.n_layers:
            raise DsuError(
                f"top_layer={top_layer} of an encoder with layers 0 to {self.n_layers}"
            )
        self.normalize, self.final_norm = normalize, final_norm
        self.sample_rate, self.dim = sample_rate, settings.hidden_size
        settings.num_hidden_layers = self.top_layer
        settings.mask_time_prob = settings.mask_feature_prob = 0.0
        settings.add_adapter = settings.use_intermediate_ffn_before_adapter = False
        self.model = loading.build(settings, _NAME)
        stable = getattr(settings, "do_stable_layer_norm", False)
        if stable and not (final_norm and self.top_layer == self.n_layers):
            self.model.encoder.layer_norm = nn.Identity()
        self._set_lengths(settings)

    def _set_lengths(self, settings: Any) -> None:
        if settings.model_type == "wav2vec2-bert":
            size = settings.feature_projection_input_dim
            self.fbank = KaldiFbank(self.sample_rate, size)
            self.stack, self.masks_padding = self.fbank.stack, True
        else:
            self.fbank = None
            layers = zip(settings.conv_kernel, settings.conv_stride, strict=True)
            self.stack = ConvStack(Conv(kernel, stride) for kernel, stride in layers)
            self.masks_padding = settings.feat_extract_norm == "layer"
        self.hop, self.frame_offset = self.stack.hop, self.stack.frame_offset
        self.min_samples = self.stack.min_samples()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        top_layer: int | None = None,
        revision: str | None = None,
        final_norm: bool = False,
    ) -> "TransformersEncoder":
        """Load a published model.

        Arguments
        ---------
        source : str or Path
            A folder or a Hub id. What is in the local cache needs no network.
        top_layer : int, optional
            The highest layer that will be asked for.
        revision : str, optional
            Branch, tag or commit on the Hub.
        final_norm : bool
            As in the class.

        Raises
        ------
        DsuError
            If it can't be found, is no safetensors or lacks weights.
        """
        config, state, extra = loading.read_pretrained(source, _KINDS, revision, _NAME)
        normalize = bool(extra.get("do_normalize", False))
        normalize &= config["model_type"] != "wav2vec2-bert"
        encoder = cls(config, top_layer, normalize, final_norm)
        encoder._load(state, str(source))
        return encoder

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        top_layer: int | None = None,
        normalize: bool | None = None,
        final_norm: bool = False,
    ) -> "TransformersEncoder":
        """Copy a model that is already built.

        Arguments
        ---------
        model : nn.Module
            A transformers model, with a head or without, or an object that holds one
            as ``.model`` (``Wav2Vec2`` and its like in SpeechBrain's integrations).
        top_layer : int, optional
            The highest layer that will be asked for.
        normalize : bool, optional
            As in the class; None: what SpeechBrain's wrapper says, otherwise False.
        final_norm : bool
            As in the class.
        """
        if normalize is None:
            normalize = bool(getattr(model, "normalize_wav", False))
        inner = model
        while not hasattr(inner, "feature_projection"):
            prefix = getattr(inner, "base_model_prefix", "") or "model"
            inner = getattr(inner, prefix, None) or getattr(inner, "model", None)
            if inner is None:
                raise DsuError(f"{type(model).__name__} holds no encoder of {_KINDS}")
        config = loading.describe_config(inner.config)
        encoder = cls(config, top_layer, normalize, final_norm)
        encoder._load(inner.state_dict(), type(model).__name__)
        return encoder

    def _load(self, state: Mapping[str, Tensor], where: str) -> None:
        above = "|".join(str(k) for k in range(self.top_layer, self.n_layers))
        layers = rf"|encoder\.layers\.({above})\..*" if above else ""
        loading.load_state(self.model, state, _UNUSED + layers, where)

    def extra_repr(self) -> str:
        """What decides the states; part of the fingerprint."""
        return (
            f"config={loading.config_line(self.config)}, top_layer={self.top_layer}, "
            f"normalize={self.normalize}, final_norm={self.final_norm}, "
            f"sample_rate={self.sample_rate}"
        )

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.stack.num_frames(n_samples)

    def up_to(self, layer: int) -> "TransformersEncoder":
        """The same encoder without the blocks above ``layer``; weights are shared.

        This object stays as it is.
        """
        if layer > self.top_layer:
            raise DsuError(
                f"layer {layer} asked of an encoder that was built up to "
                f"{self.top_layer}: raise top_layer"
            )
        if layer == self.top_layer:
            return self
        short, model = _shallow(self), _shallow(self.model)
        encoder = _shallow(model.encoder)
        encoder.layers = encoder.layers[:layer]
        if self.model.config.to_dict().get("do_stable_layer_norm", False):
            encoder.layer_norm = nn.Identity()
        model.encoder, short.model = encoder, model
        short.top_layer = layer
        return short

    def hidden_states(
        self, wavs: Tensor, counts: Tensor | None, layers: Sequence[int]
    ) -> list[Tensor]:
        """States of some layers.

        Arguments
        ---------
        wavs : Tensor
            float32 ``[batch, time]``, zero behind each item's end.
        counts : Tensor, optional
            Valid samples of each item, int64 ``[batch]``; None if all are valid.
        layers : sequence of int
            Up to ``top_layer``.

        Returns
        -------
        list of Tensor
            ``[batch, frames, dim]`` for each layer, in the order of ``layers``.
        """
        mask, frames = None, None
        if counts is not None:
            frames = torch.tensor([self.num_frames(n) for n in counts.tolist()])
        if self.fbank is None:
            latents = self.model.feature_extractor(wavs).transpose(1, 2)
        else:
            latents = self.fbank(wavs, counts)
        hidden = self.model.feature_projection(latents)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if frames is not None:
            mask = length_mask(frames.to(wavs.device), hidden.shape[1])
        with Taps(self.model.encoder.layers) as taps:
            top = self.model.encoder(hidden, attention_mask=mask)[0]
        return [top if k == self.top_layer else taps.states[k] for k in layers]

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        # Position tables are kept in plain attributes, which would stay behind.
        for part in self.modules():
            if "cached_rotary_positional_embedding" in vars(part):
                part.cached_rotary_positional_embedding = None
        return self


def _shallow(module: nn.Module) -> nn.Module:
    """A module object of its own around the same parts."""
    twin = copy.copy(module)
    twin._modules = module._modules.copy()
    return twin
