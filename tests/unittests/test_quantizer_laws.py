"""The laws of every quantizer; cases and exceptions are in ``quantizer_cases``."""

import copy
import sys

import pytest
import torch

from quantizer_cases import collect, collect_names
from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.nnet.quantizers.codebook_base import TrainedQuantizer
from speechbrain_dsu.utils.errors import DsuError

CASES = collect("CASES")
EXCEPT = collect("EXCEPT")
NEAREST = collect_names("NEAREST")
RESIDUAL = collect_names("RESIDUAL")


@pytest.fixture(params=CASES)
def name(request):
    law = request.function.__name__.removeprefix("test_")
    reason = EXCEPT.get(law, {}).get(request.param)
    if reason:
        pytest.skip(reason)
    return request.param


def latents_for(quantizer, batch=2, frames=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, quantizer.dim, generator=generator)


def train(quantizer, steps=3, seed=10):
    """A few training passes, with gradient steps where there are parameters."""
    torch.manual_seed(seed)
    quantizer.train()
    parameters = list(quantizer.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.05) if parameters else None
    for step in range(steps):
        latents = latents_for(quantizer, seed=seed + step)
        result = quantizer(latents)
        loss = (result.quantized - latents).square().mean()
        loss = loss + sum(result.losses.values())
        if optimizer is not None and loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    quantizer.zero_grad()
    return quantizer


def ready(name, steps=3):
    torch.manual_seed(0)
    return train(CASES[name](), steps)


def state(quantizer):
    return {key: value.clone() for key, value in quantizer.state_dict().items()}


def same_state(one, other):
    assert set(one) == set(other)
    return [key for key in one if not torch.equal(one[key], other[key])] == []


def test_decoding_the_codes_gives_the_quantized_latents(name):
    quantizer = ready(name).eval()
    latents = latents_for(quantizer)
    result = quantizer(latents)
    assert torch.equal(result.codes, quantizer.encode(latents))
    assert torch.equal(result.quantized, quantizer.decode(result.codes))


def test_codes_are_in_range_and_of_the_stated_shape(name):
    quantizer = ready(name).eval()
    codes = quantizer.encode(latents_for(quantizer))
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 40, len(quantizer.codebook_sizes))
    for column, size in zip(codes.unbind(-1), quantizer.codebook_sizes, strict=True):
        assert 0 <= column.min() and column.max() < size


def test_encoding_what_was_decoded_changes_nothing(name):
    quantizer = ready(name).eval()
    codes = quantizer.encode(latents_for(quantizer))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_vectors_of_the_codes_add_up(name):
    quantizer = ready(name).eval()
    if not isinstance(quantizer, TrainedQuantizer):
        pytest.skip("vectors side by side, not a sum")
    codes = quantizer.encode(latents_for(quantizer))
    total = quantizer.embed(codes).sum(2)
    torch.testing.assert_close(total, quantizer.decode(codes))


@pytest.mark.parametrize("training", [True, False])
def test_padding_counts_in_nothing(name, training):
    """Whatever the padding holds: same codes, losses, usage and learned state."""
    original = ready(name)
    latents = latents_for(original, batch=1)
    short, lens = latents[:, :25], torch.tensor([25 / 40])
    results = []
    for inputs, given in (
        (short, None),
        (latents, lens),
        (torch.cat([short, latents[:, 25:] * 100 - 7], dim=1), lens),
    ):
        quantizer = copy.deepcopy(original).train(training)
        torch.manual_seed(1)
        results.append((quantizer(inputs, given), state(quantizer)))
    (expected, state_expected), *others = results
    for found, found_state in others:
        assert torch.equal(found.codes[:, :25], expected.codes)
        torch.testing.assert_close(found.quantized[:, :25], expected.quantized)
        assert set(found.losses) == set(expected.losses)
        for key in expected.losses:
            torch.testing.assert_close(found.losses[key], expected.losses[key])
        for one, other in zip(found.usage, expected.usage, strict=True):
            assert torch.equal(one, other)
        for key in state_expected:
            torch.testing.assert_close(found_state[key], state_expected[key])


