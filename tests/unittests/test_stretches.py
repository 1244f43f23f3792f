"""Stacks of convolutions in stretches give what they give in one pass."""

import pytest
import torch
from torch import nn

from speechbrain_dsu.lobes.encoders.seanet import SEANetEncoder
from speechbrain_dsu.lobes.encoders.snake import SnakeEncoder
from speechbrain_dsu.lobes.vocoders.seanet import SEANetDecoder
from speechbrain_dsu.lobes.vocoders.snake import SnakeDecoder
from speechbrain_dsu.nnet import stretches

SEANET = {
    f"seanet, causal={causal}, {mode}": {"causal": causal, "pad_mode": mode}
    for causal in (True, False)
    for mode in ("reflect", "constant", "replicate")
}


def stacks(name: str, encodes: bool) -> tuple[nn.Module, int]:
    """A small encoder or decoder, and the channels that it takes."""
    strides = [2, 5, 3] if encodes else [3, 5, 2]
    if name in SEANET:
        kind = SEANetEncoder if encodes else SEANetDecoder
        model = kind(8000, 4, strides, dim=6, dilations=(1, 3), **SEANET[name])
    elif encodes:
        model = SnakeEncoder(8000, 4, strides, dim=6, causal="causal" in name)
    else:
        model = SnakeDecoder(8000, 32, strides, dim=6, causal="causal" in name)
    return model.double().eval(), 1 if encodes else 6


@pytest.mark.parametrize("encodes", [True, False])
@pytest.mark.parametrize("name", [*SEANET, "snake", "snake, causal"])
@torch.no_grad()
def test_equal_to_one_pass(name, encodes, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(stretches, "_BLOCK", 2**11)
    counted = []
    give = stretches._Step.give
    monkeypatch.setattr(
        stretches._Step,
        "give",
        lambda step, *args: counted.append(step) or give(step, *args),
    )
    model, channels = stacks(name, encodes)
    for size in (3, 401, 30001) if encodes else (1, 16, 1001):
        signal = torch.randn(2, channels, size, dtype=torch.float64)
        counted.clear()
        found = model.layers(signal)
        expected = nn.Sequential(*model.layers)(signal)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    # The longest one was cut.
    assert len(counted) > 2 * len(model.layers)


@torch.no_grad()
def test_elu():
    x = torch.cat([torch.linspace(-30, 30, 1001), torch.tensor([0.0, -1e-6, 1e-6])])
    expected = nn.functional.elu(x)
    kept = x.clone()
    assert torch.allclose(stretches.Elu(inplace=True)(x), expected, atol=2e-7)
    assert torch.equal(x, kept)
    assert stretches.Elu()(torch.tensor([float("nan")])).isnan()


def test_gradients_as_before():
    x = torch.randn(1, 1, 50, requires_grad=True)
    model = SEANetEncoder(8000, 2, [2, 5], dim=3)
    model.layers(x).sum().backward()
    mine = x.grad.clone()
    x.grad = None
    nn.Sequential(*model.layers)(x).sum().backward()
    assert torch.equal(mine, x.grad)
