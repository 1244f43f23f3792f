"""Units of the layers of an encoder that is at hand, to be fitted."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from speechbrain_dsu.lobes.ssl import SSLLayers
from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.tokenizers.features import FeatureTokenizer


def layer_units(
    encoder: nn.Module, layers: Sequence[int], n_units: int, **options: Any
) -> FeatureTokenizer:
    """A tokenizer with a k-means codebook for each of some layers.

    The labels of HuBERT's later iterations (Hsu et al., 2021, section IV-B), and what
    is published of an encoder that was trained.

    Arguments
    ---------
    encoder : nn.Module
        As ``lobes.ssl.SSLLayers`` takes it.
    layers : sequence of int
        Which layers.
    n_units : int
        Units of each.
    **options
        Further arguments of ``SSLLayers``.

    Returns
    -------
    FeatureTokenizer
        Its centres are to be fitted by ``training.fit_tokenizer``.

    Example
    -------
    >>> from speechbrain_dsu.lobes.encoders.front_ends import WaveformFrontEnd
    >>> from speechbrain_dsu.lobes.encoders.ssl import SSLEncoder
    >>> from speechbrain_dsu.nnet.transformer_encoder import TransformerEncoder
    >>> sizes = {"positions": 4, "position_groups": 2}
    >>> encoder = SSLEncoder(
    ...     WaveformFrontEnd(channels=[8] * 7, norm="layer"),
    ...     TransformerEncoder(dim=16, layers=2, heads=2, ffn=32, **sizes),
    ... )
    >>> layer_units(encoder, layers=[1], n_units=50).codebook_sizes
    (50,)
    """
    quantizer = KMeans(size=n_units, dim=encoder.dim, groups=len(layers))
    return FeatureTokenizer(SSLLayers(encoder, layers, **options), quantizer)
