"""Quantizers without a trained table, and those that are fitted, grown or cooled."""

import torch

from speechbrain_dsu.nnet.quantizers.binary import BSQ, LFQ
from speechbrain_dsu.nnet.quantizers.entropy import StructuralEntropy
from speechbrain_dsu.nnet.quantizers.finite import FSQ
from speechbrain_dsu.nnet.quantizers.growing import GrowingCodebook
from speechbrain_dsu.nnet.quantizers.gumbel import GumbelProduct
from speechbrain_dsu.nnet.quantizers.hashing import BinaryHash
from speechbrain_dsu.nnet.quantizers.labelled import LabelledCodebook
from speechbrain_dsu.nnet.quantizers.merging import MergedClusters
from speechbrain_dsu.nnet.quantizers.online import OnlineClusters
from speechbrain_dsu.nnet.quantizers.random_projection import RandomProjection
from speechbrain_dsu.nnet.quantizers.transport import TransportCodebook


def fitted(quantizer, count):
    generator = torch.Generator().manual_seed(0)
    quantizer.fit(torch.randn(count, quantizer.dim, generator=generator))
    return quantizer


CASES = {
    "fsq": lambda: FSQ([5, 4, 3]),
    "fsq clamped": lambda: FSQ([8, 5, 4], bound="clamp"),
    "fsq grouped": lambda: FSQ([5, 4, 3], groups=4),
    "fsq projected": lambda: FSQ([5, 4, 3], groups=2, dim=12),
    "lfq": lambda: LFQ(bits=4, groups=3, commitment_weight=0.25),
    "lfq projected": lambda: LFQ(bits=5, groups=2, dim=12),
    "bsq": lambda: BSQ(bits=5, groups=2),
    "hash": lambda: BinaryHash(dim=12, bits=6),
    "gumbel": lambda: GumbelProduct(dim=12, size=10, groups=3),
    "gumbel shared": lambda: GumbelProduct(12, 10, groups=2, shared=True, hidden=16),
    "transport": lambda: TransportCodebook(size=20, dim=12, iterations=5),
    "growing": lambda: GrowingCodebook(size=20, dim=12, threshold=3.0),
    "labelled": lambda: LabelledCodebook([f"p{place}" for place in range(20)], dim=12),
    "random projection": lambda: RandomProjection(12, 40, code_dim=4, codebooks=3),
    "random projection centred": lambda: RandomProjection(
        12, 40, code_dim=4, codebooks=2, center=True
    ),
    "online": lambda: OnlineClusters(layers=3, size=16, dim=4),
    "merged": lambda: fitted(MergedClusters(size=12, fine=40, dim=6), 40),
    "entropy": lambda: fitted(
        StructuralEntropy(size=60, nodes=120, dim=6, neighbours=5), 120
    ),
}

_TANH = "values on the grid are bounded again: use bound='clamp'"
_PROJECTED = "the layers there and back are not inverse to each other"
_FIXED = "not trained, has no estimator: latents reach the codes only"
_DRAWN = "codes are drawn in training"

EXCEPT = {
    "a_fresh_quantizer_in_evaluation_mode_does_not_start": {
        "growing": "says that it has no entry yet",
    },
    "encoding_what_was_decoded_changes_nothing": {
        "fsq": _TANH,
        "fsq grouped": _TANH,
        "fsq projected": _PROJECTED,
        "lfq projected": _PROJECTED,
        "hash": _PROJECTED,
        "gumbel": _PROJECTED,
        "gumbel shared": _PROJECTED,
        "entropy": "the mean of a cluster may fit better elsewhere in the graph",
    },
    "padding_counts_in_nothing": {"gumbel": _DRAWN, "gumbel shared": _DRAWN},
    "the_gradient_reaches_the_encoder": {
        "random projection": _FIXED,
        "random projection centred": _FIXED,
        "merged": _FIXED,
        "entropy": _FIXED,
    },
    "training_and_evaluation_agree_on_fewer_codebooks": {
        "gumbel": _DRAWN,
        "gumbel shared": _DRAWN,
    },
}

NEAREST = {"transport", "labelled"}
