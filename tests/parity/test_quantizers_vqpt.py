"""Codebooks against vector-quantize-pytorch, encodec, transformers and SpeechBrain."""

import pytest
import torch

from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.codebook_gradient import rotate_through
from speechbrain_dsu.nnet.quantizers.composed import Projected, Split
from speechbrain_dsu.nnet.quantizers.grouped import GroupedResidualVQ
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ

LEVELS, SIZE, DIM = 4, 32, 16


def latents(seed=0, batch=3, frames=50, dim=DIM):
    return torch.randn(
        batch, frames, dim, generator=torch.Generator().manual_seed(seed)
    )


def vectors(seed=1, levels=LEVELS, dim=DIM):
    generator = torch.Generator().manual_seed(seed)
    scale = 0.7 ** torch.arange(levels).view(-1, 1, 1)
    return torch.randn(levels, SIZE, dim, generator=generator) * scale


def set_vectors(chain, values):
    for level, value in zip(chain.levels, values, strict=True):
        level.set_vectors(value)
    return chain


@pytest.fixture(scope="module")
def vqpt():
    return pytest.importorskip("vector_quantize_pytorch")


def set_theirs(codebook, values):
    codebook.embed.data.copy_(values[None])
    codebook.embed_avg.data.copy_(values[None])


def their_chain(vqpt, values, **options):
    levels, _, dim = values.shape
    theirs = vqpt.ResidualVQ(
        dim=dim, codebook_size=SIZE, num_quantizers=levels, **options
    )
    for layer, value in zip(theirs.layers, values, strict=True):
        set_theirs(layer._codebook, value)
    return theirs


@pytest.mark.parametrize("cosine", [False, True])
def test_moving_averages_after_ten_steps(vqpt, cosine):
    """Vectors, counts and sums of the reference after ten training steps."""
    theirs = vqpt.VectorQuantize(
        dim=DIM, codebook_size=SIZE, decay=0.9, use_cosine_sim=cosine
    ).train()
    metric = "sphere" if cosine else "euclidean"
    ours = Codebook(SIZE, DIM, metric=metric, decay=0.9, revive_below=0.0).train()
    start = vectors()[0]
    if cosine:
        start = torch.nn.functional.normalize(start, dim=-1)
    set_theirs(theirs._codebook, start)
    ours.set_vectors(start)
    for step in range(10):
        x = latents(seed=step)
        found, expected = ours(x), theirs(x)[1]
        assert torch.equal(found.codes[..., 0], expected)
    torch.testing.assert_close(ours.vectors, theirs._codebook.embed[0])
    torch.testing.assert_close(ours.counts, theirs._codebook.cluster_size[0])
    torch.testing.assert_close(ours.sums, theirs._codebook.embed_avg[0])


def test_padding_is_kept_out_as_by_their_lengths(vqpt):
    theirs = vqpt.VectorQuantize(dim=DIM, codebook_size=SIZE, decay=0.9).train()
    ours = Codebook(SIZE, DIM, decay=0.9, revive_below=0.0, commitment=1.0).train()
    set_theirs(theirs._codebook, vectors()[0])
    ours.set_vectors(vectors()[0])
    counts = torch.tensor([50, 20, 1])
    for step in range(3):
        x = latents(seed=step)
        found = ours(x, counts / 50)
        _, _, loss = theirs(x, lens=counts)
        torch.testing.assert_close(found.losses["commitment"], loss.squeeze())
    torch.testing.assert_close(ours.vectors, theirs._codebook.embed[0])


def test_residual_chain_codes_latents_and_losses(vqpt):
    theirs = their_chain(vqpt, vectors(), rotation_trick=False, decay=0.9).train()
    ours = set_vectors(
        ResidualVQ(LEVELS, SIZE, DIM, commitment=1.0, decay=0.9, revive_below=0.0),
        vectors(),
    ).train()
    for step in range(3):
        x = latents(seed=step)
        found = ours(x)
        quantized, codes, loss = theirs(x)
        assert torch.equal(found.codes, codes)
        torch.testing.assert_close(found.quantized, quantized)
        torch.testing.assert_close(found.losses["commitment"], loss.mean())
    for level, layer in zip(ours.levels, theirs.layers, strict=True):
        torch.testing.assert_close(level.vectors, layer._codebook.embed[0])


