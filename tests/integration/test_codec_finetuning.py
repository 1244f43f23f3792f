"""Released codecs are tuned further: from a bundle, from what a run exports."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.training_data import SpeechSegments
from speechbrain_dsu.inference import UnitTokenizer, save_bundle
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.loading import load_yaml
from speechbrain_dsu.lobes.discriminators.base import Discriminators
from speechbrain_dsu.lobes.discriminators.period import PeriodDiscriminator
from speechbrain_dsu.lobes.encoders.level_frames import LevelFrames
from speechbrain_dsu.nnet.losses.levels import LevelLoss
from speechbrain_dsu.nnet.losses.spectral import SpectralLoss
from speechbrain_dsu.training.codec import CodecBrain
from speechbrain_dsu.training.codec_recipe import starting_point, train_codec
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

CLIP = str(bundles_dir() / "speech.wav")
CPU = {"device": "cpu", "noprogressbar": True}
LICENCE = {"code": "Apache-2.0", "weights": "CC0-1.0"}
SHIPPED = hparams_dir() / "systems" / "codecs" / "codec_16k.yaml"
SYSTEM = hparams_dir() / "systems" / "codecs" / "neucodec.yaml"
NARROW = {"hidden": 16, "layers": 1}
SMALL = {"dim": 8, "channels": 16, "encoder": NARROW, "decoder": NARROW}
open_bundle = UnitTokenizer.from_hparams


def levels():
    return LevelFrames(phase_bins=0, floor=1e-5, n_mels=80, causal=False)


def items(count):
    return [AudioItem(f"clip{i}", CLIP) for i in range(count)]


def judges():
    torch.manual_seed(1)
    return Discriminators([PeriodDiscriminator([2], [4, 4])])


def brain_of(codec, folder=None, **options):
    """Adversarial, on spectra."""
    adam = partial(torch.optim.AdamW, lr=2e-3)
    return CodecBrain(
        {"codec": codec, "discriminator": judges()},
        adam,
        run_opts=CPU,
        checkpointer=None if folder is None else Checkpointer(folder),
        reconstruction=[SpectralLoss(16000, [256], ["log_mel"], n_mels=20)],
        loss_weights={"log_mel": 1.0, "adversarial": 0.1, "features": 0.1},
        discriminator_opt=adam,
        ema_decay=0.5,
        **options,
    )


def level_brain(codec, **options):
    """As the shipped codec was trained: on levels alone."""
    return CodecBrain(
        {"codec": codec},
        partial(torch.optim.AdamW, lr=2e-3),
        run_opts=CPU,
        reconstruction=[LevelLoss(levels())],
        loss_weights={"levels": 1.0, "commitment": 0.25},
        ema_decay=0.5,
        **options,
    )


def fit(brain, epochs):
    data, valid = (SpeechSegments(items(n), 16000, 0.5) for n in (4, 2))
    brain.fit(epochs, data, valid, train_loader_kwargs={"batch_size": 2})
    return brain


def first_validation(brain):
    """What the log is told before the first step."""
    told, write = [], brain.log.write

    def listen(meta, *args, **stats):
        told.append((dict(meta), stats))
        write(meta, *args, **stats)

    brain.log.write = listen
    fit(brain, 1)
    meta, stats = told[0]
    assert meta["epoch"] == meta["steps"] == 0 and "train" not in stats
    return stats["valid"]


def loss_of(codec):
    """Of a codec as it is: the validation data by hand, clip after clip."""
    codec, loss = codec.eval(), LevelLoss(levels())
    data, found = SpeechSegments(items(2), 16000, 0.5), []
    with torch.no_grad():
        for index in range(2):
            output = codec(data[index]["wav"][None], None)
            terms = loss(output.levels, data[index]["wav"][None], None)
            found.append(terms["levels"] + 0.25 * output.quantized.losses["commitment"])
    return float(sum(found)) / 2


@pytest.fixture(scope="module")
def small_yaml():
    return flatten_yaml(SYSTEM, SMALL)


def build(text):
    torch.manual_seed(0)
    return load_yaml(text)["tokenizer"]


@pytest.fixture(scope="module")
def run(small_yaml, tmp_path_factory):
    """A finished adversarial run, its bundle, and its training state beside that."""
    root = tmp_path_factory.mktemp("run")
    tokenizer = build(small_yaml)
    brain = fit(brain_of(tokenizer.codec, root / "save"), 3)
    brain.ema.swap()
    save_bundle(tokenizer.eval(), root / "mine", small_yaml, licence=LICENCE, half=True)
    line = ["export", str(root), str(root / "mine-training"), "--training-state"]
    assert main(line) == 0
    return SimpleNamespace(root=root, brain=brain, bundle=root / "mine")


def test_tuning_a_shipped_codec_begins_at_the_released_loss():
    start = starting_point("codec-16k", open_bundle)
    assert start["finetune_from"] is None
    released = open_bundle("codec-16k", run_opts={"device": "cpu"}).mods.tokenizer
    codec = load_yaml(flatten_yaml(SHIPPED))["codec"]
    found = first_validation(level_brain(codec, **start))
    again = level_brain(released.codec.requires_grad_(True))
    again.validate(again.make_dataloader(_valid(), None, None, batch_size=1), 0)
    assert found["loss"] == again.stats["valid"]["loss"]
    assert found["loss"] == pytest.approx(loss_of(released.codec), rel=1e-5)
    assert found["loss"] < 1.0, "an untrained codec has more"


def _valid():
    return SpeechSegments(items(2), 16000, 0.5)


def test_a_state_beside_a_bundle_brings_discriminators_and_optimisers(run, small_yaml):
    start = starting_point(run.bundle, open_bundle)
    assert start["finetune_from"] == run.root / "mine-training"
    brain = brain_of(build(small_yaml).codec, **start)
    brain.on_fit_start()
    released = open_bundle(run.bundle, run_opts={"device": "cpu"}).mods.tokenizer
    for name, tensor in released.codec.state_dict().items():
        # Those of the bundle, which were rounded to half precision.
        assert torch.equal(brain.modules.codec.state_dict()[name], tensor), name
    theirs = run.brain.modules.discriminator.state_dict()
    for name, tensor in brain.modules.discriminator.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    for name, optimizer in brain.optimizers_dict.items():
        pairs = zip(
            optimizer.state.values(),
            run.brain.optimizers_dict[name].state.values(),
            strict=True,
        )
        for ours, other in pairs:
            assert torch.equal(ours["exp_avg"], other["exp_avg"])
            assert float(ours["step"]) > 0


def test_an_exported_state_is_worth_the_run_itself(run, small_yaml, tmp_path):
    """A third party goes on from it exactly as from the run's own folder."""
    folder = tmp_path / "given"
    assert main(["export", str(run.root), str(folder), "--training-state"]) == 0
    names = {path.stem for path in folder.glob("*/*.ckpt")}
    assert names == {"module-codec", "module-discriminator", "codec", "judges", "ema"}
    tuned = []
    for source in (run.root / "save", folder):
        torch.manual_seed(3)
        brain = fit(brain_of(build(small_yaml).codec, finetune_from=source), 1)
        tuned.append({k: v.clone() for k, v in brain.modules.state_dict().items()})
    assert all(torch.equal(tuned[0][name], tuned[1][name]) for name in tuned[0])
    with pytest.raises(DsuError, match="exists"):
        from speechbrain_dsu.training.finetune import export_state

        export_state(run.root / "save", folder)
    for path in folder.glob("*/*.ckpt"):
        torch.load(path, weights_only=True)  # nobody has to run a stranger's pickle


