"""Pairs of recordings: CVSS's layout, generated pairs, digits by a real speaker."""

import json
import shutil

import pytest
import torch

from speechbrain_dsu.dataio.corpora.cvss import prepare_cvss
from speechbrain_dsu.dataio.corpora.speech_pairs import (
    prepare_digit_pairs,
    prepare_synth_pairs,
    read_pairs,
)
from speechbrain_dsu.dataio.corpora.synth_text import part_of, realise
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError


def tone(path, samples=800, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, 0.1 * torch.sin(torch.arange(samples) * 0.1), rate)


# CVSS

HEAD = "client_id\tpath\tsentence\tup_votes\n"


@pytest.fixture
def cvss(tmp_path):
    """Common Voice's Spanish and CVSS-C as they are unpacked, three clips a part."""
    es, en = tmp_path / "es", tmp_path / "es-en"
    lines, number = [], 0
    for part in ("train", "dev", "test"):
        rows = []
        for _ in range(3):
            number += 1
            clip = f"common_voice_es_{number}.mp3"
            tone(es / "clips" / clip.replace(".mp3", ".wav"), 1600 * number)
            tone(en / part / f"{clip}.wav", 2400, 24000)
            lines.append(f'voz{number % 2}\t{clip}\tFrase "{number}, {{x}} año\t2\n')
            rows.append(f"{clip}\tsentence {number}\n")
        (en / f"{part}.tsv").write_text("".join(rows), "utf-8")
    (es / "validated.tsv").write_text(HEAD + "".join(lines), "utf-8")
    return es, en


def test_cvss_gives_its_official_parts(cvss, tmp_path):
    paths = prepare_cvss(*cvss, tmp_path / "out")
    found = {part: read_pairs(path, *cvss) for part, path in paths.items()}
    assert {part: len(entries) for part, entries in found.items()} == {
        "train": 3,
        "valid": 3,
        "test": 3,
    }
    entry = found["valid"]["common_voice_es_5"]
    assert entry["duration"] == 0.5 and entry["spk_id"] == "voz1"
    assert entry["source_text"] == 'Frase "5, {x} año' and entry["text"] == "sentence 5"
    assert len(read_audio(entry["wav"], 16000)[0]) == 8000
    assert len(read_audio(entry["target_wav"], 24000)[0]) == 2400
    assert prepare_cvss(*cvss, tmp_path / "out", skip_prep=True) == {}


def test_cvss_leaves_out_what_is_not_whole(cvss, tmp_path):
    es, en = cvss
    (es / "clips" / "common_voice_es_1.wav").unlink()
    (en / "train" / "common_voice_es_2.mp3.wav").unlink()
    shutil.rmtree(en / "test")
    paths = prepare_cvss(es, en, tmp_path / "out")
    assert sorted(paths) == ["train", "valid"]
    assert list(read_pairs(paths["train"], es, en)) == ["common_voice_es_3"]
    left = json.loads((tmp_path / "out" / "prepared.json").read_text())["left_out"]
    assert len(left) == 2 and all("no such file" in reason for reason in left)


def test_cvss_says_what_is_wrong(cvss, tmp_path):
    es, en = cvss
    with pytest.raises(DsuError, match="release 4 with clips"):
        prepare_cvss(en, en, tmp_path / "out")
    with pytest.raises(DsuError, match="one level down"):
        prepare_cvss(es, tmp_path, tmp_path / "out")
    (es / "validated.tsv").write_text("path\tsentence\n")
    with pytest.raises(DsuError, match="column 'client_id'"):
        prepare_cvss(es, en, tmp_path / "out")
    (es / "validated.tsv").unlink()
    (en / "dev.tsv").write_text("common_voice_es_4.mp3 sentence\n")
    with pytest.raises(DsuError, match="line 1: expected"):
        prepare_cvss(es, en, tmp_path / "out")


# Generated pairs


