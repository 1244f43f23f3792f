"""Recognisers of units: company changes nothing, losses are what they say."""

import math

import pytest
import torch

from speechbrain_dsu.lobes.models.unit_pieces import UnitPieces
from speechbrain_dsu.lobes.models.unit_reader import UnitReader
from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.subwords import UnitBPE
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths
from speechbrain_dsu.utils.paths import hparams_dir

SMALL = {"dim": 16, "layers": 2, "heads": 2, "ffn": 32, "kernel": 5, "sizes": [20, 6]}


def build(system="unit_ctc", **values):
    from hyperpyyaml import load_hyperpyyaml

    torch.manual_seed(0)
    path = hparams_dir() / "systems" / "asr" / f"{system}.yaml"
    with open(path, encoding="utf-8") as file:
        return load_hyperpyyaml(file, {**SMALL, **values})["model"]


def batch(counts=(31, 12, 1), texts=((3, 1, 4), (1,), (5, 9)), garbage=True):
    torch.manual_seed(1)
    items = [torch.stack([torch.randint(n, (c,)) for n in (20, 6)], 1) for c in counts]
    codes, found = pad_stack(items)
    if garbage:
        for row, count in zip(codes, counts, strict=True):
            row[count:] = 99
    text, sizes = pad_stack([torch.tensor(text) for text in texts])
    return (
        items,
        codes,
        relative_lengths(found, codes.shape[1]),
        text,
        relative_lengths(sizes, text.shape[1]),
    )


SYSTEMS = [
    ("unit_ctc", {}),
    ("unit_ctc", {"encoder_module": "branchformer", "stride": 2}),
    ("unit_ctc", {"combine": "concat", "width": 4, "stride": 3, "decoder_layers": 0}),
    ("unit_transducer", {"stride": 2, "per_item": True}),
]


# SpeechBrain's Branchformer reflects at the batch's end, whatever its items' lengths.
EXACT = [(s, v) for s, v in SYSTEMS if v.get("encoder_module") != "branchformer"]


@pytest.mark.parametrize("system,values", EXACT)
def test_company_and_padding_change_nothing(system, values):
    model = build(system, **values).eval()
    items, codes, lens, _, _ = batch()
    with torch.no_grad():
        hidden, found = model.encode(codes, lens)
        counts = absolute_lengths(found, hidden.shape[1]).tolist()
        for row, count, item in zip(hidden, counts, items, strict=True):
            alone, _ = model.encode(item.unsqueeze(0))
            assert alone.shape[1] == count == -(-len(item) // values.get("stride", 1))
            torch.testing.assert_close(row[:count], alone[0], atol=1e-5, rtol=1e-4)
    together = model.transcribe(items)
    assert together == [model.transcribe([item])[0] for item in items]
    assert model.transcribe([items[0][:0]]) == [""]


@pytest.mark.parametrize("system,values", SYSTEMS)
def test_losses_do_not_read_padding_and_reach_every_weight(system, values):
    model = build(system, dropout=0.0, time_mask=0.0, unit_dropout=0.0, **values)
    _, codes, lens, text, text_lens = batch()
    found = model(codes, lens, text, text_lens)
    other = model(codes.clamp(max=5), lens, text, text_lens)
    assert found["loss"] != other["loss"], "the losses don't depend on the units"
    rest = torch.where(torch.arange(3) < torch.tensor([[3], [1], [2]]), text, 7)
    again = model(codes, lens, rest, text_lens)
    for name, value in found.items():
        torch.testing.assert_close(again[name], value), name
    found["loss"].backward()
    unused = [k for k, p in model.named_parameters() if p.grad is None]
    assert sorted(unused) == ["reader.hidden"], (
        "only what a mask shows is not used here"
    )


def slow_transducer_loss(scores, text, blank):
    """-log of the sum over all paths of one item, by the definition."""
    steps, ids = scores.shape[0], text.tolist()
    begin = scores.new_zeros(())
    table = {(0, 0): begin}
    for t in range(steps):
        for u in range(len(ids) + 1):
            ways = [begin] if (t, u) == (0, 0) else []
            if t:
                ways.append(table[t - 1, u] + scores[t - 1, u, blank])
            if u:
                ways.append(table[t, u - 1] + scores[t, u - 1, ids[u - 1]])
            table[t, u] = torch.logsumexp(torch.stack(ways), 0)
    return -(table[steps - 1, len(ids)] + scores[-1, -1, blank])


def test_the_transducers_loss_is_the_sum_over_paths():
    model = build("unit_transducer", stride=3, ctc_weight=0.0).eval()
    items, codes, lens, text, text_lens = batch(counts=(31, 12, 9))
    wanted = []
    for item, ids, size in zip(items, text, (3, 1, 2), strict=True):
        hidden, _ = model.encode(item.unsqueeze(0))
        begin = torch.tensor([[model.transcripts.blank]])
        known = model.embedding(torch.cat([begin, ids[None, :size]], 1))
        predicted = model.from_text(model.predictor(known)[0])
        joined = model.joiner(hidden.unsqueeze(2), predicted.unsqueeze(1))
        scores = model.head(joined)[0].log_softmax(-1)
        wanted.append(slow_transducer_loss(scores, ids[:size], model.transcripts.blank))
    found = model(codes, lens, text, text_lens)
    torch.testing.assert_close(found["loss"], torch.stack(wanted).mean())


def test_attention_predicts_each_symbol_from_those_before():
    model = build().eval()
    items, codes, lens, text, _ = batch()
    with torch.no_grad():
        hidden, lens = model.encode(codes, lens)
        bos = torch.full((3, 1), model.transcripts.vocabulary.bos)
        known = torch.cat([bos, text], 1)
        states = model._decode(known, hidden, lens)
        changed = known.clone()
        changed[0, 2] = 8
        other = model._decode(changed, hidden, lens)
        # SpeechBrain's own step by step decoding gives the same states.
        stepped, _ = model.transformer.decode(known[:1, :2], hidden[:1], lens[:1] * 31)
    torch.testing.assert_close(states[0, :2], other[0, :2])
    assert not torch.allclose(states[0, 2:], other[0, 2:])
    torch.testing.assert_close(states[0, :2], stepped[0], atol=1e-5, rtol=1e-4)


def test_the_attention_loss_is_cross_entropy_per_symbol():
    model = build().eval()
    model.label_smoothing = 0.0
    _, codes, lens, text, text_lens = batch()
    found = model(codes, lens, text, text_lens)["attention"]
    hidden, lens = model.encode(codes, lens)
    special, total = model.transcripts.vocabulary, 0.0
    for row, states, share, size in zip(text, hidden, lens, (3, 1, 2), strict=True):
        ids = row[:size].tolist()
        known = torch.tensor([[special.bos, *ids]])
        decoded = model._decode(known, states[None], share[None])
        wanted = torch.tensor([*ids, special.eos])
        scores = model.head(decoded)[0]
        total += torch.nn.functional.cross_entropy(scores, wanted, reduction="sum")
    torch.testing.assert_close(found, total / (3 + 1 + 2 + 3), atol=1e-4, rtol=1e-4)


def test_what_is_hidden_is_hidden_in_training_only():
    reader = UnitReader((50,), 8, time_mask=0.2, mask_steps=3, unit_dropout=0.5)
    torch.nn.init.constant_(reader.hidden, 7.0)
    codes = torch.arange(50).view(1, 50, 1)
    plain = reader.eval()(codes)[0]
    assert plain.equal(reader(codes)[0])
    hidden = reader.train()(codes)[0]
    masked = (hidden == 7.0).all(-1)
    assert 10 <= int(masked.sum()) <= 33
    pad = reader.norm(reader.embedding(torch.zeros(1, 1, 1, dtype=torch.int64)))
    dropped = torch.isclose(hidden, pad, atol=1e-5).all(-1) & ~masked
    same = torch.isclose(hidden, plain, atol=1e-5).all(-1)
    assert bool((masked | dropped | same).all()) and dropped.any() and same.any()


def test_frames_are_standardised_by_the_training_data():
    reader = UnitReader((), 4, frame_dim=3)
    frames = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    reader.standardise(frames)
    scaled = (frames - reader.mean) / reader.std
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(3))
    wanted = reader.norm(reader.embedding(scaled[None, :5]))
    torch.testing.assert_close(reader.eval()(frames[None, :5])[0], wanted)
    with pytest.raises(DsuError, match="reads frames"):
        reader(torch.zeros(1, 3, 1, dtype=torch.int64))
    with pytest.raises(DsuError, match="frame_dim"):
        UnitReader((), 4)


