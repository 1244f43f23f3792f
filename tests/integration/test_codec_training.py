"""Codecs are trained: they learn, go on where they stopped, can be tuned further."""

import math
from functools import partial

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.training_data import SpeechSegments
from speechbrain_dsu.lobes.codec import Codec
from speechbrain_dsu.lobes.discriminators.base import Discriminators
from speechbrain_dsu.lobes.discriminators.period import PeriodDiscriminator
from speechbrain_dsu.lobes.discriminators.stft import STFTDiscriminator
from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
from speechbrain_dsu.lobes.encoders.level_frames import LevelFrames
from speechbrain_dsu.lobes.vocoders.vocos import VocosDecoder
from speechbrain_dsu.nnet.losses.balancer import LossBalancer
from speechbrain_dsu.nnet.losses.levels import LevelLoss
from speechbrain_dsu.nnet.losses.spectral import SpectralLoss
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.training.augment import LevelMixColour
from speechbrain_dsu.training.codec import CodecBrain
from speechbrain_dsu.training.schedules import warmup_cosine
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

CLIP = AudioItem("clip", str(bundles_dir() / "speech.wav"))
SMALL = {"channels": 16, "hidden": 16, "layers": 1}
ADVERSARIAL = {"adversarial": 1.0, "features": 1.0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_codec(dropout=0.5):
    torch.manual_seed(0)
    return Codec(
        ConvNextEncoder(LevelFrames(phase_bins=0, n_mels=20), dim=4, **SMALL),
        ResidualVQ(2, 16, 4, dropout=dropout),
        VocosDecoder(4, **SMALL, fine_layers=1),
    )


def small_judges():
    torch.manual_seed(1)
    return Discriminators(
        [PeriodDiscriminator([2], [4, 4]), STFTDiscriminator([256], 2)]
    )


def adamw(rate):
    return partial(torch.optim.AdamW, lr=rate, betas=(0.8, 0.95))


def make(folder=None, judges=True, codec=None, **options):
    modules = {"codec": codec or small_codec(options.pop("dropout", 0.5))}
    weights = {"log_mel": 1.0, "commitment": 0.25}
    if judges:
        modules["discriminator"] = small_judges()
        weights |= ADVERSARIAL
        options = {
            "discriminator_opt": adamw(1e-3),
            "discriminator_scheduler": warmup_cosine(20),
            **options,
        }
    options = {"loss_weights": weights, **options}
    return CodecBrain(
        modules,
        adamw(5e-3),
        run_opts={"device": "cpu", "noprogressbar": True},
        checkpointer=None if folder is None else Checkpointer(folder),
        reconstruction=[SpectralLoss(16000, [256], ["log_mel"], n_mels=20)],
        scheduler=warmup_cosine(20, floor=0.1),
        **options,
    )


def data(copies=4, seconds=0.25):
    items = [AudioItem(f"clip{i}", CLIP.path) for i in range(copies)]
    return SpeechSegments(items, 16000, segment_seconds=seconds)


def fit(brain, epochs, limit=None, valid=None):
    brain.optimizer_step_limit = limit
    loading = {"batch_size": 2, "shuffle": True}
    brain.fit(epochs, data(), valid, train_loader_kwargs=loading)
    return brain


def state(brain):
    return {
        f"{name}.{key}": value.clone()
        for name, module in brain.modules.items()
        for key, value in module.state_dict().items()
    }


def differing(one, other):
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def test_a_stopped_adversarial_training_goes_on_bit_for_bit(tmp_path):
    """Warm-up, balancer, augmentation, averaging, both optimisers and schedules."""

    def brain(folder):
        return make(
            folder,
            quantize_from=2,
            adversarial_from=4,
            ema_decay=0.9,
            augment=LevelMixColour(mix=0.5, colour=0.5),
            balancer=LossBalancer({"log_mel": 1.0, **ADVERSARIAL}),
            loss_weights={"commitment": 0.25},
        )

    torch.manual_seed(7)
    whole = fit(brain(tmp_path / "whole"), 4)
    torch.manual_seed(7)
    fit(brain(tmp_path / "parts"), 3)
    resumed = fit(brain(tmp_path / "parts"), 4)
    assert whole.optimizer_step == resumed.optimizer_step == 8
    assert differing(state(whole), state(resumed)) == []
    # The discriminators' schedule begins when they do.
    for name, steps in {"codec": 8, "judges": 4}.items():
        scheduler = whole.schedulers_dict[name]
        assert scheduler.last_epoch == steps
        assert scheduler.state_dict() == resumed.schedulers_dict[name].state_dict()
    first = {k: v for k, v in state(make()).items() if "discriminator" in k}
    assert len(differing(first, {k: state(whole)[k] for k in first})) > 4


def test_discriminators_wait_and_the_codec_never_moves_them():
    brain = make(adversarial_from=2)
    judges = brain.modules.discriminator
    before = [p.clone() for p in judges.parameters()]
    fit(brain, 1)  # two steps
    assert all(
        torch.equal(a, b) for a, b in zip(before, judges.parameters(), strict=True)
    )
    assert "adversarial" not in brain.stats["train"]
    # With their own learning rate at zero, the codec's losses alone must not move them.
    brain = make(discriminator_opt=adamw(0.0))
    judges = brain.modules.discriminator
    before = [p.clone() for p in judges.parameters()]
    fit(brain, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(before, judges.parameters(), strict=True)
    )
    assert {"adversarial", "features", "discriminator"} <= set(brain.stats["train"])
    assert all(p.requires_grad for p in judges.parameters())


def test_tuning_begins_at_the_released_loss(tmp_path):
    """The other run's averaged weights, its discriminators and optimisers."""
    first = fit(make(tmp_path / "a", dropout=0.0, ema_decay=0.5), 2, valid=data(2))
    released = first.stats["valid"]["loss"]
    second = make(
        tmp_path / "b", dropout=0.0, ema_decay=0.5, finetune_from=tmp_path / "a"
    )
    second.on_fit_start()
    assert second.optimizer_step == 0
    with torch.no_grad():
        # Not in evaluation mode: as the first step of training sees it.
        loader = second.make_dataloader(data(2), None, None, batch_size=1)
        losses = []
        for batch in loader:
            second.modules.eval()
            outputs = second.compute_forward(batch, None)
            losses.append(float(second.compute_objectives(outputs, batch, None)))
    assert sum(losses) / len(losses) == pytest.approx(released, rel=1e-4)
    judges = [b.modules.discriminator.state_dict() for b in (first, second)]
    assert differing(*judges) == []
    moments = [
        next(iter(b.optimizers_dict["judges"].state.values()))["exp_avg"]
        for b in (first, second)
    ]
    assert torch.equal(*moments)
    with pytest.raises(DsuError, match="no such folder"):
        make(finetune_from=tmp_path / "nowhere").on_fit_start()


def test_a_term_that_is_not_a_number_is_named_and_changes_nothing():
    class Broken(torch.nn.Module):
        def forward(self, estimate, target, lens):
            return {"broken": estimate.sum() * math.nan}

    brain = make(
        judges=False, loss_weights={"log_mel": 1.0, "commitment": 0.1, "broken": 1.0}
    )
    brain.reconstruction.append(Broken())
    brain.guard.patience = 0
    before = [p.clone() for p in brain.modules.parameters()]
    with pytest.raises(DsuError, match="'broken' is nan.* for clip"):
        fit(brain, 1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, brain.modules.parameters(), strict=True)
    )


