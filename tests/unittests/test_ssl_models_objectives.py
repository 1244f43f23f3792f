"""Objectives: naive loops, padding, labels, causality, and losses that fall."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_dsu.lobes.encoders.aggregator import Aggregator
from speechbrain_dsu.lobes.encoders.autoregressive import (
    AutoregressiveEncoder,
    RecurrentStack,
)
from speechbrain_dsu.lobes.encoders.front_ends import StackedFeatures, WaveformFrontEnd
from speechbrain_dsu.lobes.encoders.ssl import SSLEncoder
from speechbrain_dsu.lobes.features import LogMel
from speechbrain_dsu.lobes.pretraining import hubert
from speechbrain_dsu.lobes.pretraining.apc import FramePrediction
from speechbrain_dsu.lobes.pretraining.base import align_labels
from speechbrain_dsu.lobes.pretraining.hubert import MaskedUnitPrediction
from speechbrain_dsu.lobes.pretraining.soft_units import (
    ProjectedFeatures,
    SoftUnitPrediction,
)
from speechbrain_dsu.lobes.pretraining.vq_wav2vec import FutureContrast
from speechbrain_dsu.lobes.pretraining.wav2vec2 import MaskedContrast
from speechbrain_dsu.lobes.ssl import SSLLayers
from speechbrain_dsu.nnet.losses.contrastive import contrastive_loss, future_loss
from speechbrain_dsu.nnet.quantizers.grouped import GroupedVQ
from speechbrain_dsu.nnet.quantizers.gumbel import GumbelProduct
from speechbrain_dsu.nnet.quantizers.soft import SoftCodebook
from speechbrain_dsu.nnet.transformer_encoder import TransformerEncoder
from speechbrain_dsu.utils.errors import DsuError


def waves(n, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, n, generator=generator)


def make_encoder(**more):
    torch.manual_seed(0)
    body = TransformerEncoder(16, 2, 2, 32, True, 8, 2, dropout=0.0)
    for block in body.blocks:
        block.attention.dropout = 0.0
    front = WaveformFrontEnd([8] * 7, norm="layer")
    return SSLEncoder(front, body, feature_dropout=0.0, **more)


def mel(stack=1):
    return StackedFeatures(LogMel(16000, 160, 20, 400, 512), stack, -5.0, 3.0)


def make_hubert(**more):
    return MaskedUnitPrediction(make_encoder(), 5, 4, mask_probability=0.2, **more)


def make_contrast():
    encoder = make_encoder(normalize=True)
    return MaskedContrast(encoder, GumbelProduct(8, 6), dim=4, negatives=5)


def make_future(quantizer="gumbel"):
    torch.manual_seed(0)
    quantizers = {
        "gumbel": lambda: GumbelProduct(
            8, 6, temperature=(1.0, 0.5, 0.999), shared=True, diversity_weight=0.0
        ),
        "kmeans": lambda: GroupedVQ(2, 6, 8, update="gradient", commitment=0.25),
    }
    front = WaveformFrontEnd(
        [8] * 5, [10, 8, 4, 4, 4], [5, 4, 2, 2, 2], "layer", activation="relu"
    )
    return FutureContrast(front, quantizers[quantizer](), Aggregator(8, [2, 3]), 3, 4)


def make_apc(ahead=3):
    torch.manual_seed(0)
    return FramePrediction(AutoregressiveEncoder(mel(), RecurrentStack(16, 2)), ahead)


def make_soft(temperature=0.1):
    encoder = make_encoder()
    features = ProjectedFeatures(SSLLayers(encoder, [1], frozen=False), 6)
    torch.manual_seed(0)
    return SoftUnitPrediction(features, SoftCodebook(5, 6, temperature))


OBJECTIVES = {
    "hubert": make_hubert,
    "hubert all": lambda: make_hubert(unmasked=True, feature_penalty=True),
    "wav2vec2": make_contrast,
    "vq-wav2vec gumbel": make_future,
    "vq-wav2vec kmeans": lambda: make_future("kmeans"),
    "apc": make_apc,
    "soft units": make_soft,
}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]()


def labels_for(objective, wavs, sizes=5):
    model = getattr(objective, "encoder", None) or getattr(objective, "features", None)
    if not isinstance(objective, MaskedUnitPrediction | SoftUnitPrediction):
        return None
    generator = torch.Generator().manual_seed(1)
    shape = (len(wavs), model.num_frames(wavs.shape[1]))
    return torch.randint(sizes, shape, generator=generator)


def losses_of(objective, wavs, lens=None, labels=None, seed=0):
    torch.manual_seed(seed)
    return objective(wavs, lens, labels)


def test_equal_seeds_give_equal_losses_and_finite_gradients(objective):
    wavs, lens = waves(8000, 3), torch.tensor([1.0, 0.7, 0.3])
    labels = labels_for(objective, wavs)
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    first = losses_of(objective, wavs, lens, labels)
    objective.load_state_dict(state)
    again = losses_of(objective, wavs, lens, labels)
    assert first.losses.keys() == again.losses.keys()
    assert all(torch.equal(first.losses[k], again.losses[k]) for k in first.losses)
    assert all(v.ndim == 0 and v.requires_grad for v in first.losses.values())
    assert not any(v.requires_grad for v in first.stats.values())
    sum(again.losses.values()).backward()
    reached = [p.grad for p in objective.parameters() if p.grad is not None]
    assert len(reached) > 5 and all(g.isfinite().all() for g in reached)


def test_padding_never_enters(objective):
    """Noise and labels behind an item's end change neither losses nor gradients."""
    lens = torch.tensor([1.0, 0.6, 0.02])  # the last is shorter than a frame
    wavs = waves(8000, 3)
    noisy = wavs.clone()
    noisy[1, 4800:], noisy[2, 160:] = 7.0, -9.0
    labels = labels_for(objective, wavs)
    other = labels
    if labels is not None:
        other = labels.clone()
        other[1, objective_frames(objective, 4800) :] = 3
        other[2, objective_frames(objective, 160) :] = 3
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    results = []
    for given, target in ((wavs, labels), (noisy, other)):
        objective.load_state_dict(state)
        objective.zero_grad()
        found = losses_of(objective, given, lens, target)
        sum(found.losses.values()).backward()
        grads = [p.grad for p in objective.parameters() if p.grad is not None]
        results.append((found.losses, grads))
    for key, value in results[0][0].items():
        assert torch.equal(value, results[1][0][key]), key
    assert all(map(torch.equal, results[0][1], results[1][1]))


