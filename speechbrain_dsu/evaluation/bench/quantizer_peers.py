"""Pairs for the quantizer benchmark: chains of codebooks from blocks, and a peer.

Both get the same weights. A peer's package is imported when its case is built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.utils.optional import require

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One quantizer and one peer with its weights.

    Arguments
    ---------
    name, peer : str
        What is timed, and beside whom.
    modules : tuple
        Ours and, where it is a module, the peer's.
    dim : int
        Size of a latent frame.
    encode : pair of callable, optional
        Latents ``[batch, frames, dim]`` to codes in one order, ours first.
    loss : pair of callable, optional
        Latents to a scalar, ours first.
    """

    name: str
    peer: str
    modules: tuple[nn.Module, ...]
    dim: int
    encode: tuple[Encode, Encode] | None = None
    loss: tuple[Encode, Encode] | None = None

    def set_training(self, training: bool) -> None:
        """Switch both sides."""
        for module in self.modules:
            module.train(training)


def peer_module(name: str) -> ModuleType:
    """A peer's module; DsuError where its package is missing."""
    return require(name, extra="dev", needed_by="the quantizer bench")


def own_loss(quantizer: nn.Module) -> Encode:
    """Loss of ours: some function of the latents, and the quantizer's own."""

    def loss(latents: Tensor) -> Tensor:
        found = quantizer(latents)
        return found.quantized.square().mean() + sum(found.losses.values())

    return loss


def _vectors(levels: int, size: int, dim: int) -> Tensor:
    """Codebooks whose size falls level by level, as in a trained chain."""
    scale = 0.7 ** torch.arange(levels).view(-1, 1, 1)
    return torch.randn(levels, size, dim) * scale


def _chain(levels: int, vectors: Tensor) -> nn.Module:
    quantizer = block(
        "quantizer_rvq",
        n_codebooks=levels,
        dropout=0.0,
        revive_below=0.0,
        commitment=1.0,
    )
    for level, value in zip(quantizer.levels, vectors, strict=True):
        level.set_vectors(value)
    return quantizer


def _vqpt_chain(levels: int) -> Case:
    package = peer_module("vector_quantize_pytorch")
    vectors = _vectors(levels, 1024, 128)
    ours = _chain(levels, vectors)
    # The straight-through form on both sides.
    theirs = package.ResidualVQ(
        dim=128, codebook_size=1024, num_quantizers=levels, rotation_trick=False
    )
    for layer, value in zip(theirs.layers, vectors, strict=True):
        layer._codebook.embed.data.copy_(value[None])
        layer._codebook.embed_avg.data.copy_(value[None])

    def loss(latents: Tensor) -> Tensor:
        quantized, _, losses = theirs(latents)
        return quantized.square().mean() + losses.mean()

    return Case(
        f"RVQ {levels}x1024x128",
        "vector-quantize-pytorch",
        (ours, theirs),
        128,
        (ours.encode, lambda latents: theirs(latents)[1]),
        (own_loss(ours), loss),
    )


def _plain_chain() -> Case:
    vectors = _vectors(8, 1024, 128)
    ours = _chain(8, vectors)
    halves = vectors.square().sum(2) / 2

    def plain(latents: Tensor) -> Tensor:
        rest, codes = latents.flatten(0, 1), []
        for table, half in zip(vectors, halves, strict=True):
            ids = torch.addmm(-half, rest, table.t()).argmax(1)
            rest = rest - table[ids]
            codes.append(ids)
        return torch.stack(codes, 1)

    return Case("RVQ 8x1024x128", "plain", (ours,), 128, (ours.encode, plain))


def _encodec_chain() -> Case:
    core = peer_module("encodec.quantization.core_vq")
    vectors = _vectors(8, 1024, 128)
    ours = _chain(8, vectors)
    theirs = core.ResidualVectorQuantization(
        num_quantizers=8, dim=128, codebook_size=1024, kmeans_init=False
    )
    for layer, value in zip(theirs.layers, vectors, strict=True):
        layer._codebook.embed.copy_(value)
        layer._codebook.embed_avg.copy_(value)
        layer._codebook.cluster_size.fill_(10.0)

    def loss(latents: Tensor) -> Tensor:
        quantized, _, losses = theirs(latents.transpose(1, 2))
        return quantized.square().mean() + losses.mean()

    def encode(latents: Tensor) -> Tensor:
        return theirs.encode(latents.transpose(1, 2)).permute(1, 2, 0)

    return Case(
        "RVQ 8x1024x128",
        "encodec",
        (ours, theirs),
        128,
        (ours.encode, encode),
        (own_loss(ours), loss),
    )


