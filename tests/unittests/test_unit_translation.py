"""S2UT: steps of units, readers, taps, and that the model learns what it is shown."""

import pytest
import torch
from torch import nn

from speechbrain_dsu.decoders.beam import beam_search
from speechbrain_dsu.decoders.rules import LayoutRule
from speechbrain_dsu.decoders.translation import translate
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.lobes.models.readers import ConvReader
from speechbrain_dsu.lobes.models.taps import AttentionTap, CTCTap
from speechbrain_dsu.lobes.models.unit_translation import SpeechToUnits
from speechbrain_dsu.nnet.embeddings import UnitEmbedding
from speechbrain_dsu.nnet.heads import SoftmaxHead
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.steps import UnitSteps
from speechbrain_dsu.tokens.text import Words
from speechbrain_dsu.training.systems import build_system
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths

KINDS = [
    {"reduce": True},
    {"reduce": False, "stack": 3},
    {"reduce": False},
]
WORDS = ["zero", "one", "two"]


def ragged(books=1, size=5, counts=(7, 1, 4, 9)):
    generator = torch.Generator().manual_seed(1)
    items = [torch.randint(size, (n, books), generator=generator) for n in counts]
    codes, found = pad_stack(items)
    return codes, relative_lengths(found, codes.shape[1])


# Steps


@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_steps_lose_nothing(kind, books):
    steps = UnitSteps((5,) * books, **kind)
    codes, lens = ragged(books)
    ids, id_lens, durations = steps.write(codes, lens)
    assert (durations is not None) == kind["reduce"]
    again, again_lens = steps.read(ids, durations)
    assert torch.equal(again, codes)
    assert torch.equal(absolute_lengths(again_lens, 9), absolute_lengths(lens, 9))
    if kind["reduce"]:
        assert durations.sum(1).tolist() == [7, 1, 4, 9]
        repeats = ids[:, 1:] == ids[:, :-1]
        specials = ids[:, 1:] < 3
        assert bool((repeats.all(2) <= specials.any(2)).all())


def test_stacked_steps_end_at_a_filler_wherever_it_stands():
    steps = UnitSteps((5,), reduce=False, stack=2)
    ids, _, _ = steps.write(torch.tensor([[[1], [2], [3], [4]]]))
    ids[0, 1, 1] = ids.max() + 1
    assert int(ids[0, 1, 1]) == steps.vocabulary.size - 1
    codes, lens = steps.read(ids)
    assert codes[0, :, 0].tolist() == [1] and lens.tolist() == [1.0]
    with pytest.raises(DsuError, match="not both"):
        UnitSteps((5,), reduce=True, stack=2)


# Readers


def test_a_reader_gives_each_item_what_it_gives_it_alone():
    reader = ConvReader(6, 8, strides=(2, 2)).eval()
    items = [torch.randn(n, 6) for n in (1, 4, 7, 13)]
    source, counts = pad_stack(items)
    # What lies behind an item's end is never read.
    for row, count in zip(source, counts, strict=True):
        row[count:] = 99.0
    vectors, lens = reader(source, relative_lengths(counts, 13))
    found = absolute_lengths(lens, vectors.shape[1]).tolist()
    for item, row, count in zip(items, vectors, found, strict=True):
        alone, _ = reader(item[None])
        assert count == alone.shape[1] == reader.num_frames(len(item))
        assert torch.allclose(row[:count], alone[0], atol=1e-5)


def test_bands_are_silenced_in_training_alone_and_differ_between_items():
    torch.manual_seed(0)
    reader = ConvReader(40, 8, band_masks=2, band_width=10)
    ones = reader._bands(64, torch.device("cpu"))
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    assert len({tuple(row.flatten().tolist()) for row in ones}) > 32
    assert float((1 - ones).sum((1, 2)).max()) <= 20
    x = torch.randn(2, 9, 40)
    reader.eval()
    assert torch.equal(reader(x)[0], reader(x)[0])


# Taps


def model_of(kind=None, taps=(), dim=32, layers=3, seed=0, **options):
    torch.manual_seed(seed)
    steps = UnitSteps((20,), **(kind or {"reduce": True}))
    return SpeechToUnits(
        ConvReader(6, dim, strides=(2,)),
        Transformer(dim, layers, 4, causal=False),
        UnitEmbedding(steps, dim),
        Transformer(dim, layers, 4, memory_dim=dim),
        SoftmaxHead(steps, dim),
        steps,
        list(taps),
        **options,
    )


