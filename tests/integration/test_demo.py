"""The demo's page holds everything it shows, for any recording."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from speechbrain_dsu.evaluation.demo import run_demo
from speechbrain_dsu.evaluation.report import COLUMNS, NOTHING, format_table
from speechbrain_dsu.lobes.features import MFCC, LogMel
from speechbrain_dsu.lobes.vocoders.griffin_lim import GriffinLim
from speechbrain_dsu.nnet.quantizers.clustering import KMeans
from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
from speechbrain_dsu.tokenizers.features import FeatureTokenizer
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir


class Page(HTMLParser):
    """Start tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag, **wanted):
        found = [attrs for name, attrs in self.tags if name == tag]
        return [a for a in found if all(a.get(k) == v for k, v in wanted.items())]


def units():
    features = MFCC()
    kmeans = KMeans(8, features.dim)
    generator = torch.Generator().manual_seed(0)
    kmeans.set_centers(torch.randn(1, 8, features.dim, generator=generator))
    return FeatureTokenizer(features, kmeans)


def dmel(**settings):
    mel = LogMel(**settings)
    return FeatureTokenizer(
        mel, UniformBins(mel.dim, 16, -11.5, 2.0), GriffinLim(mel, n_iter=8)
    )


@pytest.fixture(scope="module")
def tokenizers():
    return {"dmel": dmel(), "units": units()}


def page_of(folder):
    assert [path.name for path in folder.iterdir()] == ["index.html"]
    return (folder / "index.html").read_text(encoding="utf-8")


def content(uri):
    assert uri.startswith("data:")
    return io.BytesIO(base64.b64decode(uri.split(";base64,")[1]))


