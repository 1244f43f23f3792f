"""Corpus preparation: generated trees in the published layouts, laws, bad input."""

import inspect
import json
import math
import os
import random
import shutil
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_dsu.dataio import corpora
from speechbrain_dsu.dataio.corpora import manifests
from speechbrain_dsu.dataio.corpora.manifests import Utterance, split_by_share
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError

# SpeechBrain leaves redirects to modules that may not be installed in sys.modules;
# any look at them raises, and hypothesis looks at every module for its file.
for module in list(sys.modules.values()):
    if type(module).__name__ == "DeprecatedModuleRedirect":
        module.__dict__.setdefault("__file__", None)


def tone(path, samples=800, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, 0.1 * torch.sin(torch.arange(samples) * 0.1), rate)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")


def make_ljspeech(root, count=10):
    lines = []
    for i in range(1, count + 1):
        tone(root / "wavs" / f"LJ001-{i:04}.wav", 2205 + i, 22050)
        lines.append(f'LJ001-{i:04}|Dr. "{i}|Doctor {i}, {{x}} café')
    text(root / "metadata.csv", "\n".join(lines) + "\n")
    return root


def make_librispeech(root):
    speakers = {"train-clean-100": "19", "dev-clean": "84", "test-clean": "61"}
    for folder, speaker in speakers.items():
        for chapter in ("198", "227"):
            base, rows = root / folder / speaker / chapter, []
            for i in range(3):
                name = f"{speaker}-{chapter}-{i:04}"
                tone(base / f"{name}.flac", 1600 * (i + 1))
                rows.append(f"{name} WORDS OF {i}")
            text(base / f"{speaker}-{chapter}.trans.txt", "\n".join(rows) + "\n")
    text(
        root / "SPEAKERS.TXT",
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "19   | F | train-clean-100  | 25.19 | Kara Shallenberg\n"
        "84   | M | dev-clean        |  8.02 | Christie | Nowak\n",
    )
    return root


def make_libritts(root):
    speakers = {"train-clean-100": "19", "dev-clean": "84", "test-clean": "61"}
    for folder, speaker in speakers.items():
        for chapter in ("198", "227"):
            for i in range(3):
                name = f"{speaker}_{chapter}_{i:06}_000001"
                base = root / folder / speaker / chapter
                tone(base / f"{name}.wav", 2400 * (i + 1), 24000)
                text(base / f"{name}.normalized.txt", f"Words of Doctor {i}.")
                text(base / f"{name}.original.txt", f"Words of Dr. {i}.\n")
            # As published, a table of the same texts lies beside them.
            text(base / f"{speaker}_{chapter}.trans.tsv", "name\tx\ty\n")
    text(
        root / "SPEAKERS.txt",
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "84   | M | dev-clean        |  8.02 | Christie | Nowak\n",
    )
    return root


def make_fsdd(root):
    for digit in range(3):
        for speaker in ("lucas", "george"):
            for take in (0, 4, 5, 12, 40):
                tone(root / "recordings" / f"{digit}_{speaker}_{take}.wav", 400, 8000)
    return root


def make_vctk(root, release="0.92"):
    pattern = {
        "0.92": "wav48_silence_trimmed/{0}/{0}_{1}_mic{2}.flac",
        "0.80": "wav48/{0}/{0}_{1}.wav",
        "mini": "{0}/{0}_{1}.wav",
    }[release]
    for speaker in ("p225", "p315", "s5"):
        for number in ("001", "002"):
            for mic in (1, 2):
                tone(root / pattern.format(speaker, number, mic), 480 * mic, 48000)
            if release != "mini" and speaker != "p315":
                text(root / "txt" / speaker / f"{speaker}_{number}.txt", "Ask her.\n")
    prefix = "p" if release == "0.92" else ""
    if release != "mini":
        text(
            root / "speaker-info.txt",
            "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\n"
            f"{prefix}225  23  F    English    Southern  England\n"
            f"{prefix}315  18  M    American   New England\n",
        )
    return root


MAKERS = {
    corpora.prepare_ljspeech: make_ljspeech,
    corpora.prepare_librispeech: make_librispeech,
    corpora.prepare_libritts: make_libritts,
    corpora.prepare_fsdd: make_fsdd,
    corpora.prepare_vctk: make_vctk,
}
everywhere = pytest.mark.parametrize(
    "prepare", MAKERS, ids=[f.__name__[8:] for f in MAKERS]
)


