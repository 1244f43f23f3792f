"""Layer taps: order, masks, normalisation; SpeechBrain's own encoder."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
from speechbrain.lobes.models.wav2vec import EncoderWrapper, W2VLatentExtractor
from torch import nn

from speechbrain_dsu.lobes.ssl import SpeechBrainEncoder, SSLLayers, signal_statistics
from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.tokenizers.features import FeatureTokenizer
from speechbrain_dsu.utils.errors import DsuError


class Ramp(nn.Module):
    """An encoder whose layer ``k`` is the mean of each hop times ``k``."""

    sample_rate, hop, dim, n_layers = 100, 4, 1, 5
    min_samples, frame_offset, masks_padding, normalize = 4, 1.5, True, False

    def __init__(self):
        super().__init__()
        self.asked = []

    def num_frames(self, n):
        return n // 4

    def up_to(self, layer):
        self.asked.append(layer)
        return self

    def hidden_states(self, wavs, counts, layers):
        frames = wavs.unfold(1, 4, 4).mean(-1, keepdim=True)
        return [frames * k for k in layers]


@pytest.fixture(scope="module")
def native():
    torch.manual_seed(0)
    return SpeechBrainEncoder(
        W2VLatentExtractor(out_channels=[8] * 7),
        EncoderWrapper(8, 16, TransformerEncoder(3, 2, 32, d_model=16)),
    )


def test_layers_come_in_the_callers_order():
    """SpeechBrain's DiscreteSSL returns them ascending, whatever was asked."""
    wav = torch.ones(1, 8)
    assert SSLLayers(Ramp(), [3, 1])(wav)[0, 0].tolist() == [3, 1]
    assert SSLLayers(Ramp(), [1, 3])(wav)[0, 0].tolist() == [1, 3]


def test_only_up_to_the_highest_layer_is_kept():
    encoder = Ramp()
    SSLLayers(encoder, [4, 2])
    assert encoder.asked == [4]


@pytest.mark.parametrize("layers", [[6], [-1], [], [2, 2]])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(DsuError, match="layer"):
        SSLLayers(Ramp(), layers)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(0, 999))
def test_normalisation_is_over_valid_samples(counts, seed):
    """A clip's frames don't depend on how much of its row it fills."""
    generator = torch.Generator().manual_seed(seed)
    wavs = [torch.randn(n, generator=generator) + 3 for n in counts]
    batch = torch.full((len(counts), max(counts)), 7.0)
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = wav
    mean, scale = signal_statistics([batch], torch.tensor(counts))
    for index, wav in enumerate(wavs):
        expected = (wav.double().var(unbiased=False) + 1e-7).sqrt()
        assert torch.allclose(mean[index], wav.double().mean())
        assert torch.allclose(scale[index], expected, atol=1e-7)


def test_statistics_of_a_recording_do_not_depend_on_its_stretches():
    wav = torch.randn(1, 1000) + 0.5
    whole = signal_statistics([wav])
    pieces = signal_statistics(wav.split(77, dim=1))
    for one, other in zip(whole, pieces, strict=True):
        assert torch.allclose(one, other, rtol=1e-12)


def test_what_is_behind_the_end_is_zero_for_the_encoder():
    layers = SSLLayers(Ramp(), [1], normalize_signal=True)
    wavs = torch.randn(2, 40)
    loud = wavs.clone()
    loud[1, 20:] = 99
    counts = torch.tensor([40, 20])
    assert torch.equal(layers(wavs, counts), layers(loud, counts))
    assert (layers(loud, counts)[1, 5:] == 0).all()


def test_inputs_stay_as_they_are():
    wavs = torch.randn(2, 40)
    before = wavs.clone()
    SSLLayers(Ramp(), [1], normalize_signal=True)(wavs, torch.tensor([40, 20]))
    assert torch.equal(wavs, before)


def test_a_silent_stretch_of_a_recording_stays_silent():
    """Chunks are normalised by the recording's statistics, not by their own."""
    layers = SSLLayers(Ramp(), [1], normalize_signal=True)
    kmeans = KMeans(3, 1)
    kmeans.set_centers(torch.tensor([[[-1.0], [0.0], [1.0]]]))
    tokenizer = FeatureTokenizer(layers, kmeans)
    wav = torch.cat([torch.ones(400), 1e-4 * torch.randn(400), -torch.ones(400)])
    whole = tokenizer.encode(wav.unsqueeze(0)).codes
    pieces = tokenizer.encode_long(wav, chunk_seconds=1.0).codes
    assert torch.equal(whole, pieces)
    assert (whole[0, 100:200] == 1).all()


@pytest.mark.parametrize("chunk_seconds", [0.02, 0.04, 0.05, 0.1, 1.0])
def test_no_frame_is_lost_between_small_chunks(native, chunk_seconds):
    layers = SSLLayers(native, [1])
    kmeans = KMeans(4, 16)
    kmeans.set_centers(torch.randn(1, 4, 16))
    tokenizer = FeatureTokenizer(layers, kmeans)
    wav = torch.randn(16000)
    frames = tokenizer.encode_long(wav, chunk_seconds=chunk_seconds).counts.item()
    assert frames == tokenizer.num_frames(16000)


def test_a_frozen_encoder_has_no_dropout_in_training(native):
    layers = SSLLayers(native, [2]).train()
    wav = torch.randn(1, 8000)
    assert torch.equal(layers(wav), layers(wav))
    assert not any(p.requires_grad for p in layers.parameters())
    assert layers.training and not layers.encoder.training


def test_speechbrains_encoder_gives_its_own_embeddings(native):
    native.eval()
    wav = torch.randn(1, 9000)
    latents = native.extractor(wav, normalize_signal=False)
    expected = native.wrapper(latents)["embeddings"]
    states = native.hidden_states(wav, None, [3, 1, 0])
    assert torch.equal(states[0], expected)
    projected = native.wrapper.input_projector(latents)
    start = projected + native.wrapper.positional_encoding(projected)
    assert torch.allclose(states[2], start)
    block = native.wrapper.latent_encoder.layers[0]
    assert torch.allclose(states[1], block(start)[0], atol=1e-6)


@torch.no_grad()
def test_speechbrains_encoder_masks_exactly(native):
    layers = SSLLayers(native, [3, 1])
    wavs, counts = torch.randn(3, 9000), torch.tensor([9000, 4000, 700])
    together = layers(wavs, counts)
    for index, count in enumerate(counts.tolist()):
        alone = layers(wavs[index : index + 1, :count])[0]
        assert len(alone) == layers.num_frames(count)
        assert torch.allclose(together[index, : len(alone)], alone, atol=1e-5)