def _transformers_encodec() -> Case:
    module = peer_module("transformers.models.encodec.modeling_encodec")
    vectors = _vectors(8, 1024, 128)
    ours = _chain(8, vectors)
    theirs = module.EncodecResidualVectorQuantizer(module.EncodecConfig())
    theirs.layers = theirs.layers[:8]
    for layer, value in zip(theirs.layers, vectors, strict=True):
        layer.codebook.embed.copy_(value)

    def encode(latents: Tensor) -> Tensor:
        return theirs.encode(latents.transpose(1, 2)).permute(1, 2, 0)

    return Case(
        "RVQ 8x1024x128",
        "transformers EnCodec",
        (ours, theirs),
        128,
        (ours.encode, encode),
    )


def _transformers_mimi() -> Case:
    module = peer_module("transformers.models.mimi.modeling_mimi")
    vectors = _vectors(8, 1024, 128)
    ours = _chain(8, vectors)
    config = module.MimiConfig(
        hidden_size=128,
        vector_quantization_hidden_dimension=128,
        codebook_dim=128,
        codebook_size=1024,
        num_quantizers=8,
    )
    theirs = module.MimiResidualVectorQuantizer(config, 8)
    for layer, value in zip(theirs.layers, vectors, strict=True):
        layer.codebook.embed_sum.copy_(value)

    def encode(latents: Tensor) -> Tensor:
        return theirs.encode(latents.transpose(1, 2)).permute(1, 2, 0)

    return Case(
        "RVQ 8x1024x128",
        "transformers Mimi",
        (ours, theirs),
        128,
        (ours.encode, encode),
    )


def _moshi() -> Case:
    core = peer_module("moshi.quantization.core_vq")
    vectors = _vectors(8, 1024, 128)
    ours = _chain(8, vectors)
    theirs = core.ResidualVectorQuantization(
        num_quantizers=8, codebook_offset=0, dim=128, codebook_size=1024
    )
    for layer, value in zip(theirs.layers, vectors, strict=True):
        layer._codebook.embedding_sum.copy_(value)
        layer._codebook._initialized.fill_(1)

    def loss(latents: Tensor) -> Tensor:
        found = theirs(latents.transpose(1, 2))
        return found.quantized.square().mean() + found.loss.mean()

    def encode(latents: Tensor) -> Tensor:
        return theirs.encode(latents.transpose(1, 2)).permute(1, 2, 0)

    return Case(
        "RVQ 8x1024x128",
        "Mimi (moshi)",
        (ours, theirs),
        128,
        (ours.encode, encode),
        (own_loss(ours), loss),
    )


def _dac() -> Case:
    dac = peer_module("speechbrain.lobes.models.discrete.dac")
    theirs = dac.ResidualVectorQuantize(
        input_dim=128, n_codebooks=8, codebook_size=1024, codebook_dim=8
    )
    ours = block("quantizer_dac", n_codebooks=8, dim=128, dropout=0.0)
    for level, other in zip(ours.levels, theirs.quantizers, strict=True):
        level.quantizer.set_vectors(other.codebook.weight.data)
        pairs = (level.project_in, other.in_proj), (level.project_out, other.out_proj)
        for mine, conv in pairs:
            mine.weight.data.copy_(conv.weight.data[..., 0])
            mine.bias.data.copy_(conv.bias.data)

    def loss(latents: Tensor) -> Tensor:
        found = theirs(latents.transpose(1, 2))
        return found[0].square().mean() + 0.25 * found[3].mean() + found[4].mean()

    return Case(
        "DAC RVQ 8x1024x8 in 128",
        "SpeechBrain",
        (ours, theirs),
        128,
        (ours.encode, lambda x: theirs(x.transpose(1, 2))[1].transpose(1, 2)),
        (own_loss(ours), loss),
    )


CHAINS: dict[str, Callable[[], Case]] = {
    "VQ, vector-quantize-pytorch": partial(_vqpt_chain, 1),
    "RVQ, vector-quantize-pytorch": partial(_vqpt_chain, 8),
    "RVQ, encodec": _encodec_chain,
    "RVQ, transformers EnCodec": _transformers_encodec,
    "RVQ, transformers Mimi": _transformers_mimi,
    "RVQ, Mimi (moshi)": _moshi,
    "RVQ, plain": _plain_chain,
    "DAC, SpeechBrain": _dac,
}
"""Builders of the pairs with trained codebooks."""
