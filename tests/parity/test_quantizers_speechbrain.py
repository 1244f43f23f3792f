"""Gumbel, binary spherical and random quantizers beside SpeechBrain, transformers."""

import pytest
import torch
from speechbrain.lobes.models.bsq import BinarySphericalQuantizer
from speechbrain.nnet.quantisers import GumbelVectorQuantizer, RandomProjectionQuantizer

from speechbrain_dsu.nnet.quantizers.binary import BSQ
from speechbrain_dsu.nnet.quantizers.gumbel import GumbelProduct
from speechbrain_dsu.nnet.quantizers.random_projection import RandomProjection


def latents(dim, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(3, 100, dim, generator=generator)


def speechbrain_gumbel(ours):
    peer = GumbelVectorQuantizer(
        ours.dim, ours.size, ours.schedule, ours.groups, ours.out_dim
    )
    peer.weight_proj.load_state_dict(ours.logits.state_dict())
    peer.vars.data.copy_(ours.entries.detach().reshape(peer.vars.shape))
    return peer


def transformers_gumbel(ours):
    pytest.importorskip("transformers")
    from transformers import Wav2Vec2Config
    from transformers.models.wav2vec2.modeling_wav2vec2 import (
        Wav2Vec2GumbelVectorQuantizer,
    )

    config = Wav2Vec2Config(
        conv_dim=(ours.dim,),
        conv_stride=(1,),
        conv_kernel=(1,),
        num_feat_extract_layers=1,
        num_codevector_groups=ours.groups,
        num_codevectors_per_group=ours.size,
        codevector_dim=ours.out_dim,
    )
    peer = Wav2Vec2GumbelVectorQuantizer(config)
    peer.weight_proj.load_state_dict(ours.logits.state_dict())
    peer.codevectors.data.copy_(ours.entries.detach().reshape(peer.codevectors.shape))
    return peer


def test_gumbel_in_evaluation():
    ours = GumbelProduct(24, 32, groups=2, out_dim=16, diversity_weight=1.0).eval()
    x = latents(24)
    found = ours(x)
    theirs = speechbrain_gumbel(ours).eval()(x)
    torch.testing.assert_close(found.quantized, theirs["x"])
    share = (64 - theirs["prob_perplex"]) / 64
    torch.testing.assert_close(found.losses["diversity"], share, rtol=1e-4, atol=1e-5)
    peer = transformers_gumbel(ours).eval()
    quantized, perplexity = peer(x)
    torch.testing.assert_close(found.quantized, quantized)
    # Its perplexity in evaluation is that of the hard codes.
    shares = [counts / counts.sum() for counts in found.usage]
    hard = sum(torch.special.entr(share).sum().exp() for share in shares)
    torch.testing.assert_close(hard, perplexity)


@pytest.mark.parametrize("make", [speechbrain_gumbel, transformers_gumbel])
def test_gumbel_gradient_in_training(make, monkeypatch):
    """Noise off: the same forward, and the same straight-through gradient."""
    ours = GumbelProduct(24, 32, groups=2, out_dim=16, diversity_weight=0.0)
    ours.set_steps(3000)
    peer = make(ours).train()
    peer.temperature = peer.curr_temp = ours.temperature

    def ones(tensor, *args, **kwargs):
        return tensor.fill_(1)

    monkeypatch.setattr(torch.Tensor, "exponential_", ones)
    x, y = (latents(24, 0.3).requires_grad_() for _ in range(2))
    found, result = ours(x).quantized, peer(y)
    theirs = result["x"] if isinstance(result, dict) else result[0]
    torch.testing.assert_close(found, theirs)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    (found * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.logits.weight.grad, peer.weight_proj.weight.grad, rtol=1e-4, atol=1e-4
    )
    table = peer.vars if hasattr(peer, "vars") else peer.codevectors
    torch.testing.assert_close(
        ours.entries.grad.reshape(table.shape), table.grad, rtol=1e-4, atol=1e-4
    )


def test_gumbel_temperature():
    ours = GumbelProduct(8, 4, groups=2, temperature=(2.0, 0.5, 0.9))
    peer = speechbrain_gumbel(ours)
    for steps in (0, 1, 7, 100):
        peer.update_temp(steps)
        ours.set_steps(steps)
        assert ours.temperature == pytest.approx(peer.curr_temp)


def test_bsq():
    ours = BSQ(bits=8, entropy_weight=1.0, sharpness=2.0)
    peer = BinarySphericalQuantizer(8, entropy_loss_weight=1.0)
    x, y = (latents(8).requires_grad_() for _ in range(2))
    found = ours(x)
    quantized, ids, loss = peer(y, inv_temperature=2.0)
    assert torch.equal(found.codes[..., 0], ids.long())
    torch.testing.assert_close(found.quantized, quantized)
    torch.testing.assert_close(found.losses["entropy"], loss, rtol=1e-3, atol=1e-4)
    (found.quantized.sum() + found.losses["entropy"]).backward()
    (quantized.sum() + loss).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-2, atol=1e-5)


def test_random_projection():
    peer = RandomProjectionQuantizer(40, 16, 512)
    ours = RandomProjection(40, 512, code_dim=16)
    ours.set_tables(peer.P[None], peer.CB[None])
    x = latents(40)
    theirs = torch.stack([peer(item[None])[0] for item in x])
    assert torch.equal(ours.encode(x)[..., 0], theirs)