def load(paths, root):
    return {name: corpora.read_manifest(path, root) for name, path in paths.items()}


def audio_of(root):
    return sorted(p for e in ("*.wav", "*.flac") for p in root.rglob(e))


def record(folder):
    return json.loads((folder / manifests.RECORD).read_text())


@everywhere
def test_speechbrain_reads_the_manifests(prepare, tmp_path):
    root = MAKERS[prepare](tmp_path / "corpus")
    paths = prepare(root, tmp_path / "out")
    assert set(paths) == {"train", "valid", "test"}
    seen = []
    for path in paths.values():
        data = DynamicItemDataset.from_json(path, {"data_root": str(root)})
        data.set_output_keys(["id", "wav", "duration", "spk_id", "text"])
        for item in data:
            wav, rate = read_audio(item["wav"])
            assert item["duration"] == pytest.approx(len(wav) / rate, abs=1e-6)
            seen.append(item["id"])
    files = [p for p in audio_of(root) if "_mic2" not in p.name]
    assert sorted(seen) == sorted(p.stem.replace("_mic1", "") for p in files)


@everywhere
def test_a_moved_corpus_gives_the_same_manifests(prepare, tmp_path):
    first = prepare(MAKERS[prepare](tmp_path / "one"), tmp_path / "out1")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    second = prepare(tmp_path / "elsewhere" / "two", tmp_path / "out2")
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes()


OTHER_VALUES = {
    "split_ratio": [50, 25, 25],
    "seed": 7,
    "splits": {"train": ["dev-clean"]},
    "held_out_speaker": "lucas",
    "valid_percent": 30,
    "split_by": "utterance",
    "mic": 2,
}


@everywhere
def test_every_option_counts_for_the_skip_test(prepare, tmp_path):
    root = MAKERS[prepare](tmp_path / "corpus")
    names = set(inspect.signature(prepare).parameters)
    keys = set()
    for name in sorted(names - {"data_folder", "save_folder", "skip_prep"}) + [None]:
        options = {name: OTHER_VALUES[name]} if name else {}
        prepare(root, tmp_path / "out", **options)
        keys.add(record(tmp_path / "out")["fingerprint"])
    assert len(keys) == len(names) - 2


@everywhere
def test_the_same_inputs_are_prepared_once(prepare, tmp_path, monkeypatch):
    root = MAKERS[prepare](tmp_path / "corpus")
    before = prepare(root, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "audio_info", None)  # calling it would raise
        assert prepare(root, tmp_path / "out") == before
        with pytest.raises(TypeError):
            prepare(root, tmp_path / "other")


@everywhere
def test_a_changed_file_or_manifest_is_noticed(prepare, tmp_path):
    root = MAKERS[prepare](tmp_path / "corpus")
    paths = prepare(root, tmp_path / "out")
    right = {name: path.read_bytes() for name, path in paths.items()}
    paths["train"].write_text("{}")
    paths["test"].unlink()
    prepare(root, tmp_path / "out")
    assert {n: p.read_bytes() for n, p in paths.items()} == right
    for path in audio_of(root):
        rate = 8000 if path.parent.name == "recordings" else 16000
        tone(path, 4000, rate)
    seconds = 4000 / (8000 if prepare is corpora.prepare_fsdd else 16000)
    for part in load(prepare(root, tmp_path / "out"), root).values():
        assert all(e["duration"] == pytest.approx(seconds) for e in part.values())


def test_changed_transcripts_are_noticed(tmp_path):
    root = make_librispeech(tmp_path / "corpus")
    prepare, out = corpora.prepare_librispeech, tmp_path / "out"
    prepare(root, out)
    base = root / "dev-clean" / "84" / "198" / "84-198.trans.txt"
    base.write_text(base.read_text().replace("WORDS OF 1", "ANOTHER TEXT"))
    found = load(prepare(root, out), root)["valid"]["84-198-0001"]
    assert found["text"] == "ANOTHER TEXT"


def test_manifests_that_the_options_do_not_give_are_removed(tmp_path):
    root, out = make_ljspeech(tmp_path / "corpus"), tmp_path / "out"
    corpora.prepare_ljspeech(root, out)
    paths = corpora.prepare_ljspeech(root, out, split_ratio=[90, 0, 10])
    left = sorted(p.name for p in out.iterdir())
    assert left == ["prepared.json", "test.json", "train.json"]
    assert sorted(paths) == ["test", "train"]


