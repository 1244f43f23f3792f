"""Datasets of columns and the Brain of tasks: every column reaches the model."""

import pytest
import torch
from torch import nn

from speechbrain_dsu.dataio.unit_data import (
    UnitDataset,
    batch_columns,
    in_memory,
    number_of,
    token_store,
)
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.training.unit_task import UnitTaskBrain, train_task
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask

CODES = {name: torch.full((n, 2), n) for n, name in enumerate("abcdefgh", start=1)}


def dataset():
    speakers = number_of(["even", "odd"])
    columns = {
        "codes": CODES.get,
        "speaker": lambda name: speakers("odd" if len(CODES[name]) % 2 else "even"),
        "text": lambda name: f"say {name}",
    }
    return UnitDataset(CODES, columns, lambda name: len(CODES[name]))


class Recorder(nn.Module):
    """Learns one number; notes what it was given."""

    def __init__(self):
        super().__init__()
        self.guess = nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, codes, codes_lens, speaker, text):
        counts = absolute_lengths(codes_lens, codes.shape[1])
        self.seen.append((codes, counts, speaker, text))
        mask = length_mask(counts, codes.shape[1])
        error = (codes[..., 0] - self.guess)[mask].square().mean()
        return {"loss": error, "guess": self.guess}


class Names:
    """A judge that notes whom it saw."""

    def __init__(self):
        self.stages = []

    def reset(self):
        self.stages.append([])

    def add(self, model, columns, ids):
        assert len(ids) == len(columns["text"])
        self.stages[-1] += ids

    def summary(self):
        return {"judged": float(len(self.stages[-1]))}


def hparams(folder, **changes):
    values = {
        "output_folder": folder,
        "seed": 3,
        "run_opts": {"device": "cpu"},
        "steps": 6,
        "batch_frames": 12,
        "max_minutes": None,
        "training": {"opt_class": lambda p: torch.optim.SGD(p, lr=0.1)},
    }
    return {**values, **changes}


def test_every_column_reaches_the_model_with_its_item(tmp_path):
    model, judge = Recorder(), Names()
    brain = train_task(hparams(tmp_path), model, dataset(), dataset(), judge)
    for codes, counts, speaker, text in model.seen:
        for row, n, who, said in zip(codes, counts, speaker, text, strict=True):
            n = int(n)
            assert (row[:n] == n).all() and (row[n:] == 0).all()
            assert int(who) == n % 2 and said == f"say {'abcdefgh'[n - 1]}"
    assert not model.training
    assert all(sorted(stage) == sorted(CODES) for stage in judge.stages)
    assert brain.stats["valid"]["judged"] == len(CODES)
    assert {"loss", "guess"} <= set(brain.stats["train"])


def test_a_batch_keeps_within_its_budget():
    data = dataset()
    for batch in data.loading(12, seed=1)["batch_sampler"]:
        lengths = [data.lengths[place] for place in batch]
        assert len(batch) == 1 or max(lengths) * len(batch) <= 12


def test_a_task_stopped_after_every_step_goes_on_bit_for_bit(tmp_path):
    whole = Recorder()
    train_task(hparams(tmp_path / "whole"), whole, dataset(), dataset())
    stops, done = 0, None
    while done is None:
        part = Recorder()
        options = hparams(tmp_path / "parts", max_minutes=0 if stops < 5 else None)
        done = train_task(options, part, dataset(), dataset())
        stops += 1
    assert stops == 6 and len(part.seen) < len(whole.seen)
    assert torch.equal(part.guess, whole.guess)


def test_nothing_to_train_on_is_said():
    with pytest.raises(DsuError, match="no utterance"):
        UnitDataset([], {}, len)


def test_an_unknown_name_is_said():
    with pytest.raises(DsuError, match="'cid' is none of"):
        number_of(["ann", "bob"])("cid")


def test_columns_without_lengths_are_left_as_they_are():
    from speechbrain.dataio.batch import PaddedBatch

    batch = PaddedBatch([{"id": "a", "x": torch.ones(2), "n": 3}, {"id": "b"}][:1])
    assert set(batch_columns(batch)) == {"x", "x_lens", "n"}


def test_tokens_are_made_once_for_a_tokenizer_and_its_recordings(tmp_path):
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    entries = {}
    for place, name in enumerate("ab"):
        path = tmp_path / f"{name}.wav"
        write_audio(path, 0.1 * torch.randn(8000 + 800 * place), 16000)
        entries[name] = {"wav": str(path)}
    store = token_store(tokenizer, [entries], tmp_path / "tokens")
    codes = in_memory(store)
    alone = UnitTokenizer.from_hparams("mfcc-k100").encode_file(tmp_path / "b.wav")
    assert codes["b"].equal(alone.codes[0])
    before = {p: p.stat().st_mtime_ns for p in store.folder.glob("*.parquet")}
    again = token_store(tokenizer, [entries], tmp_path / "tokens")
    assert again.folder == store.folder
    assert before == {p: p.stat().st_mtime_ns for p in before}
    fewer = token_store(tokenizer, [{"a": entries["a"]}], tmp_path / "tokens")
    assert fewer.folder != store.folder and set(fewer) == {"a"}


def test_the_brain_lowers_the_loss():
    brain = UnitTaskBrain(
        {"model": Recorder()},
        lambda p: torch.optim.Adam(p, lr=0.2),
        run_opts={"device": "cpu"},
    )
    brain.fit(1, dataset(), train_loader_kwargs=dataset().loading(12))
    first = brain.stats["train"]["loss"]
    brain.fit(12, dataset(), train_loader_kwargs=dataset().loading(12))
    assert brain.stats["train"]["loss"] < 0.5 * first
