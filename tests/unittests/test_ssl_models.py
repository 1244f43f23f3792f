"""Encoders: company, taps, norms and positions; masks and negatives by naive loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechbrain_dsu.lobes.encoders import front_ends
from speechbrain_dsu.lobes.encoders.aggregator import Aggregator
from speechbrain_dsu.lobes.encoders.autoregressive import (
    AutoregressiveEncoder,
    RecurrentStack,
)
from speechbrain_dsu.lobes.encoders.front_ends import StackedFeatures, WaveformFrontEnd
from speechbrain_dsu.lobes.encoders.ssl import SSLEncoder, prepare_signal
from speechbrain_dsu.lobes.features import LogMel
from speechbrain_dsu.lobes.ssl import SSLLayers
from speechbrain_dsu.nnet.gradients import scale_gradient
from speechbrain_dsu.nnet.masking import pack, sample_negatives, span_mask
from speechbrain_dsu.nnet.positions import ConvPositions, RelativeBias
from speechbrain_dsu.nnet.streaming import Stream
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.nnet.transformer_encoder import TransformerEncoder
from speechbrain_dsu.utils.errors import DsuError

SIZES = {"dim": 16, "layers": 3, "heads": 2, "ffn": 32, "positions": 8}
SIZES |= {"position_groups": 2}


def mel_front(stack=2):
    return StackedFeatures(LogMel(16000, 160, 20, 400, 512), stack, -5.0, 3.0)


FRONTS = {
    "wave": lambda: WaveformFrontEnd([8] * 7, norm="layer"),
    "mel": mel_front,
}
BODIES = {
    "post-norm": lambda: TransformerEncoder(**SIZES),
    "pre-norm": lambda: TransformerEncoder(**SIZES, norm_first=True),
    "relative": lambda: TransformerEncoder(
        **SIZES, relative_buckets=8, relative_reach=9
    ),
}


def spread(model):
    """Weights of unit gain, so that no part is a whisper."""
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return model.eval()


def make_encoder(front="wave", body="pre-norm", **more):
    torch.manual_seed(0)
    return spread(SSLEncoder(FRONTS[front](), BODIES[body](), **more))


def autoregressive(body="rnn"):
    torch.manual_seed(0)
    bodies = {
        "rnn": lambda: RecurrentStack(16, 3),
        "transformer": lambda: Transformer(16, 3, 2, ffn_dim=32),
    }
    return AutoregressiveEncoder(mel_front(1), bodies[body]()).eval()


ENCODERS = {
    **{
        f"{f} {b}": (lambda f=f, b=b: make_encoder(f, b))
        for f, b in [("wave", "post-norm"), ("wave", "relative"), ("mel", "pre-norm")]
    },
    "rnn": autoregressive,
    "causal transformer": lambda: autoregressive("transformer"),
}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]()


def waves(n, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, n, generator=generator)


@torch.no_grad()
def test_company_changes_nothing(encoder):
    encoder = encoder.double()
    counts = torch.tensor([9000, 4321, 700])
    wavs = waves(9000, 3).double()
    layers = SSLLayers(encoder, [3, 0, 1])
    together = layers(wavs, counts)
    shuffled = layers(wavs.flip(0), counts.flip(0)).flip(0)
    for item, count in enumerate(counts.tolist()):
        alone = layers(wavs[item : item + 1, :count])[0]
        assert len(alone) == encoder.num_frames(count)
        assert torch.allclose(together[item, : len(alone)], alone, atol=1e-10)
        assert torch.allclose(shuffled[item, : len(alone)], alone, atol=1e-10)


@torch.no_grad()
def test_lengths_are_exact_for_every_n(encoder):
    for n in [*range(encoder.min_samples, 700, 7), 1600, 3201]:
        found = encoder.hidden_states(torch.zeros(1, n), None, [0])[0]
        assert found.shape[1] == encoder.num_frames(n), n
    assert encoder.num_frames(encoder.min_samples) == 1
    assert encoder.num_frames(encoder.min_samples - 1) == 0


@torch.no_grad()
def test_a_cut_encoder_gives_the_same_and_shares_weights(encoder):
    expected = encoder.hidden_states(waves(4000), None, [2, 1])
    short = encoder.up_to(2)
    for found, wanted in zip(
        short.hidden_states(waves(4000), None, [2, 1]), expected, strict=True
    ):
        assert torch.equal(found, wanted)
    assert encoder.n_layers == 3 and encoder.up_to(3) is not None
    kept, whole = dict(short.named_parameters()), dict(encoder.named_parameters())
    assert len(kept) < len(whole)
    assert all(whole[key] is parameter for key, parameter in kept.items())
    with pytest.raises(DsuError, match="layer 4"):
        encoder.up_to(4)


@torch.no_grad()
def test_a_frame_sees_no_more_than_it_says():
    # The outermost samples of a Hann window weigh nothing, and those of the FFT
    # outside the window neither: the claim may be wider than what is seen.
    for front, inside in (
        (WaveformFrontEnd([4] * 7, norm="layer"), 0),
        (mel_front(), 60),
    ):
        left, right = front.receptive_field
        wav, start = waves(8000), 12 * front.hop
        places = {
            start - left - 1: False,
            start - left + inside: True,
            start + right - 1 - inside: True,
            start + right: False,
        }
        for place, seen in places.items():
            other = wav.clone()
            other[0, place] += 10.0
            assert torch.equal(front(other)[0, 12], front(wav)[0, 12]) != seen


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("bias", [False, True])
def test_pieces_and_a_folded_norm_give_the_frames_of_one_pass(norm, bias, monkeypatch):
    """What runs without gradients on a CPU equals what is trained."""
    torch.manual_seed(0)
    front = WaveformFrontEnd([8] * 7, norm=norm, bias=bias).double()
    for part in front.norms:
        nn.init.normal_(part.weight)
        nn.init.normal_(part.bias)
    monkeypatch.setattr(front_ends, "_PIECE", 1500)
    for n in (400, 719, 720, 1680, 9000):
        wavs = waves(n, 2).double() + 0.3
        whole = front(wavs).detach()
        with torch.no_grad():
            assert torch.allclose(front(wavs), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("body", ["rnn", "transformer"])
@torch.no_grad()
def test_autoregressive_states_do_not_see_what_comes(body):
    encoder = autoregressive(body)
    frames = torch.randn(1, 20, encoder.front_end.dim)
    later = frames.clone()
    later[:, 12:] += 1.0
    before, after = encoder(frames), encoder(later)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] - after[:, 12:]).abs().amax(2).min() > 1e-4


@torch.no_grad()
def test_an_aggregator_is_causal_and_streams():
    torch.manual_seed(0)
    model = Aggregator(8, [2, 3, 5], norm="layer").eval()
    frames = torch.randn(1, 30, 8)
    whole, stream, parts = model(frames), Stream(), []
    other = frames.clone()
    other[:, 20:] = 0
    assert torch.equal(model(other)[:, :20], whole[:, :20])
    for start, stop in ((0, 1), (1, 7), (7, 30)):
        with stream.active(last=stop == 30):
            parts.append(model(frames[:, start:stop]))
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)
    seen = torch.autograd.functional.jacobian(
        lambda x: model(x)[0, 15].sum(), frames.requires_grad_()
    )
    reach = seen[0].abs().sum(1).nonzero().flatten().tolist()
    assert reach == list(range(15 - (1 + 2 + 4), 16))


def test_an_autoregressive_encoder_refuses_a_body_that_looks_ahead():
    with pytest.raises(DsuError, match="causal"):
        AutoregressiveEncoder(mel_front(), Transformer(16, 1, 2, causal=False))


@torch.no_grad()
def test_the_positional_kernel_follows_its_parameters():
    """It is kept between calls, but never longer than the weights it is made of."""
    torch.manual_seed(0)
    positions, frames = ConvPositions(8, 4, 2), torch.randn(1, 9, 8)
    first = positions(frames)
    assert positions._weight() is positions._weight()
    with torch.enable_grad():
        assert torch.allclose(positions(frames), first, atol=1e-6)
    optimizer = torch.optim.SGD(positions.parameters(), lr=0.5)
    with torch.enable_grad():
        positions(frames).square().sum().backward()
    optimizer.step()
    moved = positions(frames)
    assert not torch.allclose(moved, first, atol=1e-3)
    twin = ConvPositions(8, 4, 2)
    twin(frames)
    twin.load_state_dict(positions.state_dict())
    assert torch.equal(twin(frames), moved)
    assert positions.double()(frames.double()).dtype == torch.float64


@torch.no_grad()
def test_relative_bias_is_a_table_of_distances():
    bias = RelativeBias(2, buckets=8, reach=9)
    nn.init.normal_(bias.table.weight)
    found = bias(14)
    for query in range(14):
        for key in range(14):
            bucket = bias.bucket(torch.tensor(key - query))
            assert torch.equal(found[:, query, key], bias.table.weight[bucket])
    distances = torch.arange(-30, 31)
    buckets = bias.bucket(distances)
    assert buckets[30:].diff().min() >= 0 and buckets[30:].max() == 7
    assert buckets[:31].max() == 3 and buckets[30] == 0 and buckets[31] == 5


def test_layers_are_left_out_at_random_in_training_only():
    torch.manual_seed(0)
    drops = {"dropout": 0.0, "attention_dropout": 0.0, "layer_dropout": 0.5}
    model = spread(TransformerEncoder(**SIZES, **drops))
    frames = torch.randn(1, 9, 16)
    assert torch.equal(model.eval()(frames), model(frames))
    torch.manual_seed(1)
    outcomes = {round(model.train()(frames)[0, 0, 0].item(), 4) for _ in range(40)}
    assert 4 < len(outcomes) <= 8  # each of three blocks is there or not


def test_the_front_ends_gradient_is_scaled():
    grads = {}
    for factor in (1.0, 0.1, 0.0):
        encoder = make_encoder(feature_gradient=factor)
        encoder(waves(2000)).square().mean().backward()
        grads[factor] = encoder.front_end.convs[2].weight.grad
        assert encoder.feature_norm.weight.grad is not None
    assert torch.allclose(grads[0.1], 0.1 * grads[1.0], rtol=1e-3, atol=1e-9)
    assert grads[0.0] is None and grads[1.0].abs().max() > 0
    values = torch.ones(3, requires_grad=True)
    scale_gradient(values, -2.0).sum().backward()
    assert values.grad.tolist() == [-2.0] * 3


def test_the_signal_is_normalised_by_its_valid_samples():
    wavs = waves(100, 2)
    before = wavs.clone()
    found, counts = prepare_signal(wavs, torch.tensor([1.0, 0.4]), normalize=True)
    assert torch.equal(wavs, before) and counts.tolist() == [100, 40]
    assert torch.allclose(found[1, :40].std(correction=0), torch.tensor(1.0), atol=1e-3)
    assert found[1, 40:].abs().max() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: WaveformFrontEnd([4] * 6),
        lambda: WaveformFrontEnd([4] * 7, norm="batch"),
        lambda: WaveformFrontEnd([4] * 7, activation="tanh"),
        lambda: StackedFeatures(LogMel(), stack=0),
        lambda: TransformerEncoder(dim=10, heads=3),
        lambda: ConvPositions(10, 4, 3),
        lambda: RelativeBias(2, buckets=6),
        lambda: Aggregator(8, []),
        lambda: span_mask(torch.tensor([3]), 3, probability=0.0),
    ],
)
def test_senseless_settings_are_refused(make):
    with pytest.raises(DsuError):
        make()


def naive_mask(counts, size, probability, length):
    """Span by span and frame by frame, from the same draws."""
    extra, keys = torch.rand(len(counts)), torch.rand(len(counts), size)
    mask = torch.zeros(len(counts), size, dtype=torch.bool)
    for item, count in enumerate(counts):
        span = max(1, min(length, count // 2))
        places = list(range(count - span + 1)) if count else []
        wanted = max(1, int(torch.tensor(probability * count) + extra[item]))
        places.sort(key=lambda place, item=item: keys[item, place].item())
        for begin in places[:wanted]:
            for frame in range(begin, begin + span):
                mask[item, frame] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    extra=st.integers(0, 5),
    probability=st.sampled_from([0.01, 0.08, 0.5, 1.0]),
    length=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_span_masks_equal_a_naive_loop(counts, extra, probability, length, seed):
    size = max(counts) + extra
    torch.manual_seed(seed)
    found = span_mask(torch.tensor(counts), size, probability, length)
    torch.manual_seed(seed)
    assert torch.equal(found, naive_mask(counts, size, probability, length))
    for row, count in zip(found, counts, strict=True):
        assert not row[count:].any()
        assert row.any() == (count > 0)


def test_as_many_spans_begin_as_were_asked_for():
    """Spans of one frame: what is masked is what begins."""
    torch.manual_seed(0)
    counts = torch.full((2000,), 37)
    masked = span_mask(counts, 40, probability=0.08, length=1).sum(1).float()
    assert masked.min() == 2 and masked.max() == 3
    assert abs(masked.mean() - 0.08 * 37) < 0.03


def test_every_place_is_masked_alike():
    torch.manual_seed(0)
    share = span_mask(torch.full((4000,), 30), 30, 0.04, 5).float().mean(0)
    begins = 1.2 / 26  # spans over places
    assert torch.allclose(share[0], torch.tensor(begins), atol=0.015)
    assert torch.allclose(share[-1], torch.tensor(begins), atol=0.015)
    assert share[10:20].std() < 0.02


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    extra=st.integers(0, 3),
    n=st.integers(1, 7),
)
def test_negatives_are_others_of_the_same_item(counts, extra, n):
    size = max(counts) + extra
    found = sample_negatives(torch.tensor(counts), size, n)
    assert found.shape == (len(counts), size, n) and found.dtype == torch.int64
    assert size == 0 or (0 <= found.min() and found.max() < size)
    for item, count in enumerate(counts):
        if count < 2:
            continue
        for frame in range(count):
            assert ((found[item, frame] != frame) & (found[item, frame] < count)).all()


def test_negatives_are_uniform():
    torch.manual_seed(0)
    found = sample_negatives(torch.tensor([5]), 5, 20000)[0]
    for frame in range(5):
        shares = torch.bincount(found[frame], minlength=5) / 20000
        wanted = torch.full((5,), 0.25)
        wanted[frame] = 0
        assert torch.allclose(shares, wanted, atol=0.015)


def test_packing_keeps_order():
    torch.manual_seed(0)
    frames, mask = torch.randn(3, 11, 2), torch.rand(3, 11) < 0.4
    mask[1] = False
    found = pack(frames, mask)
    assert found.shape == (3, int(mask.sum(1).max()), 2)
    for item in range(3):
        wanted = frames[item, mask[item]]
        assert torch.equal(found[item, : len(wanted)], wanted)
    assert pack(frames, torch.zeros(3, 11, dtype=torch.bool)).shape == (3, 0, 2)