def test_one_folder_holds_one_corpus(tmp_path):
    corpora.prepare_ljspeech(make_ljspeech(tmp_path / "lj"), tmp_path / "out")
    with pytest.raises(DsuError, match="holds the manifests of LJSpeech"):
        corpora.prepare_fsdd(make_fsdd(tmp_path / "fsdd"), tmp_path / "out")


def test_an_interrupted_preparation_is_repeated(tmp_path, monkeypatch):
    root, out = make_ljspeech(tmp_path / "corpus"), tmp_path / "out"
    corpora.prepare_ljspeech(root, out, seed=1)
    write, calls = json.dump, []

    def stop_at_the_second(content, file, **options):
        calls.append(1)
        if len(calls) == 2:
            file.write("{ half")
            raise KeyboardInterrupt
        write(content, file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(manifests.json, "dump", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            corpora.prepare_ljspeech(root, out, seed=2)
    assert not [p for p in out.iterdir() if "part" in p.name]
    expected = corpora.prepare_ljspeech(root, tmp_path / "fresh", seed=2)
    again = corpora.prepare_ljspeech(root, out, seed=2)
    for name, path in again.items():
        assert path.read_bytes() == expected[name].read_bytes()


def test_bad_files_are_named_counted_and_left_out(tmp_path, caplog):
    root = make_ljspeech(tmp_path / "corpus")
    wavs = root / "wavs"
    (wavs / "LJ001-0001.wav").unlink()
    (wavs / "LJ001-0002.wav").write_bytes(b"")
    (wavs / "LJ001-0003.wav").write_text("<html>not found</html>")
    whole = (wavs / "LJ001-0004.wav").read_bytes()
    (wavs / "LJ001-0004.wav").write_bytes(whole[:200])
    tone(wavs / "LJ001-0099.wav")
    tone(wavs / "._LJ001-0005.wav")
    for _ in range(2):  # a skipped preparation says it again
        caplog.clear()
        parts = load(corpora.prepare_ljspeech(root, tmp_path / "out"), root)
        assert "5 of 11 utterances left out" in caplog.text
        reasons = {1: "no such file", 2: "empty", 3: "not readable", 4: "cut short"}
        reasons[99] = "not in metadata.csv"
        for number, reason in reasons.items():
            line = [
                r
                for r in record(tmp_path / "out")["left_out"]
                if f"LJ001-{number:04}.wav" in r
            ]
            assert len(line) == 1 and reason in line[0]
            assert line[0] in caplog.text
        kept = sorted(name for part in parts.values() for name in part)
        assert kept == [f"LJ001-{i:04}" for i in range(5, 11)]


@everywhere
def test_nothing_usable_is_an_error(prepare, tmp_path):
    root = MAKERS[prepare](tmp_path / "corpus")
    for path in audio_of(root):
        path.write_bytes(b"")
    with pytest.raises(DsuError, match="none of .* usable, e.g. .*file is empty"):
        prepare(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@everywhere
def test_wrong_folders_say_what_was_found(prepare, tmp_path):
    root = MAKERS[prepare](tmp_path / "unpacked")
    (tmp_path / "empty").mkdir()
    text(tmp_path / "packed" / "corpus.tar.bz2", "x")
    text(tmp_path / "photos" / "a.jpg", "x")
    inner = next(p for p in sorted(root.iterdir()) if p.is_dir())
    cases = {
        tmp_path: f"one level down: pass {str(root)!r}",
        inner: f"is inside the corpus: pass {str(root)!r}",
        tmp_path / "empty": "is empty",
        tmp_path / "packed": "holds the archive corpus.tar.bz2, not unpacked",
        tmp_path / "packed" / "corpus.tar.bz2": "is an archive: unpack it",
        tmp_path / "photos" / "a.jpg": "is a file",
        tmp_path / "photos": "holds a.jpg",
        tmp_path / "nowhere": "does not exist",
    }
    for folder, message in cases.items():
        with pytest.raises(DsuError) as caught:
            prepare(folder, tmp_path / "out")
        assert message in str(caught.value)
        assert repr(str(folder)) in str(caught.value)
        assert "expected" in str(caught.value) and "\n" not in str(caught.value)


@everywhere
def test_skip_prep_touches_nothing(prepare, tmp_path):
    assert prepare("/nowhere", tmp_path / "out", skip_prep=True) == {}
    assert not (tmp_path / "out").exists()


def test_ljspeech_texts(tmp_path):
    root = make_ljspeech(tmp_path / "corpus")
    table = root / "metadata.csv"
    table.write_text(table.read_text("utf-8").replace("\n", "\r\n", 2), "utf-8")
    parts = load(corpora.prepare_ljspeech(root, tmp_path / "out"), root)
    entries = {k: v for part in parts.values() for k, v in part.items()}
    for i in (1, 2, 10):
        assert entries[f"LJ001-{i:04}"]["text"] == f"Doctor {i}, {{x}} café"
        assert entries[f"LJ001-{i:04}"]["text_raw"] == f'Dr. "{i}'
    text(table, "LJ001-0001|one|two\nno bars here\n")
    with pytest.raises(DsuError, match=r"metadata.csv, line 2: .*no bars here"):
        corpora.prepare_ljspeech(root, tmp_path / "out")


def test_librispeech_entries(tmp_path):
    root = make_librispeech(tmp_path / "corpus")
    splits = {"train": ["train-clean-100", "dev-clean"], "eval": ["test-clean"]}
    parts = load(corpora.prepare_librispeech(root, tmp_path / "out", splits), root)
    assert len(parts["train"]) == 12 and len(parts["eval"]) == 6
    assert parts["train"]["84-227-0002"] == {
        "wav": str(root / "dev-clean" / "84" / "227" / "84-227-0002.flac"),
        "duration": 0.3,
        "spk_id": "84",
        "chapter": "227",
        "sex": "M",
        "text": "WORDS OF 2",
    }
    assert parts["train"]["19-198-0000"]["sex"] == "F"
    assert parts["eval"]["61-198-0000"]["sex"] is None


def test_librispeech_without_speakers_file_and_with_gaps(tmp_path):
    root = make_librispeech(tmp_path / "corpus")
    (root / "SPEAKERS.TXT").unlink()
    base = root / "dev-clean" / "84" / "198"
    (base / "84-198-0000.flac").unlink()
    tone(base / "84-198-0009.flac")
    tone(base / "notes.flac")
    parts = load(corpora.prepare_librispeech(root, tmp_path / "out"), root)
    assert len(parts["valid"]) == 5
    assert all(entry["sex"] is None for entry in parts["valid"].values())
    left_out = "\n".join(record(tmp_path / "out")["left_out"])
    assert "84-198-0000: has a transcript and no file" in left_out
    assert "84-198-0009.flac: has no transcript" in left_out
    assert "notes.flac: not named" in left_out


def test_libritts_entries_and_gaps(tmp_path):
    root = make_libritts(tmp_path / "corpus")
    base = root / "dev-clean" / "84" / "227"
    (base / "84_227_000000_000001.normalized.txt").unlink()
    (base / "84_227_000001_000001.original.txt").unlink()
    (root / "test-clean" / "61" / "198" / "61_198_000002_000001.wav").unlink()
    tone(base / "84-227-0009.wav")
    parts = load(corpora.prepare_libritts(root, tmp_path / "out"), root)
    assert [len(part) for part in parts.values()] == [6, 5, 5]
    assert parts["valid"]["84_227_000002_000001"] == {
        "wav": str(base / "84_227_000002_000001.wav"),
        "duration": 0.3,
        "spk_id": "84",
        "chapter": "227",
        "sex": "M",
        "text": "Words of Doctor 2.",
        "text_raw": "Words of Dr. 2.",
    }
    assert parts["valid"]["84_227_000001_000001"]["text_raw"] is None
    assert parts["train"]["19_198_000000_000001"]["sex"] is None
    left_out = "\n".join(record(tmp_path / "out")["left_out"])
    assert "84_227_000000_000001.wav: has no transcript" in left_out
    assert "61_198_000002_000001: has a transcript and no file" in left_out
    assert "84-227-0009.wav: not named speaker_chapter_paragraph" in left_out


def test_libritts_notices_a_changed_text_and_refuses_librispeech(tmp_path):
    root, out = make_libritts(tmp_path / "corpus"), tmp_path / "out"
    corpora.prepare_libritts(root, out)
    base = root / "dev-clean" / "84" / "198"
    text(base / "84_198_000001_000001.normalized.txt", "Another text.")
    found = load(corpora.prepare_libritts(root, out), root)["valid"]
    assert found["84_198_000001_000001"]["text"] == "Another text."
    other = make_librispeech(tmp_path / "other")
    with pytest.raises(DsuError, match="LibriTTS: none of 0 utterances"):
        corpora.prepare_libritts(other, tmp_path / "wrong")


def test_librispeech_missing_parts(tmp_path):
    root = make_librispeech(tmp_path / "corpus")
    text(root / "test-other.tar.gz", "x")
    ask = {"train": ["train-clean-100"], "test": ["test-other"]}
    with pytest.raises(DsuError) as caught:
        corpora.prepare_librispeech(root, tmp_path / "out", ask)
    assert "no folder 'test-other'" in str(caught.value)
    assert "test-other.tar.gz is not unpacked" in str(caught.value)
    assert "dev-clean" in str(caught.value)
    for wrong in ({"a": ["dev-clean"], "b": ["dev-clean"]}, {"a": []}):
        with pytest.raises(DsuError, match="every folder to one manifest"):
            corpora.prepare_librispeech(root, tmp_path / "out", wrong)


def test_fsdd_official_split_and_fields(tmp_path):
    root = make_fsdd(tmp_path / "corpus")
    tone(root / "recordings" / "readme_tone.wav")
    parts = load(corpora.prepare_fsdd(root, tmp_path / "out"), root)
    assert {e["take"] for e in parts["test"].values()} == {0, 4}
    rest = {**parts["train"], **parts["valid"]}
    assert {e["take"] for e in rest.values()} == {5, 12, 40}
    assert len(parts["test"]) == 12 and len(parts["valid"]) == 2
    words = {e["digit"]: e["text"] for e in rest.values()}
    assert words == {0: "zero", 1: "one", 2: "two"}
    assert "readme_tone" in record(tmp_path / "out")["left_out"][0]


def test_fsdd_leaves_one_speaker_out(tmp_path):
    root = make_fsdd(tmp_path / "corpus")
    parts = load(corpora.prepare_fsdd(root, tmp_path / "out", "lucas"), root)
    speakers = {n: {e["spk_id"] for e in part.values()} for n, part in parts.items()}
    assert speakers == {"train": {"george"}, "valid": {"george"}, "test": {"lucas"}}
    assert len(parts["test"]) == 15
    with pytest.raises(DsuError, match=r"'nobody' .*\['george', 'lucas'\]"):
        corpora.prepare_fsdd(root, tmp_path / "out", "nobody")


@pytest.mark.parametrize("release", ["0.92", "0.80", "mini"])
def test_vctk_releases(release, tmp_path):
    root = make_vctk(tmp_path / "corpus", release)
    parts = load(corpora.prepare_vctk(root, tmp_path / "out"), root)
    # Three speakers, one each: the parts share none.
    speakers = [{e["spk_id"] for e in part.values()} for part in parts.values()]
    assert sorted(len(part) for part in speakers) == [1, 1, 1]
    entries = {k: v for part in parts.values() for k, v in part.items()}
    assert len(entries) == 6 and os.path.isfile(entries["p225_001"]["wav"])
    known = release != "mini"
    entry = entries["p225_002"]
    assert entry["text"] == ("Ask her." if known else None)
    assert entry["sex"] == ("F" if known else None)
    assert entry["accent"] == ("English" if known else None)
    assert entries["p315_001"]["text"] is None
    assert entries["s5_001"]["sex"] is None


def test_vctk_microphones_and_options(tmp_path):
    root = make_vctk(tmp_path / "corpus")
    ratio = [100, 0, 0]
    for mic in (1, 2):
        out = tmp_path / f"mic{mic}"
        part = load(corpora.prepare_vctk(root, out, ratio, mic=mic), root)["train"]
        assert len(part) == 6
        assert {e["duration"] for e in part.values()} == {0.01 * mic}
    for wrong in ({"mic": 3}, {"split_by": "accent"}):
        with pytest.raises(DsuError, match="microphone 1 or 2"):
            corpora.prepare_vctk(root, tmp_path / "out", **wrong)


def test_an_id_that_stands_for_two_files_is_an_error(tmp_path):
    root = make_vctk(tmp_path / "corpus", "mini")
    tone(root / "p226" / "p225_001.wav")
    with pytest.raises(DsuError, match="p225_001 stands for p225/.* p226/"):
        corpora.prepare_vctk(root, tmp_path / "out")


shares_of_100 = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(
    lambda ab: [min(ab), max(ab) - min(ab), 100 - max(ab)]
)


def utterances(count):
    return [Utterance(f"u{i:04}", f"{i}.wav", {"spk_id": i % 7}) for i in range(count)]


@settings(max_examples=150, deadline=None)
@example(1, [0, 50, 50], 1, random.Random(0))
@given(st.integers(0, 120), shares_of_100, st.integers(0, 99), st.randoms())
def test_a_split_is_a_partition_by_share(count, shares, seed, order):
    items = utterances(count)
    parts = split_by_share(items, shares, seed)
    names = sorted(item.id for part in parts.values() for item in part)
    assert names == [item.id for item in items]
    wanted = dict(zip(("train", "valid", "test"), shares, strict=True))
    assert list(parts) == [name for name, share in wanted.items() if share > 0]
    for name, part in parts.items():
        if count >= 3:
            assert len(part) >= 1
            assert abs(len(part) - count * wanted[name] / 100) <= 2
    shuffled = list(items)
    order.shuffle(shuffled)
    again = split_by_share(shuffled, shares, seed)
    assert {n: {i.id for i in p} for n, p in again.items()} == {
        n: {i.id for i in p} for n, p in parts.items()
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 120), st.integers(0, 99), st.integers(0, 9))
def test_one_missing_file_moves_hardly_anybody(count, seed, missing):
    items = utterances(count)
    before = split_by_share(items, [80, 10, 10], seed)
    after = split_by_share(items[:missing] + items[missing + 1 :], [80, 10, 10], seed)
    where = {i.id: name for name, part in before.items() for i in part}
    moved = [i for name, part in after.items() for i in part if where[i.id] != name]
    assert len(moved) <= 4


def test_seeds_and_groups():
    items = utterances(70)
    first, second = (split_by_share(items, [80, 10, 10], s)["train"] for s in (1, 2))
    assert {i.id for i in first} != {i.id for i in second}
    grouped = split_by_share(items, [60, 20, 20], 1, lambda u: str(u.fields["spk_id"]))
    speakers = [{i.fields["spk_id"] for i in part} for part in grouped.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 7
    for wrong in ([80, 20], [80, 10, 20], [120, -10, -10]):
        with pytest.raises(DsuError, match="add up to 100"):
            split_by_share(items, wrong, 1)


lengths = st.lists(st.floats(0.1, 12), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(lengths, lengths, st.one_of(st.none(), st.floats(1, 200)))
def test_corpora_are_balanced_by_seconds(one, two, seconds):
    made = {
        name: {f"{name}{i}": {"wav": f"{name}{i}", "duration": d} for i, d in items}
        for name, items in (("a", enumerate(one)), ("b", enumerate(two)))
    }
    items = corpora.balanced_items(made, seconds)
    assert len({item.id for item in items}) == len(items)
    target = seconds or min(sum(one), sum(two))
    for name, manifest in made.items():
        drawn = [item.path for item in items if item.id.startswith(f"{name}/")]
        total = math.fsum(manifest[path]["duration"] for path in drawn)
        longest = max(entry["duration"] for entry in manifest.values())
        assert abs(total - target) <= longest / 2 + 1e-6
        # Nobody comes a second time before everybody came once.
        times = [drawn.count(path) for path in manifest]
        assert max(times) - min(times) <= 1
    assert items == corpora.balanced_items(made, seconds)


def test_balancing_needs_audio():
    full = {"a": {"wav": "a", "duration": 1.0}}
    with pytest.raises(DsuError, match=r"\['empty'\]"):
        corpora.balanced_items({"full": full, "empty": {}})
    for seconds in (0, -1, math.nan):
        with pytest.raises(DsuError, match="positive"):
            corpora.balanced_items({"full": full}, seconds)


def test_real_corpora(speech_data, tmp_path):
    lj = speech_data / "LJSpeech-mini"
    parts = load(corpora.prepare_ljspeech(lj, tmp_path / "lj"), lj)
    assert [len(part) for part in parts.values()] == [72, 9, 9]
    seconds = sum(e["duration"] for part in parts.values() for e in part.values())
    assert seconds / 60 == pytest.approx(9.9, abs=0.05)
    fsdd = speech_data / "fsdd"
    parts = load(corpora.prepare_fsdd(fsdd, tmp_path / "fsdd"), fsdd)
    assert [len(part) for part in parts.values()] == [2025, 225, 250]
    vctk = speech_data / "VCTK-mini"
    parts = load(corpora.prepare_vctk(vctk, tmp_path / "vctk"), vctk)
    assert [len(part) for part in parts.values()] == [10, 10, 10]
    for name in ("lj", "fsdd", "vctk"):
        assert record(tmp_path / name)["left_out"] == []
