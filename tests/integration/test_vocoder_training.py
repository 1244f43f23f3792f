"""Vocoders train, are sealed, speak and convert: from recordings to files."""

from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.inference import UnitTokenizer, UnitVocoder, VoiceConverter
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.systems import build_system
from speechbrain_dsu.training.vocoder import (
    VocoderBrain,
    train_and_seal_vocoder,
    vocoder_data,
    vocoder_overrides,
)
from speechbrain_dsu.utils.audio import read_audio, write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CPU = {"device": "cpu", "noprogressbar": True}
LEVELS = {
    "dim": 24,
    "generator": {"channels": 32, "hidden": 32, "layers": 1, "rounds": 1},
    "speakers": {"dim": 4},
}
UNITS = LEVELS | {"content": {"dim": 16}, "pitch": {"dim": 4}, "durations": {"dim": 20}}
HIFIGAN = {
    "dim": 24,
    "generator": {"channels": 16, "kernels": [3]},
    "content": {"dim": 8},
    "speakers": {"dim": 8},
}
RESYNTHESIS = HIFIGAN | {"pitch": {"dim": 8}, "pitch_codes": {"dim": 8, "size": 4}}
SMALL_GAN = {
    "mel": {"windows": [256], "n_mels": [20]},
    "period": {"periods": [2], "channels": [4, 4]},
    "scale": {"scales": 1, "channels": [16] * 7},
}
# Recipe, what makes it small, tokenizer; each as it stands otherwise.
RUNS = {
    "units": ("FSDD/VC/hparams/train_units.yaml", {"model": UNITS}, "mfcc-k100"),
    "soft": (
        "FSDD/VC/hparams/train_soft.yaml",
        {"model": LEVELS | {"content": {"dim": 20}}},
        "mfcc-k100",
    ),
    "levels of dMel": (
        "LJSpeech/vocoder/hparams/train_levels.yaml",
        {"model": UNITS},
        "dmel",
    ),
    "resynthesis": (
        "VCTK/VC/hparams/train_resynthesis.yaml",
        {"model": RESYNTHESIS, **SMALL_GAN},
        "mfcc-k100",
    ),
    "hifigan": (
        "LJSpeech/vocoder/hparams/train_hifigan.yaml",
        {
            "model": {**HIFIGAN, "dim": 16, "durations": {"dim": 16}},
            **SMALL_GAN,
        },
        "mfcc-k100",
    ),
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Six stretches of the shipped clip by two speakers, the second one deeper."""
    folder = tmp_path_factory.mktemp("speech")
    wav = read_audio(bundles_dir() / "speech.wav", 16000)[0]
    found = {}
    for place in range(6):
        part = wav[place * 8000 : place * 8000 + 12000 + 320 * place]
        path = folder / f"{place}.wav"
        speaker = ["ann", "bob"][place % 2]
        write_audio(path, part, 16000 if speaker == "ann" else 12000)
        found[str(place)] = {"wav": str(path), "spk_id": speaker}
    return found


def hparams(recipe, folder, tokenizer, changes):
    text = flatten_yaml(RECIPES / recipe)
    given = {"data_folder": "/none", "output_folder": str(folder), **changes}
    given |= {"tokenizer": tokenizer, "seed": 1, "steps": 2, "batch_frames": 300}
    given["segment_frames"] = 40
    return load_hyperpyyaml(text, given) | {"run_opts": CPU}


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_trains_and_writes_a_vocoder(name, entries, tmp_path):
    recipe, changes, source = RUNS[name]
    tokenizer = UnitTokenizer.from_hparams(source).mods.tokenizer
    options = hparams(recipe, tmp_path, source, changes)
    parts = {"train": entries, "valid": dict(list(entries.items())[:2])}
    train_and_seal_vocoder(options, parts, tokenizer, seal_system, flatten_yaml)
    vocoder = UnitVocoder.from_hparams(tmp_path / "vocoder", run_opts={"device": "cpu"})
    assert vocoder.voices == ("ann", "bob")
    assert vocoder.units == tokenizer.fingerprint
    wav = read_audio(entries["0"]["wav"], tokenizer.sample_rate)[0]
    if name != "soft":
        tokens = tokenizer.encode(wav[None])
        found, _ = vocoder.decode_batch(tokens, "bob")
        assert found.shape[1] == tokens.codes.shape[1] * vocoder.mods.vocoder.hop
        vocoder.decode_file(tokens, tmp_path / "said.wav", "bob")
        assert len(read_audio(tmp_path / "said.wav")[0]) == found.shape[1]
        with pytest.raises(DsuError, match="another tokenizer"):
            other = UnitTokenizer.from_hparams("logmel-k100").encode_batch(wav[None])
            vocoder.decode_batch(other, "bob")
    if (tmp_path / "converter").exists():
        converts(tmp_path, entries)


def converts(folder, entries):
    converter = VoiceConverter.from_hparams(
        folder / "converter", run_opts={"device": "cpu"}
    )
    wavs = [read_audio(entries[k]["wav"], converter.sample_rate)[0] for k in "02"]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lens = torch.tensor([len(wav) / batch.shape[1] for wav in wavs])
    made, found = converter.convert_batch(batch, ["bob", "ann"], lens)
    assert (found * made.shape[1]).round().tolist() == [len(wav) for wav in wavs]
    alone, _ = converter.convert_batch(wavs[0][None], "bob")
    torch.testing.assert_close(made[0, : len(wavs[0])], alone[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(alone, converter.convert_batch(wavs[0][None], "ann")[0])
    out = folder / "converted"
    command = ["convert", entries["1"]["wav"], "--model", str(folder / "converter")]
    assert main([*command, "--voice", "ann", "--out", str(out)]) == 0
    (path,) = out.glob("*.wav")
    length = len(read_audio(entries["1"]["wav"], converter.output_rate)[0])
    assert len(read_audio(path)[0]) == length
    assert main([*command, "--voice", "eve", "--out", str(out)]) == 2


def test_the_loss_falls_and_units_and_voice_decide(entries, tmp_path):
    torch.manual_seed(0)
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    overrides = vocoder_overrides(tokenizer, ["ann", "bob"], 16000) | UNITS
    vocoder = build_system(flatten_yaml, "systems/vc/unit_vocoder.yaml", overrides)
    vocoder = vocoder["vocoder"]
    data = vocoder_data(vocoder, tokenizer, entries, tmp_path)
    brain = VocoderBrain(
        {"codec": vocoder},
        lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
        run_opts=CPU,
    )
    losses = []
    for epochs in (1, 60):
        brain.fit(epochs, data, train_loader_kwargs=data.loading(400))
        losses.append(brain.stats["train"]["levels"])
    assert losses[1] < 0.5 * losses[0]
    vocoder.eval()
    wav = read_audio(entries["0"]["wav"], 16000)[0]
    tokens = tokenizer.encode(wav[None])
    target = vocoder.generator.target()

    def distance(codes, voice):
        latents, _ = vocoder.latents(codes, vocoder.speakers(voice, 1), {})
        found = vocoder.generator.levels(latents)
        wanted = target(wav[None])[:, : found.shape[1]]
        return float((found[:, : wanted.shape[1]] - wanted).abs().mean())

    with torch.no_grad():
        own = distance(tokens.codes, "ann")
        assert own < 0.8 * distance(tokens.codes.flip(1), "ann")
        assert own < distance(tokens.codes, "bob")


def test_contours_are_measured_once(entries, tmp_path):
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    overrides = vocoder_overrides(tokenizer, ["ann", "bob"], 16000) | UNITS
    vocoder = build_system(flatten_yaml, "systems/vc/unit_vocoder.yaml", overrides)
    vocoder = vocoder["vocoder"]
    first = vocoder_data(vocoder, tokenizer, entries, tmp_path)
    (path,) = tmp_path.glob("*/contours.pt")
    before = path.stat().st_mtime_ns
    again = vocoder_data(vocoder, tokenizer, entries, tmp_path)
    assert path.stat().st_mtime_ns == before
    assert torch.equal(first[0]["pitch"], again[0]["pitch"])
    vocoder.contours["pitch"].tracker.voiced = 0.9
    vocoder_data(vocoder, tokenizer, entries, tmp_path)
    assert path.stat().st_mtime_ns != before


def test_segments_of_all_columns_are_the_same_stretch(entries, tmp_path):
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    overrides = vocoder_overrides(tokenizer, ["ann", "bob"], 16000) | UNITS
    vocoder = build_system(flatten_yaml, "systems/vc/unit_vocoder.yaml", overrides)
    parts = vocoder["vocoder"], tokenizer, entries, tmp_path
    whole, cut = vocoder_data(*parts), vocoder_data(*parts, frames=20, seed=3)
    starts = set()
    for epoch in range(3):
        cut.set_epoch(epoch)
        long, short = whole[4], cut[4]
        hop = vocoder["vocoder"].hop
        wavs = long["wav"].unfold(0, 20 * hop, hop)
        place = int((wavs == short["wav"]).all(1).nonzero()[0])
        starts.add(place)
        part = slice(place, place + 20)
        assert torch.equal(long["content"][part], short["content"])
        assert torch.equal(long["pitch"][part], short["pitch"])
        assert int(short["speaker"]) == 0
    assert len(starts) > 1


def test_a_vocoder_of_waveforms_needs_a_loss():
    system = build_system(
        flatten_yaml,
        "systems/vc/unit_hifigan.yaml",
        {**HIFIGAN, "dim": 16, "durations": {"dim": 16}},
    )
    with pytest.raises(DsuError, match="HifiganDecoder writes waveforms"):
        VocoderBrain({"codec": system["vocoder"]}, run_opts=CPU)


def test_frames_must_be_whole_numbers_of_samples():
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    with pytest.raises(DsuError, match="no whole number of samples"):
        vocoder_overrides(tokenizer, ["ann"], 16020)