def test_the_order_of_the_batch_changes_nothing(name):
    quantizer = ready(name).eval()
    latents = latents_for(quantizer, batch=4)
    order = torch.tensor([2, 0, 3, 1])
    codes = quantizer.encode(latents)
    assert torch.equal(quantizer.encode(latents[order]), codes[order])
    alone = [quantizer.encode(item[None])[0] for item in latents]
    assert torch.equal(torch.stack(alone), codes)


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_reaches_the_encoder(name, training):
    quantizer = ready(name).train(training)
    latents = latents_for(quantizer).requires_grad_()
    result = quantizer(latents)
    weights = torch.randn(result.quantized.shape, generator=torch.manual_seed(2))
    (result.quantized * weights).sum().backward()
    assert latents.grad.isfinite().all()
    assert (latents.grad.abs().amax((0, 1)) > 0).all()


@pytest.mark.parametrize("how", ["eval", "frozen"])
def test_evaluation_and_freezing_change_nothing(name, how):
    quantizer = ready(name)
    if how == "eval":
        quantizer.eval()
    else:
        quantizer.train().freeze()
    before = state(quantizer)
    latents = latents_for(quantizer, seed=5).mul(3).requires_grad_()
    for _ in range(3):
        result = quantizer(latents, torch.tensor([1.0, 0.5]))
        loss = result.quantized.sum() + sum(result.losses.values())
        if how == "frozen" and loss.requires_grad:
            loss.backward()
            assert all(p.grad is None for p in quantizer.parameters())
    assert same_state(before, state(quantizer))


def test_a_fresh_quantizer_in_evaluation_mode_does_not_start(name):
    quantizer = CASES[name]().eval()
    before = state(quantizer)
    quantizer(latents_for(quantizer))
    assert same_state(before, state(quantizer))


def test_the_first_training_pass_starts_every_codebook(name):
    quantizer = CASES[name]().train()
    books = [m for m in quantizer.modules() if isinstance(m, Codebook)]
    assert not any(book.is_started for book in books)
    quantizer(latents_for(quantizer), n_codebooks=1 if books else None)
    assert all(book.is_started and book.initialised for book in books)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_code(name, dtype):
    quantizer = ready(name)
    latents = latents_for(quantizer, batch=4, frames=100)
    plain = copy.deepcopy(quantizer).eval()(latents)
    trained = copy.deepcopy(quantizer)
    torch.manual_seed(3)
    trained(latents)
    with torch.autocast("cpu", dtype=dtype):
        evaluated = copy.deepcopy(quantizer).eval()
        assert torch.equal(evaluated.encode(latents), plain.codes)
        assert torch.equal(evaluated(latents).codes, plain.codes)
        assert torch.equal(evaluated(latents).quantized, plain.quantized)
        torch.manual_seed(3)
        quantizer.train()(latents)
    assert same_state(state(quantizer), state(trained.train()))


def test_reloading_gives_the_same_codes_and_does_not_start_again(name):
    quantizer = ready(name)
    torch.manual_seed(4)
    other = CASES[name]()
    other.load_state_dict(quantizer.state_dict())
    latents = latents_for(quantizer, seed=6) * 2 + 1
    codes = copy.deepcopy(quantizer).eval().encode(latents)
    assert torch.equal(copy.deepcopy(other).eval().encode(latents), codes)
    for each in (quantizer, other):
        torch.manual_seed(5)
        each.train()(latents)
    assert same_state(state(quantizer), state(other))


def test_a_killed_code_lives_again(name):
    quantizer = ready(name).train()
    books = [m for m in quantizer.modules() if isinstance(m, Codebook)]
    if not books:
        pytest.skip("holds no codebook that could die")
    steps = max(book.steps_to_revive for book in books)
    # The last code can't win: too far, or a double (of equals the first wins).
    far = 1e4
    with torch.no_grad():
        for book in books:
            dead = far if book.metric == "euclidean" else book.vectors[0].clone()
            book.vectors[-1] = dead
            book.counts[-1] = book.counts[:-1].mean()
            if hasattr(book, "sums"):
                book.sums[-1] = book.vectors[-1] * book.counts[-1]
    killed = [book.vectors[-1].clone() for book in books]
    for step in range(steps):
        quantizer(latents_for(quantizer, batch=4, seed=step))
    for book, vector in zip(books, killed, strict=True):
        assert not torch.allclose(book.vectors[-1], vector, rtol=0.05)
        assert book.vectors[-1].abs().max() < far / 100
        assert book.counts[-1] >= book.revive_below * book.counts.mean()
        if hasattr(book, "sums"):  # a further average must not take it back
            assert (book.sums[-1] / book.counts[-1]).abs().max() < far / 100


