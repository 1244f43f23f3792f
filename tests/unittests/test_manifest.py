"""What can be tokenized, and what is said about what can't."""

import json
import os

import pytest

from speechbrain_dsu.dataio.manifest import (
    AudioItem,
    hash_items,
    read_items,
    sort_items,
)
from speechbrain_dsu.utils.errors import DsuError


def fails(*args, **kwargs) -> str:
    with pytest.raises(DsuError) as caught:
        read_items(*args, **kwargs)
    return str(caught.value)


def write(path, content) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_file(tmp_path):
    path = write(tmp_path / "Some.name.wav", "")
    assert read_items(path) == [AudioItem("Some.name", path)]


def test_folder_is_searched_through_in_a_fixed_order(tmp_path):
    for name in ("b/x.wav", "a/y.FLAC", "a.wav", "a/z.txt", ".hidden/h.wav"):
        write(tmp_path / name, "")
    write(tmp_path / "a/._y.wav", "")
    items = read_items(tmp_path)
    assert [item.id for item in items] == ["a", "a/y", "b/x"]
    assert items[1].path == str(tmp_path / "a" / "y.FLAC")
    assert all(item.is_whole for item in items)


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "real/x.wav", "")
    (tmp_path / "corpus").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "corpus" / "linked")
    os.symlink(tmp_path / "corpus", tmp_path / "real" / "back")
    assert [i.id for i in read_items(tmp_path / "corpus")] == ["linked/x"]


def test_same_name_in_two_formats_names_both_files(tmp_path):
    for name in ("s/a.wav", "s/a.flac", "b.wav", "b.ogg"):
        write(tmp_path / name, "")
    text = fails(tmp_path)
    assert "'b'" in text and "b.ogg" in text and "b.wav" in text
    assert "1 more id" in text


@pytest.mark.parametrize("name", ["nothing", "nothing.csv"])
def test_wrong_path(tmp_path, name):
    assert fails(tmp_path / name) == f"{tmp_path / name}: no such file or folder"


def test_folder_without_audio(tmp_path):
    write(tmp_path / "a.txt", "")
    assert "no audio in this folder" in fails(tmp_path)


def test_foreign_file(tmp_path):
    assert "neither a manifest" in fails(write(tmp_path / "a.txt", ""))


def test_json(tmp_path):
    entries = {
        "two": {"wav": "{data_root}/2.wav", "duration": 1.5, "spk": "s"},
        "one": {"wav": {"file": "{data_root}/1.wav", "start": 100, "stop": 200}},
        "three": {"wav": "/abs/3.wav", "start": 16000},
    }
    items = read_items(write(tmp_path / "m.json", entries), data_root="/data")
    assert items == [
        AudioItem("one", "/data/1.wav", 100, 200),
        AudioItem("three", "/abs/3.wav", 16000),
        AudioItem("two", "/data/2.wav"),
    ]
    assert [item.is_whole for item in items] == [False, False, True]


def test_csv_as_speechbrain_writes_it(tmp_path):
    text = (
        "ID, duration, wav, start, stop, spk_id\n"
        "b, 1.0, {data_root}/b.wav, 0, 16000, s\n"
        'a, 2.0, "/x, y/a.wav", , , s\n'
    )
    items = read_items(write(tmp_path / "m.csv", text), data_root=tmp_path)
    assert items == [
        AudioItem("a", "/x, y/a.wav"),
        AudioItem("b", f"{tmp_path}/b.wav", 0, 16000),
    ]


def test_speechbrain_reads_the_same_files(tmp_path):
    """Its own loaders of both manifests agree on ids and paths."""
    from speechbrain.dataio.dataio import load_data_csv, load_data_json

    rows = {"a": {"wav": "{data_root}/a.wav"}, "b": {"wav": "{data_root}/b.wav"}}
    text = "ID,duration,wav\na,1,$data_root/a.wav\nb,1,$data_root/b.wav\n"
    for path, theirs in (
        (write(tmp_path / "m.json", rows), load_data_json),
        (write(tmp_path / "m.csv", text), load_data_csv),
    ):
        ours = {i.id: i.path for i in read_items(path, data_root="/r")}
        found = theirs(path, replacements={"data_root": "/r"})
        assert ours == {key: entry["wav"] for key, entry in found.items()}


def test_another_column(tmp_path):
    text = "ID,audio\na,/a.wav\n"
    assert read_items(write(tmp_path / "m.csv", text), column="audio")[0].id == "a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ID,file\na,b\n", "no column 'wav', it has ['ID', 'file']"),
        ("id,wav\na,b\n", "no column 'ID', it has ['id', 'wav']"),
        ("", "no column 'ID', it has []"),
        ("ID,wav\n", "has no rows"),
        ("ID,wav\na\n", "line 2: must have 2 fields"),
        ("ID,wav\na,b,c\n", "line 2: must have 2 fields"),
        ("ID,wav\n,x.wav\n", "line 2: the id is empty"),
        ("ID,wav\na,\n", "must be the path of one file"),
        ("ID,wav\na,{data_root}/x.wav\n", "needs a data_root"),
        ("ID,wav,start\na,x.wav,1.5\n", "start must be a number of samples, got '1.5'"),
        ("ID,wav,stop\na,x.wav,-3\n", "stop must be a number of samples"),
        ("ID,wav,start,stop\na,x.wav,9,9\n", "from 9 to 9 is empty"),
        ("ID,wav\na,x.wav\na,y.wav\n", "'a' occurs twice, for x.wav and y.wav"),
    ],
)
def test_faulty_csv(tmp_path, content, said):
    path = write(tmp_path / "m.csv", content)
    text = fails(path)
    assert text.startswith(path) and said in text and "\n" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ([1], "must be a mapping from ids"),
        ({}, "must be a mapping from ids"),
        ({"a": "x.wav"}, "must be a mapping with the key 'wav'"),
        ({"a": {"sig": "x.wav"}}, "'a': has no 'wav', it has ['sig']"),
        ({"a": {"wav": ["x.wav"]}}, "must be the path of one file"),
        ({"a": {"wav": {"path": "x"}}}, "'wav' has no 'file', it has ['path']"),
        ({"a": {"wav": {"file": "x.wav", "start": "?"}}}, "got '?'"),
        ('{"a": {"wav": "x"}, "a": {"wav": "y"}}', "'a' occurs twice"),
    ],
)
def test_faulty_json(tmp_path, content, said):
    path = write(tmp_path / "m.json", content)
    text = fails(path)
    assert text.startswith(path) and said in text and "\n" not in text


def test_hash_sees_items_but_not_where_the_corpus_lies():
    items = [AudioItem("a", "/x/a.wav"), AudioItem("b", "/x/b.wav", 5)]
    moved = [AudioItem("a", "/y/a.wav"), AudioItem("b", "/y/b.wav", 5)]
    assert hash_items(items) == hash_items(moved)
    assert hash_items(items) != hash_items(items[:1])
    assert hash_items(items) != hash_items([items[0], AudioItem("b", "/x/b.wav")])
    assert hash_items(items) != hash_items([items[0], AudioItem("c", "/x/b.wav", 5)])
    assert hash_items(items) != hash_items([items[0], AudioItem("b", "/x/b.flac", 5)])


def test_sorting_is_by_id_alone():
    items = [AudioItem("b", "1"), AudioItem("a", "2"), AudioItem("a/b", "0")]
    assert [item.id for item in sort_items(items)] == ["a", "a/b", "b"]
