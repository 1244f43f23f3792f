"""Text to speech learns, is sealed with what speaks, says the same from a folder."""

import json

import pytest
import torch

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.inference.bundles import verify_bundle
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.inference.tts import UnitTTS
from speechbrain_dsu.training.schedules import warmup_cosine
from speechbrain_dsu.training.tts import train_and_seal_tts
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError

SMALL = {"dim": 32, "n_layers": 2, "n_heads": 2, "dropout": 0.0, "voice_dropout": 0.0}
SYSTEMS = {
    "universal_tokens": {"decoder_layers": 2},
    "hebtts": {"condition_dropout": 0.0},
    "qtts": {"condition_dropout": 0.0},
}
TEXTS = ["one", "two", "one two", "two two"]


def recipe(out, system, tokenizer, steps=150, **values):
    """Four texts as tones, a tone for each word: to be learnt by heart."""
    time = torch.arange(3200) / 16000
    tones = {
        word: 0.3 * torch.sin(2 * torch.pi * hertz * time)
        for word, hertz in (("one", 300.0), ("two", 2000.0))
    }
    entries = {}
    for number, text in enumerate(TEXTS):
        path = out / f"{number}.wav"
        wav = torch.cat([tones[word] for word in text.split()])
        write_audio(path, wav, 16000)
        about = {"duration": len(wav) / 16000, "spk_id": "ab"[number % 2], "text": text}
        entries[str(number)] = {"wav": str(path), **about}
    parts = {}
    for part in ("train", "valid", "test"):
        # The same speech in all of them, under other ids.
        named = {f"{part}-{name}": entry for name, entry in entries.items()}
        (out / f"{part}.json").write_text(json.dumps(named))
        parts[part] = [[out / f"{part}.json", out]]
    return {
        "tokenizer": tokenizer,
        "vocoder": None,
        "n_codebooks": None,
        **parts,
        "where": None,
        "letters": "texts",
        "pieces": 10 if system == "hebtts" else 0,
        "test_voices": None,
        "system_file": f"systems/tts/{system}.yaml",
        "model": {**SMALL, **SYSTEMS[system]},
        "output_folder": str(out),
        "token_folder": str(out / "tokens"),
        "seed": 1,
        "run_opts": {"device": "cpu"},
        "steps": steps,
        "batch_frames": 400,
        "max_minutes": 10,
        "training": {
            "opt_class": lambda p: torch.optim.AdamW(p, lr=4e-3),
            "scheduler": warmup_cosine(steps, 10),
        },
        "bundle": {
            "out": str(out / "bundle"),
            "half": True,
            "licence": {"code": "Apache-2.0", "weights": "Apache-2.0"},
            "about": {"name": "tiny-tts", "language": "en"},
        },
        **values,
    }


@pytest.mark.parametrize("system,source", [(s, "codec-1k") for s in SYSTEMS])
def test_learns_by_heart_and_says_it_from_a_folder(tmp_path, system, source, capsys):
    torch.manual_seed(0)
    tokenizer = UnitTokenizer.from_hparams(source).mods.tokenizer
    parts = {"tokenizer": tokenizer, "vocoder": None, "judge": None}
    hparams = recipe(tmp_path, system, source)
    results = train_and_seal_tts(hparams, parts, seal_system, flatten_yaml)
    assert results["test"]["distinct"] == 1 and results["test"]["ended"] == 1
    verify_bundle(tmp_path / "bundle")
    tts = UnitTTS.from_hparams(tmp_path / "bundle")
    assert tts.manifest["kind"] == "tts" and tts.voices == ("a", "b")
    found = tts.say_batch(TEXTS, ["a", "b", "a", "b"])
    right = total = 0
    for number, (text, item) in enumerate(
        zip(TEXTS, found.tokens.unpad(), strict=True)
    ):
        wav, _ = read_audio(tmp_path / f"{number}.wav", tokenizer.sample_rate)
        wanted = tokenizer.encode(wav[None]).codes[0]
        assert abs(len(item) - len(wanted)) <= 0.2 * len(wanted), text
        size = min(len(item), len(wanted))
        right += int((item[:size] == wanted[:size]).sum())
        total += wanted.numel()
        alone = tts.say_batch([text], "ab"[number % 2])
        assert torch.equal(alone.tokens.codes[0], item)
    assert right > 0.5 * total, "units of the training texts aren't those learnt"
    tts.say_file("one two", tmp_path / "x.wav", voice="a")
    wav, rate = read_audio(tmp_path / "x.wav")
    assert rate == tts.speech_rate and 0.2 < len(wav) / rate < 0.8
    model = ["--model", str(tmp_path / "bundle")]
    (tmp_path / "lines.txt").write_text("a/first\tone two\nsecond\ttwo\n")
    lines = ["--lines", str(tmp_path / "lines.txt")]
    out = ["--out", str(tmp_path / "said")]
    assert main(["say", *model, *lines, *out, "--voice", "all"]) == 0
    assert (tmp_path / "said/a/first.wav").is_file()
    assert (tmp_path / "said/second.wav").is_file()
    assert main(["say", "two", *model, "--out", str(tmp_path / "y.wav")]) == 0
    capsys.readouterr()
    for words, message in (
        (["one", "--voice", "eve"], "no voice 'eve'"),
        (["one?"], "letters"),
        ([], "nothing to say"),
    ):
        assert main(["say", *words, *model, "--out", str(tmp_path / "z.wav")]) == 2
        assert message in capsys.readouterr().err
    if system == "universal_tokens":
        return
    prompt = tts.read_prompt(tmp_path / "0.wav")
    with pytest.raises(DsuError, match="1 prompts for 2 texts"):
        tts.say_batch(["two", "one"], prompt=prompt, prompt_texts=["one", "one"])
    spoken = tts.say_batch(["two"], prompt=prompt, prompt_texts=["one"])
    assert 0 <= len(spoken.tokens.unpad()[0])
    other = UnitTokenizer.from_hparams("mfcc-k100").encode_file(tmp_path / "0.wav")
    with pytest.raises(DsuError, match="the prompt is of"):
        tts.say_batch(["two"], prompt=other, prompt_texts=["one"])
