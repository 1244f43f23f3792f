"""The speech generator without a synthesiser: texts, speakers, plans, alignment."""

import random
import sys
from itertools import islice
from string import Formatter

import numpy as np
import pytest

from speechbrain_dsu.dataio.corpora import synth, synth_engines, synth_lexicon
from speechbrain_dsu.dataio.corpora.synth_engines import _from_marks, _joined
from speechbrain_dsu.dataio.corpora.synth_plan import CHAPTER, Plan
from speechbrain_dsu.dataio.corpora.synth_text import (
    draw_content,
    part_of,
    read_texts,
    realise,
    transcript,
)
from speechbrain_dsu.dataio.corpora.synth_voices import ESPEAK, FLITE, speakers_of
from speechbrain_dsu.utils.errors import DsuError

LANGUAGES = synth_lexicon.LANGUAGES


def contents(count, part=None, seed=0):
    rng = random.Random(seed)
    return [draw_content(rng, part) for _ in range(count)]


# Texts


def test_every_row_has_all_languages():
    tables = {**synth_lexicon.SLOTS, "digits": synth_lexicon.DIGITS}
    for name, table in {**tables, "frames": synth_lexicon.FRAMES}.items():
        for row in table:
            assert len(row) == len(LANGUAGES) and all(row), (name, row)


def test_frames_have_the_same_gaps_in_all_languages():
    for row in synth_lexicon.FRAMES:
        gaps = [
            sorted(g for _, g, _, _ in Formatter().parse(cell) if g) for cell in row
        ]
        assert gaps.count(gaps[0]) == len(gaps), row


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_contents_keep_to_their_part(part):
    drawn = contents(200, part)
    assert {part_of(content) for content in drawn} == {part}
    assert len(set(drawn)) > 150


def test_a_plan_of_digit_strings_alone():
    plan = Plan(languages={"es": 1.0}, digits=1.0, digit_counts=(1, 2))
    lines = [line for chapter in islice(plan.train(), 20) for line in chapter.lines]
    lines += [line for c in plan.part("test", 10) for line in c.lines]
    lines += [line for c in plan.part("parallel", 10) for line in c.lines]
    found = [line.content.split(".") for line in lines]
    assert {parts[0] for parts in found} == {"d"}
    assert {len(parts) - 1 for parts in found} == {1, 2}
    with pytest.raises(DsuError, match="digits"):
        Plan(digits=1.5)
    with pytest.raises(DsuError, match="digit_counts"):
        Plan(digit_counts=(3, 2))


def test_about_a_tenth_is_held_out():
    parts = [part_of(content) for content in contents(3000)]
    for part in ("valid", "test"):
        assert 0.07 < parts.count(part) / len(parts) < 0.13


@pytest.mark.parametrize("language", LANGUAGES)
def test_digit_strings_say_their_digits(language):
    column = LANGUAGES.index(language)
    words = [row[column] for row in synth_lexicon.DIGITS]
    for content in contents(300):
        if content.startswith("d."):
            said = transcript(realise(content, language)).split()
            assert [words.index(word) for word in said] == [
                int(digit) for digit in content.split(".")[1:]
            ]


def test_a_content_has_its_rows_in_every_language():
    for content in contents(200):
        kind, *numbers = content.split(".")
        if kind != "s":
            continue
        subject = synth_lexicon.SUBJECTS
        for column, language in enumerate(LANGUAGES):
            text = transcript(realise(content, language))
            frame = synth_lexicon.FRAMES[int(numbers[0])][0]
            gaps = [g for _, g, _, _ in Formatter().parse(frame) if g]
            row = int(numbers[1 + gaps.index("s")])
            assert transcript(subject[row][column]) in text


def test_transcripts_are_bare_words():
    for content in contents(300):
        for language in LANGUAGES:
            words = transcript(realise(content, language))
            assert words == words.lower() and not set(words) & set(".,;!?-")
    assert transcript("L’été, c'est là-bas… 3 €") == "l'été c'est là bas 3"


