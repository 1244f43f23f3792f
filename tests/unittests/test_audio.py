"""Every way in which an audio file can be wrong, and what reading must give."""

import math
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.utils.audio import (
    AudioError,
    AudioReader,
    audio_info,
    read_audio,
    resample,
    write_audio,
)
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.resampling import resample_directly


def tone(n_samples: int, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(n_samples) / rate)


def message(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, 16000)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_missing_folder_and_empty_file(tmp_path):
    assert message(tmp_path / "no.wav") == "no such file"
    assert "is a folder" in message(tmp_path)
    (tmp_path / "e.wav").touch()
    assert message(tmp_path / "e.wav") == "the file is empty"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(100), 16000)
    path.chmod(0)
    assert "cannot be opened" in message(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_text_under_an_audio_name(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"this is not audio " * 50)
    assert "not readable as audio" in message(path)


def test_header_without_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    assert message(tmp_path / "a.wav") == "holds no samples"


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_file_is_a_fault(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).normal(size=40000) * 0.1
    soundfile.write(path, noise, 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    message(path)


def test_truncated_wav_with_chunks_before_and_after_its_data(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1000), 16000)
    whole = path.read_bytes()
    at = whole.index(b"data")
    extra = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    path.write_bytes(whole[:at] + extra + whole[at:])
    assert len(read_audio(path)[0]) == 1000
    path.write_bytes(whole + extra)
    assert len(read_audio(path)[0]) == 1000
    path.write_bytes((whole[:at] + extra + whole[at:])[:-10])
    assert "cut short" in message(path)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_streamed_wav_of_unknown_length_is_read(tmp_path, length):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1000), 16000)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"data")
    whole[at + 4 : at + 8] = struct.pack("<I", length)
    path.write_bytes(whole)
    if length == 0:
        # libsndfile takes it as it stands: an empty file, which is said.
        assert message(path) == "holds no samples"
    else:
        assert len(read_audio(path)[0]) == 1000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 1])
def test_not_a_number_names_the_sample(tmp_path, value, channel):
    data = np.zeros((500, 2), dtype=np.float32)
    data[321, channel] = value
    soundfile.write(tmp_path / "a.wav", data, 16000, subtype="FLOAT")
    assert message(tmp_path / "a.wav") == "not a number at sample 321"
    with pytest.raises(AudioError, match="at sample 321"):
        read_audio(tmp_path / "a.wav", None, 300, 400)


def test_channels_are_averaged(tmp_path):
    data = np.stack([tone(800), -0.5 * tone(800), np.zeros(800)], axis=1)
    soundfile.write(tmp_path / "a.wav", data, 16000, subtype="FLOAT")
    wav, _ = read_audio(tmp_path / "a.wav")
    assert np.allclose(wav.numpy(), data.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize(
    ("subtype", "step"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 2**-24),
        ("FLOAT", 2**-24),
        ("DOUBLE", 2**-24),
    ],
)
def test_every_sample_format_has_the_same_scale(tmp_path, subtype, step):
    soundfile.write(tmp_path / "a.wav", tone(1000), 16000, subtype=subtype)
    wav, _ = read_audio(tmp_path / "a.wav")
    assert wav.dtype == torch.float32
    assert np.abs(wav.numpy() - tone(1000)).max() <= step


def test_eight_bit_silence_is_zero(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000, subtype="PCM_U8")
    assert not read_audio(tmp_path / "a.wav")[0].any()


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "aiff", "au"])
@pytest.mark.parametrize("n_samples", [1, 1000, 16001])
def test_other_formats_are_whole(tmp_path, suffix, n_samples):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(n_samples), 16000)
    wav, rate = read_audio(path)
    assert (len(wav), rate) == (audio_info(path).n_samples, 16000)
    assert len(wav) >= n_samples


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_one_sample(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.array([0.5]), rate)
    wav, _ = read_audio(tmp_path / "a.wav", 16000)
    assert len(wav) == math.ceil(16000 / rate)
    assert wav.isfinite().all()


