"""The promises of the tokenizer contract, over every kind of tokenizer.

P1 company, P3 length, P4 inverse, P5 sealed bundle, P6 safe, P7 offline, P9 manners.
The network is blocked for all tests (conftest).
"""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from contract.cases import CASES, CLIP
from speechbrain_dsu.dataio.shards import StoreInfo
from speechbrain_dsu.dataio.token_store import TokenStore, TokenStoreWriter
from speechbrain_dsu.inference.bundles import save_bundle, verify_bundle
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError

LICENCE = {"code": "Apache-2.0", "weights": "CC0-1.0"}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def tokenizer(case):
    return case.build()


@pytest.fixture(scope="module")
def clip(tokenizer):
    return read_audio(CLIP, tokenizer.sample_rate)[0]


def ragged(speech_data, rate):
    """Eight real utterances of 0.3 to 12 s of three corpora."""
    fsdd, lj = speech_data / "fsdd" / "recordings", speech_data / "LJSpeech-mini"
    vctk = speech_data / "VCTK-mini"
    paths = [
        fsdd / "7_jackson_3.wav",
        fsdd / "0_george_7.wav",
        vctk / "p225" / "p225_003.wav",
        vctk / "p226" / "p226_008.wav",
        vctk / "p227" / "p227_011.wav",
        lj / "wavs" / "LJ001-0001.wav",
        lj / "wavs" / "LJ001-0002.wav",
    ]
    wavs = [read_audio(path, rate)[0] for path in paths]
    return [*wavs, torch.cat([wavs[5], wavs[2]])[: 12 * rate], wavs[0][: rate // 3]][
        -8:
    ]


def pad(wavs, filler=0.0):
    longest = max(map(len, wavs))
    batch = torch.full((len(wavs), longest), filler)
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = wav
    return batch, torch.tensor([len(wav) / longest for wav in wavs])


def even(tokenizer):
    """Whether frames stand a hop apart: not where a model cuts overlapping chunks."""
    return "Chunked" not in type(tokenizer).__name__


# P1: the same tokens alone, in company, in any order


def test_p1_a_ragged_batch_gives_the_tokens_of_its_items(tokenizer, speech_data):
    wavs = ragged(speech_data, tokenizer.sample_rate)
    seconds = [len(wav) / tokenizer.sample_rate for wav in wavs]
    assert len(wavs) == 8 and min(seconds) < 0.5 and max(seconds) > 11.9
    # What lies behind an end is loud, so that a leak can't hide.
    tokens = tokenizer.encode(*pad(wavs, filler=0.7))
    order = [3, 0, 7, 2, 5, 1, 6, 4]
    shuffled = tokenizer.encode(*pad([wavs[i] for i in order]))
    for place, index in enumerate(order):
        alone = tokenizer.encode(wavs[index].unsqueeze(0)).codes[0]
        assert torch.equal(tokens[index].codes[0], alone)
        assert torch.equal(shuffled[place].codes[0], alone)
        assert len(alone) == tokenizer.num_frames(len(wavs[index]))


@pytest.mark.parametrize("mode", ["equal", "padded"])
def test_p1_batched_modes_agree_up_to_rounding(case, clip, mode):
    """The accelerator's ways of batching, run on a CPU: other kernels, same frames."""
    tokenizer = case.build()
    if mode == "padded" and not tokenizer.masks_padding:
        tokenizer.batching = "padded"
        with pytest.raises(DsuError, match="can't mask padding"):
            tokenizer.encode(clip.unsqueeze(0))
        return
    rate = tokenizer.sample_rate
    wavs = [clip[: 2 * rate], clip[rate : 3 * rate], clip[: rate + 17]]
    solo = tokenizer.encode(*pad(wavs))
    tokenizer.batching = mode
    batched = tokenizer.encode(*pad(wavs, filler=0.7))
    assert torch.equal(batched.counts, solo.counts)
    same = (batched.codes == solo.codes)[solo.mask].float().mean()
    # Only codes at a tie may differ by the rounding of another product shape.
    assert same >= 0.995


# P3: lengths are exact, long input needs no more memory than short input


def test_p3_lengths_are_exact_for_every_n(tokenizer, clip):
    generator = torch.Generator().manual_seed(1)
    hop, least = tokenizer.hop, tokenizer.min_samples
    edges = {0, 1, 10, hop - 1, hop, hop + 1, least - 1, least, least + 1, 319, 320}
    lengths = {*edges, *torch.randint(1, 5000, (12,), generator=generator).tolist()}
    lengths |= set(torch.randint(5000, len(clip), (4,), generator=generator).tolist())
    for n in sorted(n for n in lengths if n >= 0):
        tokens = tokenizer.encode(clip[:n].unsqueeze(0))
        assert tokens.counts.item() == tokenizer.num_frames(n), n
        times = tokenizer.frame_times(n)
        assert len(times) == tokenizer.num_frames(n)
        end = n / tokenizer.sample_rate + 2 * max(hop, least) / tokenizer.sample_rate
        assert (times >= 0).all() and (times <= end).all()
        if even(tokenizer):
            step = torch.full((max(len(times) - 1, 0),), hop / tokenizer.sample_rate)
            assert torch.allclose(times.diff(), step.double())


def test_p3_num_frames_never_falls(tokenizer):
    counts = [tokenizer.num_frames(n) for n in range(5001)]
    assert counts[0] == 0 and counts[1] >= 1
    steps = np.diff(counts)
    assert steps.min() >= 0 and steps[1:].max() <= 1
    with pytest.raises(DsuError, match="-1"):
        tokenizer.num_frames(-1)


def test_p3_frame_times_point_at_the_sound(tokenizer):
    """A click moves the frames around its time, for fields that are bounded."""
    left, right = tokenizer.receptive_field
    if left is None or right is None:
        pytest.skip("every frame may depend on every sample")
    rate, n = tokenizer.sample_rate, 2 * tokenizer.sample_rate
    wav = 0.05 * torch.randn(n, generator=torch.Generator().manual_seed(0))
    loud = wav.clone()
    at = n // 2
    loud[at : at + 40] += 0.9
    pair = tokenizer.encode(torch.stack([wav, loud])).codes
    moved = (pair[0] != pair[1]).any(-1).nonzero().flatten()
    assert len(moved)
    hop = tokenizer.hop
    assert (moved * hop - left < at + 40).all() and (moved * hop + right > at).all()
    times = tokenizer.frame_times(n)[moved]
    assert times.min() - hop / rate <= at / rate + 40 / rate
    assert times.max() + hop / rate >= at / rate


def test_p3_a_long_recording_equals_one_pass(tokenizer, clip):
    wav = torch.cat([clip, 0.5 * clip.flip(0), clip])[: 15 * tokenizer.sample_rate + 7]
    whole = tokenizer.encode(wav.unsqueeze(0)).codes[0]
    chunked = tokenizer.encode_long(wav, chunk_seconds=4.0)
    assert chunked.counts.item() == len(whole)
    same = (chunked.codes[0] == whole).float().mean().item()
    if tokenizer.exact_long:
        assert same >= 0.998, same  # ties under another product shape
    fits = tokenizer.encode_long(wav, chunk_seconds=60.0)
    assert torch.equal(fits.codes[0], whole)


def test_p3_a_file_is_read_piece_by_piece(tokenizer, clip, tmp_path):
    path = tmp_path / "long.wav"
    write_audio(path, clip.repeat(2), tokenizer.sample_rate)
    wav = read_audio(path)[0]
    from_file = tokenizer.encode_long(path, chunk_seconds=4.0)
    from_samples = tokenizer.encode_long(wav, chunk_seconds=4.0)
    assert torch.equal(from_file.codes, from_samples.codes)


# P4: what is stored comes back


def test_p4_the_token_store_gives_back_what_went_in(tokenizer, clip, tmp_path):
    half = clip[: len(clip) // 2]
    tokens = tokenizer.encode(*pad([clip, half]))
    info = StoreInfo.of(tokenizer)
    with TokenStoreWriter(tmp_path / "store", info) as writer:
        for name, item in zip(["b", "a"], tokens, strict=True):
            writer.add(name, item)
    store = TokenStore(tmp_path / "store")
    for name, item in zip(["b", "a"], tokens, strict=True):
        assert torch.equal(store[name].codes, item.codes)
        assert store[name].fingerprint == tokenizer.fingerprint


def test_p4_fewer_codebooks_are_the_first_ones(tokenizer, clip):
    wav = clip[: tokenizer.sample_rate].unsqueeze(0)
    full = tokenizer.encode(wav)
    one = tokenizer.encode(wav, n_codebooks=1)
    assert torch.equal(one.codes, full.codes[..., :1])
    assert one.sizes == full.sizes[:1]
    with pytest.raises(DsuError, match="n_codebooks=999"):
        tokenizer.encode(wav, n_codebooks=999)


def test_decoding_gives_num_samples_and_refuses_foreign_tokens(tokenizer, clip):
    rate = tokenizer.sample_rate
    parts = [clip[: 2 * rate], clip[:rate], clip[rate : 2 * rate]]
    tokens = tokenizer.encode(*pad(parts))
    if not tokenizer.has_decoder:
        with pytest.raises(DsuError, match="no vocoder"):
            tokenizer.decode(tokens)
        return
    wavs, lens = tokenizer.decode(tokens)
    counts = (lens * wavs.shape[1]).round().long().tolist()
    assert counts == [tokenizer.num_samples(n) for n in tokens.counts.tolist()]
    for item in (1, 2):
        alone, _ = tokenizer.decode(tokens[item])
        assert torch.allclose(wavs[item, : counts[item]], alone[0], atol=1e-6)
    assert wavs.isfinite().all() and wavs.abs().max() > 0
    foreign = Tokens(tokens.codes, tokens.lens, 50.0, tokens.sizes, "0" * 64)
    with pytest.raises(DsuError, match="another tokenizer"):
        tokenizer.decode(foreign)


# P5 to P7: a sealed bundle, loaded safely with the network cut


def test_p5_a_bundle_gives_the_same_tokens(case, tokenizer, clip, tmp_path):
    folder = save_bundle(
        tokenizer, tmp_path / "bundle", case.yaml(), licence=LICENCE, probe=CLIP
    )
    assert all(part.ok for part in verify_bundle(folder))
    loaded = UnitTokenizer.from_hparams(folder, run_opts={"device": "cpu"})
    assert loaded.fingerprint == tokenizer.fingerprint
    batch = clip.unsqueeze(0)
    assert torch.equal(loaded.encode_batch(batch).codes, tokenizer.encode(batch).codes)
    assert not any("__pycache__" in name for name in os.listdir(folder))


def test_p6_a_changed_bundle_is_refused(case, tokenizer, tmp_path):
    folder = save_bundle(
        tokenizer, tmp_path / "bundle", case.yaml(), licence=LICENCE, probe=CLIP
    )
    target = folder / "model.safetensors"
    if not target.exists():
        target = folder / "hyperparams.yaml"
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(bytes(data))
    with pytest.raises(DsuError, match=target.name):
        UnitTokenizer.from_hparams(folder)
    assert not all(part.ok for part in verify_bundle(folder))


# P9: manners


def test_p9_inputs_stay_as_they_are_and_results_repeat(tokenizer, clip):
    wavs, lens = pad([clip[:9000], clip[:4000]], filler=0.3)
    before = hashlib.sha256(wavs.numpy().tobytes()).hexdigest()
    state = {name: t.clone() for name, t in tokenizer.state_dict().items()}
    first, second = tokenizer.encode(wavs, lens), tokenizer.encode(wavs, lens)
    assert torch.equal(first.codes, second.codes)
    if tokenizer.has_decoder:
        codes = first.codes.clone()
        once, twice = tokenizer.decode(first)[0], tokenizer.decode(first)[0]
        assert torch.equal(once, twice) and torch.equal(first.codes, codes)
    tokenizer.embed(first)
    assert hashlib.sha256(wavs.numpy().tobytes()).hexdigest() == before
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("change", ["nan", "shape", "integers", "lengths"])
def test_p9_bad_input_says_which(tokenizer, change):
    wavs, lens = torch.zeros(2, 4000), None
    if change == "nan":
        wavs[1, 7] = torch.nan
        expected = "item 1 holds NaN"
    elif change == "shape":
        wavs, expected = wavs[0], r"\[batch, time\]"
    elif change == "integers":
        wavs, expected = wavs.long(), "int64"
    else:
        lens, expected = torch.ones(3), "2 items of audio with 3 lengths"
    with pytest.raises(DsuError, match=expected):
        tokenizer.encode(wavs, lens)


def test_resampling_is_the_tokenizers_business(tokenizer, clip):
    rate = tokenizer.sample_rate
    other = read_audio(CLIP, 2 * rate)[0]
    ours = tokenizer.encode(other.unsqueeze(0), sample_rate=2 * rate)
    assert ours.counts.item() == tokenizer.num_frames((len(other) + 1) // 2)
    assert ours.fingerprint == tokenizer.fingerprint


def test_everything_moves_with_the_module(case):
    moved = case.build().to("meta")
    tensors = [
        (f"{name}.{key}", value)
        for name, module in moved.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    left = [name for name, tensor in tensors if tensor.device.type != "meta"]
    left += [n for n, t in moved.state_dict().items() if t.device.type != "meta"]
    assert not left


def test_frame_and_bit_rate_are_those_of_long_audio(tokenizer):
    bits = sum(np.log2(size) for size in tokenizer.codebook_sizes)
    assert tokenizer.bitrate == pytest.approx(bits * tokenizer.frame_rate)
    minutes = 100
    frames = tokenizer.num_frames(60 * minutes * tokenizer.sample_rate)
    assert frames / (60 * minutes) == pytest.approx(tokenizer.frame_rate, rel=1e-4)
    if even(tokenizer):
        assert tokenizer.frame_rate == tokenizer.sample_rate / tokenizer.hop


MEMORY = """
import sys
sys.path.insert(0, "tests")
import torch
torch.set_num_threads(1)
from contract.cases import CASES, CLIP
from speechbrain_dsu.utils.audio import read_audio, write_audio
tokenizer = CASES[sys.argv[1]].build()
tokenizer.encode_long(sys.argv[2], chunk_seconds=10.0)
# Not getrusage: its peak begins at that of the process which forked this one.
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_p3_memory_is_flat(tmp_path):
    """An hour needs no more than five minutes do, but for the tokens themselves."""
    clip = read_audio(CLIP, 16000)[0]
    peaks = []
    for minutes in (5, 60):
        path = tmp_path / f"{minutes}.wav"
        write_audio(path, clip.repeat(int(minutes * 60 / 6.28)), 16000)
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, "mfcc_kmeans", str(path)],
            capture_output=True,
            text=True,
            cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 60, peaks  # one hour of samples alone is 230 MB
