"""The codec: streams, prefixes, alignment, crops in training, spectra, mel bands."""

import copy
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers_codecs import CODECS, build_codec, build_plain
from speechbrain_dsu.cli.stream import read_samples, run_stream
from speechbrain_dsu.lobes.codec import Codec
from speechbrain_dsu.lobes.encoders.mel import MelBandEncoder, MelFrames
from speechbrain_dsu.lobes.encoders.stft_frames import StftFrames, fourier_matrix
from speechbrain_dsu.lobes.vocoders.istft import InverseStft
from speechbrain_dsu.nnet.convnext import ConvNext, FrameConv
from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
from speechbrain_dsu.tokenizers.features import FeatureTokenizer
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir
from speechbrain_dsu.utils.resampling import resample
from speechbrain_dsu.utils.resampling_stream import StreamResampler

CLIP = read_audio(bundles_dir() / "speech.wav", 16000)[0]
CUTS = st.lists(st.integers(0, 9000), max_size=6)


@pytest.fixture(scope="module", params=["plain", *CODECS])
def tokenizer(request):
    return build_plain() if request.param == "plain" else build_codec(request.param)


@pytest.fixture(scope="module")
def causal():
    return build_plain()


def cut(signal, places):
    edges = [0, *sorted(min(p, len(signal)) for p in places), len(signal)]
    return [signal[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def push_all(stream, parts):
    return torch.cat([*(stream.push(p).codes for p in parts), stream.flush().codes], 1)


@settings(max_examples=12, deadline=None)
@given(places=CUTS, n=st.integers(0, 9000))
def test_any_cut_gives_the_tokens_of_one_pass(tokenizer, places, n):
    wav = CLIP[20000 : 20000 + n]
    whole = tokenizer.encode(wav.unsqueeze(0)).codes
    assert torch.equal(push_all(tokenizer.stream(), cut(wav, places)), whole)


@pytest.mark.parametrize("size", [7, 319, 320, 321])
def test_small_pieces_give_the_tokens_of_one_pass(tokenizer, size):
    wav = CLIP[20000:24000]
    whole = tokenizer.encode(wav.unsqueeze(0), n_codebooks=1).codes
    found = push_all(tokenizer.stream(n_codebooks=1), wav.split(size))
    assert torch.equal(found, whole)


def test_a_token_comes_with_its_hop_and_depends_on_nothing_later(causal):
    wav, stream, count = CLIP[20000:24000], causal.stream(), 0
    whole = causal.encode(wav.unsqueeze(0)).codes[0]
    for end in range(100, 4001, 100):
        count += stream.push(wav[end - 100 : end]).codes.shape[1]
        assert count == end // causal.hop
        prefix = causal.encode(wav[:end].unsqueeze(0)).codes[0]
        assert torch.equal(prefix[:count], whole[:count])
    assert causal.causal and causal.lookahead == 0


def test_the_stated_lookahead_is_needed_and_enough(tokenizer):
    hop, ahead = tokenizer.hop, tokenizer.lookahead
    stream, wav = tokenizer.stream(), CLIP[: 20 * hop + ahead]
    early = stream.push(wav[: hop + ahead - 1]).codes.shape[1]
    assert early == 0
    assert stream.push(wav[hop + ahead - 1 : hop + ahead]).codes.shape[1] == 1


@settings(max_examples=8, deadline=None)
@given(places=st.lists(st.integers(0, 40), max_size=5), n=st.integers(0, 40))
def test_decoding_a_stream_gives_the_samples_of_one_pass(tokenizer, places, n):
    tokens = tokenizer.encode(CLIP[None, 20000 : 20000 + n * tokenizer.hop])
    whole = tokenizer.decode(tokens)[0][0]
    stream, codes = tokenizer.decode_stream(), tokens.codes[0]
    parts = [stream.push(part) for part in cut(codes, places)]
    early = sum(map(len, parts))
    assert early == max(0, n * tokenizer.hop - tokenizer.delay)
    found = torch.cat([*parts, stream.flush()])
    scale = max(1.0, whole.abs().max().item()) if n else 1.0
    torch.testing.assert_close(found / scale, whole / scale, atol=2e-5, rtol=0)


def test_streams_of_two_signals_over_one_codec(causal):
    wavs = [CLIP[10000:14000], CLIP[30000:33000]]
    streams, found = [causal.stream() for _ in wavs], [[], []]
    for start in range(0, 4000, 250):
        for wav, stream, out in zip(wavs, streams, found, strict=True):
            out.append(stream.push(wav[start : start + 250]).codes)
    for wav, stream, out in zip(wavs, streams, found, strict=True):
        codes = torch.cat([*out, stream.flush().codes], 1)
        assert torch.equal(codes, causal.encode(wav.unsqueeze(0)).codes)


def test_other_rates_are_resampled_on_the_way(causal):
    wav = resample(CLIP[20000:30000], 16000, 22050)
    whole = causal.encode(wav.unsqueeze(0), sample_rate=22050).codes
    found = push_all(causal.stream(sample_rate=22050), wav.split(500))
    assert found.shape == whole.shape
    assert (found == whole).float().mean() > 0.99  # ties under another rounding


@pytest.mark.parametrize("rates", [(22050, 16000), (8000, 16000), (48000, 16000)])
def test_resampling_in_pieces(rates):
    wav = CLIP[:5000]
    for size in (1, 77, 3000):
        stream = StreamResampler(*rates)
        parts = [stream.push(part) for part in wav[: 40 * size].split(size)]
        found = torch.cat([*parts, stream.flush()])
        expected = resample(wav[: 40 * size], *rates)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_any_tokenizer_with_a_bounded_field_streams_exactly():
    from speechbrain_dsu.lobes.features import LogMel

    dmel = FeatureTokenizer(LogMel(), UniformBins(80, 16, -11.5, 2.0))
    wav = CLIP[20000:28000]
    whole = dmel.encode(wav.unsqueeze(0)).codes
    stream = dmel.stream(chunk_seconds=0.05)
    assert stream.exact and stream.lookahead == 512 - 200 + 800
    assert torch.equal(push_all(stream, wav.split(333)), whole)
    normalised = FeatureTokenizer(
        LogMel(normalize="utterance"), UniformBins(80, 16, -3.0, 3.0)
    )
    stream = normalised.stream(lookahead_seconds=0.25)
    assert not stream.exact and stream.lookahead == 4000 - 200 + 1600
    found = push_all(stream, wav.split(333))
    assert found.shape == whole.shape
    with pytest.raises(DsuError, match="no vocoder"):
        normalised.decode_stream()


def test_bad_pieces_are_named(causal):
    stream = causal.stream()
    for bad, expected in [
        (torch.zeros(1, 5), r"\[time\]"),
        (torch.zeros(5, dtype=torch.int64), "int64"),
        (torch.tensor([0.0, torch.nan]), "NaN"),
    ]:
        with pytest.raises(DsuError, match=expected):
            stream.push(bad)
    stream.flush()
    with pytest.raises(DsuError, match="flushed"):
        stream.push(torch.zeros(5))
    decoding = causal.decode_stream()
    decoding.push(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(DsuError, match=r"\[frames, 3\]"):
        decoding.push(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(DsuError, match="n_codebooks=9"):
        causal.stream(n_codebooks=9)


def test_copies_for_inference_follow_the_weights(causal):
    tokenizer = copy.deepcopy(causal)
    wav = CLIP[None, 20000:24000]
    before = tokenizer.encode(wav).codes
    print_before = tokenizer.fingerprint
    with torch.no_grad():
        tokenizer.codec.encoder.out.weight.mul_(-1)
    assert not torch.equal(tokenizer.encode(wav).codes, before)
    assert tokenizer.fingerprint != print_before
    assert tokenizer.codec.encoder.out.weight.dtype == torch.float32
    assert set(tokenizer.state_dict()) == set(causal.state_dict())


def test_what_is_decoded_is_in_step_with_what_was_encoded():
    """Spectra straight into the inverse: no sample of delay, at any length."""
    for n in (1, 79, 80, 333, 1000):
        frames = StftFrames(hop=80, win=320, power=1.0, causal=False)
        wav = torch.randn(1, n)
        found = InverseStft(80, 320)(frames(wav))
        assert found.shape[1] == -(-n // 80) * 80
        torch.testing.assert_close(found[:, :n], wav, atol=1e-4, rtol=0)


def test_spectra_are_those_of_torch():
    wav = torch.randn(2, 2000)
    frames = StftFrames(hop=160, win=640, power=1.0, causal=True)(wav)
    padded = torch.nn.functional.pad(wav, (480, 640))
    window = torch.hann_window(640)
    expected = torch.stft(
        padded, 640, 160, window=window, center=False, return_complex=True
    ).transpose(1, 2)[:, : frames.shape[1]]
    real, imaginary = (frames * window.square().sum().sqrt()).chunk(2, -1)
    torch.testing.assert_close(real, expected.real, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(imaginary, expected.imag, atol=1e-3, rtol=1e-3)
    half = StftFrames(hop=160, win=640, power=0.5, causal=True)(wav)
    level = frames.unflatten(-1, (2, -1)).norm(dim=2)
    torch.testing.assert_close(half.unflatten(-1, (2, -1)).norm(dim=2), level.sqrt())
    with pytest.raises(DsuError, match="even"):
        fourier_matrix(5)


def test_training_sees_valid_samples_only(causal):
    codec = copy.deepcopy(causal.codec).eval()
    wavs = torch.stack([CLIP[20000:24000], CLIP[30000:34000]])
    lens = torch.tensor([1.0, 0.63])
    loud = wavs.clone()
    loud[1, 2520:] = 0.9
    one, two = codec(wavs, lens), codec(loud, lens)
    assert torch.equal(one.audio, two.audio)
    assert one.audio.shape == wavs.shape and not one.audio[1, 2520:].any()
    alone = codec(wavs[1:, :2520])
    # Windows of frames behind the end reach back by the decoder's delay.
    until = 8 * 320 - codec.decoder.delay
    both = one.audio[1:, :until], alone.audio[:, :until]
    torch.testing.assert_close(*both, atol=1e-5, rtol=0)
    valid = alone.quantized.codes.shape[1]
    assert torch.equal(one.quantized.codes[1:, :valid], alone.quantized.codes)
    assert sum(one.quantized.usage[0]) == 13 + valid
    fewer = codec(wavs, lens, n_codebooks=2)
    assert torch.equal(fewer.quantized.codes, one.quantized.codes[..., :2])


def test_a_codec_learns():
    codec = build_plain().codec.train()
    wavs = CLIP[None, 20000:25000]
    optimizer = torch.optim.Adam(codec.parameters(), lr=1e-2)
    frames = MelFrames(n_mels=20)
    losses = []
    for _ in range(12):
        output = codec(wavs)
        loss = (frames(output.audio) - frames(wavs)).abs().mean()
        (loss + sum(output.quantized.losses.values())).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, weight in codec.named_parameters():
        assert weight.isfinite().all(), name


def test_parts_that_do_not_fit_are_named(causal):
    codec = causal.codec
    with pytest.raises(DsuError, match="quantizer of dim=32"):
        Codec(
            codec.encoder, build_codec("spectral_codec").codec.quantizer, codec.decoder
        )
    with pytest.raises(DsuError, match="multiples of bands=7"):
        MelBandEncoder(MelFrames(), bands=7)
    with pytest.raises(DsuError, match="must be odd"):
        ConvNext(4, 8, 16, 1, kernel=4, causal=False)


def test_a_band_changes_its_own_codebook_only():
    codec = build_codec("spectral_codec").codec
    mel = codec.encoder.frames(CLIP[None, 20000:28000])
    codes = codec.quantizer.encode(codec.encoder.encode_mel(mel))
    noise = 3 * torch.randn(10, generator=torch.Generator().manual_seed(0))
    for band in range(8):
        changed = mel.clone()
        changed[..., band * 10 : band * 10 + 10] += noise
        other = codec.quantizer.encode(codec.encoder.encode_mel(changed))
        moved = (codes != other).flatten(0, 1).any(0).nonzero().flatten().tolist()
        assert moved == [band]


def test_few_frames_and_many_are_convolved_alike():
    layer = FrameConv(6, 6, kernel=7, groups=6)
    many = torch.randn(2, 90, 6)
    few = torch.cat([layer(many[:, : t + 1])[:, -1:] for t in range(20)], 1)
    torch.testing.assert_close(layer(many)[:, :20], few)
    double = copy.deepcopy(layer).double()
    torch.testing.assert_close(double(many.double()).float(), layer(many))


def test_the_command_reads_pcm_and_wav_as_they_come(causal, tmp_path, capsys):
    wav = CLIP[20000:24000]
    write_audio(tmp_path / "a.wav", wav, 16000)
    data = (tmp_path / "a.wav").read_bytes()
    pcm = data[data.index(b"data") + 8 :]
    exact = torch.from_numpy(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
    expected = causal.encode(exact.unsqueeze(0)).codes[0].tolist()
    sources = [
        (io.BytesIO(data), None, "s16le"),
        (io.BytesIO(data + b"LIST\4\0\0\0abcd"), None, "s16le"),
        (io.BytesIO(pcm), 16000, "s16le"),
        (io.BytesIO(exact.numpy().astype("<f4").tobytes()), 16000, "f32le"),
    ]
    for source, rate, form in sources:
        assert run_stream(causal, rate, form, source=source) == len(expected)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["codes"] for line in lines] == expected
        assert [line["frame"] for line in lines] == list(range(len(expected)))
        assert lines[5]["time"] == 5 / 50


@pytest.mark.parametrize(
    "data, rate, expected",
    [
        (b"", 8000, "no samples"),
        (b"abcd", None, "--rate"),
        (b"abc", 8000, "within a sample"),
        (b"RIFF0000AVI LIST", None, "no WAV"),
        (b"RIFF0000WAVEfmt ", None, "header ends early"),
        (b"RIFF0000WAVEfmt \x10\0\0\0\2\0\1\0" + bytes(12), None, "16-bit integers"),
    ],
)
def test_bad_standard_input_is_one_clear_error(causal, data, rate, expected):
    with pytest.raises(DsuError, match=expected):
        run_stream(causal, rate, "s16le", source=io.BytesIO(data))


def test_several_channels_are_averaged():
    header = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\2\0" + (8000).to_bytes(4, "little")
    header += (32000).to_bytes(4, "little") + b"\4\0\x10\0data\xff\xff\xff\xff"
    samples = np.array([[16384, 0], [-16384, -32768]], "<i2").tobytes()
    ((found, rate),) = read_samples(io.BytesIO(header + samples), None, "s16le")
    assert found.tolist() == [0.25, -0.75] and rate == 8000
