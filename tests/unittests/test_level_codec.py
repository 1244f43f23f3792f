"""Levels in, levels out, phases found: against slow references and over streams."""

import pytest
import torch

from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
from speechbrain_dsu.lobes.encoders.level_frames import (
    LEVEL_MEAN,
    LEVEL_SIZE,
    LevelFrames,
    mel_filters,
)
from speechbrain_dsu.lobes.level_codec import LevelCodec
from speechbrain_dsu.lobes.vocoders.levels import LevelDecoder
from speechbrain_dsu.lobes.vocoders.phase import PhaseRecovery
from speechbrain_dsu.nnet.losses.levels import LevelLoss
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.nnet.streaming import Stream
from speechbrain_dsu.training.augment import LevelMixColour
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir


def clip(seconds=1.0):
    wav = read_audio(bundles_dir() / "speech.wav", 16000)[0]
    return wav[8000 : 8000 + round(16000 * seconds)].unsqueeze(0)


@pytest.mark.parametrize("causal", [True, False])
def test_level_frames_equal_a_slow_reference(causal):
    wav, win, hop = clip(0.3), 320, 160
    frames = LevelFrames(
        hop=hop, win=win, steps=2, n_mels=12, phase_bins=3, causal=causal
    )
    found = frames(wav)[0]
    assert len(found) == frames.num_frames(wav.shape[1]) == 30
    taper = torch.hann_window(win)
    filters = mel_filters(win, 12, 16000)
    for t in (0, 7, 29):
        expected = []
        for step in range(2):
            # Causal: the last window ends with the hop; else both lie around it.
            end = (t + 1) * hop - (1 - step) * hop // 2
            end += 0 if causal else (win - hop // 2) // 2
            padded = torch.nn.functional.pad(wav[0], (win, win))
            cut = padded[end : end + win] * taper
            spectrum = torch.fft.rfft(cut) / taper.square().sum().sqrt()
            level = ((spectrum.abs() @ filters + 1e-4).log() - LEVEL_MEAN) / LEVEL_SIZE
            low = spectrum[:3]
            bent = low * (low.abs() + 1e-4) ** -0.7
            expected.append(torch.cat([level, bent.real, bent.imag]))
        torch.testing.assert_close(found[t], torch.cat(expected), rtol=1e-3, atol=1e-3)


def slow_griffin_lim(magnitudes, recover):
    """The algorithm on whole signals with torch's own transforms."""
    hop, win, count = recover.hop, recover.win, magnitudes.shape[1]
    taper = torch.hann_window(win)
    edge = win // 2 - hop // 2  # frame t is centred on the middle of its hop

    def synthesis(spectra):
        total = torch.zeros((count - 1) * hop + win)
        weight = torch.zeros_like(total)
        for t in range(count):
            place = slice(t * hop, t * hop + win)
            total[place] += torch.fft.irfft(spectra[t]) * taper
            weight[place] += taper.square()
        return (total / weight.clamp(min=1e-6))[edge : edge + count * hop]

    def analysis(wav):
        padded = torch.nn.functional.pad(wav, (edge, edge))
        cuts = padded.unfold(0, win, hop)
        return torch.fft.rfft(cuts * taper)

    sizes = magnitudes[0] * taper.square().sum().sqrt()
    real, imaginary = recover.first.chunk(2)
    unit = torch.complex(real, imaginary).expand(count, -1)
    before = torch.zeros_like(sizes, dtype=unit.dtype)
    for _ in range(recover.rounds):
        now = analysis(synthesis(sizes * unit))
        moved = now + recover.momentum * (now - before)
        unit, before = moved / moved.abs(), now
    return synthesis(sizes * unit)


def test_phase_recovery_equals_griffin_lim():
    torch.manual_seed(0)
    magnitudes = torch.rand(1, 12, 33) + 0.1
    recover = PhaseRecovery(hop=16, win=64, rounds=3)
    torch.testing.assert_close(
        recover(magnitudes)[0],
        slow_griffin_lim(magnitudes, recover),
        rtol=1e-3,
        atol=1e-3,
    )


def test_more_rounds_come_closer_to_the_magnitudes():
    frames = LevelFrames(hop=160, win=640, steps=1, phase_bins=0, causal=False)
    levels = frames(clip())
    magnitudes = (levels * LEVEL_SIZE + LEVEL_MEAN).exp()
    errors = []
    for rounds in (0, 2, 8):
        wav = PhaseRecovery(160, 640, rounds)(magnitudes)
        again = (frames(wav) * LEVEL_SIZE + LEVEL_MEAN).exp()
        errors.append(float((again - magnitudes).square().mean()))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    with pytest.raises(DsuError, match="rounds=-1"):
        PhaseRecovery(16, 64, -1)


def small_codec():
    torch.manual_seed(0)
    small = {"channels": 8, "hidden": 8, "layers": 1, "kernel": 3}
    return LevelCodec(
        ConvNextEncoder(LevelFrames(phase_bins=0, n_mels=20), dim=4, **small),
        ResidualVQ(2, 8, 4, kmeans_start=False),
        LevelDecoder(4, n_mels=20, rounds=2, **small),
    ).eval()


def test_a_streamed_decoder_gives_one_pass_and_says_its_delay():
    decoder, latents = small_codec().decoder, torch.randn(1, 20, 4)
    with torch.no_grad():
        whole = decoder(latents)
        stream, pieces, start = Stream(), [], 0
        for stop in (1, 2, 9, 20):
            with stream.active(last=stop == 20):
                pieces.append(decoder(latents[:, start:stop]))
            start = stop
    joined = torch.cat(pieces, 1)
    torch.testing.assert_close(joined, whole, rtol=1e-3, atol=1e-3)
    before_end = sum(piece.shape[1] for piece in pieces[:-1])
    assert before_end == 9 * decoder.hop - decoder.delay


def test_training_makes_no_waveform_and_its_levels_are_those_of_evaluation():
    codec, wav = small_codec(), clip(0.5)
    evaluated = codec(wav)
    output = codec.train()(wav, quantize=False)
    assert output.audio is None and output.quantized.codes.shape[-1] == 0
    codec.eval()
    latents = codec(wav).quantized.quantized
    torch.testing.assert_close(evaluated.levels, codec.decoder.levels(latents))
    assert evaluated.audio.shape == wav.shape


def test_level_loss_is_zero_at_the_target_and_refuses_other_levels():
    target = LevelFrames(phase_bins=0, n_mels=20, causal=False, floor=1e-7)
    loss, wav = LevelLoss(target, size=LEVEL_SIZE), clip(0.5)
    levels = target(wav)
    assert float(loss(levels, wav)["levels"]) == 0
    louder = loss(levels, 2 * wav)["levels"]
    # Twice the magnitude: a difference of log 2 where the floor is far below.
    assert float(louder) == pytest.approx(0.693, abs=0.1)
    with pytest.raises(DsuError, match="levels"):
        loss(levels[..., :5], wav)


def test_augmentation_keeps_silence_levels_and_the_callers_audio():
    torch.manual_seed(0)
    wavs = torch.randn(6, 4000) * 0.1
    wavs[0] = 0
    kept = wavs.clone()
    changed = LevelMixColour(level_db=(-12.0, -6.0), mix=1.0, colour=1.0)(wavs)
    assert torch.equal(wavs, kept)
    peaks = changed[1:].abs().amax(1)
    assert float(peaks.min()) >= 10 ** (-12 / 20) - 1e-4
    assert float(peaks.max()) <= 10 ** (-6 / 20) + 1e-4
    assert float(changed[0].abs().max()) == 0
    still = LevelMixColour(level_db=(-6.0, -6.0), mix=0.0, colour=0.0)(wavs)
    ratio = still[1:] / wavs[1:]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