def test_the_code_is_the_nearest_by_brute_force(name):
    if name not in NEAREST:
        pytest.skip("not one codebook with Euclidean distance")
    quantizer = ready(name).eval()
    latents = latents_for(quantizer)
    codes = quantizer.encode(latents)[..., 0].flatten()
    every = torch.arange(quantizer.codebook_sizes[0])[None, :, None]
    vectors = quantizer.decode(every)[0].double()
    for frame, code in zip(latents.flatten(0, 1).double(), codes, strict=True):
        distances = (vectors - frame).square().sum(1)
        assert distances[code] <= distances.min() + 1e-9


def test_fewer_codebooks_are_the_first_ones(name):
    quantizer = ready(name)
    latents = latents_for(quantizer)
    full = copy.deepcopy(quantizer).eval().encode(latents)
    for keep in range(1, full.shape[-1] + 1):
        codes = copy.deepcopy(quantizer).eval().encode(latents, n_codebooks=keep)
        assert torch.equal(codes, full[..., :keep])


def test_training_and_evaluation_agree_on_fewer_codebooks(name):
    quantizer = ready(name)
    latents = latents_for(quantizer)
    total = len(quantizer.codebook_sizes)
    for keep in {1, (total + 1) // 2, total}:
        in_training = copy.deepcopy(quantizer).train()(latents, n_codebooks=keep)
        in_evaluation = copy.deepcopy(quantizer).eval()(latents, n_codebooks=keep)
        assert in_training.codes.shape == (2, 40, keep)
        assert torch.equal(in_training.codes, in_evaluation.codes)
        torch.testing.assert_close(in_training.quantized, in_evaluation.quantized)
        assert in_training.quantized.shape == latents.shape
        assert len(in_training.usage) == keep
    for wrong in (0, total + 1):
        with pytest.raises(DsuError, match=f"n_codebooks={wrong}"):
            quantizer.encode(latents, n_codebooks=wrong)


def test_the_error_falls_with_every_codebook(name):
    if name not in RESIDUAL:
        pytest.skip("codebooks do not refine one another")
    quantizer = ready(name, steps=20).eval()
    latents = latents_for(quantizer, batch=4, seed=10)
    errors = []
    for keep in range(1, len(quantizer.codebook_sizes) + 1):
        quantized = quantizer(latents, n_codebooks=keep).quantized
        errors.append((quantized - latents).square().mean())
    assert all(b <= a for a, b in zip(errors, errors[1:], strict=False)), errors


def test_usage_counts_valid_frames(name):
    quantizer = ready(name).eval()
    usage = quantizer(latents_for(quantizer), torch.tensor([1.0, 0.25])).usage
    assert [len(counts) for counts in usage] == list(quantizer.codebook_sizes)
    assert all(counts.sum() == 50 for counts in usage)


def test_nothing_of_the_caller_is_changed(name):
    quantizer = ready(name).train()
    latents, lens = latents_for(quantizer), torch.tensor([1.0, 0.5])
    before = latents.clone()
    quantizer(latents, lens)
    quantizer.encode(latents)
    assert torch.equal(latents, before)
    assert torch.equal(lens, torch.tensor([1.0, 0.5]))


def test_same_seed_same_result(name):
    assert same_state(state(ready(name)), state(ready(name)))


def test_every_tensor_moves_with_the_module(name):
    quantizer = ready(name)
    quantizer(latents_for(quantizer))
    quantizer.to("meta")
    for module in quantizer.modules():
        left = [key for key, value in vars(module).items() if torch.is_tensor(value)]
        assert not left, (type(module).__name__, left)
    tensors = [*quantizer.parameters(), *quantizer.buffers()]
    assert all(tensor.is_meta for tensor in tensors)


def test_an_empty_batch_is_no_accident(name):
    quantizer = ready(name)
    for training in (True, False):
        quantizer.train(training)
        result = quantizer(torch.zeros(1, 0, quantizer.dim))
        assert result.quantized.shape == (1, 0, quantizer.dim)
        assert all(torch.isfinite(loss) for loss in result.losses.values())
    assert all(v.isfinite().all() for v in state(quantizer).values())


def test_a_wrong_dimension_is_named(name):
    quantizer = CASES[name]()
    with pytest.raises(DsuError, match=rf"\[batch, frames, {quantizer.dim}\]"):
        quantizer(torch.zeros(1, 2, quantizer.dim + 1))


def test_exceptions_name_laws_and_cases():
    laws = {key.removeprefix("test_") for key in vars(sys.modules[__name__])}
    assert set(EXCEPT) <= laws, set(EXCEPT) - laws
    named = {name for law in EXCEPT.values() for name in law}
    assert (named | NEAREST | RESIDUAL) <= set(CASES)