def test_pieces_are_runs_as_subwords_and_survive_a_state():
    torch.manual_seed(0)
    items = [torch.randint(6, (40,)).repeat_interleave(2)[:, None] for _ in range(30)]
    runs = [deduplicate(item[None]).units[0, :, 0] for item in items]
    bpe = UnitBPE.train(runs, n_units=6, size=20)
    pieces = UnitPieces((6,), True, 20, len(bpe.model)).load(bpe.model)
    found = pieces(items[0])[:, 0]
    assert len(found) < len(runs[0]) and pieces.sizes == (20,)
    assert torch.equal(torch.from_numpy(bpe.decode([found])[0]), runs[0])
    other = UnitPieces((6,), True, 20, len(bpe.model))
    other.load_state_dict(pieces.state_dict())
    assert other(items[1]).equal(pieces(items[1]))
    with pytest.raises(DsuError, match="one codebook, there are 2"):
        UnitPieces((6, 6), n_pieces=20)


def test_bits_per_second_are_those_of_a_hand_calculation():
    from speechbrain_dsu.training.asr import judged

    model = build(deduplicate=True).eval()
    codes = torch.tensor([[1, 2], [1, 2], [1, 3], [4, 3]])
    entries = {"a": {"text": "a", "duration": 0.5}, "b": {"text": "b", "duration": 1.5}}
    found = judged(model, entries, {"a": codes, "b": codes[:2]})
    assert found["steps per second"] == (3 + 1) / 2.0
    assert found["bits per second"] == pytest.approx(2 * (math.log2(20) + math.log2(6)))


def test_what_is_the_same_in_all_steps_of_an_item_is_gone():
    """A louder channel adds to every log-mel frame; so does it to the vectors."""
    torch.manual_seed(0)
    reader = UnitReader((), dim=8, frame_dim=5, per_item=True).eval()
    frames, lens = torch.randn(2, 9, 5), torch.tensor([1.0, 5 / 9])
    louder = frames + 3 * torch.randn(2, 1, 5)
    assert torch.allclose(reader(frames, lens)[0], reader(louder, lens)[0], atol=1e-5)
    reader.norm = torch.nn.Identity()
    vectors = reader(frames, lens)[0]
    for row, count in zip(vectors, (9, 5), strict=True):
        assert torch.allclose(row[:count].mean(0), torch.zeros(8), atol=1e-6)
        spread = row[:count].std(0, unbiased=False)
        assert torch.allclose(spread, torch.ones(8), atol=1e-2)
        assert (row[count:] == 0).all()