def objective_frames(objective, n):
    model = getattr(objective, "encoder", None) or objective.features
    return model.num_frames(n)


def test_losses_are_float32_under_autocast(objective):
    wavs = waves(8000, 2)
    labels = labels_for(objective, wavs)
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    plain = losses_of(objective.eval(), wavs, None, labels)
    objective.load_state_dict(state)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses_of(objective, wavs, None, labels)
    for key, value in found.losses.items():
        assert value.dtype == torch.float32, key
        assert torch.allclose(value, plain.losses[key], rtol=0.1, atol=0.05), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_falls(name):
    """A staircase of five tones, learnt in a few steps."""
    objective = OBJECTIVES[name]().train()
    # Codes must first come to mean something: these stay at chance for a while.
    steps, rate = (200, 5e-3) if name.startswith("vq") else (60, 1e-2)
    time = torch.arange(8000) / 16000
    tone = 300.0 + 700.0 * (time * 10).long()
    wavs = 0.3 * torch.sin(2 * torch.pi * tone * time).repeat(2, 1)
    wavs = wavs + 0.3 * waves(8000, 2)
    labels = labels_for(objective, wavs)
    if labels is not None:
        centres = torch.arange(labels.shape[1]) * 320 + 200
        labels = (centres / 1600).long().clamp(max=4).repeat(2, 1)
    key = next(iter(objective(wavs, None, labels).losses))
    optimizer = torch.optim.AdamW(objective.parameters(), rate)
    torch.manual_seed(0)
    history = []
    for _ in range(steps):
        found = objective(wavs, None, labels)
        sum(found.losses.values()).backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        history.append(found.losses[key].item())
    last = sum(history[-5:]) / 5
    assert last < 0.75 * history[0], history[::20]