def batch_of(counts=(8, 5, 9, 6), frames=(20, 12, 24, 16), seed=3):
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(20, (n, 1), generator=generator) for n in counts]
    # Some units last: durations have something to learn.
    codes = [code.repeat_interleave(2 + len(code) % 2, 0) for code in codes]
    source = [torch.randn(n, 6, generator=generator) for n in frames]
    texts = [torch.randint(3, (2 + n % 2,), generator=generator) for n in counts]
    columns = {}
    for name, items in (("source", source), ("codes", codes), ("text", texts)):
        padded, found = pad_stack(items)
        columns[name] = padded
        columns[f"{name}_lens"] = relative_lengths(found, padded.shape[1])
    columns["source_text"] = columns["text"]
    columns["source_text_lens"] = columns["text_lens"]
    return columns


@pytest.mark.parametrize("tap_class", [CTCTap, AttentionTap])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_tap_reaches_the_layers_up_to_its_own(tap_class, side):
    tap = tap_class(32, side, 2, "text", WORDS)
    model = model_of(taps=[tap], duration_weight=0.0)
    columns = batch_of()
    with_tap = model(**columns)
    assert set(with_tap) == {"loss", "nll", f"{side} 2 text"}
    model.taps = nn.ModuleList()
    (with_tap["loss"] - model(**columns)["loss"]).backward()
    layers = (model.encoder if side == "encoder" else model.transformer).layers

    def moved(module):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        return sum(float(g.abs().sum()) for g in grads)

    assert moved(layers[0]) > 1e-2 and moved(layers[1]) > 1e-2
    # The main loss cancels up to rounding: nothing above the tap is moved by it.
    assert moved(layers[2]) < 1e-3 * moved(layers[1])
    assert moved(tap) > 0


def test_taps_that_can_not_be_are_refused():
    with pytest.raises(DsuError, match="there are 3"):
        model_of(taps=[CTCTap(32, "encoder", 4, "text", WORDS)])
    with pytest.raises(DsuError, match="'encoder' or 'decoder'"):
        CTCTap(32, "middle", 1, "text", WORDS)


def test_ctc_reads_the_likeliest_path_without_repeats():
    tap = CTCTap(3, "encoder", 1, "text", WORDS)
    path = torch.tensor([[3, 0, 0, 3, 0, 2, 2, 1], [1, 1, 3, 3, 2, 2, 0, 0]])
    tap.head = nn.Identity()
    scores = nn.functional.one_hot(path, 4).float()
    found = tap.read(scores, torch.tensor([1.0, 0.5]))
    assert found == ["zero zero two one", "one"]


def test_attention_tap_does_not_depend_on_padding():
    torch.manual_seed(0)
    tap = AttentionTap(8, "encoder", 1, "text", WORDS, decoder_dim=8, n_heads=2)
    tap.eval()
    states = torch.randn(1, 6, 8)
    text = torch.tensor([[0, 2]])
    alone = tap.loss(states, torch.ones(1), text, torch.ones(1))
    wide = nn.functional.pad(states, (0, 0, 0, 4), value=9.0)
    padded = nn.functional.pad(text, (0, 3), value=1)
    found = tap.loss(wide, torch.tensor([0.6]), padded, torch.tensor([0.4]))
    assert torch.allclose(found, alone, atol=1e-5)


# The whole


def test_a_memory_tells_equal_sounds_at_different_places_apart():
    # Else a decoder knows what is said, and not in which order.
    memory, _ = model_of().eval().read(torch.ones(1, 60, 6))
    inner = memory[0, 5:-5]
    gaps = torch.cdist(inner, inner) + 9 * torch.eye(len(inner))
    assert float(gaps.min()) > 1e-2


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_batch_is_translated_as_its_items_alone(kind):
    taps = [CTCTap(32, "decoder", 2, "text", WORDS)]
    model = model_of(kind, taps).eval()
    model.set_pace(1, 1)
    columns = batch_of()
    whole = translate(model, columns["source"], columns["source_lens"])
    n = absolute_lengths(columns["source_lens"], columns["source"].shape[1])
    m = absolute_lengths(whole.lens, whole.codes.shape[1])
    for item in range(len(n)):
        alone = translate(model, columns["source"][item : item + 1, : n[item]])
        assert torch.equal(alone.codes[0], whole.codes[item, : m[item]])
        assert alone.texts[0] == whole.texts[item]
        assert alone.stopped[0] == whole.stopped[item]