def test_own_texts_are_split_by_line(tmp_path):
    path = tmp_path / "en.txt"
    path.write_text("\n".join(f"line number {i}" for i in range(100)) + "\n\n", "utf-8")
    parts = read_texts({"en": path})["en"]
    said = [text for lines in parts.values() for _, text in lines]
    assert sorted(said) == sorted(f"line number {i}" for i in range(100))
    # One more line moves nobody.
    path.write_text("first of all\n" + path.read_text("utf-8"), "utf-8")
    more = read_texts({"en": path})["en"]
    assert all(set(parts[part]) <= set(more[part]) for part in parts)


def test_own_texts_that_cannot_be_used(tmp_path):
    (tmp_path / "few.txt").write_text("one line\n", "utf-8")
    with pytest.raises(DsuError, match="no line fell to"):
        read_texts({"en": tmp_path / "few.txt"})
    with pytest.raises(DsuError, match="there is no file"):
        read_texts({"en": tmp_path / "none.txt"})
    with pytest.raises(DsuError, match=r"texts for \['fr'\]"):
        Plan(languages={"en": 1}, texts={"fr": str(tmp_path / "few.txt")})


# Speakers and plans


def test_speakers_are_distinct():
    everyone = [s for language in LANGUAGES for s in speakers_of(language)]
    assert len({s.id for s in everyone}) == len(everyone)
    assert all("-" not in s.id and "." not in s.id for s in everyone)
    settings = {(s.voice, s.tract, s.rate, s.pitch, s.pitch_range) for s in everyone}
    assert len(settings) == len(everyone)
    assert {s.base for s in everyone} == {*FLITE, *ESPEAK}


def some(plan, count):
    return list(islice(plan.train(), count))


def test_a_plan_is_its_seed():
    assert some(Plan(seed=1), 20) == some(Plan(seed=1), 20)
    assert some(Plan(seed=1), 20) != some(Plan(seed=2), 20)
    assert Plan(seed=1).part("test", 15) == Plan(seed=1).part("test", 15)
    assert Plan(seed=1).part("test", 15) != Plan(seed=2).part("test", 15)


def test_held_out_voices_and_texts_are_only_in_test():
    plan = Plan(languages={"en": 0.5, "es": 0.5}, held_out=("slt", "m3"))
    train, valid = some(plan, 200), plan.part("valid", 200)
    test, pairs = plan.part("test", 60), plan.part("parallel", 60)
    assert {c.speaker.base for c in test} == {"slt", "m3"}
    for chapters in (train, valid, pairs):
        assert not {c.speaker.base for c in chapters} & {"slt", "m3"}
    said = [
        {line.content for c in chapters for line in c.lines}
        for chapters in (train, valid, test)
    ]
    assert not said[0] & said[1] and not said[0] & said[2] and not said[1] & said[2]
    assert {c.speaker.id for c in valid} <= {c.speaker.id for c in some(plan, 4000)}


def test_plans_have_the_sizes_asked_for():
    plan = Plan()
    assert sum(len(c.lines) for c in plan.part("valid", 34)) == 34
    assert sum(len(c.lines) for c in plan.part("test", 15)) == 2 * 15
    assert sum(len(c.lines) for c in plan.part("parallel", 27)) == 2 * 27
    for part in ("valid", "test", "parallel"):
        assert plan.part(part, 0) == []
    assert all(len(c.lines) == CHAPTER for c in some(plan, 10))


def test_languages_have_their_shares():
    chapters = some(Plan(languages={"en": 0.7, "es": 0.2, "de": 0.1}), 1500)
    spoken = [c.speaker.language for c in chapters]
    for language, share in {"en": 0.7, "es": 0.2, "de": 0.1}.items():
        assert abs(spoken.count(language) / len(spoken) - share) < 0.05


