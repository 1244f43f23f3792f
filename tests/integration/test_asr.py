"""Recognisers learn, are sealed with their tokenizer, and read alike from a folder."""

import json

import pytest
import torch

from speechbrain_dsu.cli.main import main
from speechbrain_dsu.dataio.corpora import prepare_fsdd_strings
from speechbrain_dsu.inference.asr import UnitASR
from speechbrain_dsu.inference.bundles import verify_bundle
from speechbrain_dsu.inference.compose import seal_system
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.training.asr import train_and_seal_asr
from speechbrain_dsu.training.schedules import warmup_cosine
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError

WORDS = "zero one two three four five six seven eight nine".split()
TINY = {"dim": 48, "layers": 1, "heads": 2, "ffn": 96, "kernel": 5, "dropout": 0.0}
TINY |= {"time_mask": 0.0, "unit_dropout": 0.0, "combine": "concat"}


def recipe(data, out, tokenizer="mfcc-k100", **values):
    """A dozen utterances of each digit by one speaker, and one to test on."""
    root = out / "fsdd" / "recordings"
    root.mkdir(parents=True, exist_ok=True)
    for digit in range(10):
        for take in (0, *range(7, 19)):
            name = f"{digit}_jackson_{take}.wav"
            (root / name).write_bytes((data / "fsdd/recordings" / name).read_bytes())
    folder = out / "manifests"
    counts = {"train": 2, "valid": 2, "test": 2}
    prepare_fsdd_strings(out / "fsdd", folder, counts, digits=(2, 3))
    single = {p: [folder / f"single/{p}.json", out / "fsdd"] for p in counts}
    steps = values.pop("steps", 200)
    return {
        "tokenizer": tokenizer,
        "feed": "units",
        "from_codebooks": True,
        "train": [single["train"]],
        "valid": [single["valid"]],
        "tests": {"digits": [single["test"]]},
        "where": None,
        "held_out_speaker": None,
        "speeds": [100],
        "copies": {},
        "encoder_rate": 25,
        "system_file": "systems/asr/unit_ctc.yaml",
        "model": {"symbols": WORDS, "decoder_layers": 0, **TINY},
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
        **values,
    }


def train(hparams, **bundle):
    torch.manual_seed(0)
    tokenizer = UnitTokenizer.from_hparams(hparams["tokenizer"]).mods.tokenizer
    if bundle:
        hparams["bundle"] = {
            "licence": {"code": "Apache-2.0", "weights": "CC-BY-SA-4.0"},
            "about": {},
            **bundle,
        }
    return train_and_seal_asr(hparams, tokenizer, seal_system, flatten_yaml)


def test_digits_are_learnt_sealed_and_read(speech_data, tmp_path, capsys):
    hparams = recipe(speech_data, tmp_path)
    folder = tmp_path / "bundle"
    results = train(hparams, out=folder, half=True)
    assert results["digits"]["utterances"] == 10
    # Takes of the speaker that were not trained on; chance is 90.
    assert results["digits"]["WER"] < 50 and results["digits"]["distinct"] > 0.4
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["digits"] == results["digits"]
    assert all(part.ok for part in verify_bundle(folder)), verify_bundle(folder)

    asr = UnitASR.from_hparams(folder)
    paths = [tmp_path / f"fsdd/recordings/{d}_jackson_7.wav" for d in range(10)]
    texts = [asr.transcribe_file(path) for path in paths]
    right = sum(text == word for text, word in zip(texts, WORDS, strict=True))
    assert right >= 8, f"what it was trained on reads {texts}"
    wavs = [read_audio(path, asr.sample_rate)[0] for path in paths[:3]]
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lens = torch.tensor([len(w) for w in wavs]).double() / padded.shape[1]
    assert asr.transcribe_batch(padded, lens) == texts[:3]
    other = UnitTokenizer.from_hparams("logmel-k100").encode_file(paths[0])
    with pytest.raises(DsuError, match="reads units of the tokenizer"):
        asr.transcribe_tokens(other)

    (tmp_path / "some").mkdir()
    for path in paths[:2]:
        (tmp_path / "some" / path.name).write_bytes(path.read_bytes())
    capsys.readouterr()
    assert main(["transcribe", str(tmp_path / "some"), "--model", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == texts[:2]


@pytest.mark.parametrize(
    "values",
    [
        {"system_file": "systems/asr/unit_transducer.yaml"},
        {"model": {"symbols": WORDS, "decoder_layers": 1, **TINY}},
        {"model": {"symbols": WORDS, "deduplicate": True, "n_pieces": 110, **TINY}},
        {"tokenizer": "dmel", "feed": "frames"},
    ],
    ids=["transducer", "attention", "subwords", "frames"],
)
def test_one_script_for_all(values, speech_data, tmp_path):
    hparams = recipe(speech_data, tmp_path, steps=40, **values)
    if "transducer" in hparams["system_file"]:
        hparams["model"].pop("decoder_layers")
    results = train(hparams, out=tmp_path / "bundle")
    lines = (
        (tmp_path / "log.txt").read_text() if (tmp_path / "log.txt").exists() else ""
    )
    assert results["steps"] == 40, lines
    asr = UnitASR.from_hparams(tmp_path / "bundle")
    path = tmp_path / "fsdd/recordings/3_jackson_0.wav"
    source = UnitTokenizer.from_hparams(hparams["tokenizer"])
    if hparams["feed"] == "units":
        assert asr.transcribe_tokens(source.encode_file(path)) == [
            asr.transcribe_file(path)
        ]
        rate = results["digits"]["bits per second"]
        nominal = source.mods.tokenizer.bitrate
        shorter = "n_pieces" in hparams["model"]
        assert (rate < 0.9 * nominal) if shorter else (rate < 1.1 * nominal)
    else:
        assert "bits per second" not in results["digits"]
        assert isinstance(asr.transcribe_file(path), str)


def test_a_held_out_speaker_is_heard_in_tests_only(speech_data, tmp_path):
    from speechbrain_dsu.training.asr import split

    folder = tmp_path / "m"
    prepare_fsdd_strings(speech_data / "fsdd", folder, {"train": 20, "valid": 10})
    single = {
        p: [folder / f"single/{p}.json", speech_data / "fsdd"]
        for p in ("train", "valid", "test")
    }
    hparams = {
        "train": [single["train"], [folder / "train.json", folder]],
        "valid": [single["valid"]],
        "tests": {"digits": list(single.values())},
        "where": None,
        "held_out_speaker": "theo",
    }
    with pytest.raises(DsuError, match="held_out_speaker=theo"):
        split({**hparams, "tests": {"digits": []}})
    speakers = {p.stem.split("_")[1] for p in (speech_data / "fsdd").rglob("*.wav")}
    someone = sorted(speakers)[0]
    train_part, valid, tests = split({**hparams, "held_out_speaker": someone})
    assert someone not in {e["spk_id"] for e in [*train_part.values(), *valid.values()]}
    assert {e["spk_id"] for e in tests["digits"].values()} == {someone}
    assert len(tests["digits"]) == 500
    official = split({**hparams, "held_out_speaker": None})[2]["digits"]
    assert {e["take"] for e in official.values()} == {0, 1, 2, 3, 4}
    assert len(official) == 50 * len(speakers)