def test_one_beam_takes_the_likeliest_id_at_every_step():
    model = model_of().eval()
    columns = batch_of()
    found = translate(model, columns["source"], columns["source_lens"], beams=1)
    memory, lens = model.read(columns["source"], columns["source_lens"])
    hidden = model.transformer(model.embedding(found.ids[:, :-1]), None, memory, lens)
    best = model.head.logits(hidden)[:, :, 0].clone()
    # Neither padding nor begin is ever written.
    best[..., :2] = float("-inf")
    written = found.ids[:, 1:, 0]
    # At the cap the end is dictated.
    counts = (written != model.steps.vocabulary.pad).sum(1)
    for row, likeliest, n in zip(written, best.argmax(-1), counts, strict=True):
        assert torch.equal(row[: n - 1], likeliest[: n - 1])


def test_more_beams_find_what_is_no_less_likely():
    model = model_of().eval()
    columns = batch_of()
    memory, lens = model.read(columns["source"], columns["source_lens"])
    scores = {}
    for beams in (1, 16):
        rules = LayoutRule(model.steps.layout, torch.full((4,), 12))
        session = model.session(memory, lens)
        found = beam_search(session, rules, beams=beams, batch=4)
        scores[beams] = [best[0].log_probability for best in found]
    pairs = list(zip(scores[16], scores[1], strict=True))
    assert all(wide >= one - 1e-6 for wide, one in pairs)


def test_search_over_stacked_units_says_what_to_do():
    model = model_of({"reduce": False, "stack": 2}).eval()
    with pytest.raises(DsuError, match="streams"):
        translate(model, torch.randn(1, 8, 6), beams=2)


def test_a_model_that_never_ends_stops():
    model = model_of().eval()
    with torch.no_grad():
        eos = model.steps.vocabulary.eos
        model.head.out.weight[eos] = 0
        model.head.out.weight[3:] += 1.0
    found = translate(model, torch.randn(2, 8, 6), longest=30)
    assert found.codes.shape[1] <= 30 * 40


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_batch_is_learnt_by_heart(kind):
    taps = [
        CTCTap(32, "encoder", 1, "source_text", WORDS, 0.3),
        AttentionTap(32, "encoder", 2, "text", WORDS, 0.3, decoder_dim=16, n_heads=2),
        CTCTap(32, "decoder", 2, "text", WORDS, 0.3),
    ]
    model = model_of(kind, taps, layers=2)
    columns = batch_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(200):
        terms = model(**columns)
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            first = float(terms["nll"])
    assert float(terms["nll"]) < 0.05 < first
    model.eval().set_pace(1, 1)
    # Of a sure model every search finds the same.
    for beams in (1, 3) if kind.get("stack", 1) == 1 else (1,):
        found = translate(model, columns["source"], columns["source_lens"], beams)
        assert found.stopped == ("end",) * 4
        assert torch.equal(found.codes, columns["codes"])
        text = Words(WORDS)
        counts = absolute_lengths(columns["text_lens"], columns["text"].shape[1])
        rows = zip(columns["text"].tolist(), counts, strict=True)
        assert found.texts == [text.decode(row[:n]) for row, n in rows]
    # The source is listened to: other sources, other translations.
    other = translate(model, columns["source"].flip(0))
    assert not torch.equal(other.codes, found.codes)


@pytest.mark.parametrize("name", ["s2ut", "s2ut_ctc", "s2ut_stacked", "s2ut_units"])
@pytest.mark.parametrize("sizes", [[30], [6, 4]], ids=str)
def test_systems_train_and_write_with_any_tokenizer(name, sizes):
    torch.manual_seed(0)
    small = {"dim": 16, "n_layers": 4, "decoder_layers": 3, "n_heads": 2}
    overrides = {**small, "sizes": sizes, "symbols": WORDS, "source_symbols": WORDS}
    system = build_system(flatten_yaml, f"systems/s2st/{name}.yaml", overrides)
    model = system["model"]
    columns = batch_of()
    columns["codes"] = torch.cat([columns["codes"] % size for size in sizes], 2)
    if "features" in system["modules"]:
        columns["source"] = torch.randn(*columns["source"].shape[:2], 80)
    else:
        columns["source"], columns["source_lens"] = (
            columns["codes"],
            columns["codes_lens"],
        )
    terms = model(**columns)
    terms["loss"].backward()
    lost = [k for k, p in model.named_parameters() if p.grad is None]
    # Of SpeechBrain's model only the encoder is used.
    assert not [k for k in lost if ".custom_" not in k], lost
    found = translate(model.eval(), columns["source"], columns["source_lens"])
    assert found.codes.shape[2] == len(sizes)
    model.steps.tokens(found.codes, found.lens)