def test_commitment_gradient_of_a_chain(vqpt):
    theirs = their_chain(vqpt, vectors(), rotation_trick=False).train()
    ours = set_vectors(ResidualVQ(LEVELS, SIZE, DIM, commitment=1.0), vectors())
    x, y = latents().requires_grad_(), latents().requires_grad_()
    ours(x).losses["commitment"].backward()
    theirs(y)[2].mean().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_grouped_residual_chain(vqpt):
    half = DIM // 2
    theirs = vqpt.GroupedResidualVQ(
        dim=DIM, codebook_size=SIZE, num_quantizers=3, groups=2
    ).eval()
    ours = GroupedResidualVQ(2, 3, SIZE, DIM).eval()
    for group, (part, rvq) in enumerate(zip(ours.parts, theirs.rvqs, strict=True)):
        values = vectors(seed=group, levels=3, dim=half)
        set_vectors(part, values)
        for layer, value in zip(rvq.layers, values, strict=True):
            set_theirs(layer._codebook, value)
    found = ours(latents())
    quantized, codes, _ = theirs(latents())
    # Theirs come group by group, ours level by level.
    expected = codes.permute(1, 2, 3, 0).flatten(2)
    assert torch.equal(found.codes, expected)
    torch.testing.assert_close(found.quantized, quantized)


def test_rotation_has_their_values_and_gradients(vqpt):
    rotate_to = pytest.importorskip(
        "vector_quantize_pytorch.vector_quantize_pytorch"
    ).rotate_to
    x, y = latents().requires_grad_(), latents().requires_grad_()
    target, weights = latents(seed=1), latents(seed=2)
    (rotate_through(x, target) * weights).sum().backward()
    expected = rotate_to(y, target)
    (expected * weights).sum().backward()
    torch.testing.assert_close(rotate_through(x, target), expected)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


def test_encodec_package_chain():
    core = pytest.importorskip("encodec.quantization.core_vq")
    theirs = core.ResidualVectorQuantization(
        num_quantizers=LEVELS, dim=DIM, codebook_size=SIZE, kmeans_init=False
    ).eval()
    for layer, value in zip(theirs.layers, vectors(), strict=True):
        layer._codebook.embed.copy_(value)
    ours = set_vectors(ResidualVQ(LEVELS, SIZE, DIM), vectors()).eval()
    for keep in (1, LEVELS):
        codes = theirs.encode(latents().transpose(1, 2), n_q=keep)
        assert torch.equal(ours.encode(latents(), keep), codes.permute(1, 2, 0))
        decoded = theirs.decode(codes).transpose(1, 2)
        torch.testing.assert_close(ours.decode(codes.permute(1, 2, 0)), decoded)


def test_transformers_encodec_chain():
    module = pytest.importorskip("transformers.models.encodec.modeling_encodec")
    config = module.EncodecConfig(codebook_size=SIZE, codebook_dim=DIM)
    theirs = module.EncodecResidualVectorQuantizer(config).eval()
    theirs.layers = theirs.layers[:LEVELS]
    for layer, value in zip(theirs.layers, vectors(), strict=True):
        layer.codebook.embed.copy_(value)
    ours = set_vectors(ResidualVQ(LEVELS, SIZE, DIM), vectors()).eval()
    codes = theirs.encode(latents().transpose(1, 2))
    assert torch.equal(ours.encode(latents()), codes.permute(1, 2, 0))
    decoded = theirs.decode(codes).transpose(1, 2)
    torch.testing.assert_close(ours.decode(codes.permute(1, 2, 0)), decoded)


