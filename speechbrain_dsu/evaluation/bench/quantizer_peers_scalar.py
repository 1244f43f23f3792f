"""Pairs for the quantizer benchmark: finite, binary, Gumbel and random ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.bench.quantizer_peers import (
    Case,
    own_loss,
    peer_module,
)
from speechbrain_dsu.evaluation.blocks import block


def _fsq() -> Case:
    theirs = peer_module("vector_quantize_pytorch").FSQ([8, 5, 5, 5])
    ours = block("quantizer_fsq", levels=[8, 5, 5, 5], dim=4)
    return Case(
        "FSQ 8,5,5,5",
        "vector-quantize-pytorch",
        (ours, theirs),
        4,
        (ours.encode, lambda latents: theirs(latents)[1]),
        (own_loss(ours), lambda latents: theirs(latents)[0].square().mean()),
    )


def _lfq() -> Case:
    theirs = peer_module("vector_quantize_pytorch").LFQ(codebook_size=1024)
    ours = block("quantizer_lfq", bits=10, dim=10, commitment_weight=0.0)

    def loss(latents: Tensor) -> Tensor:
        quantized, _, losses = theirs(latents)
        return quantized.square().mean() + losses

    return Case(
        "LFQ 2^10",
        "vector-quantize-pytorch",
        (ours, theirs),
        10,
        (ours.encode, lambda latents: theirs(latents)[1]),
        (own_loss(ours), loss),
    )


def _bsq() -> Case:
    theirs = peer_module("speechbrain.lobes.models.bsq").BinarySphericalQuantizer(10)
    ours = block("quantizer_bsq", bits=10, dim=10)

    def loss(latents: Tensor) -> Tensor:
        quantized, _, losses = theirs(latents)
        return quantized.square().mean() + losses

    return Case(
        "BSQ 2^10",
        "SpeechBrain",
        (ours, theirs),
        10,
        (ours.encode, lambda latents: theirs(latents)[1]),
        (own_loss(ours), loss),
    )


def _gumbel(peer: str, theirs: Any, ours: Any, vectors: Callable, share: Any) -> Case:
    """The peers know no codes: both give vectors."""
    parameters = dict(theirs.named_parameters())
    table = parameters.get("vars", parameters.get("codevectors"))
    theirs.weight_proj.load_state_dict(ours.logits.state_dict())
    table.data.copy_(ours.entries.detach().reshape(table.shape))

    def loss(latents: Tensor) -> Tensor:
        found = theirs(latents)
        return vectors(found).square().mean() + 0.1 * share(found)

    return Case(
        "Gumbel 2x320, 512 to 256",
        peer,
        (ours, theirs),
        512,
        (lambda x: ours.decode(ours.encode(x)), lambda x: vectors(theirs(x))),
        (own_loss(ours), loss),
    )


def _gumbel_speechbrain() -> Case:
    ours = block("quantizer_gumbel")
    quantisers = peer_module("speechbrain.nnet.quantisers")
    theirs = quantisers.GumbelVectorQuantizer(512, 320, ours.schedule, 2, 256)
    return _gumbel(
        "SpeechBrain",
        theirs,
        ours,
        lambda found: found["x"],
        lambda found: 1 - found["prob_perplex"] / 640,
    )


def _gumbel_transformers() -> Case:
    module = peer_module("transformers.models.wav2vec2.modeling_wav2vec2")
    theirs = module.Wav2Vec2GumbelVectorQuantizer(module.Wav2Vec2Config())
    return _gumbel(
        "transformers",
        theirs,
        block("quantizer_gumbel"),
        lambda found: found[0],
        lambda found: 1 - found[1] / 640,
    )


def _random_projection_speechbrain() -> Case:
    quantisers = peer_module("speechbrain.nnet.quantisers")
    theirs = quantisers.RandomProjectionQuantizer(320, 16, 8192)
    ours = block("quantizer_random_projection")
    ours.set_tables(theirs.P[None], theirs.CB[None])

    def encode(latents: Tensor) -> Tensor:
        # Item by item: all at once it asks for a gigabyte per item.
        return torch.cat([theirs(item) for item in latents.split(1)])

    name = "random projection 8192x16"
    return Case(name, "SpeechBrain", (ours, theirs), 320, (ours.encode, encode))


def _random_projection_vqpt() -> Case:
    package = peer_module("vector_quantize_pytorch")
    theirs = package.RandomProjectionQuantizer(
        dim=320, codebook_size=8192, codebook_dim=16, norm=False
    )
    ours = block("quantizer_random_projection")
    ours.set_tables(theirs.rand_projs, theirs.vq._codebook.embed)
    return Case(
        "random projection 8192x16",
        "vector-quantize-pytorch",
        (ours, theirs),
        320,
        (ours.encode, theirs),
    )


SCALARS: dict[str, Callable[[], Case]] = {
    "FSQ, vector-quantize-pytorch": _fsq,
    "LFQ, vector-quantize-pytorch": _lfq,
    "BSQ, SpeechBrain": _bsq,
    "Gumbel, SpeechBrain": _gumbel_speechbrain,
    "Gumbel, transformers": _gumbel_transformers,
    "random projection, SpeechBrain": _random_projection_speechbrain,
    "random projection, vector-quantize-pytorch": _random_projection_vqpt,
}
"""Builders of the pairs without a trained codebook search."""
