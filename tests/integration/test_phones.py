"""Phones that are tones: learned where they are known, then found in words alone."""

import math
from functools import partial

import torch

from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.training.phones import align_corpus, train_phones
from speechbrain_dsu.training.systems import build_system
from speechbrain_dsu.utils.audio import write_audio

RATE = 16000
TONES = {"sil": 0, "a": 400, "i": 2300, "s": 5200}
WORDS = {"ai": ["a", "i"], "sa": ["s", "a"]}


def sound(phones, lengths):
    parts = []
    for phone, length in zip(phones, lengths, strict=True):
        time = torch.arange(length) / RATE
        tone = 0.3 * torch.sin(2 * math.pi * TONES[phone] * time)
        parts.append(tone + 1e-3 * torch.randn(length))
    return torch.cat(parts)


def corpus(folder, count, spoken):
    """Recordings with their phones and ends; ``spoken`` draws the phones."""
    entries = {}
    for index in range(count):
        phones, text = spoken(index)
        lengths = torch.randint(1200, 3200, (len(phones),)).tolist()
        path = folder / f"{text}{index}.wav"
        write_audio(path, sound(phones, lengths), RATE)
        ends = torch.tensor(lengths).cumsum(0) / RATE
        entries[path.stem] = {
            "wav": str(path),
            "duration": float(ends[-1]),
            "text": text,
            "phones": " ".join(phones),
            "phone_ends": " ".join(f"{end:.5f}" for end in ends),
        }
    return entries


def test_words_are_aligned_by_what_was_learned(tmp_path, monkeypatch):
    torch.manual_seed(0)
    names = list(TONES)
    mixed = [names[i : i + 1] + names[::-1] + names[: i + 1] for i in range(4)]
    aligned = corpus(tmp_path, 24, lambda i: (mixed[i % 4], "mixed"))
    words = corpus(
        tmp_path,
        6,
        lambda i: (
            ["sil", *WORDS["ai" if i % 2 else "sa"], "sil"],
            "ai" if i % 2 else "sa",
        ),
    )
    small = {
        "encoder": {
            "transformer": {"dim": 32, "layers": 2, "heads": 2, "ffn": 64},
        }
    }
    kept = {}

    def build(flatten, file, overrides):
        kept["system"] = build_system(flatten, file, {**overrides, **small})
        return kept["system"]

    monkeypatch.setattr("speechbrain_dsu.training.phones.build_system", build)
    training = {
        "loss_weights": {"masked": 0.1, "unmasked": 1.0},
        "opt_class": partial(torch.optim.AdamW, lr=3e-3),
    }
    stage = {"mask_probability": 0.02, "training": training}
    hparams = {
        "system_file": "systems/ssl/hubert_units.yaml",
        "stages": [
            {**stage, "steps": 60, "hours": {"aligned": 0.005}},
            {**stage, "steps": 10, "hours": {"aligned": 0.002, "words": 0.002}},
        ],
        "schedule": lambda optimizer, total_steps: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=3e-3, total_steps=total_steps, cycle_momentum=False
        ),
        "data": {"segment_seconds": 0.6, "min_seconds": 0.1},
        "batch_seconds": 6.0,
        "megabytes": 50,
        "seed": 0,
        "run_opts": {"device": "cpu"},
        "max_minutes": None,
        "output_folder": tmp_path / "out",
    }
    encoder = train_phones(
        hparams, aligned, words, lambda word: [WORDS[word]], flatten_yaml
    )
    phones = sorted(TONES)
    found = align_corpus(
        kept["system"]["objective"], words, phones, lambda word: [WORDS[word]]
    )
    right = total = 0
    for name, labels in found.items():
        ends = [float(end) for end in words[name]["phone_ends"].split()]
        true = words[name]["phones"].split()
        for frame, label in enumerate(labels.tolist()):
            second = (frame * encoder.hop + encoder.frame_offset) / RATE
            # At an edge either is right.
            near = min(abs(second - end) for end in ends) < 0.03
            if not near and second < ends[-1]:
                place = sum(second > end for end in ends)
                right, total = right + (phones[label] == true[place]), total + 1
    assert total > 100 and right / total > 0.9