def test_masked_prediction_equals_a_slow_reference(monkeypatch):
    """Frame by frame, with two codebooks, unlabelled frames and padding."""
    objective = MaskedUnitPrediction(
        make_encoder(), [5, 3], 4, unmasked=True, feature_penalty=True
    )
    lens = torch.tensor([1.0, 0.6])
    wavs = waves(8000, 2)
    frames = [objective.encoder.num_frames(n) for n in (8000, 4800)]
    mask = torch.rand(2, frames[0]) < 0.5
    mask[1, frames[1] :] = False
    monkeypatch.setattr(hubert, "span_mask", lambda *given: mask)
    labels = torch.stack(
        [torch.randint(-1, 5, mask.shape), torch.randint(-1, 3, mask.shape)], -1
    )
    found = objective(wavs, lens, labels).losses
    losses, squares = {True: [[], []], False: [[], []]}, []
    for item, n in enumerate((8000, 4800)):
        encoder = objective.encoder
        latents = encoder.latents(wavs[item : item + 1, :n])
        squares += list(latents.frames[0].square().flatten())
        hidden = encoder.projection(latents.normed[0])
        hidden[mask[item, : len(hidden)]] = encoder.mask_vector
        context = encoder.transformer(hidden.unsqueeze(0))[0]
        for frame in range(frames[item]):
            for book, head in enumerate(objective.heads):
                unit = labels[item, frame, book]
                if unit < 0:
                    continue
                guess = head.projection(context[frame])
                scores = [F.cosine_similarity(guess, u, 0) / 0.1 for u in head.units]
                loss = -torch.stack(scores).log_softmax(0)[unit]
                losses[bool(mask[item, frame])][book].append(loss)
    for key, hidden in (("masked", True), ("unmasked", False)):
        means = [torch.stack(book).mean() for book in losses[hidden]]
        assert torch.allclose(found[key], sum(means) / 2, atol=1e-4)
    assert torch.allclose(found["features"], torch.stack(squares).mean(), atol=1e-6)


def test_what_is_masked_can_not_be_seen():
    """The front end gets no gradient from masked frames alone."""
    encoder = make_encoder()
    latents = encoder.latents(waves(8000))
    latents.normed.retain_grad()
    mask = torch.zeros(1, latents.frames.shape[1], dtype=torch.bool)
    mask[0, 5:15] = True
    encoder.context(latents, mask).square().sum().backward()
    seen = latents.normed.grad[0].abs().sum(1) > 0
    assert torch.equal(seen, ~mask[0])


@pytest.mark.parametrize("hop,offset", [(160, 0.0), (320, 0.0), (320, 199.5), (480, 7)])
def test_labels_of_other_rates_are_the_nearest_in_time(hop, offset):
    objective = make_hubert(label_hop=hop, label_offset=offset)
    encoder = objective.encoder
    for n in (8000, 8123):
        size, total = encoder.num_frames(n), n // hop + 1
        labels = torch.arange(total).unsqueeze(0)
        found = objective.frame_labels(labels, size)[0, :, 0]
        for frame in range(size):
            centre = encoder.frame_offset + frame * encoder.hop
            away = [abs(offset + k * hop - centre) for k in range(total)]
            assert abs(away[found[frame]] - min(away)) < 1e-6
    assert align_labels(torch.zeros(1, 2).long(), 4).tolist() == [[0, 0, -1, -1]]


def test_missing_or_misshapen_labels_are_refused():
    with pytest.raises(DsuError, match="labels must be"):
        make_hubert()(waves(4000))
    with pytest.raises(DsuError, match=r"\[batch, labels, 1\]"):
        make_hubert()(waves(4000), labels=torch.zeros(1, 12, 2).long())


def test_the_contrastive_loss_equals_a_naive_loop():
    torch.manual_seed(0)
    predicted, targets = torch.randn(3, 6, 4), torch.randn(3, 6, 4)
    counts = torch.tensor([6, 1, 3])
    codes = torch.randint(2, (3, 6, 2))
    negatives = torch.stack([torch.randint(0, max(c, 1), (6, 9)) for c in counts])
    found, right = contrastive_loss(predicted, targets, negatives, counts, codes, 0.2)
    losses, hits = [], []
    for item, count in enumerate(counts.tolist()):
        for frame in range(count if count > 1 else 0):
            scores = [
                F.cosine_similarity(predicted[item, frame], targets[item, frame], 0)
            ]
            for other in negatives[item, frame].tolist():
                same = torch.equal(codes[item, frame], codes[item, other])
                if other == frame or not same:
                    pair = predicted[item, frame], targets[item, other]
                    scores.append(F.cosine_similarity(*pair, 0))
            scores = torch.stack(scores) / 0.2
            losses.append(-scores.log_softmax(0)[0])
            hits.append(float(scores.argmax() == 0))
    assert torch.allclose(found, torch.stack(losses).mean(), atol=1e-5)
    assert abs(right - sum(hits) / len(hits)) < 1e-6
    none, _ = contrastive_loss(predicted, targets, negatives, torch.tensor([1, 0, 1]))
    assert none == 0


