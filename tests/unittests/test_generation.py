"""Writing: batch equals alone, layouts come back whole, everything stops."""

import pytest
import torch

from speechbrain_dsu.decoders.generation import generate
from speechbrain_dsu.decoders.guidance import Guided
from speechbrain_dsu.decoders.repetition import LoopDetector
from speechbrain_dsu.decoders.rules import EndRule, FrameRule, LayoutRule
from speechbrain_dsu.decoders.sampling import Sampling
from speechbrain_dsu.lobes.models.unit_lm import UnitLM
from speechbrain_dsu.nnet.embeddings import FrameEmbedding
from speechbrain_dsu.nnet.heads import FrameHead, SoftmaxHead
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.interleave import Interleave
from speechbrain_dsu.tokens.patterns import Flatten
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from tests.unittests.test_unit_lm import (
    DIM,
    LAYOUTS,
    SIZES,
    build_lm,
    build_translator,
    depth_head,
    draw,
)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def rule_for(name, frames=5):
    layout = LAYOUTS[name]
    if name == "coarse first":
        return LayoutRule(layout, frames=frames)
    return LayoutRule(layout, max_frames=frames)


@pytest.mark.parametrize("head", [SoftmaxHead, depth_head])
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_written_is_whole_frames_of_the_layout(name, head):
    layout = LAYOUTS[name]
    model = build_lm(layout, head)
    sampler = Sampling(generator=generators(*range(12)))
    found = generate(model.session(), rule_for(name), sampler=sampler, batch=12)
    assert set(found.stopped) == {"end"}
    codes, lens = layout.undo(found.tokens, found.lens)
    again, again_lens = layout.apply(codes, lens)
    assert torch.equal(again, found.tokens)
    assert torch.equal(again_lens, found.lens)
    partly, partly_lens = layout.undo_partial(
        found.tokens, torch.full((12,), 5) if name == "coarse first" else None
    )
    assert torch.equal(partly, codes)
    tokens = Tokens(codes, lens, 50.0, SIZES, "-")
    if name == "coarse first":
        assert tokens.counts.tolist() == [5] * 12
    else:
        assert len(set(tokens.counts.tolist())) > 2
        assert tokens.counts.max() <= 5


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_item_is_the_same_alone_and_in_company(name):
    layout = LAYOUTS[name]
    model, (ids, _) = build_lm(layout), draw(layout, [3, 3, 3, 3])
    cuts = [1, 4, 2, 3]
    prompt_lens = torch.tensor(cuts) / 4
    together = generate(
        model.session(),
        rule_for(name, 9),
        ids[:, :4],
        prompt_lens,
        Sampling(generator=generators(*range(4))),
    )
    for item, row in enumerate(together.unpad()):
        alone = generate(
            model.session(),
            rule_for(name, 9),
            ids[item : item + 1, : cuts[item]],
            sampler=Sampling(generator=generators(item)),
        )
        assert torch.equal(alone.tokens[0], row)
        assert alone.stopped[0] == together.stopped[item]
        assert torch.equal(row[: cuts[item]], ids[item, : cuts[item]])


def test_with_a_memory_too():
    layout = LAYOUTS["delay"]
    model = build_translator(layout)
    memory, lens = torch.randn(3, 6, DIM), torch.tensor([1.0, 0.5, 1.0])
    together = generate(model.session(memory, lens), rule_for("delay"), batch=3)
    for item, row in enumerate(together.unpad()):
        mine = memory[item : item + 1, : int(6 * lens[item])]
        alone = generate(model.session(mine), rule_for("delay"))
        assert torch.equal(alone.tokens[0], row)


class Endless:
    """A model that says 1, 2, 0, 1, 2, 0, ... and never ends."""

    def __init__(self, size):
        self.begin, self.size = torch.zeros(1, dtype=torch.int64), size
        self.fed = 0

    def feed(self, tokens, lens=None):
        self.fed += tokens.shape[1]
        return torch.full((len(tokens), tokens.shape[1], 1), float(self.fed))

    def emit(self, hidden, sampler):
        logits = torch.zeros(len(hidden), 1, self.size)
        logits[..., -3 + self.fed % 3] = 9
        return Said(sampler(logits, 0))

    def select(self, items):
        pass


class Said:
    def __init__(self, tokens):
        self.tokens, self.ended = tokens, None


def test_a_model_that_never_ends_stops():
    vocabulary = Vocabulary(sizes=(3,))
    layout = Flatten(vocabulary)
    found = generate(Endless(6), EndRule(vocabulary, max_steps=40))
    assert found.tokens.shape[1] == 40 and found.stopped == ("length",)
    found = generate(Endless(6), LayoutRule(layout, max_frames=torch.tensor([30])))
    assert layout.undo(found.tokens, found.lens)[0].shape[1] == 30
    found = generate(
        Endless(6), EndRule(vocabulary, 400), loops=LoopDetector(span=20, period=4)
    )
    assert found.stopped == ("loop",) and found.tokens.shape[1] == 1 + 20
    frames = FrameHead(4, DIM)
    torch.nn.init.constant_(frames.stop.bias, -99.0)
    model = UnitLM(FrameEmbedding(4, DIM), Transformer(DIM, 1, 2), frames).eval()
    found = generate(model.session(), FrameRule(torch.tensor([5, 9])), batch=2)
    assert [len(row) for row in found.unpad()] == [5, 9]