def test_stretch_equals_slice_of_the_whole(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(5000), 16000)
    whole = read_audio(tmp_path / "a.flac")[0]
    part = read_audio(tmp_path / "a.flac", None, 1234, 4321)[0]
    assert torch.equal(part, whole[1234:4321])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_the_signal(rate):
    wav = torch.from_numpy(tone(rate, rate)).float()
    got = resample(wav, rate, 16000)
    want = torch.from_numpy(tone(16000)).float()
    assert got.shape == want.shape
    # The ends see zeros beyond the signal.
    assert (got - want)[200:-200].abs().max() < 2e-3


def test_resampling_does_not_alias():
    wav = torch.from_numpy(tone(48000, 48000, hertz=12000.0)).float()
    assert resample(wav, 48000, 16000)[200:-200].abs().max() < 1e-3


@pytest.mark.parametrize("rates", [(22254, 16000), (16001, 16000), (16000, 44056)])
def test_rates_without_a_common_factor(rates):
    """Old sound cards' rates; a table of all phases would take gigabytes."""
    source, target = rates
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wav = torch.from_numpy(tone(source, source)).float()
    got = resample(wav, source, target)
    want = torch.from_numpy(tone(target, target)).float()
    assert len(got) == target
    assert (got - want)[300:-300].abs().max() < 2e-3
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000


@pytest.mark.parametrize("rates", [(22050, 16000), (16000, 22050), (48000, 16000)])
def test_direct_resampling_equals_the_table(rates):
    wav = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    table, direct = resample(wav, *rates), resample_directly(wav, *rates)
    assert table.shape == direct.shape
    # The table takes its phases in float32, which is where they part.
    assert (table - direct).abs().max() < 1e-4


@pytest.mark.parametrize("rates", [(0, 16000), (16000, 0), (-1, 16000)])
def test_impossible_rates(rates):
    with pytest.raises(DsuError, match="must be positive"):
        resample(torch.zeros(10), *rates)


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 30000),
    rate=st.sampled_from([8000, 16000, 22050, 44100, 48000, 22254]),
    cuts=st.lists(st.integers(0, 70000), min_size=2, max_size=2),
)
def test_reader_equals_the_whole_at_any_stretch(total, rate, cuts):
    start, stop = sorted(cuts)
    generator = torch.Generator().manual_seed(total)
    wav = torch.randn(total, generator=generator) * 0.1
    whole = resample(wav, rate, 16000)
    reader = AudioReader(wav, 16000, source_rate=rate)
    assert reader.n_samples == len(whole) == math.ceil(total * 16000 / rate)
    got = reader.read(start, stop)
    assert got.shape == whole[start:stop].shape
    assert torch.allclose(got, whole[start:stop], atol=1e-5)


def test_written_file_reads_back(tmp_path):
    wav = torch.from_numpy(tone(1000)).float()
    write_audio(tmp_path / "a.wav", wav, 16000)
    back, rate = read_audio(tmp_path / "a.wav")
    assert rate == 16000 and (back - wav).abs().max() <= 2**-15
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    write_audio(tmp_path / "a.wav", torch.tensor([3.0, -3.0]), 16000)
    back, _ = read_audio(tmp_path / "a.wav")
    assert back[0] > 0.99 and back[1] < -0.99


def test_unwritable_name_leaves_nothing(tmp_path):
    with pytest.raises(AudioError, match="cannot be written"):
        write_audio(tmp_path / "a.xyz", torch.zeros(10), 16000)
    assert not list(tmp_path.iterdir())


def test_reading_needs_no_torchcodec_and_no_torchaudio_load(tmp_path):
    """Files come through soundfile alone, with torchaudio's I/O out of reach."""
    soundfile.write(tmp_path / "a.wav", tone(2205, 22050), 22050)
    code = (
        "import sys; sys.modules['torchcodec'] = None\n"
        "import torchaudio\n"
        "def refuse(*args, **kwargs): raise RuntimeError('torchaudio was asked')\n"
        "torchaudio.load = torchaudio.save = refuse\n"
        "from speechbrain_dsu.utils.audio import read_audio\n"
        f"print(len(read_audio({str(tmp_path / 'a.wav')!r}, 16000)[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1600"