def test_the_future_loss_equals_a_naive_loop():
    torch.manual_seed(0)
    predicted, latents = torch.randn(3, 7, 3, 4), torch.randn(3, 7, 4)
    counts = torch.tensor([7, 1, 3])
    negatives = torch.randint(7, (3, 7, 5))
    found, right = future_loss(predicted, latents, negatives, counts)
    losses, hits = [], []
    for item, count in enumerate(counts.tolist()):
        for frame in range(count):
            for step in (1, 2, 3):
                if frame + step >= count:
                    continue
                guess = predicted[item, frame, step - 1]
                true = guess @ latents[item, frame + step]
                false = latents[item, negatives[item, frame + step]] @ guess
                losses.append(-F.logsigmoid(true) - F.logsigmoid(-false).sum())
                # A negative that is the true frame ties, but for rounding.
                hits.append(float(true > false.max() + 1e-5))
    assert torch.allclose(found, torch.stack(losses).mean(), rtol=1e-5)
    assert abs(right - sum(hits) / len(hits)) < 1e-6
    short, _ = future_loss(predicted[:, :1], latents[:, :1], negatives[:, :1], counts)
    assert short == 0


@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_apc_compares_with_the_frame_that_is_so_far_ahead(ahead):
    objective = make_apc(ahead)
    lens, wavs = torch.tensor([1.0, 0.5]), waves(8000, 2)
    found = objective(wavs, lens)
    errors, copies = [], []
    for item, n in enumerate((8000, 4000)):
        frames = objective.encoder.front_end(wavs[item : item + 1, :n])[0]
        guess = objective.guess(objective.encoder(frames.unsqueeze(0)))[0]
        for frame in range(len(frames) - ahead):
            errors.append((guess[frame] - frames[frame + ahead]).abs().mean())
            copies.append((frames[frame] - frames[frame + ahead]).abs().mean())
    wanted = torch.stack(errors).mean() if errors else torch.tensor(0.0)
    assert torch.allclose(found.losses["prediction"], wanted, atol=1e-5)
    wanted = torch.stack(copies).mean() if copies else torch.tensor(0.0)
    assert torch.allclose(found.stats["copying"], wanted, atol=1e-5)


@torch.no_grad()
def test_soft_units_become_hard_as_the_temperature_falls():
    wavs = waves(8000, 2)
    distances = []
    for temperature in (1.0, 0.1, 0.01, 1e-5):
        objective = make_soft(temperature).eval()
        codes = objective.codebook.encode(objective.features(wavs))
        hard = objective.codebook.decode(codes)
        distances.append((objective.soft(wavs) - hard).norm(dim=-1).mean().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3 < 0.1 < distances[0]


@torch.no_grad()
def test_the_quantizer_cools_down_with_the_updates_that_were_made():
    objective = make_contrast()
    objective.set_step(200000)
    assert objective.quantizer.temperature == pytest.approx(0.7358, abs=1e-3)
    objective = make_future()
    objective.set_step(100)
    assert objective.quantizer.temperature == pytest.approx(0.9048, abs=1e-3)
    make_future("kmeans").set_step(3)


def test_the_objective_starts_at_chance():
    """Before training the true latents are one of many."""
    torch.manual_seed(0)
    frames = torch.randn(4, 200, 64)
    found, _ = contrastive_loss(
        torch.randn(4, 200, 64),
        frames,
        torch.randint(200, (4, 200, 100)),
        torch.full((4,), 200),
        temperature=10.0,
    )
    assert found == pytest.approx(torch.tensor(101.0).log().item(), abs=1e-2)