def test_frames_end_where_the_head_says():
    torch.manual_seed(0)
    model = UnitLM(FrameEmbedding(4, DIM), Transformer(DIM, 1, 2), FrameHead(4, DIM))
    model.eval()
    torch.nn.init.constant_(model.head.stop.bias, 99.0)
    found = generate(model.session(), FrameRule(9), batch=2)
    assert found.stopped == ("end", "end") and found.tokens.shape == (2, 2, 4)
    with torch.no_grad():
        hidden = model.hidden(found.tokens)
    assert torch.allclose(model.head.frame(hidden), found.tokens[:, 1:], atol=1e-5)


@pytest.mark.parametrize("head", [SoftmaxHead, depth_head])
def test_guidance_by_one_is_none_and_by_more_mixes(head):
    layout = LAYOUTS["delay"]
    model = build_lm(layout, head)
    prefix, lens = torch.randn(3, 4, DIM), torch.tensor([1.0, 0.5, 0.75])

    def write(session, seed=0):
        sampler = Sampling(generator=generators(seed, seed + 1, seed + 2))
        rule = LayoutRule(layout, max_frames=6)
        return generate(session, rule, sampler=sampler, batch=3).tokens

    def guided(scale):
        return Guided(model.session(*model.with_unconditional(prefix, lens)), scale)

    assert torch.equal(write(guided(1.0)), write(model.session(prefix, lens)))
    assert torch.equal(write(guided(0.0)), write(model.session()))
    assert not torch.equal(write(guided(8.0)), write(guided(1.0)))


def test_guidance_is_the_formula():
    layout = LAYOUTS["flatten"]
    model, (ids, _) = (
        build_translator(layout, condition_dropout=0.5),
        draw(layout, [3, 3]),
    )
    torch.nn.init.normal_(model.null)
    memory = torch.randn(2, 5, DIM)
    session = Guided(model.session(*model.with_unconditional(memory)), 2.5)
    found = session.logits(session.feed(ids))
    one = model.session(memory)
    given = one.logits(one.feed(ids))
    none = model.session(model.null.detach().expand(2, 1, DIM))
    free = none.logits(none.feed(ids))
    assert torch.allclose(found, free + 2.5 * (given - free), atol=1e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_batch_is_learned_and_written_again(name):
    layout = LAYOUTS[name]
    model = build_lm(layout).train()
    ids, lens = draw(layout, [4, 2, 3])
    # Different begins, so that greedy writing has something to go by.
    prefix = torch.nn.functional.one_hot(torch.arange(3), DIM).float()[:, None]
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(ids, lens, prefix)["loss"]
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    model.eval()
    frames = torch.tensor([4, 2, 3])
    rule = rule_for(name, frames if name == "coarse first" else 9)
    found = generate(model.session(prefix), rule, batch=3)
    assert torch.equal(found.tokens, ids)


def test_text_and_units_in_turns_are_written_and_come_apart():
    vocabulary = Vocabulary(sizes=(5,), text=7)
    layout = Interleave(vocabulary)
    rule = EndRule(vocabulary, 30, allowed=("text", 0))
    sampler = Sampling(generator=generators(*range(4)))
    found = generate(build_lm(layout).session(), rule, sampler=sampler, batch=4)
    both = layout.undo_partial(found.tokens)
    written = found.tokens[..., 0]
    assert both.codes.shape[1] == vocabulary.is_unit(written).sum(1).max()
    assert both.text.shape[1] == vocabulary.is_text(written).sum(1).max()


def test_mistakes_are_named():
    layout = LAYOUTS["flatten"]
    with pytest.raises(DsuError, match="frames"):
        LayoutRule(LAYOUTS["coarse first"], max_frames=4)
    with pytest.raises(DsuError, match="either"):
        LayoutRule(layout)
    with pytest.raises(DsuError, match="without ends"):
        LayoutRule(Flatten(layout.vocabulary, ends=False), max_frames=3)
    with pytest.raises(DsuError, match="2 limits for a batch of 3"):
        rule = LayoutRule(layout, max_frames=torch.tensor([1, 2]))
        generate(build_lm(layout).session(), rule, batch=3)
    with pytest.raises(DsuError, match="begins with 14 steps"):
        ids, _ = draw(layout, [4])
        generate(build_lm(layout).session(), LayoutRule(layout, 4), ids)
