"""The shared Brain: exact resumption, clipping, the guard, averages, time budgets."""

from types import SimpleNamespace

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn

from speechbrain_dsu.training.brain import UnitBrain
from speechbrain_dsu.training.steps import clip_gradients, weigh_losses
from speechbrain_dsu.utils.errors import DsuError

CPU = {"device": "cpu"}


class Net(nn.Module):
    """Dropout, a buffer that training moves, a schedule: all that can go astray."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 1)
        self.norm, self.dropout = nn.BatchNorm1d(16), nn.Dropout(0.3)
        self.temperature, self.steps_seen = 1.0, []

    def set_step(self, step):
        self.temperature = 0.9**step
        self.steps_seen.append(step)

    def forward(self, inputs):
        hidden = self.dropout(torch.relu(self.norm(self.first(inputs))))
        return self.last(hidden) * (1 + self.temperature)


class Items(torch.utils.data.Dataset):
    """Items that depend on the epoch, like random crops."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 22

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        inputs = torch.randn(6, generator=generator)
        return inputs, inputs[:3].sum(0, keepdim=True)


class Regression(UnitBrain):
    """Fails on request, and keeps the losses that it saw."""

    fail_at, seen = None, ()

    def compute_forward(self, batch, stage):
        inputs, targets = (part.to(self.device) for part in batch)
        # A random mask, as pretraining has one: in validation too.
        inputs = inputs * (torch.rand_like(inputs) > 0.1)
        error = self.modules.net(inputs) - targets
        terms = {"square": error.square().mean(), "abs": error.abs().mean()}
        self.seen = (*self.seen, terms["square"].item())
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        return SimpleNamespace(losses=terms)


def make(folder=None, brain=Regression, run_opts=None, **options):
    torch.manual_seed(7)
    return brain(
        {"net": Net()},
        options.pop("opt_class", lambda p: torch.optim.AdamW(p, lr=0.01)),
        run_opts={**CPU, **(run_opts or {})},
        checkpointer=None if folder is None else Checkpointer(folder),
        loss_weights={"square": 1.0, "abs": 0.5},
        **options,
    )


def fit(brain, epochs=3, valid=True):
    loader = {"batch_size": 4, "shuffle": True}
    brain.fit(
        epochs,
        Items(),
        Items() if valid else None,
        train_loader_kwargs=dict(loader),
        valid_loader_kwargs={"batch_size": 8},
    )
    return brain


def state(brain):
    found = {f"net.{k}": v for k, v in brain.modules.net.state_dict().items()}
    for key, slot in brain.optimizers_dict["optimizer"].state_dict()["state"].items():
        found |= {f"optimizer.{key}.{name}": value for name, value in slot.items()}
    if brain.ema is not None:
        found |= {f"ema.{k}": v for k, v in brain.ema.state_dict().items()}
    for name, value in found.items():
        found[name] = torch.as_tensor(value).clone()
    return found


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


ONE_CYCLE = {
    "scheduler": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.02, total_steps=40
    ),
    "ema_decay": 0.9,
}


@pytest.mark.parametrize(("stop_at", "accumulate"), [(4, 1), (12, 1), (13, 2), (18, 2)])
def test_stop_and_go_is_the_unbroken_run(tmp_path, accumulate, stop_at):
    opts = {"grad_accumulation_factor": accumulate}
    whole = fit(make(run_opts=opts, **ONE_CYCLE))
    saving = {**opts, "ckpt_interval_steps": 2}
    # 6 batches and 3 of validation an epoch: the stops fall into the first epoch, into
    # the second, into its validation and to the very end of it.
    broken = make(tmp_path, run_opts=saving, **ONE_CYCLE)
    broken.fail_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        fit(broken)
    torch.manual_seed(12345)  # another process has other random numbers
    again = fit(make(tmp_path, run_opts=saving, **ONE_CYCLE))
    assert_same(state(whole), state(again))
    assert whole.optimizer_step == again.optimizer_step
    assert whole.stats == again.stats
    assert again.modules.net.steps_seen[-1] == again.optimizer_step - 1


