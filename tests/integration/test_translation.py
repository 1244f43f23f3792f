"""A translation recipe from pairs to a bundle that translates files, on tiny data."""

import json

import pytest
import torch

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.decoders.translation import translate
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.inference.translation import SpeechTranslator
from speechbrain_dsu.training.schedules import warmup_cosine
from speechbrain_dsu.training.translation import (
    TranslationJudge,
    train_and_seal_translation,
)
from speechbrain_dsu.utils.audio import audio_info, read_audio, write_audio
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths

PITCHES = {"low": 200.0, "mid": 500.0, "high": 1200.0}
WORDS = {"bajo": "low", "medio": "mid", "alto": "high"}
RATE = 16000


def sound(words, slope):
    """A tone for each word: rising in one language, falling in the other."""
    parts = []
    for word in words:
        time = torch.arange(2400) / RATE
        pitch = PITCHES[word] * (1 + slope * time)
        parts += [0.3 * torch.sin(6.283 * pitch * time), torch.zeros(800)]
    return torch.cat(parts) + 1e-3 * torch.randn(3200 * len(words))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Words of two languages as tones; all strings of one and two words."""
    root = tmp_path_factory.mktemp("pairs")
    torch.manual_seed(0)
    spanish = list(WORDS)
    strings = [[a] for a in spanish] + [[a, b] for a in spanish for b in spanish]
    entries = {}
    for number, words in enumerate(strings):
        english = [WORDS[word] for word in words]
        for side, slope in (("es", 2.0), ("en", -2.0)):
            path = root / side / f"{number}.wav"
            path.parent.mkdir(exist_ok=True)
            write_audio(path, sound(english, slope), RATE)
        entries[f"pair{number}"] = {
            "wav": f"{{data_root}}/{number}.wav",
            "duration": len(words) * 0.2,
            "spk_id": "es",
            "source_text": " ".join(words),
            "target_wav": f"{number}.wav",
            "text": " ".join(english),
        }
    for part in ("train", "valid", "test"):
        (root / f"{part}.json").write_text(json.dumps(entries))
    return root


@pytest.fixture(scope="module")
def tokenizer():
    """A codec of one codebook: it decodes what is written."""
    return UnitTokenizer.from_hparams("codec-1k", run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def trained(pairs, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("s2st")
    steps = 40
    hparams = {
        "pairs": pairs,
        "data_folder": pairs / "es",
        "target_folder": pairs / "en",
        "system_file": "systems/s2st/s2ut_ctc.yaml",
        "model": {
            **{"dim": 32, "n_layers": 2, "decoder_layers": 2, "n_heads": 2},
            **{"target_layer": 2, "dropout": 0.0, "smoothing": 0.0},
            **{"symbols": list(PITCHES), "source_symbols": list(WORDS)},
        },
        "output_folder": str(out),
        "token_folder": str(out / "tokens"),
        "tokenizer": "codec-1k",
        "vocoder": None,
        "voice": "",
        "beams": 1,
        "seed": 1,
        "run_opts": {"device": "cpu"},
        "steps": steps,
        "batch_frames": 2000,
        "max_minutes": None,
        "training": {
            "opt_class": lambda p: torch.optim.Adam(p, lr=3e-3),
            "scheduler": warmup_cosine(steps, 10),
        },
        "bundle": {
            "out": out / "bundle",
            "licence": {"code": "Apache-2.0", "weights": "CC0-1.0"},
            "about": {"name": "tones"},
        },
    }
    parts = {"tokenizer": tokenizer.mods.tokenizer, "vocoder": None, "judge": None}
    torch.manual_seed(1)
    results = train_and_seal_translation(hparams, parts, seal_system, flatten_yaml)
    return out, results


def test_results_are_written(trained):
    out, results = trained
    assert json.loads((out / "results.json").read_text()) == results
    assert results["pairs"] == 12 and set(results["text"]) >= {"exact", "WER", "BLEU"}


def test_a_bundle_translates_as_it_does_alone(
    trained, pairs, tokenizer, tmp_path, capsys
):
    out, _ = trained
    translator = SpeechTranslator.from_hparams(
        out / "bundle", run_opts={"device": "cpu"}
    )
    files = [pairs / "es" / f"{number}.wav" for number in (0, 5, 9)]
    wavs, counts = pad_stack([read_audio(file, RATE)[0] for file in files])
    found = translator.translate_batch(wavs, relative_lengths(counts, wavs.shape[1]))
    lengths = absolute_lengths(found.lens, found.wavs.shape[1]).tolist()
    for number, file in enumerate(files):
        alone = translator.translate_batch(translator.load_audio(file)[None])
        assert len(alone.tokens.codes[0])
        assert torch.equal(alone.tokens.codes[0], found.tokens[number].codes[0])
        assert alone.texts[0] == found.texts[number]
        assert alone.wavs.shape[1] == lengths[number]
        spoken, _ = tokenizer.decode(alone.tokens)
        assert torch.allclose(spoken, alone.wavs, atol=1e-4)
    args = [str(pairs / "es"), "--model", str(out / "bundle"), "--device", "cpu"]
    assert main(["translate", *args, "--out", str(tmp_path / "said")]) == 0
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert len(lines) == 12
    assert [lines[file.stem] for file in files] == found.texts
    assert audio_info(tmp_path / "said" / "0.wav").sample_rate == translator.target_rate


def test_the_judge_sees_a_model_that_does_not_listen(trained, pairs, caplog):
    out, _ = trained
    translator = SpeechTranslator.from_hparams(
        out / "bundle", run_opts={"device": "cpu"}
    )
    model = translator.mods.model
    codes = [torch.full((3 + n, 1), n) for n in range(20)]
    padded, counts = pad_stack(codes)
    source = torch.zeros(20, 40, 80)
    columns = {
        "source": source,
        "source_lens": torch.ones(20),
        "codes": padded,
        "codes_lens": relative_lengths(counts, padded.shape[1]),
        "text": torch.zeros(20, 1, dtype=torch.int64),
        "text_lens": torch.ones(20),
    }
    judge = TranslationJudge()
    judge.reset()
    judge.add(model, columns, [str(n) for n in range(20)])
    assert judge.summary()["distinct"] == 1 / 20
    assert "does not listen" in caplog.text
    assert translate(model, source[:1]).codes.shape[0] == 1