def test_a_run_that_was_tuned_goes_on_where_it_stopped(run, small_yaml, tmp_path):
    """The released weights are taken once: not again after a stop."""

    def tune(folder, epochs):
        torch.manual_seed(3)
        start = starting_point(run.bundle, open_bundle)
        return fit(brain_of(build(small_yaml).codec, folder, **start), epochs)

    whole = tune(tmp_path / "whole", 2).modules.state_dict()
    tune(tmp_path / "parts", 1)
    parts = tune(tmp_path / "parts", 2).modules.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_codec_of_other_settings_is_refused(run, small_yaml):
    start = starting_point(run.bundle, open_bundle)
    other = flatten_yaml(SYSTEM, {**SMALL, "dim": 6})
    with pytest.raises(DsuError, match="released codec does not fit.*size mismatch"):
        brain_of(build(other).codec, released=start["released"]).on_fit_start()
    # Weights of the same sizes that mean something else.
    other = small_yaml.replace("4, 4]", "4, 3]")
    assert other != small_yaml
    with pytest.raises(DsuError, match="these weights and other settings"):
        brain_of(build(other).codec, released=start["released"]).on_fit_start()
    with pytest.raises(DsuError, match="no shipped bundle"):
        starting_point("nowhere/save", open_bundle)


def test_the_tuning_recipe_trains_from_the_shipped_codec(tmp_path):
    from hyperpyyaml import load_hyperpyyaml

    root = Path(__file__).resolve().parents[2] / "recipes" / "Bundles" / "codec"
    path = root / "hparams" / "finetune_codec-16k.yaml"
    given = {"data_folder": "/none", "output_folder": str(tmp_path), "steps": 1}
    with open(path, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, {**given, "batch_items": 2})
    before = open_bundle("codec-16k", run_opts={"device": "cpu"}).mods.tokenizer.codec
    hparams = {**hparams, "run_opts": CPU}
    brain = train_codec(hparams, items(4), items(2), open_bundle)
    after, moved = brain.modules.codec.state_dict(), 0.0
    for name, parameter in before.named_parameters():
        change = (after[name] - parameter).abs().max()
        assert change < 1e-3, f"{name} is not where the released codec was"
        moved = max(moved, float(change))
    assert moved > 0
