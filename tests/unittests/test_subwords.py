"""Unit subwords: exact for every id, at every size, in lines of any length."""

import unicodedata

import numpy as np
import pytest
import sentencepiece
import torch

from speechbrain_dsu.tokens import subwords
from speechbrain_dsu.tokens.subwords import UnitBPE
from speechbrain_dsu.utils.errors import DsuError


def markov(n_units, items, frames, seed=0):
    """Sequences in which pairs repeat: each unit has two likely successors."""
    rng = np.random.default_rng(seed)
    successors = rng.integers(0, n_units, (n_units, 2))
    state = rng.integers(0, n_units, items)
    steps = [state]
    for _ in range(frames - 1):
        state = successors[state, rng.integers(0, 2, items)]
        steps.append(state)
    return list(np.stack(steps, 1))


@pytest.fixture(scope="module")
def small():
    return UnitBPE.train(markov(20, 20, 100), n_units=30, size=80)


@pytest.mark.parametrize("n_units", [100, 500, 1000, 2000, 50_000])
def test_round_trip_of_every_id_seen_or_not(n_units):
    seen = markov(n_units // 2, 50, 400)
    bpe = UnitBPE.train(seen, n_units, n_units + 200)
    assert (bpe.n_units, bpe.size) == (n_units, n_units + 200)
    rng = np.random.default_rng(1)
    everything = rng.permutation(n_units)
    noise = rng.integers(0, n_units, 5000)
    sequences = [everything, np.repeat(everything[:500], 3), noise, [], [0], *seen[:5]]
    pieces = bpe.encode(sequences)
    for item, back in zip(sequences, bpe.decode(pieces), strict=True):
        assert back.dtype == np.int64 and back.tolist() == list(item)
    # What training saw is shorter; ids that it didn't see are their own pieces.
    assert sum(map(len, pieces[5:])) < sum(map(len, seen[:5]))
    unseen = np.setdiff1d(everything, np.concatenate(seen))
    assert bpe.encode([unseen])[0].tolist() == unseen.tolist()


def test_each_piece_decodes_to_its_own_units(small):
    pieces = small.decode([[k] for k in range(small.size)])
    assert [len(p) for p in pieces] == small.piece_lengths.tolist()
    assert [p.tolist() for p in pieces[:30]] == [[k] for k in range(30)]
    assert min(map(len, pieces[30:])) > 1
    assert len({tuple(p.tolist()) for p in pieces}) == small.size


def test_pieces_are_those_of_a_loop_over_merges():
    """One merge at a time, the most frequent pair first, as BPE is defined."""
    sequences = markov(12, 10, 200)
    bpe = UnitBPE.train(sequences, n_units=12, size=24, max_units=512)
    current = [[(int(u),) for u in item] for item in sequences]
    for piece in bpe.decode([[k] for k in range(12, 24)]):
        counts = {}
        for item in current:
            for pair in zip(item, item[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        merged = tuple(piece.tolist())
        best = max(counts.values())
        chosen = [p for p in counts if p[0] + p[1] == merged]
        # Overlapping repeats (aaa) count twice here and once in the trainer.
        assert max(counts[p] for p in chosen) >= 0.9 * best
        for item in current:
            k = 0
            while k + 1 < len(item):
                if (item[k], item[k + 1]) in chosen:
                    item[k : k + 2] = [merged]
                k += 1


def test_long_sequences_are_learned_from_and_encoded_whole():
    long = np.concatenate(markov(50, 200, 1000))  # 200,000 units in one line
    whole = UnitBPE.train([long], n_units=50, size=150)
    parts = UnitBPE.train(np.split(long, 100), n_units=50, size=150)
    assert whole.decode(whole.encode([long]))[0].tolist() == long.tolist()

    def table(bpe):
        pieces = bpe.decode([[k] for k in range(bpe.size)])
        return {tuple(piece.tolist()) for piece in pieces}

    # A line that the trainer had dropped or cut would have taught other merges.
    assert len(table(whole) & table(parts)) > 140


def test_rare_units_of_a_large_corpus_keep_their_piece(monkeypatch):
    # The trainer's float32 sum hides units of less than a share of about 3e-8:
    # as few as these alphabets would be beside a corpus of hundreds of hours.
    lines = list(subwords._training_lines([np.zeros(5, int)], 3))
    assert [len(line) for line in lines] == [5, 1, 1, 1]
    monkeypatch.setattr(subwords, "_UNITS_PER_ALPHABET", 10)
    lines = list(subwords._training_lines([np.zeros(25, int)], 3))
    assert [len(line) for line in lines] == [25] + [1] * 9


def test_characters_survive_any_normalisation():
    text = subwords._to_text(np.arange(subwords._MOST))
    assert len(set(text)) == subwords._MOST
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert unicodedata.normalize(form, text) == text
    assert {unicodedata.category(c) for c in text} == {"Co"}
    assert not any(c.isspace() for c in text) and text.lower() == text
    assert subwords._to_units(text).tolist() == list(range(subwords._MOST))


def test_model_files_come_back(small, tmp_path):
    path = tmp_path / "units.model"
    small.save(path)
    again = UnitBPE(path)
    units = markov(30, 4, 50, seed=3)
    for a, b in zip(small.encode(units), again.encode(units), strict=True):
        assert a.tolist() == b.tolist()
    # The file is sentencepiece's own: other tools read it.
    other = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert other.decode(other.encode(subwords._to_text(units[0]))) == subwords._to_text(
        units[0]
    )
    same = UnitBPE.train(markov(20, 20, 100), n_units=30, size=80)
    assert same.model == small.model


def test_batches_of_ragged_items(small):
    rows = markov(20, 3, 40)
    items = [torch.as_tensor(row[:n]) for row, n in zip(rows, (40, 7, 0), strict=True)]
    units = torch.full((3, 40), 99)  # behind the end: not read
    for row, item in zip(units, items, strict=True):
        row[: len(item)] = item
    lens = torch.tensor([1.0, 7 / 40, 0.0])
    pieces, piece_lens = small.encode_batch(units, lens)
    expected = small.encode(items)
    assert (piece_lens * pieces.shape[1]).round().tolist() == list(map(len, expected))
    for row, item in zip(pieces, expected, strict=True):
        assert row[: len(item)].tolist() == item.tolist()
        assert not row[len(item) :].any()
    back, back_lens = small.decode_batch(pieces, piece_lens)
    assert torch.equal(back, units.masked_fill(units == 99, 0))
    assert torch.allclose(back_lens, lens.double())
    kept = small.encode_batch(units.unsqueeze(2), lens)[0]
    assert torch.equal(kept, pieces.unsqueeze(2))
    assert small.encode_batch(units[:0], lens[:0])[0].shape[0] == 0


def test_mistakes_are_named(small, tmp_path):
    units = markov(20, 5, 50)
    with pytest.raises(DsuError, match="10 pieces can't hold the 30 units"):
        UnitBPE.train(units, 30, 10)
    with pytest.raises(DsuError, match="513 units in one piece"):
        UnitBPE.train(units, 30, 40, max_units=513)
    with pytest.raises(DsuError, match="70000 units"):
        UnitBPE.train(units, 70_000, 80_000)
    with pytest.raises(DsuError, match="unit 30 in sequence 1, position 2"):
        UnitBPE.train([units[0], [0, 1, 30]], 30, 40)
    with pytest.raises(DsuError, match="smaller size"):
        UnitBPE.train([[0, 1, 2]], 30, 5000)
    with pytest.raises(DsuError, match="unit 30 in sequence 1, position 1"):
        small.encode([[0], [1, 30]])
    with pytest.raises(DsuError, match="piece 80 in sequence 0, position 0"):
        small.decode([[80]])
    with pytest.raises(DsuError, match="float"):
        small.encode([[0.5]])
    with pytest.raises(DsuError, match=r"\[1, 2, 2\]"):
        small.encode_batch(torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(DsuError, match="nowhere.model"):
        UnitBPE("nowhere.model")
    (tmp_path / "bad.model").write_bytes(b"\x80\x04no")
    with pytest.raises(DsuError, match="bad.model"):
        UnitBPE(tmp_path / "bad.model")
    prefix = str(tmp_path / "text")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world"] * 9),
        model_prefix=prefix,
        vocab_size=14,
        model_type="bpe",
        minloglevel=2,
    )
    with pytest.raises(DsuError, match="UnitBPE.train"):
        UnitBPE(prefix + ".model")
