"""The speech generator with its synthesisers: whole corpora, kills, alignments."""

import ctypes.util
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from speechbrain_dsu.dataio.corpora import prepare_librispeech, read_manifest, synth
from speechbrain_dsu.dataio.corpora.synth_engines import _IPA, say
from speechbrain_dsu.dataio.corpora.synth_lexicon import DIGITS, SLOTS
from speechbrain_dsu.dataio.corpora.synth_plan import FOLDERS
from speechbrain_dsu.dataio.corpora.synth_voices import plain_speaker, speakers_of
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError

pytestmark = pytest.mark.skipif(
    not (shutil.which("flite") and ctypes.util.find_library("espeak-ng")),
    reason="needs the Debian packages flite and espeak-ng",
)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes" / "Synth" / "synth_prepare.py"
SIZES = {"valid_utterances": 6, "test_utterances": 6, "pairs": 8}
OPTIONS = {"hours": 0.012, "languages": {"en": 0.6, "es": 0.4}, **SIZES}
VOWELS = "aeiouyæɑɒɔəɐɛɜɪʊʌøœᵻɚ"


def tree(root):
    """Digest of every file of the corpus by its path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in root.rglob("*")
        if path.is_file() and "manifests" not in path.parts
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return synth.generate(tmp_path_factory.mktemp("synth") / "a", **OPTIONS, workers=2)


@pytest.fixture(scope="module")
def entries(corpus):
    paths = synth.prepare_synth(corpus, corpus / "manifests")
    return {name: read_manifest(path, corpus) for name, path in paths.items()}


def everything(entries):
    return {name: e for part in entries.values() for name, e in part.items()}


def test_the_corpus_has_its_sizes(entries):
    seconds = [e["duration"] for e in entries["train"].values()]
    assert sum(seconds) >= 0.012 * 3600
    # The fewest chapters that reach it.
    assert sum(seconds) - 10 * max(seconds) < 0.012 * 3600
    assert len(entries["valid"]) == 6
    assert len(entries["test"]) == 2 * 6
    assert len(entries["parallel"]) == 2 * 8


def test_same_bytes_with_another_number_of_workers(corpus, tmp_path):
    again = synth.generate(tmp_path / "b", **OPTIONS, workers=5)
    assert tree(again) == tree(corpus)
    other = {**OPTIONS, "hours": 0.001}
    assert not set(tree(synth.generate(tmp_path / "c", **other, seed=2))) <= set(
        tree(corpus)
    )


def test_a_killed_run_goes_on(corpus, tmp_path):
    out = tmp_path / "killed"
    words = ["--out", out, "--hours", "0.012", "--languages", "en=0.6", "es=0.4"]
    for name, value in SIZES.items():
        words += [f"--{name}", value]
    run = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, words), "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    while run.poll() is None and len(list(out.glob("*/*/[0-9]*"))) < 4:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    finished = {
        path: path.stat().st_mtime_ns
        for folder in out.glob("*/*/[0-9]*")
        for path in folder.iterdir()
    }
    assert finished
    # A chapter that the kill interrupted, if it didn't hit one.
    stale = out / "train-clean-100" / "espeak_m1_en_us" / ".part-100000-1"
    stale.mkdir(parents=True)
    (stale / "espeak_m1_en_us-100000-0000.flac").write_bytes(b"fLaC")
    synth.generate(out, **OPTIONS, workers=2)
    assert tree(out) == tree(corpus)
    kept = {p: t for p, t in finished.items() if p.exists()}
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    # Only what was made ahead of the need may have gone.
    assert all("train-clean-100" in path.parts for path in set(finished) - set(kept))


def test_more_hours_add_to_what_is_there(corpus, tmp_path):
    out = tmp_path / "grows"
    synth.generate(out, **{**OPTIONS, "hours": 0.001})
    before = tree(out)
    synth.generate(out, **OPTIONS)
    after = tree(out)
    assert after == tree(corpus)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"synth.json", "SPEAKERS.TXT"}
    with pytest.raises(DsuError, match="0.012 hours already"):
        synth.generate(out, **{**OPTIONS, "hours": 0.001})
    with pytest.raises(DsuError, match="other options"):
        synth.generate(out, **OPTIONS, seed=5)


def test_an_utterance_is_the_same_whatever_came_before():
    text = "This is the first of many fishes."
    for speaker in (plain_speaker("en", "m3"), plain_speaker("en", "rms")):
        first = say(speaker, text)
        say(speaker, "Something else in between.")
        again = say(speaker, text)
        assert first.wav.equal(again.wav)
        assert (first.phones, first.ends) == (again.phones, again.ends)


def test_phones_cover_the_audio(entries):
    for name, entry in everything(entries).items():
        phones = synth.aligned_phones(entry)
        wav, rate = read_audio(entry["wav"])
        assert rate == 16000
        assert abs(phones[-1][1] - len(wav) / rate) < 1 / rate, name
        assert phones[0][0] == 0
        for (_, end, _), (start, after, _) in zip(phones, phones[1:], strict=False):
            assert end == start < after, name


def energies(entries, shift=0.0):
    """Decibels and zero crossings per sample, by engine and phone."""
    found = {}
    for entry in entries.values():
        wav = read_audio(entry["wav"])[0].numpy()
        for start, end, phone in synth.aligned_phones(entry):
            part = wav[max(round((start + shift) * 16000), 0) :]
            part = part[: round((end - start) * 16000)]
            if len(part) > 160:
                level = 10 * np.log10(np.square(part).mean() + 1e-9)
                crossings = np.abs(np.diff(part > 0)).mean()
                key = entry["engine"], phone
                found.setdefault(key, []).append((level, crossings))
    return found


def of_kind(found, engine, kind):
    values = [v for (e, phone), v in found.items() if e == engine and kind(phone)]
    return np.array([pair for part in values for pair in part]).T


def is_vowel(phone):
    return phone[0] in VOWELS


def is_sil(phone):
    return phone == "sil"


@pytest.mark.parametrize("engine", ["flite", "espeak-ng"])
def test_pauses_are_quiet_and_vowels_are_not(entries, engine):
    found = energies(everything(entries))
    pauses = of_kind(found, engine, is_sil)[0]
    vowels = of_kind(found, engine, is_vowel)[0]
    assert len(pauses) > 10 and len(vowels) > 100
    assert np.mean(pauses < -40) > 0.97
    assert np.mean(vowels > -35) > 0.97
    assert vowels.mean() - pauses.mean() > 30


@pytest.mark.parametrize("engine", ["flite", "espeak-ng"])
def test_no_shift_of_the_alignment_fits_better(entries, engine):
    """Hiss and vowels are told apart best where the phones are said to be."""

    def contrast(shift):
        found = energies(everything(entries), shift)
        hiss = of_kind(found, engine, lambda phone: phone in ("s", "ʃ", "tʃ"))[1]
        vowels = of_kind(found, engine, is_vowel)[1]
        return hiss.mean() - vowels.mean()

    scores = {shift: contrast(shift) for shift in (-0.03, 0.0, 0.03)}
    assert max(scores, key=scores.get) == 0.0, scores


def test_held_out_voices_and_texts(entries):
    voices = {part: {e["voice"] for e in m.values()} for part, m in entries.items()}
    assert voices["test"] == {"slt", "m3"}
    for part in ("train", "valid", "parallel"):
        assert not voices[part] & voices["test"]
    said = {part: {e["content"] for e in m.values()} for part, m in entries.items()}
    assert not said["train"] & (said["valid"] | said["test"])


def test_pairs_have_equal_digits(entries):
    parallel = entries["parallel"]
    pairs = synth.pairs_of(parallel)
    assert len(pairs) == SIZES["pairs"]
    strings = 0
    for source, target in pairs:
        spanish, english = parallel[source]["text"], parallel[target]["text"]
        numbers = [
            [words.index(word) for word in text.split() if word in words]
            for text, words in (
                (spanish, [row[1] for row in DIGITS]),
                (english, [row[0] for row in DIGITS]),
            )
        ]
        if parallel[source]["content"].startswith("d."):
            strings += 1
            assert numbers[0] == numbers[1] != []
            assert len(numbers[1]) == len(english.split())
    assert strings > 0


def test_librispeech_preparation_reads_the_folder(corpus, entries, tmp_path):
    paths = prepare_librispeech(corpus, tmp_path / "manifests")
    for part, path in paths.items():
        theirs = read_manifest(path, corpus)
        assert set(theirs) == set(entries[part])
        for name, entry in entries[part].items():
            for key in ("wav", "duration", "spk_id", "sex"):
                assert theirs[name][key] == entry[key]
            assert theirs[name]["text"] == entry["text"].upper()


def test_manifests_are_made_once(corpus, entries):
    path = corpus / "manifests" / "train.json"
    before = path.stat().st_mtime_ns
    synth.prepare_synth(corpus, corpus / "manifests")
    assert path.stat().st_mtime_ns == before
    assert set(entries) == set(FOLDERS)


def test_own_texts_are_spoken(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"Number {a} {b}.\n" for a in "abcde" for b in "fghijk"))
    out = synth.generate(
        tmp_path / "own",
        hours=0.001,
        languages={"en": 1},
        texts={"en": lines},
        valid_utterances=2,
        test_utterances=0,
        pairs=0,
    )
    paths = synth.prepare_synth(out, tmp_path / "manifests")
    assert set(paths) == {"train", "valid"}
    for path in paths.values():
        for entry in read_manifest(path, out).values():
            assert entry["text"].startswith("number ")


def test_the_lexicon_has_every_english_phone():
    tables = [*SLOTS.values(), DIGITS]
    words = " . ".join(row[0] for table in tables for row in table)
    done = subprocess.run(
        ["flite", "-voice", "kal16", "-ps", "-t", f" {words}", "-o", "none"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) >= set(_IPA)


def test_every_espeak_voice_is_there():
    """The synthesiser knows the names: three variants of each language."""
    for language in ("en", "es", "fr", "de"):
        for speaker in speakers_of(language)[-3:]:
            assert len(say(speaker, "Papa.").wav) > 1600
