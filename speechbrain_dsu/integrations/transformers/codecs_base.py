"""What the codecs of transformers have in common as tokenizers."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.integrations.transformers import loading
from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.utils.errors import DsuError


class TransformersCodec(Tokenizer):
    """A codec of transformers under the tokenizer contract.

    The base of the classes in ``codecs``. The weights are random until they are
    loaded: by ``from_pretrained``, ``from_model``, or from a bundle. The model always
    stays in evaluation mode: what is asked for in ``n_codebooks`` is what comes out.

    Arguments
    ---------
    config : mapping
        As in the model's ``config.json``; ``model_type`` must be there.
    n_codebooks : int, optional
        How many of the model's codebooks the tokens have; None: all.
    bandwidth : float, optional
        The same in kbit/s, for models that have ``target_bandwidths``.

    Raises
    ------
    DsuError
        If the configuration is another model's or there are not so many codebooks.
    """

    model_type = ""

    def __init__(
        self,
        config: Mapping[str, Any],
        n_codebooks: int | None = None,
        bandwidth: float | None = None,
    ):
        name = type(self).__name__
        settings = loading.make_config(config, (self.model_type,), name)
        total, size = self._codebooks(settings)
        if bandwidth is not None:
            if n_codebooks is not None:
                raise DsuError("give n_codebooks or bandwidth, not both")
            n_codebooks = self._codebooks_at(settings, bandwidth, total)
        keep = total if n_codebooks is None else n_codebooks
        if not 1 <= keep <= total:
            raise DsuError(f"n_codebooks={keep} asked of {total} codebooks")
        model = loading.build(settings, name)
        super().__init__(
            codebook_sizes=(size,) * keep, **self._numbers(settings, model)
        )
        self.config = loading.describe_config(settings)
        self.model = model.requires_grad_(False)
        _make_lengths_plain(model)

    def _codebooks(self, settings: Any) -> tuple[int, int]:
        """Number and size of the model's codebooks."""
        return settings.num_quantizers, settings.codebook_size

    def _numbers(self, settings: Any, model: nn.Module) -> dict[str, Any]:
        """The other arguments of ``Tokenizer``."""
        raise NotImplementedError

    def _codebooks_at(self, settings: Any, bandwidth: float, total: int) -> int:
        offered = getattr(settings, "target_bandwidths", None)
        if offered is None or float(bandwidth) not in map(float, offered):
            raise DsuError(
                f"bandwidth={bandwidth} kbit/s asked of {type(self).__name__}, which "
                f"offers {list(offered or [])}; or give n_codebooks"
            )
        rate = settings.frame_rate * (settings.codebook_size - 1).bit_length()
        return min(total, max(1, int(bandwidth * 1000 // rate)))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        n_codebooks: int | None = None,
        bandwidth: float | None = None,
        revision: str | None = None,
    ) -> "TransformersCodec":
        """Load a published model.

        Arguments
        ---------
        source : str or Path
            A folder or a Hub id. What is in the local cache needs no network.
        n_codebooks, bandwidth
            As in the class.
        revision : str, optional
            Branch, tag or commit on the Hub.

        Raises
        ------
        DsuError
            If it can't be found, is no safetensors or lacks weights.
        """
        allowed = (cls.model_type,)
        config, state, _ = loading.read_pretrained(
            source, allowed, revision, cls.__name__
        )
        codec = cls(config, n_codebooks, bandwidth)
        loading.load_state(codec.model, state, "", str(source))
        return codec

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        n_codebooks: int | None = None,
        bandwidth: float | None = None,
    ) -> "TransformersCodec":
        """Copy a transformers model that is already built."""
        codec = cls(loading.describe_config(model.config), n_codebooks, bandwidth)
        loading.load_state(codec.model, model.state_dict(), "", type(model).__name__)
        return codec

    def yaml(self) -> str:
        """The flat YAML of this tokenizer, as ``inference.save_bundle`` takes it."""
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return (
            f"tokenizer: !new:{name}\n"
            f"    config: {json.dumps(self.config)}\n"
            f"    n_codebooks: {len(self.codebook_sizes)}\n"
            "modules:\n"
            "    tokenizer: !ref <tokenizer>\n"
        )

    def extra_repr(self) -> str:
        """What decides the ids beside the weights; part of the fingerprint."""
        return (
            f"config={loading.config_line(self.config)}, "
            f"n_codebooks={len(self.codebook_sizes)}"
        )

    def train(self, mode: bool = True) -> "TransformersCodec":
        """Set the mode of this object; the model inside stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def count_samples(self, n_frames: int) -> int:
        """Samples that ``n_frames`` frames decode to."""
        return n_frames * self.hop


def _extra_padding(stride: int, hidden: Tensor) -> int:
    return -hidden.shape[-1] % stride


def _make_lengths_plain(model: nn.Module) -> None:
    """Turn length arithmetic on tensors into numbers.

    EnCodec and Mimi keep strides and paddings as tensors. On an accelerator each
    convolution waits for them; divided in float32, they pad wrongly from 2**24
    samples on (12 minutes at 24 kHz); and plain attributes stay behind on ``.to()``.
    """
    for part in model.modules():
        if hasattr(part, "_get_extra_padding_for_conv1d"):
            extra = partial(_extra_padding, part.conv.stride[0])
            part._get_extra_padding_for_conv1d = extra
            total = int(part.padding_total)
            del part.padding_total
            part.padding_total = total
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor) and value.ndim == 0:
                setattr(part, name, int(value))
