"""SpeechTokenizer's first codebook is taught by a frozen self-supervised model."""

from functools import partial

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.training_data import SpeechSegments
from speechbrain_dsu.inference import UnitTokenizer
from speechbrain_dsu.lobes.ssl import LayerMean, SSLLayers
from speechbrain_dsu.nnet.losses.distillation import cosine_distillation
from speechbrain_dsu.nnet.losses.spectral import SpectralLoss
from speechbrain_dsu.training.codec import CodecBrain
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

CLIP = str(bundles_dir() / "speech.wav")
CPU = {"device": "cpu", "noprogressbar": True}
WEIGHTS = {"log_mel": 1.0, "commitment": 0.1, "distillation": 1.0}


def shipped_teacher():
    return UnitTokenizer.from_hparams("ssl-k100", run_opts={"device": "cpu"}).features


def hubert_teacher():
    """As the recipe's README has it, with random weights and few channels."""
    transformers = pytest.importorskip("transformers")
    from speechbrain_dsu.integrations.transformers.ssl import TransformersEncoder

    config = transformers.HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    torch.manual_seed(0)
    encoder = TransformersEncoder(config.to_dict(), normalize=False)
    return LayerMean(encoder, layers=[0, 1, 2])


def tiny(teacher):
    path = hparams_dir() / "systems" / "codecs" / "speechtokenizer.yaml"
    sizes = {"n_filters": 4, "dim": 16, "teacher_dim": teacher.dim}
    torch.manual_seed(0)
    with open(path, encoding="utf-8") as file:
        return load_hyperpyyaml(file, sizes)


def brain_of(system, teacher, **options):
    modules = {"codec": system["codec"], "teacher": teacher}
    modules["distillation"] = system["distillation"]
    return CodecBrain(
        modules,
        partial(torch.optim.AdamW, lr=5e-3),
        run_opts=CPU,
        reconstruction=[SpectralLoss(16000, [256], ["log_mel"], n_mels=20)],
        loss_weights=WEIGHTS,
        **options,
    )


@pytest.mark.parametrize("make", [shipped_teacher, hubert_teacher])
def test_a_codec_trains_beside_a_frozen_teacher(make):
    teacher = make()
    system = tiny(teacher)
    brain = brain_of(system, teacher, quantize_from=2)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    terms = []
    brain.on_fit_batch_end = lambda batch, outputs, loss, step: terms.append(
        {name: float(value.detach()) for name, value in outputs.losses.items()}
    )
    items = [AudioItem(f"clip{i}", CLIP) for i in range(4)]
    data = SpeechSegments(items, 16000, segment_seconds=0.6)
    brain.fit(30, data, train_loader_kwargs={"batch_size": 4})
    # Latents that are not quantized yet have no first codebook.
    assert "distillation" not in terms[1]
    found = [term["distillation"] for term in terms[2:]]
    assert all(0.3132 < value < 1.3133 for value in found), "outside the loss's range"
    if make is hubert_teacher:  # thirty steps do not show it with the shipped encoder
        assert sum(found[-4:]) < 0.9 * sum(found[:4]), found
    assert all(torch.equal(teacher.state_dict()[k], v) for k, v in before.items())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.encoder.training


def test_the_loss_in_a_training_is_that_of_the_definition():
    """Padded items, from the waveform on: frames of teacher and codec by hand."""
    teacher = shipped_teacher()
    system = tiny(teacher)
    codec, distil = system["codec"].eval(), system["distillation"]
    brain = brain_of(system, teacher)
    torch.manual_seed(1)
    wavs, lens = 0.1 * torch.randn(2, 9600), torch.tensor([1.0, 0.5])
    wavs[1, 4800:] = 7.0  # nothing of it may be heard
    with torch.no_grad():
        output = codec(wavs, lens)
        found = brain._distil(output, wavs, lens)["distillation"]
        columns = []
        for index, size in enumerate((9600, 4800)):
            frames = teacher(wavs[index : index + 1, :size])[0]
            codes = output.quantized.codes[index, : size // 320, :1]
            student = distil.project(codec.quantizer.decode(codes[None]))[0]
            frames = frames[: len(student)]
            # One cosine over time for each of the teacher's channels.
            dots = (student * frames).sum(0)
            cosine = dots / student.norm(dim=0) / frames.norm(dim=0)
            columns.append(torch.log1p(torch.exp(-cosine)))
    expected = torch.stack(columns).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_a_mean_of_layers_is_one():
    teacher = hubert_teacher().eval()
    wavs = torch.randn(2, 4000)
    counts = torch.tensor([4000, 3000])
    layers = SSLLayers(teacher.encoder, [0, 1, 2])(wavs, counts).chunk(3, -1)
    torch.testing.assert_close(teacher(wavs, counts), sum(layers) / 3)
    assert teacher.dim == 16


def test_reference_values_of_the_distillation_loss():
    """Zhang et al. (2023), eq. 3, worked out by hand for two frames of two channels."""
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[1.0, 1.0], [1.0, -1.0]]])
    # D-axis: channel 1 has (1, 0) against (1, 1), channel 2 has (0, 2) against (1, -1).
    value = float(cosine_distillation(student, teacher, axis="dimension"))
    assert value == pytest.approx((0.4008 + 1.1079) / 2, abs=1e-4)
    # T-axis: frame 1 has (1, 0) against (1, 1), frame 2 has (0, 2) against (1, -1).
    value = float(cosine_distillation(student, teacher, axis="time"))
    assert value == pytest.approx((0.4008 + 1.1079) / 2, abs=1e-4)
    teacher = torch.tensor([[[1.0, 1.0], [2.0, -1.0]]])
    # Channel 1: 1 / sqrt(5); frame 2: -1 / sqrt(5); the others as before.
    value = float(cosine_distillation(student, teacher, axis="dimension"))
    assert value == pytest.approx((0.4943 + 1.1079) / 2, abs=1e-4)
    value = float(cosine_distillation(student, teacher, axis="time"))
    assert value == pytest.approx((0.4008 + 0.9415) / 2, abs=1e-4)


def test_a_teacher_of_another_rate_is_refused():
    teacher = shipped_teacher()
    system = tiny(teacher)
    teacher.sample_rate = 24000
    with pytest.raises(DsuError, match="teacher at 24000 Hz of a codec at 16000 Hz"):
        brain_of(system, teacher)