def test_transformers_mimi_split():
    module = pytest.importorskip("transformers.models.mimi.modeling_mimi")
    config = module.MimiConfig(
        hidden_size=24,
        vector_quantization_hidden_dimension=DIM,
        codebook_dim=DIM,
        codebook_size=SIZE,
        num_quantizers=LEVELS,
        num_semantic_quantizers=1,
    )
    theirs = module.MimiSplitResidualVectorQuantizer(config).eval()

    def side(levels):
        return Projected(ResidualVQ(levels, SIZE, DIM), 24, bias=False)

    ours = Split(side(1), side(LEVELS - 1)).eval()
    for part, other, seed in (
        (ours.semantic, theirs.semantic_residual_vector_quantizer, 1),
        (ours.acoustic, theirs.acoustic_residual_vector_quantizer, 2),
    ):
        values = vectors(seed=seed, levels=len(other.layers))
        set_vectors(part.quantizer, values)
        for layer, value in zip(other.layers, values, strict=True):
            layer.codebook.embed_sum.copy_(value)
        part.project_in.weight.data.copy_(other.input_proj.weight[..., 0])
        part.project_out.weight.data.copy_(other.output_proj.weight[..., 0])
    x = latents(dim=24)
    with torch.no_grad():
        codes = theirs.encode(x.transpose(1, 2)).permute(1, 2, 0)
        decoded = theirs.decode(codes.transpose(1, 2)).transpose(1, 2)
    assert torch.equal(ours.encode(x), codes)
    torch.testing.assert_close(ours.decode(codes), decoded)


def dac_pair(theirs):
    """Our DAC quantizer with the weights of another one."""
    ours = ResidualVQ(
        LEVELS, SIZE, DIM, codebook_dim=4, update="gradient", metric="cosine"
    )
    for level, other in zip(ours.levels, theirs.quantizers, strict=True):
        level.quantizer.set_vectors(other.codebook.weight.data)
        for mine, conv in (
            (level.project_in, other.in_proj),
            (level.project_out, other.out_proj),
        ):
            mine.weight.data.copy_(conv.weight.data[..., 0])
            mine.bias.data.copy_(conv.bias.data)
    return ours


def check_dac(ours, theirs, result):
    """Codes, latents, both losses, and all gradients."""
    x = latents().requires_grad_()
    y = latents().transpose(1, 2).requires_grad_()
    found = ours(x)
    quantized, codes, _, commitment, codebook = result(theirs(y))
    assert torch.equal(found.codes, codes.transpose(1, 2))
    torch.testing.assert_close(found.quantized, quantized.transpose(1, 2))
    # Theirs are sums over the codebooks, without weights.
    mine = {key: value * LEVELS for key, value in found.losses.items()}
    torch.testing.assert_close(mine["commitment"] / 0.25, commitment.mean())
    torch.testing.assert_close(mine["codebook"], codebook.mean())
    weights = latents(seed=5)
    (
        (found.quantized * weights).sum() + mine["commitment"] + mine["codebook"]
    ).backward()
    total = (quantized.transpose(1, 2) * weights).sum()
    (total + 0.25 * commitment.mean() + codebook.mean()).backward()
    torch.testing.assert_close(x.grad, y.grad.transpose(1, 2), rtol=1e-4, atol=1e-4)
    for level, other in zip(ours.levels, theirs.quantizers, strict=True):
        torch.testing.assert_close(
            level.quantizer.vectors.grad, other.codebook.weight.grad
        )


def test_transformers_dac_chain():
    module = pytest.importorskip("transformers.models.dac.modeling_dac")
    config = module.DacConfig(
        n_codebooks=LEVELS, codebook_size=SIZE, codebook_dim=4, hidden_size=DIM
    )
    config.quantizer_dropout = 0.0
    torch.manual_seed(0)
    theirs = module.DacResidualVectorQuantizer(config).eval()
    ours = dac_pair(theirs).eval()
    check_dac(ours, theirs, lambda found: found)


def test_speechbrain_dac_chain():
    dac = pytest.importorskip("speechbrain.lobes.models.discrete.dac")
    torch.manual_seed(0)
    theirs = dac.ResidualVectorQuantize(
        input_dim=DIM, n_codebooks=LEVELS, codebook_size=SIZE, codebook_dim=4
    ).eval()
    ours = dac_pair(theirs).eval()
    check_dac(ours, theirs, lambda found: found)