def test_pairs_mean_the_same_in_both_languages():
    chapters = Plan().part("parallel", 25)
    for spanish, english in zip(chapters[::2], chapters[1::2], strict=True):
        assert (spanish.speaker.language, english.speaker.language) == ("es", "en")
        for left, right in zip(spanish.lines, english.lines, strict=True):
            assert left.content == right.content
            assert left.text == realise(left.content, "es")
            assert right.text == realise(left.content, "en")
    # The translations have one voice, the originals many.
    assert len({c.speaker.id for c in chapters[1::2]}) == 1
    assert len({c.speaker.id for c in chapters[::2]}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": {"xx": 1}}, "language='xx'"),
        ({"languages": {}}, "shares above 0"),
        ({"languages": {"en": 0}}, "shares above 0"),
        ({"voices": ["nobody"]}, "voice 'nobody': unknown"),
        ({"held_out": ["nobody"]}, "voice 'nobody': unknown"),
        ({"voices": ["rms"], "languages": {"de": 1}}, "no speaker is left"),
        ({"hours": 0}, "above 0"),
        ({"workers": 0}, "above 0"),
        ({"pairs": -1}, "sizes from 0"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(DsuError, match=message):
        synth.generate(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# Alignment of espeak-ng's marks, on samples made by hand at 1000 Hz


def sound(*stretches):
    """Samples from (milliseconds, loud or not)."""
    return np.concatenate(
        [np.full(length, 3000 * loud, np.int16) for length, loud in stretches]
    )


def phones(marks, samples):
    names, ends = _joined(*_from_marks(marks, samples, 1000))
    return list(zip(names, ends, strict=True))


def test_a_closure_goes_to_its_stop():
    # a sounds for 100 ms; then the closure of t, marked at its release.
    samples = sound((100, 1), (60, 0), (40, 1))
    assert phones([(0, "a"), (160, "t")], samples) == [("a", 100), ("t", 200)]


def test_a_silence_before_another_phone_is_a_pause():
    samples = sound((100, 1), (60, 0), (40, 1))
    assert phones([(0, "aː"), (160, "m")], samples) == [
        ("a", 100),
        ("sil", 160),
        ("m", 200),
    ]


def test_a_short_gap_is_no_pause():
    samples = sound((100, 1), (20, 0), (40, 1))
    assert phones([(0, "s"), (120, "m")], samples) == [("s", 120), ("m", 160)]


def test_nameless_marks_are_pauses_or_glides():
    quiet = sound((100, 1), (80, 0), (40, 1))
    assert phones([(0, "i"), (100, ""), (180, "a")], quiet) == [
        ("i", 100),
        ("sil", 180),
        ("a", 220),
    ]
    glide = sound((220, 1))
    assert phones([(0, "i"), (100, ""), (180, "a")], glide) == [("i", 180), ("a", 220)]


def test_the_beginning_before_the_first_mark_is_a_pause():
    samples = sound((50, 0), (100, 1))
    assert phones([(50, "n"), (150, "")], samples) == [("sil", 50), ("n", 150)]


def test_alignments_cover_random_marks():
    rng = random.Random(3)
    for _ in range(200):
        pieces = [(rng.randint(1, 80), rng.randint(0, 1)) for _ in range(12)]
        samples = sound(*pieces)
        places = sorted(rng.sample(range(len(samples)), 6))
        marks = [(place, rng.choice(["a", "t", "s", ""])) for place in places]
        names, ends = _joined(*_from_marks(marks, samples, 1000))
        assert ends[-1] == len(samples)
        assert all(b > a for a, b in zip([0, *ends], ends, strict=False))
        assert len(names) == len(ends)
        pairs = list(zip(names, names[1:], strict=False))
        assert ("sil", "sil") not in pairs


# What is missing


def test_a_missing_flite_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DsuError, match="Debian package flite"):
        synth.generate(tmp_path / "out", languages={"en": 1}, voices=["rms"], pairs=0)
    assert not (tmp_path / "out").exists()


def test_a_missing_espeak_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(synth_engines.synth_espeak, "LIBRARY", "libnone.so.1")
    with pytest.raises(DsuError, match="Debian package espeak-ng"):
        synth_engines.check_engines(["espeak-ng"])


def test_a_failing_engine_is_quoted():
    command = [sys.executable, "-c", "raise SystemExit('no such voice')"]
    with pytest.raises(DsuError, match="about it: exit status 1: no such voice"):
        synth_engines._run(command, "about it")


def test_other_folders_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "check_engines", lambda engines: None)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DsuError, match="neither empty nor a synthetic corpus"):
        synth.generate(tmp_path)
    with pytest.raises(DsuError, match="Synth: data_folder="):
        synth.prepare_synth(tmp_path, tmp_path / "manifests")
