"""The corpus job: the same bytes however it is run, and every bad file in one line."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch

from speechbrain_dsu.dataio import prefetch as prefetch_module
from speechbrain_dsu.dataio import tokenize as job_module
from speechbrain_dsu.dataio.manifest import AudioItem, read_items
from speechbrain_dsu.dataio.prefetch import prefetch
from speechbrain_dsu.dataio.token_store import TokenStore
from speechbrain_dsu.dataio.tokenize import tokenize_corpus
from speechbrain_dsu.lobes.features import MFCC, LogMel
from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.tokenizers.features import FeatureTokenizer
from speechbrain_dsu.utils import audio as audio_module
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError

N_FILES = 23
PRELOADED = [
    "pyarrow.parquet",
    "pytest",
    "torchaudio.transforms",
    "tqdm",
    "speechbrain_dsu.dataio.tokenize",
    "speechbrain_dsu.lobes.features",
    "speechbrain_dsu.tokenizers.features",
]


def make_tokenizer(seed: int = 0, features=None, groups: int = 1) -> FeatureTokenizer:
    features = LogMel(hop=320, win=400, n_fft=512) if features is None else features
    kmeans = KMeans(50, features.dim // groups, groups)
    generator = torch.Generator().manual_seed(seed)
    kmeans.set_centers(torch.randn(kmeans.centers.shape, generator=generator) * 3 - 6)
    return FeatureTokenizer(features, kmeans)


def noise(seconds: float, rate: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    envelope = np.sin(np.linspace(0, 9, round(seconds * rate))) ** 2
    return generator.normal(size=len(envelope)) * 0.2 * envelope


def make_corpus(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(N_FILES):
        rate = (16000, 22050, 8000)[n % 3]
        soundfile.write(folder / f"f{n:02d}.wav", noise(0.2 + n / 40, rate, n), rate)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "wavs")


def run(source, out, tokenizer=None, **more):
    lines: list[str] = []
    items = source if isinstance(source, list) else read_items(source)
    result = tokenize_corpus(
        items,
        tokenizer or make_tokenizer(),
        out,
        **{"shard_items": 5, "progress": False, "report": lines.append, **more},
    )
    return result, lines


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference") / "tokens"
    result, lines = run(corpus, out)
    assert result.finished and not lines and result.items == N_FILES
    return content(out)


def test_tokens_are_those_of_the_tokenizer(corpus, tmp_path):
    tokenizer = make_tokenizer()
    result, _ = run(corpus, tmp_path / "t", tokenizer, name="units")
    store = TokenStore(tmp_path / "t")
    assert (
        store.fingerprint == tokenizer.fingerprint and store.info.tokenizer == "units"
    )
    frames = 0
    for item in read_items(corpus):
        wav, _ = read_audio(item.path, 16000)
        want = tokenizer.encode(wav.unsqueeze(0))
        assert torch.equal(store[item.id].codes, want.codes)
        assert store.n_samples(item.id) == len(wav)
        frames += want.codes.shape[1]
    assert (result.frames, result.tokens) == (frames, frames)
    assert result.resampled == {22050: 8, 8000: 7}
    bits = frames * np.log2(50) / result.audio_seconds
    assert result.bitrate == pytest.approx(bits)
    assert result.new_seconds == pytest.approx(result.audio_seconds)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_shares_give_the_files_of_one_run(corpus, tmp_path, reference, n):
    for i in reversed(range(n)):
        result, _ = run(corpus, tmp_path / "t", shard=(i, n))
        assert result.finished == (i == 0)
    assert content(tmp_path / "t") == reference


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_threads_change_nothing(corpus, tmp_path, reference, workers):
    run(corpus, tmp_path / "t", workers=workers)
    assert content(tmp_path / "t") == reference


def test_order_of_items_changes_nothing(corpus, tmp_path, reference):
    run(read_items(corpus)[::-1], tmp_path / "t")
    assert content(tmp_path / "t") == reference


def test_moved_corpus_changes_no_tokens(corpus, tmp_path, reference):
    run(make_corpus(tmp_path / "elsewhere"), tmp_path / "t")
    assert content(tmp_path / "t") == reference


def test_second_run_does_nothing(corpus, tmp_path, monkeypatch):
    run(corpus, tmp_path / "t")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "t").glob("*.parquet")}
    monkeypatch.setattr(FeatureTokenizer, "encode_batch", None)
    result, _ = run(corpus, tmp_path / "t")
    assert result.items == N_FILES and result.new_seconds == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}


def run_and_die(corpus: Path, out: Path, where: str, at: int, after: str) -> None:
    """Run the job and end as by ``kill -9`` at a given call of a function."""
    torch.set_num_threads(1)
    owner, name = {
        "replace": (os, "replace"),
        "fsync": (os, "fsync"),
        "row group": (pyarrow.parquet.ParquetWriter, "write_table"),
        "encode": (FeatureTokenizer, "encode_batch"),
    }[where]
    real, calls = getattr(owner, name), []

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == at and after == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
    run(corpus, out)


def test_killed_again_and_again(corpus, tmp_path, reference):
    """One job, killed at seven points, then finished: every byte as if it never was."""
    out = tmp_path / "t"
    # A server that has imported everything and run nothing forks in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    points = [
        ("replace", 1, "before"),  # the job's own file not yet in place
        ("encode", 3, "before"),  # in the first shard
        ("row group", 1, "after"),  # half a file written
        ("replace", 1, "before"),  # a whole file under its temporary name
        ("replace", 1, "after"),  # in place, its folder not yet synced
        ("fsync", 4, "before"),  # in the second shard of this run
        ("encode", 8, "after"),
    ]
    done = []
    for where, at, after in points:
        arguments = (corpus, out, where, at, after)
        process = context.Process(target=run_and_die, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        done.append(len(list(out.glob("tokens-*.parquet"))))
        for path in out.glob("tokens-*.parquet"):
            assert path.read_bytes() == reference[path.name]
    assert done == sorted(done) and done[3] == 0 and done[4] == 1
    assert 0 < done[-1] < 5

    class Counting(FeatureTokenizer):
        calls = 0

        def encode_batch(self, *args):
            Counting.calls += 1
            return super().encode_batch(*args)

    tokenizer = make_tokenizer()
    tokenizer.fingerprint  # noqa: B018  kept before the class changes its name
    tokenizer.__class__ = Counting
    run(corpus, out, tokenizer)
    assert Counting.calls == N_FILES - 5 * done[-1]
    assert content(out) == reference


def test_interrupt_leaves_no_half_shard(corpus, tmp_path, reference):
    class Stop(KeyboardInterrupt):
        pass

    tokenizer = make_tokenizer()
    encode, calls = tokenizer.encode_batch, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 8:
            raise Stop
        return encode(*args)

    tokenizer.encode_batch = interrupted
    with pytest.raises(Stop):
        run(corpus, tmp_path / "t", tokenizer)
    assert sorted(content(tmp_path / "t")) == ["_job.json", "tokens-00000.parquet"]
    run(corpus, tmp_path / "t")
    assert content(tmp_path / "t") == reference


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer": make_tokenizer(seed=1)}, "another tokenizer"),
        ({"drop": True}, "another list of items .23 items, now 22 items"),
        ({"shard_items": 6}, "another number of items per shard"),
        ({"long_seconds": 1.0}, "another threshold for long files"),
    ],
)
def test_another_job_is_refused(corpus, tmp_path, reference, change, said):
    run(corpus, tmp_path / "t")
    items = read_items(corpus)[: -1 if change.pop("drop", False) else None]
    with pytest.raises(DsuError, match=said):
        run(items, tmp_path / "t", **change)
    assert content(tmp_path / "t") == reference


def test_folder_of_something_else_is_refused(corpus, tmp_path):
    (tmp_path / "x.parquet").touch()
    with pytest.raises(DsuError, match="is no tokenizing job"):
        run(corpus, tmp_path)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_shares_count_from_zero(corpus, tmp_path, shard):
    with pytest.raises(DsuError, match="count from 0"):
        run(corpus, tmp_path / "t", shard=shard)


@pytest.mark.parametrize("n_codebooks", [0, 3])
def test_codebooks_that_do_not_exist(corpus, tmp_path, n_codebooks):
    tokenizer = make_tokenizer(groups=2)
    with pytest.raises(DsuError, match=f"n_codebooks={n_codebooks} asked of 2"):
        run(corpus, tmp_path / "t", tokenizer, n_codebooks=n_codebooks)


def test_first_codebooks_only(corpus, tmp_path):
    tokenizer = make_tokenizer(groups=2)
    run(corpus, tmp_path / "all", tokenizer)
    run(corpus, tmp_path / "one", tokenizer, n_codebooks=1)
    every, first = TokenStore(tmp_path / "all"), TokenStore(tmp_path / "one")
    assert (every.sizes, first.sizes) == ((50, 50), (50,))
    for item in every:
        assert torch.equal(every.codes(item)[:, :1], first.codes(item))


def make_bad_corpus(folder: Path) -> list[AudioItem]:
    folder.mkdir()
    good = noise(0.3, 16000, 0)

    def write(name, data, rate=16000, **more):
        soundfile.write(folder / f"{name}.wav", data, rate, **more)

    write("good", good)
    write("silent", np.zeros(4000))
    write("nan", np.array([0.0, 0.1, np.nan]), subtype="FLOAT")
    write("stereo", np.stack([good, good * 0.5], axis=1))
    write("eight-bit", good, subtype="PCM_U8")
    write("one-sample", np.array([0.3]))
    write("wrong-rate", noise(0.3, 44100, 1), 44100)
    write("no-samples", np.zeros(0))
    write("truncated", good)
    whole = (folder / "truncated.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(whole[:2000])
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not audio")
    items = read_items(folder)
    items.append(AudioItem("missing", str(folder / "missing.wav")))
    items.append(AudioItem("folder", str(folder)))
    items.append(AudioItem("beyond", str(folder / "good.wav"), 100, 10**6))
    return items


BAD = {
    "nan": "not a number at sample 2",
    "no-samples": "holds no samples",
    "truncated": "cut short",
    "empty": "the file is empty",
    "text": "not readable as audio",
    "missing": "no such file",
    "folder": "is a folder",
    "beyond": "is not in its 4800 samples",
}


def test_bad_files_cost_a_line_each(tmp_path):
    items = make_bad_corpus(tmp_path / "c")
    tokenizer = make_tokenizer()
    result, lines = run(items, tmp_path / "t", tokenizer)
    paths = {item.id: item.path for item in items}
    failed = {entry["id"]: entry["reason"] for entry in result.failed}
    assert set(failed) == set(BAD)
    for item, said in BAD.items():
        assert failed[item].startswith(f"{paths[item]}: ") and said in failed[item]
        assert f"failed: {failed[item]}" in lines
    assert result.silent == ["silent"]
    assert f"note: {paths['silent']}: silent" in lines
    assert len(lines) == len(BAD) + 1 and not any("\n" in line for line in lines)
    store = TokenStore(tmp_path / "t")
    assert set(store) == set(paths) - set(BAD)
    for item in store:
        wav, _ = read_audio(paths[item], 16000)
        assert torch.equal(store[item].codes, tokenizer.encode(wav[None]).codes)
    assert store.n_frames("one-sample") == tokenizer.num_frames(1) == 1
    summary = json.loads((tmp_path / "t" / "_summary.json").read_text())
    assert summary["failed"] == result.failed and summary["silent"] == ["silent"]
    assert summary["items"] == len(store) and summary["frames"] == result.frames


def test_failures_are_reported_by_later_runs_and_mended_on_request(tmp_path):
    items = make_bad_corpus(tmp_path / "c")
    first, _ = run(items, tmp_path / "t")
    before = content(tmp_path / "t")
    soundfile.write(tmp_path / "c" / "text.wav", noise(0.3, 16000, 5), 16000)
    again, lines = run(items, tmp_path / "t")
    assert again.failed == first.failed and not lines
    assert content(tmp_path / "t") == before
    mended, _ = run(items, tmp_path / "t", retry_failed=True)
    assert {e["id"] for e in mended.failed} == set(BAD) - {"text"}
    run(items, tmp_path / "fresh")
    assert content(tmp_path / "t") == content(tmp_path / "fresh")


def test_all_files_bad(tmp_path):
    items = [AudioItem(str(n), str(tmp_path / f"{n}.wav")) for n in range(7)]
    result, lines = run(items, tmp_path / "t")
    assert result.finished and len(result.failed) == len(lines) == 7
    assert len(TokenStore(tmp_path / "t")) == 0


@pytest.mark.parametrize("normalize", [None, "utterance"])
def test_long_files_in_pieces(tmp_path, monkeypatch, normalize):
    """A file is never in memory as a whole, and its tokens are those of one pass."""
    tokenizer = make_tokenizer(features=MFCC(normalize=normalize))
    soundfile.write(tmp_path / "long.wav", noise(100, 22050, 3), 22050)
    wav, _ = read_audio(tmp_path / "long.wav", 16000)
    want = tokenizer.encode(wav[None]).codes
    stretches = []

    def watched(path, rate=None, start=0, stop=None):
        found = read_audio(path, rate, start, stop)
        stretches.append(len(found[0]))
        return found

    monkeypatch.setattr(audio_module, "read_audio", watched)
    monkeypatch.setattr(prefetch_module, "read_audio", watched)
    result, _ = run(tmp_path / "long.wav", tmp_path / "t", tokenizer, long_seconds=60)
    assert stretches and max(stretches) < 40 * 22050
    got = TokenStore(tmp_path / "t")["long"].codes
    assert got.shape == want.shape and result.audio_seconds == pytest.approx(100)
    # Resampled in pieces, the audio differs in its last bits.
    assert (got != want).float().mean() < 2e-3


def test_long_silence_is_noticed_in_pieces(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros(40000), 16000)
    late = np.zeros(40000)
    late[-1] = 0.1
    soundfile.write(tmp_path / "t.wav", late, 16000)
    result, _ = run(tmp_path, tmp_path / "out", long_seconds=1.0)
    assert result.silent == ["s"]


def test_stretches_of_a_file(corpus, tmp_path):
    path = str(corpus / "f21.wav")
    items = [AudioItem("a", path, 0, 4000), AudioItem("b", path, 4000, 9000)]
    tokenizer = make_tokenizer()
    run(items, tmp_path / "t", tokenizer, long_seconds=0.27)
    store = TokenStore(tmp_path / "t")
    for item in items:
        wav, _ = read_audio(path, None, item.start, item.stop)
        assert torch.equal(store[item.id].codes, tokenizer.encode(wav[None]).codes)


def test_several_items_at_once(corpus, tmp_path, monkeypatch, reference):
    """As on an accelerator; an item that is too much for it fails alone."""
    monkeypatch.setattr(job_module, "items_at_once", lambda tokenizer: 4)
    tokenizer = make_tokenizer()
    tokenizer.batching = "padded"
    run(corpus, tmp_path / "t", tokenizer)
    got = TokenStore(tmp_path / "t")
    (tmp_path / "r").mkdir()
    for name, data in reference.items():
        (tmp_path / "r" / name).write_bytes(data)
    want = TokenStore(tmp_path / "r")
    assert list(got) == list(want)
    for item in want:
        assert torch.equal(got.codes(item), want.codes(item))
    longest = read_audio(corpus / f"f{N_FILES - 1}.wav", 16000)[0].shape[0]
    encode = tokenizer.encode_batch

    def limited(wavs, *args):
        if wavs.shape[1] >= longest:
            raise RuntimeError("out of memory\nwith details")
        return encode(wavs, *args)

    tokenizer.encode_batch = limited
    result, lines = run(corpus, tmp_path / "u", tokenizer)
    assert [entry["id"] for entry in result.failed] == [f"f{N_FILES - 1}"]
    assert lines == [f"failed: {corpus}/f{N_FILES - 1}.wav: out of memory"]


def test_model_runs_in_eval_mode_and_is_left_as_it_was(corpus, tmp_path, reference):
    class Moody(KMeans):
        def encode(self, latents, n_codebooks=None):
            assert not self.training
            return super().encode(latents, n_codebooks)

    tokenizer = make_tokenizer()
    tokenizer.quantizer.__class__ = Moody
    tokenizer.train()
    tokenizer.features.eval()
    run(corpus, tmp_path / "t", tokenizer)
    assert tokenizer.training and tokenizer.quantizer.training
    assert not tokenizer.features.training


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prefetch_keeps_order_and_bound(workers):
    taken = []

    def source():
        for n in range(50):
            taken.append(n)
            yield n

    for n, got in enumerate(prefetch(str, source(), workers, depth=4)):
        assert got == str(n)
        assert len(taken) <= n + 1 + 4


def test_prefetch_raises_in_turn():
    def fragile(n):
        if n == 2:
            raise ValueError(n)
        return n

    stream = prefetch(fragile, range(5), 2, depth=5)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(stream)


def test_real_speech(speech_data, tmp_path):
    source = speech_data / "LJSpeech-mini" / "wavs"
    result, lines = run(source, tmp_path / "t", make_tokenizer(), shard_items=40)
    assert not lines and result.items == len(list(source.glob("*.wav")))
    assert result.shards == 3 and result.finished
    store = TokenStore(tmp_path / "t")
    assert all(
        store.n_frames(item) == 1 + store.n_samples(item) // 320 for item in store
    )