@pytest.fixture(scope="module")
def bundled(tokenizers, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return run_demo(None, out, tokenizers), page_of(out)


def test_rows_say_what_the_tokens_cost_and_keep(bundled, tokenizers):
    dmel_row, units_row = bundled[0]
    wav, _ = read_audio(bundles_dir() / "speech.wav", 16000)
    assert dmel_row["tokens"] == 80 * tokenizers["dmel"].num_frames(len(wav))
    assert dmel_row["bitrate"] == 80 * 80 * 4 > dmel_row["entropy_bitrate"] > 0
    assert dmel_row["fingerprint"] == tokenizers["dmel"].fingerprint
    assert dmel_row["mel_l1"] < 5 and dmel_row["rtf_decode"] > 0
    assert units_row["tokens"] == tokenizers["units"].num_frames(len(wav))
    assert units_row["stoi"] is None and "no vocoder" in units_row["notes"][0]


def test_decoded_speech_is_intelligible(bundled):
    pytest.importorskip("pystoi")
    assert bundled[0][0]["stoi"] > 0.85


def test_page_is_one_file_without_outside_links(bundled):
    page = Page(bundled[1])
    sources = [
        attrs[key] for _, attrs in page.tags for key in ("src", "href") if key in attrs
    ]
    assert sources
    assert all(s.startswith(("data:", "#")) for s in sources)
    without_data = re.sub(r"data:[\w/]+;base64,[\w+/=]+", "", bundled[1])
    assert not re.search(r"https?:|url\(|@import|//\w", without_data)
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert all(s[1:] in ids for s in sources if s.startswith("#"))
    assert "prefers-color-scheme: dark" in bundled[1]


def test_page_holds_the_audio(bundled):
    wav, rate = read_audio(bundles_dir() / "speech.wav")
    original, *others = Page(bundled[1]).all("audio")
    found, found_rate = soundfile.read(content(original["src"]), dtype="float32")
    assert found_rate == rate and np.abs(found - wav.numpy()).max() < 2**-15
    decoded = [attrs for attrs in others if "src" in attrs]
    assert len(decoded) == 1 and len(others) == 3
    found, found_rate = soundfile.read(content(decoded[0]["src"]))
    assert found_rate == 16000 and abs(len(found) / 16000 - len(wav) / rate) < 0.02
    assert np.abs(found).max() > 0.05


def test_pictures_are_the_tokens(bundled, tokenizers):
    wav, _ = read_audio(bundles_dir() / "speech.wav", 16000)
    page = Page(bundled[1])
    picture = Image.open(content(page.all("img", alt="tokens")[0]["src"]))
    codes = tokenizers["dmel"].encode(wav.unsqueeze(0)).codes[0]
    # Palette indices: ids scaled to 0..255, the first codebook at the bottom.
    expected = (codes.T.flip(0) * 17).numpy()
    assert np.array_equal(np.asarray(picture), expected)
    originals = page.all("img", alt="original")
    assert len(originals) == 2 and len(page.all("img", alt="decoded")) == 1
    levels = np.asarray(Image.open(content(originals[0]["src"])))
    assert levels.max() == 255


def test_units_cover_the_clip_in_order(bundled, tokenizers):
    wav, _ = read_audio(bundles_dir() / "speech.wav", 16000)
    codes = tokenizers["units"].encode(wav.unsqueeze(0)).codes[0, :, 0].tolist()
    runs = Page(bundled[1]).all("s")
    shown, end, colors = [], 0.0, {}
    for run in runs:
        unit, frames = map(int, re.findall(r"\d+", run["title"])[:2])
        left, width = map(float, re.findall(r"(?:left|width):([\d.]+)%", run["style"]))
        assert left == pytest.approx(end, abs=1e-3) and width > 0
        end = left + width
        shown += [unit] * frames
        colors.setdefault(unit, set()).add(run["style"].split("background:")[1])
    assert shown == codes
    assert end == pytest.approx(100, abs=0.4)
    assert all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == len(colors)


@pytest.mark.parametrize(
    "name, rate, shape",
    [
        ("silent", 16000, 8000),
        ("one-sample", 16000, 1),
        ("short", 44100, 300),
        ("stereo", 48000, (24000, 2)),
        ("telephone", 8000, 4000),
        ("studio", 96000, 48000),
    ],
)
def test_any_recording_works(name, rate, shape, tokenizers, tmp_path):
    data = np.random.RandomState(0).randn(*np.atleast_1d(shape)) * 0.1
    if name == "silent":
        data *= 0
    soundfile.write(tmp_path / "in.wav", data, rate)
    rows = run_demo(tmp_path / "in.wav", tmp_path / "out", tokenizers)
    page = page_of(tmp_path / "out")
    assert "nan" not in format_table(rows)
    assert ("channels, averaged" in re.sub(r"\s+", " ", page)) == (name == "stereo")
    for row, tokenizer in zip(rows, tokenizers.values(), strict=True):
        n_samples = -(-len(data) * 16000 // rate)
        books = len(tokenizer.codebook_sizes)
        assert row["tokens"] == books * tokenizer.num_frames(n_samples)
    if name in ("silent", "one-sample"):
        assert rows[0]["stoi"] is None and rows[0]["notes"]


def test_a_long_recording_is_cut_and_the_page_says_so(tokenizers, tmp_path):
    data = np.random.RandomState(0).randn(5 * 8000) * 0.1
    soundfile.write(tmp_path / "in.wav", data, 8000)
    rows = run_demo(tmp_path / "in.wav", tmp_path / "out", tokenizers, max_seconds=2.0)
    page = re.sub(r"\s+", " ", page_of(tmp_path / "out"))
    assert "5 s long; this page shows its first 2 s" in page
    assert rows[0]["tokens"] == 80 * tokenizers["dmel"].num_frames(32000)


def test_a_tokenizer_that_fails_is_reported_and_the_others_run(tmp_path):
    features = MFCC()
    broken = FeatureTokenizer(features, KMeans(8, features.dim))

    def refuse(*args):
        raise DsuError("centres were never set")

    broken.encode_batch = refuse
    rows = run_demo(None, tmp_path, {"broken": broken, "units": units()})
    assert rows[0]["notes"] == ["centres were never set"]
    assert rows[0]["tokens"] is None and rows[1]["tokens"]
    assert "Centres were never set" in page_of(tmp_path)


def test_names_cannot_put_markup_on_the_page(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    path = tmp_path / "<b>a.wav"
    soundfile.write(path, np.zeros(100), 16000)
    run_demo(path, tmp_path / "out", {name: units()})
    page = page_of(tmp_path / "out")
    assert name not in page and "<b>a.wav" not in page


def test_other_rates_of_tokenizer_and_clip(tmp_path):
    tokenizer = dmel(sample_rate=8000, hop=100, n_mels=40, win=400, n_fft=512)
    rows = run_demo(None, tmp_path, {"narrow": tokenizer})
    wav, _ = read_audio(bundles_dir() / "speech.wav", 8000)
    assert rows[0]["tokens"] == 40 * tokenizer.num_frames(len(wav))
    assert "0-4 kHz" in page_of(tmp_path)


def test_an_interface_is_taken_like_its_tokenizer(tmp_path):
    from speechbrain_dsu.inference import UnitTokenizer

    interface = UnitTokenizer({"tokenizer": units()}, run_opts={"device": "cpu"})
    plain = run_demo(None, tmp_path / "a", {"units": units()})[0]
    wrapped = run_demo(None, tmp_path / "b", {"units": interface})[0]
    timed = ("rtf_encode", "rtf_decode")
    assert {k: v for k, v in plain.items() if k not in timed} == {
        k: v for k, v in wrapped.items() if k not in timed
    }


def test_mistakes_are_one_line(tokenizers, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "file").write_text("")
    for source, out, chosen, words in (
        (tmp_path / "none.wav", tmp_path, tokenizers, "no such file"),
        (tmp_path / "text.wav", tmp_path, tokenizers, "not readable as audio"),
        (None, tmp_path / "file", {"units": tokenizers["units"]}, "cannot be written"),
        (None, tmp_path, {}, "at least one tokenizer"),
    ):
        with pytest.raises(DsuError, match=words) as found:
            run_demo(source, out, chosen)
        assert "\n" not in str(found.value)
    assert {path.name for path in Path(tmp_path).iterdir()} == {"text.wav", "file"}


def test_table_has_a_line_per_tokenizer_and_its_notes(bundled):
    lines = format_table(bundled[0]).splitlines()
    assert [line.split()[0] for line in lines] == [
        COLUMNS[0].head,
        "dmel",
        "units",
        "units:",
    ]
    assert lines[2].split()[-1] == NOTHING
    for column in COLUMNS:
        assert column.head in lines[0]
    # Numbers end below the end of their titles.
    ends = [lines[0].index(column.head) + len(column.head) for column in COLUMNS[1:]]
    assert all(len(lines[1]) == end or lines[1][end] == " " for end in ends)
