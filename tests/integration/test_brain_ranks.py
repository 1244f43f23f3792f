"""Codecs and self-supervised models on two ranks: one training, and nobody waits."""

from functools import partial

import pytest
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils.checkpoints import Checkpointer

from helpers.ranks import RUN_OPTS, on_two_ranks
from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.training_data import SpeechSegments
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.lobes.codec import Codec
from speechbrain_dsu.lobes.discriminators.base import Discriminators
from speechbrain_dsu.lobes.discriminators.period import PeriodDiscriminator
from speechbrain_dsu.lobes.discriminators.stft import STFTDiscriminator
from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
from speechbrain_dsu.lobes.encoders.level_frames import LevelFrames
from speechbrain_dsu.lobes.features import MFCC
from speechbrain_dsu.lobes.vocoders.vocos import VocosDecoder
from speechbrain_dsu.nnet.losses.balancer import LossBalancer
from speechbrain_dsu.nnet.losses.spectral import SpectralLoss
from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.tokenizers.features import FeatureTokenizer
from speechbrain_dsu.tokenizers.layers import layer_units
from speechbrain_dsu.training.augment import LevelMixColour
from speechbrain_dsu.training.codec import CodecBrain
from speechbrain_dsu.training.ssl import SSLBrain, pretrain
from speechbrain_dsu.training.systems import build_system
from speechbrain_dsu.utils.paths import bundles_dir

CLIP = str(bundles_dir() / "speech.wav")
SMALL = {"channels": 16, "hidden": 16, "layers": 1}
BODY = {"dim": 16, "layers": 2, "heads": 2, "ffn": 32, "positions": 8}
BODY |= {"position_groups": 4}
# Joined batches of four, of which each rank has two in a row.
SHARES = {0: [0, 1, 4, 5], 1: [2, 3, 6, 7], None: range(8)}


def items(count=8):
    return [AudioItem(f"clip{i}", CLIP) for i in range(count)]


def loader(rank):
    """In this order: SpeechBrain's own loader of a rank shuffles, asked or not."""
    data = SpeechSegments(items(), 16000, segment_seconds=0.25)
    size = 4 if rank is None else 2
    return make_dataloader(data, batch_size=size, sampler=SHARES[rank])


def run_opts(rank):
    return {"device": "cpu", "noprogressbar": True} if rank is None else RUN_OPTS


def state(brain):
    """Weights and buffers by name, with or without a wrapper, and the averages."""
    found = {}
    for name, module in brain.modules.items():
        module = getattr(module, "module", module)
        found |= {f"{name}.{k}": v.clone() for k, v in module.state_dict().items()}
    if brain.ema is not None:
        found |= {f"ema.{k}": v.clone() for k, v in brain.ema.state_dict().items()}
    return found


def codec_and_judges(rank):
    # Ranks that were seeded differently must agree from the first step on.
    torch.manual_seed(rank or 0)
    codec = Codec(
        ConvNextEncoder(LevelFrames(phase_bins=0, n_mels=20), dim=4, **SMALL),
        ResidualVQ(2, 16, 4, decay=0.8),
        VocosDecoder(4, **SMALL, fine_layers=1),
    )
    judges = [PeriodDiscriminator([2], [4, 4]), STFTDiscriminator([256], 2)]
    return {"codec": codec, "discriminator": Discriminators(judges)}


def train_codec(rank, weights, optimizer, epochs, data, valid=None, **options):
    brain = CodecBrain(
        codec_and_judges(rank),
        optimizer,
        run_opts=run_opts(rank),
        reconstruction=[SpectralLoss(16000, [256], ["log_mel"], n_mels=20)],
        loss_weights=weights,
        **{"discriminator_opt": optimizer, "ema_decay": 0.9, **options},
    )
    brain.fit(epochs, data, valid, train_loader_kwargs={"batch_size": 2})
    return brain


