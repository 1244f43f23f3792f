"""Finite, binary and random quantizers beside vector-quantize-pytorch."""

import pytest
import torch

from speechbrain_dsu.evaluation.bench import run_bench
from speechbrain_dsu.nnet.quantizers.binary import LFQ
from speechbrain_dsu.nnet.quantizers.finite import FSQ
from speechbrain_dsu.nnet.quantizers.random_projection import RandomProjection

peers = pytest.importorskip("vector_quantize_pytorch")


def latents(dim, scale=2.0, batch=3, frames=200):
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(batch, frames, dim, generator=generator)


def gradient(x, quantized):
    (
        quantized * torch.linspace(-1, 1, quantized.numel()).view_as(quantized)
    ).sum().backward()
    return x.grad


@pytest.mark.parametrize("bound", ["tanh", "clamp"])
@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [4] * 8, [7, 3, 6]], ids=str)
def test_fsq(levels, bound):
    ours = FSQ(levels, bound=bound)
    peer = peers.FSQ(levels, bound_hard_clamp=bound == "clamp")
    x, y = (latents(len(levels)).requires_grad_() for _ in range(2))
    found, (quantized, ids) = ours(x), peer(y)
    assert torch.equal(found.codes[..., 0], ids.long())
    torch.testing.assert_close(found.quantized, quantized)
    torch.testing.assert_close(ours.decode(found.codes), peer.indices_to_codes(ids))
    torch.testing.assert_close(gradient(x, found.quantized), gradient(y, quantized))


def test_grouped_and_projected_fsq():
    ours = FSQ([8, 5, 5, 5], groups=3, dim=16)
    peer = peers.FSQ([8, 5, 5, 5], dim=16, num_codebooks=3)
    peer.project_in.load_state_dict(ours.project_in.state_dict())
    peer.project_out.load_state_dict(ours.project_out.state_dict())
    x = latents(16)
    found, (quantized, ids) = ours(x), peer(x)
    assert torch.equal(found.codes, ids.long())
    torch.testing.assert_close(found.quantized, quantized)


@pytest.mark.parametrize("groups", [1, 3])
def test_lfq(groups):
    ours = LFQ(
        bits=6,
        groups=groups,
        dim=20,
        sharpness=1.0,
        entropy_weight=1.0,
        commitment_weight=0.5,
        diversity=0.7,
    )
    peer = peers.LFQ(
        codebook_size=64,
        num_codebooks=groups,
        dim=20,
        entropy_loss_weight=1.0,
        commitment_loss_weight=0.5,
        diversity_gamma=0.7,
    )
    peer.project_in.load_state_dict(ours.project_in.state_dict())
    peer.project_out.load_state_dict(ours.project_out.state_dict())
    x, y = (latents(20, scale=0.5).requires_grad_() for _ in range(2))
    found = ours(x)
    quantized, ids, loss = peer(y, inv_temperature=1.0)
    assert torch.equal(found.codes, ids.long().view_as(found.codes))
    torch.testing.assert_close(found.quantized, quantized)
    total = sum(found.losses.values())
    # The peer cuts probabilities at 1e-5 inside its logarithms.
    torch.testing.assert_close(total, loss, rtol=1e-3, atol=1e-4)
    total.backward()
    loss.backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("center", [True, False])
def test_random_projection(center):
    # With several codebooks the peer puts a learned layer behind the projection.
    peer = peers.RandomProjectionQuantizer(
        dim=40, codebook_size=64, codebook_dim=8, norm=center
    )
    ours = RandomProjection(40, 64, code_dim=8, center=center)
    ours.set_tables(peer.rand_projs, peer.vq._codebook.embed)
    x = latents(40) + 1
    assert torch.equal(ours.encode(x)[..., 0], peer(x).long())


@pytest.mark.slow
def test_bench_rows_and_equal_codes():
    rows = run_bench("quantizers", quick=True)
    assert len(rows) >= 20
    for row in rows:
        assert {"case", "peer", "ours_s", "peer_s", "ratio"} <= set(row)
        assert row.get("disagreements", 0) == 0, row