def make_synth(root, contents, parallel=()):
    """A finished generated corpus with given contents; audio of no meaning."""
    folders = {"train": "train-clean-100", "valid": "dev-clean", "test": "test-clean"}

    def chapter(folder, speaker, number, language, chosen):
        place = root / folder / speaker / str(number)
        table = {}
        for index, content in enumerate(chosen):
            name = f"{speaker}-{number}-{index:04}"
            tone(place / f"{name}.flac", 1600)
            text = realise(content, language)[:-1].lower()
            table[name] = {"text": text, "content": content}
        about = {"spk_id": speaker, "language": language}
        path = place / f"{speaker}-{number}.phones.json"
        path.write_text(json.dumps({"speaker": about, "utterances": table}), "utf-8")

    for turn, (part, folder) in enumerate(folders.items()):
        chosen = [c for c in contents if part_of(c) == part]
        chapter(folder, f"es{part}", turn, "es", chosen)
    if parallel:
        chapter("parallel", "es", 8, "es", parallel)
        chapter("parallel", "en", 9, "en", parallel)
    (root / "synth.json").write_text("{}")
    (root / "SPEAKERS.TXT").write_text(";\n")
    return root


CONTENTS = [f"d.{a}.{b}" for a in range(6) for b in range(10)]


def make_fsdd(root, takes=8):
    for digit in range(10):
        for take in range(takes):
            for speaker in ("ann", "bob"):
                path = root / "recordings" / f"{digit}_{speaker}_{take}.wav"
                tone(path, 1000 + 10 * digit, 8000)
    return root


def test_digit_pairs_say_the_same_on_both_sides(tmp_path):
    es = make_synth(tmp_path / "es", [*CONTENTS, "s.1.0.1.3.1"])
    fsdd, out = make_fsdd(tmp_path / "fsdd"), tmp_path / "out"
    paths = prepare_digit_pairs(es, fsdd, out, speaker="ann", takes=2, pause=0.04)
    words = "cero uno dos tres cuatro cinco seis siete ocho nueve".split()
    english = "zero one two three four five six seven eight nine".split()
    used = {"train": set(), "valid": set(), "test": set()}
    texts = {}
    for part, path in paths.items():
        entries = read_pairs(path, es, out)
        texts[part] = {entry["text"] for entry in entries.values()}
        for entry in entries.values():
            digits = [words.index(word) for word in entry["source_text"].split()]
            assert entry["text"] == " ".join(english[digit] for digit in digits)
            names = [path.rsplit("/", 1)[1] for path in entry["target_wav"]]
            assert [int(name[0]) for name in names] == digits
            assert all("_ann_" in name for name in names)
            used[part] |= set(names)
            # 20 ms of faint noise on either side.
            wav = read_audio(entry["target_wav"][0], 8000)[0]
            assert len(wav) == 1000 + 10 * digits[0] + 320
            assert 0 < float(wav[:160].abs().max()) < 1e-3
    assert used["valid"] <= used["train"] and not used["test"] & used["train"]
    assert 15 < len(used["train"]) <= 20
    assert not texts["train"] & (texts["valid"] | texts["test"])
    with pytest.raises(DsuError, match="no speaker 'eve'"):
        prepare_digit_pairs(es, fsdd, tmp_path / "new", speaker="eve")
    with pytest.raises(DsuError, match="no digit strings of fr"):
        prepare_digit_pairs(es, fsdd, tmp_path / "new", language="fr", speaker="ann")


def test_synth_pairs_are_translations_and_on_one_side_each(tmp_path):
    root = make_synth(tmp_path / "synth", CONTENTS, CONTENTS)
    paths = prepare_synth_pairs(root, tmp_path / "out")
    found = {part: read_pairs(path, root, root) for part, path in paths.items()}
    assert sum(map(len, found.values())) == len(CONTENTS)
    for part, entries in found.items():
        for entry in entries.values():
            content = next(
                c
                for c in CONTENTS
                if realise(c, "es")[:-1].lower() == entry["source_text"]
            )
            assert part_of(content) == part
            assert entry["text"] == realise(content, "en")[:-1].lower()
            read_audio(entry["target_wav"], 16000)
    bare = make_synth(tmp_path / "bare", CONTENTS)
    with pytest.raises(DsuError, match="no parallel speech"):
        prepare_synth_pairs(bare, tmp_path / "other")