def plain_codec(rank, folder=None):
    """Nothing random and no term that is a ratio over the batch: features count 0."""
    slow, fast = (partial(torch.optim.SGD, lr=lr, momentum=0.5) for lr in (0.02, 2.0))
    weights = {"log_mel": 1.0, "commitment": 0.25, "adversarial": 0.5, "features": 0.0}
    judging = {"adversarial_from": 1, "discriminator_opt": fast}
    return state(train_codec(rank, weights, slow, 2, loader(rank), **judging))


def whole_codec(rank, folder):
    """Everything: raw latents first, balancer, dropout of codebooks, augmentation."""
    data, valid = (SpeechSegments(items(n), 16000, 0.25) for n in (8, 2))
    shares = {"log_mel": 1.0, "adversarial": 1.0, "features": 1.0}
    brain = train_codec(
        rank,
        {"commitment": 0.25},
        partial(torch.optim.AdamW, lr=2e-3),
        3,
        data,
        valid,
        balancer=LossBalancer(shares),
        augment=LevelMixColour(mix=0.5, colour=0.5),
        quantize_from=1,
        adversarial_from=3,
        checkpointer=Checkpointer(folder / "save"),
    )
    numbers = {k: torch.tensor(v) for k, v in brain.stats["valid"].items()}
    return {**state(brain), **numbers, "steps": torch.tensor(brain.optimizer_step)}


def apc(rank, folder=None):
    """APC draws nothing: no masks, no dropout."""
    torch.manual_seed(rank or 0)
    small = {"encoder": {"body": {"dim": 16, "n_layers": 1}}}
    system = build_system(flatten_yaml, "systems/ssl/apc.yaml", small)
    brain = SSLBrain(
        system["modules"],
        partial(torch.optim.SGD, lr=0.1, momentum=0.5),
        run_opts=run_opts(rank),
        loss_weights=system["loss_weights"],
        ema_decay=0.9,
    )
    brain.fit(2, loader(rank))
    return state(brain)


def hubert(rank, folder):
    """Two iterations: k-means, labels and training shared by the ranks."""

    def build(overrides, file):
        small = {"n_units": 6, "encoder": {"transformer": BODY}, **overrides}
        return build_system(flatten_yaml, "systems/ssl/hubert_units.yaml", small)

    iterations = [
        {"labels": FeatureTokenizer(MFCC(), KMeans(size=6, dim=39)), "epochs": 2},
        {"labels": partial(layer_units, layers=[1], n_units=6), "epochs": 1},
    ]
    system = pretrain(
        build,
        items(),
        items(2),
        folder,
        iterations,
        run_opts=RUN_OPTS,
        opt_class=partial(torch.optim.AdamW, lr=3e-3),
        data={"segment_seconds": 1.0},
        batch_seconds=2.0,
        ema_decay=0.9,
    )
    return dict(system["modules"]["objective"].state_dict())


def alike(one, other):
    assert one.keys() == other.keys() and len(one) > 10
    assert [k for k in one if not torch.equal(one[k], other[k])] == []


@pytest.mark.parametrize("job", [plain_codec, apc], ids=lambda job: job.__name__)
def test_two_ranks_learn_what_one_learns_from_the_joined_batch(job, tmp_path):
    first, second = on_two_ranks(job, tmp_path)
    alike(first, second)
    expected = job(None)
    assert expected.keys() == first.keys()
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)


def test_the_trainings_move_all_their_parts():
    """All that is compared above has moved by more than the comparison allows."""
    after = plain_codec(None)
    for part, module in codec_and_judges(None).items():
        for name, value in module.state_dict().items():
            change = after[f"{part}.{name}"].float() - value.float()
            moved = change.abs().max() > 2e-5
            learns = name.endswith(("weight", "original1", "vectors"))
            assert moved or not learns, f"{part}.{name}"


def test_a_whole_codec_training_is_one_on_both_ranks(tmp_path):
    first, second = on_two_ranks(whole_codec, tmp_path)
    alike(first, second)
    assert int(first["steps"]) == 6 and bool(first["log_mel"].isfinite())


def test_hubert_on_two_ranks_is_one_training(tmp_path):
    alike(*on_two_ranks(hubert, tmp_path, limit=200))
