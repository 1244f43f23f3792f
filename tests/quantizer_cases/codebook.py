"""Codebooks and what is composed of them."""

import torch

from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.composed import Identity, Projected, Split
from speechbrain_dsu.nnet.quantizers.composed_additive import AdditiveVQ
from speechbrain_dsu.nnet.quantizers.composed_rates import MultiRate, Pooled
from speechbrain_dsu.nnet.quantizers.grouped import (
    GroupedResidualVQ,
    GroupedVQ,
    Product,
)
from speechbrain_dsu.nnet.quantizers.residual import MaskedChannelVQ, ResidualVQ
from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
from speechbrain_dsu.nnet.quantizers.soft import SoftCodebook

FAST = {"decay": 0.9}


def kmeans():
    quantizer = KMeans(20, 6, groups=2)
    quantizer.set_centers(torch.randn(2, 20, 6, generator=torch.manual_seed(0)))
    return quantizer


def mimi():
    def side(n_codebooks):
        return Projected(ResidualVQ(n_codebooks, 16, 6, **FAST), 12, bias=False)

    return Split(side(1), side(3))


CASES = {
    "identity": lambda: Identity(12),
    "bins": lambda: UniformBins(12, 16, -3.0, 3.0),
    "k-means": kmeans,
    "vq": lambda: Codebook(20, 12, **FAST),
    "vq without start": lambda: Codebook(20, 12, kmeans_start=False, **FAST),
    "vq gradient": lambda: Codebook(20, 12, update="gradient", orthogonal=0.1, **FAST),
    "vq rotation": lambda: Codebook(20, 12, estimator="rotation", **FAST),
    "vq cosine": lambda: Codebook(20, 12, metric="cosine", **FAST),
    "vq sphere": lambda: Codebook(20, 12, metric="sphere", **FAST),
    "vq factorised": lambda: Projected(Codebook(20, 4, **FAST), 12),
    "soft": lambda: SoftCodebook(20, 12),
    "soft phonemes": lambda: SoftCodebook(20, 12, metric="euclidean", hard=True),
    "rvq": lambda: ResidualVQ(4, 16, 12, **FAST),
    "rvq of several sizes": lambda: ResidualVQ(3, [32, 16, 8], 12, **FAST),
    "rvq gradient": lambda: ResidualVQ(4, 16, 12, update="gradient", **FAST),
    "rvq rotation": lambda: ResidualVQ(4, 16, 12, estimator="rotation", **FAST),
    "dac": lambda: ResidualVQ(
        4, 16, 12, codebook_dim=4, update="gradient", metric="cosine", **FAST
    ),
    "masked channels": lambda: MaskedChannelVQ(5, 16, 12, masked=3, **FAST),
    "additive": lambda: AdditiveVQ(3, 16, 12, beam=4, refinements=1),
    "direct sum": lambda: AdditiveVQ(3, 16, 12, refinements=3),
    "grouped": lambda: GroupedVQ(3, 16, 12, **FAST),
    "grouped residual": lambda: GroupedResidualVQ(2, 3, 16, 12, **FAST),
    "product": lambda: Product([ResidualVQ(2, 16, 8, **FAST), Codebook(8, 4, **FAST)]),
    "split": lambda: Split(Codebook(8, 12, **FAST), ResidualVQ(3, 16, 12, **FAST)),
    "mimi": mimi,
    "time-invariant": lambda: Pooled(GroupedVQ(4, 8, 12, **FAST)),
    "multi-rate": lambda: MultiRate(
        [
            Codebook(16, 6, **FAST),
            Pooled(Codebook(8, 4, **FAST), window=7, pool="max"),
            Pooled(Codebook(4, 2, **FAST)),
        ]
    ),
}

_GREEDY = "a greedy chain may take another way to the same sum"
_PROJECTED = "the layers there and back are not inverse to each other"
_NO_CODES = "continuous latents have no codes"
_FIXED = "not trained, has no estimator: latents reach the codes only"
_JOINT = "k codebooks are chosen together, not as the first k of more"

EXCEPT = {
    "decoding_the_codes_gives_the_quantized_latents": {
        "identity": _NO_CODES,
        "soft": "soft units are means; hard vectors are their limit",
    },
    "encoding_what_was_decoded_changes_nothing": {
        "identity": _NO_CODES,
        "rvq": _GREEDY,
        "rvq of several sizes": _GREEDY,
        "rvq gradient": _GREEDY,
        "rvq rotation": _GREEDY,
        "masked channels": _GREEDY,
        "grouped residual": _GREEDY,
        "product": _GREEDY,
        "additive": "beam search may find another of several equal sums",
        "direct sum": "refinement stops at a local optimum",
        "split": "the sum of both is quantized by each",
        "mimi": _PROJECTED,
        "dac": _PROJECTED,
        "vq factorised": _PROJECTED,
    },
    "the_gradient_reaches_the_encoder": {"bins": _FIXED, "k-means": _FIXED},
    "fewer_codebooks_are_the_first_ones": {
        "identity": _NO_CODES,
        "additive": _JOINT,
        "direct sum": _JOINT,
    },
    "training_and_evaluation_agree_on_fewer_codebooks": {"identity": _NO_CODES},
    "a_killed_code_lives_again": {
        "time-invariant": "four windows a step: averages do not settle on a mean",
    },
}

NEAREST = {"vq", "vq without start", "vq gradient", "vq rotation", "soft phonemes"}
RESIDUAL = {
    "rvq",
    "rvq of several sizes",
    "rvq gradient",
    "rvq rotation",
    "masked channels",
    "grouped residual",
    "additive",
    "direct sum",
}