def test_a_run_depends_on_its_random_numbers():
    # The test above would pass with a model that nothing random enters.
    whole = fit(make())
    torch.manual_seed(3)
    other = make()
    torch.manual_seed(99)
    fit(other)
    assert not torch.equal(
        whole.modules.net.first.weight, other.modules.net.first.weight
    )


def test_checkpointing_changes_nothing(tmp_path):
    saving = {"ckpt_interval_steps": 2}
    assert_same(
        state(fit(make(), epochs=2)),
        state(fit(make(tmp_path, run_opts=saving), epochs=2)),
    )


def test_validation_takes_no_random_numbers_from_training():
    assert_same(state(fit(make())), state(fit(make(), valid=False)))


def test_max_minutes_stops_at_a_checkpoint_and_goes_on(tmp_path):
    whole = fit(make(**ONE_CYCLE), epochs=1)
    # With no time at all every run makes one of the six steps.
    for _ in range(6):
        assert fit(make(tmp_path, max_minutes=0.0, **ONE_CYCLE), epochs=1).stopped
    brain = fit(make(tmp_path, max_minutes=0.0, **ONE_CYCLE), epochs=1)
    assert not brain.stopped
    assert_same(state(whole), state(brain))


def test_every_parameter_group_is_clipped():
    vector = nn.Parameter(torch.zeros(3))
    matrix = nn.Parameter(torch.zeros(3, 3))
    optimizer = torch.optim.SGD([{"params": [vector]}, {"params": [matrix]}], lr=1.0)
    vector.grad, matrix.grad = torch.full((3,), 30.0), torch.full((3, 3), 40.0)
    before = torch.cat([vector.grad, matrix.grad.flatten()]).norm()
    torch.testing.assert_close(clip_gradients(optimizer, 2.0), before)
    after = torch.cat([vector.grad, matrix.grad.flatten()])
    torch.testing.assert_close(after.norm(), torch.tensor(2.0))
    # One norm for all: the direction stays.
    torch.testing.assert_close(after[3] / after[0], torch.tensor(4 / 3))


def test_steps_of_the_brain_are_clipped_with_vectors_apart():
    opts = {"remove_vector_weight_decay": True, "max_grad_norm": 1e-3}
    brain = make(run_opts=opts, opt_class=lambda p: torch.optim.SGD(p, lr=1.0))
    before = [p.detach().clone() for p in brain.modules.net.parameters()]
    fit(brain, epochs=1, valid=False)
    groups = brain.optimizers_dict["optimizer"].param_groups
    assert len(groups) == 2
    moved = [
        (p.detach() - old).norm().item()
        for p, old in zip(brain.modules.net.parameters(), before, strict=True)
    ]
    assert 0 < max(moved) <= 6 * 1e-3 * 1.01, "six steps of length 1e-3 at most"


class Poisoned(Regression):
    """NaN in one term for one batch (or for ever), in the loss or only its gradient."""

    at, forever, where = 4, False, "loss"

    def compute_forward(self, batch, stage):
        outputs = super().compute_forward(batch, stage)
        hit = len(self.seen) >= self.at if self.forever else len(self.seen) == self.at
        if hit and self.where == "loss":
            outputs.losses["abs"] = outputs.losses["abs"] * float("nan")
        elif hit:
            # sqrt'(0) is infinite, times 0: a finite loss with a NaN gradient.
            zero = (self.modules.net.last.weight * 0).sum()
            outputs.losses["abs"] = outputs.losses["abs"] + zero.sqrt()
        return outputs


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights(where, caplog):
    brain = make(brain=Poisoned, ema_decay=0.9)
    brain.where = where
    with caplog.at_level("WARNING"):
        fit(brain, epochs=1, valid=False)
    assert all(bool(p.isfinite().all()) for p in brain.modules.parameters())
    assert all(bool(t.isfinite().all()) for t in brain.ema.buffers())
    assert brain.optimizer_step == 5, "one of six steps is left out"
    named = "loss 'abs' is nan" if where == "loss" else "gradient norm of 'optimizer'"
    assert named in caplog.text and "step is left out" in caplog.text