def test_validation_measures_fewer_codebooks():
    brain = make(judges=False, depths=[1])
    fit(brain, 1, valid=data(2))
    codec, found = brain.modules.codec.eval(), brain.stats["valid"]
    part, expected = brain.reconstruction[0], {1: [], 2: []}
    with torch.no_grad():
        for item in (data(2)[0], data(2)[1]):
            wav = item["wav"][None]
            for depth, values in expected.items():
                audio = codec(wav, n_codebooks=depth).audio
                values.append(float(part(audio, wav)["log_mel"]))
    for name, values in (("log_mel@1", expected[1]), ("log_mel", expected[2])):
        assert found[name] == pytest.approx(sum(values) / 2, rel=1e-4)


NARROW = {"channels": 32, "hidden": 32, "layers": 1}
TINY = {
    "speechtokenizer": {"n_filters": 4, "dim": 16, "teacher_dim": 6},
    "vq_vae": {"n_filters": 4},
    "neucodec": {"dim": 16, "channels": 32},
    "codec_16k": {"encoder": NARROW, "decoder": NARROW},
    "codec_1k": {"encoder": NARROW, "decoder": NARROW},
}
STEPS = {"vq_vae": 50, "codec_1k": 60}


def tiny_system(name):
    path = hparams_dir() / "systems" / "codecs" / f"{name}.yaml"
    with open(path, encoding="utf-8") as file:
        return load_hyperpyyaml(file, TINY[name])


@pytest.mark.parametrize("name", TINY)
def test_every_system_learns(name):
    """A clip is learnt: the loss falls clearly and codes differ from frame to frame."""
    torch.manual_seed(0)
    system = tiny_system(name)
    codec = system["codec"]
    modules, weights = {"codec": codec}, {}
    if hasattr(codec.decoder, "levels"):
        frames = LevelFrames(phase_bins=0, n_mels=80, floor=1e-5, causal=False)
        parts, weights["levels"] = [LevelLoss(frames)], 1.0
    else:
        parts = [SpectralLoss(16000, [256, 1024], ["log_mel"], n_mels=[20, 80])]
        weights["log_mel"] = 1.0
    if name not in ("neucodec", "codec_1k"):
        weights["commitment"] = 0.1
    if "distillation" in system:
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(320, system["teacher_dim"], generator=generator)

        class Teacher(torch.nn.Module):
            def forward(self, wavs, counts):
                return wavs.unfold(1, 320, 320).abs() @ basis

        modules |= {"distillation": system["distillation"], "teacher": Teacher()}
        weights["distillation"] = 1.0
    brain = CodecBrain(
        modules,
        adamw(5e-3),
        run_opts={"device": "cpu", "noprogressbar": True},
        reconstruction=parts,
        loss_weights=weights,
    )
    losses = []
    brain.on_fit_batch_end = lambda batch, outputs, loss, step: losses.append(
        {k: float(v.detach()) for k, v in {**outputs.losses, "sum": loss}.items()}
    )
    heard = data(4, seconds=0.4)
    brain.fit(STEPS.get(name, 20), heard, train_loader_kwargs={"batch_size": 4})
    main = next(iter(weights))
    first = sum(loss[main] for loss in losses[:2]) / 2
    last = sum(loss[main] for loss in losses[-4:]) / 4
    assert last < 0.8 * first, (first, last)
    if "distillation" in system:
        assert losses[-1]["distillation"] < losses[0]["distillation"]
    tokens = system["tokenizer"].eval().encode(heard[0]["wav"][None])
    assert len(tokens.codes[0].unique(dim=0)) > 3