def test_patience_ends_and_names_term_and_utterances():
    brain = make(brain=Poisoned, run_opts={"nonfinite_patience": 2})
    brain.forever = True
    with pytest.raises(DsuError, match="step 4: loss 'abs' is nan.* for .*: 3 steps"):
        fit(brain, epochs=1, valid=False)
    assert all(bool(p.isfinite().all()) for p in brain.modules.parameters())
    at_once = make(brain=Poisoned, run_opts={"nonfinite_patience": 0})
    with pytest.raises(DsuError, match="step 4"):
        fit(at_once, epochs=1, valid=False)


def test_ids_of_a_batch_are_named():
    from speechbrain.dataio.batch import PaddedBatch

    from speechbrain_dsu.training.guard import NonFiniteGuard, batch_ids

    batch = PaddedBatch(
        [{"id": "x/1", "wav": torch.ones(2)}, {"id": "y", "wav": torch.ones(3)}]
    )
    with pytest.raises(DsuError, match=r"loss 'b' is inf for x/1, y: 1 steps"):
        values = {"a": torch.tensor(1.0), "b": torch.tensor(float("inf"))}
        NonFiniteGuard(0).passes(values, batch_ids(batch), "loss", 9)


def test_a_misspelt_loss_weight_raises_instead_of_dropping_the_term():
    brain = make()
    brain.loss_weights = {"square": 1.0, "asb": 0.5}
    with pytest.raises(DsuError, match="no weight for abs; no term asb"):
        fit(brain, epochs=1)
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert weigh_losses(terms, None) == 5 and weigh_losses(terms, {"a": 0, "b": 2}) == 6


def test_averages_are_evaluated_and_the_weights_come_back():
    brain = make(ema_decay=0.8)
    slow = None

    class Watch(Regression):
        def optimizers_step(self):
            nonlocal slow
            super().optimizers_step()
            weight = self.modules.net.first.weight.detach().clone()
            if slow is None:
                slow = first
            decay = min(0.8, (1 + self.optimizer_step) / (10 + self.optimizer_step))
            slow = decay * slow + (1 - decay) * weight

        def evaluate_batch(self, batch, stage):
            torch.testing.assert_close(self.modules.net.first.weight, slow)
            return super().evaluate_batch(batch, stage)

    brain = make(brain=Watch, ema_decay=0.8)
    first = brain.modules.net.first.weight.detach().clone()
    fit(brain, epochs=2)
    raw = brain.modules.net.first.weight.detach().clone()
    assert not torch.allclose(raw, slow)
    with brain.averaged():
        torch.testing.assert_close(brain.modules.net.first.weight, slow)
    assert torch.equal(raw, brain.modules.net.first.weight)


def test_the_best_and_the_last_checkpoint_are_kept(tmp_path):
    class Script(Regression):
        losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0}

        def end_epoch(self, epoch):
            self.stats["valid"]["loss"] = self.losses[epoch]
            super().end_epoch(epoch)

    fit(make(tmp_path, brain=Script), epochs=4)
    kept = Checkpointer(tmp_path).list_checkpoints()
    assert sorted(one.meta["epoch"] for one in kept) == [2, 4]


def test_one_line_an_epoch_with_terms_and_codebooks(caplog):
    class Coded(Regression):
        def compute_forward(self, batch, stage):
            outputs = super().compute_forward(batch, stage)
            outputs.stats = {"accuracy": torch.tensor(0.25)}
            outputs.usage = [torch.tensor([40, 0, 0, 0])]
            return outputs

    with caplog.at_level("INFO", logger="speechbrain_dsu"):
        fit(make(brain=Coded), epochs=2)
    lines = [r.message for r in caplog.records if r.name.endswith("epoch_log")]
    assert len(lines) == 2
    for wanted in ("epoch 2", "train: loss", "valid: loss", "square", "accuracy 0.25"):
        assert wanted in lines[1]
    assert "ALARM codebook 0: collapsed" in lines[1] and "norm optimizer" in lines[1]


def test_bf16_trains():
    brain = fit(make(run_opts={"precision": "bf16"}), epochs=1)
    assert brain.modules.net.first.weight.dtype == torch.float32
    assert brain.optimizer_step == 6
