"""Sequence models: piece by piece equals at once, losses count what they should."""

import math

import pytest
import torch
from torch.nn import functional as F

from speechbrain_dsu.lobes.models.unit_lm import UnitLM
from speechbrain_dsu.lobes.models.unit_seq2seq import UnitTranslator
from speechbrain_dsu.nnet.embeddings import FrameEmbedding, UnitEmbedding
from speechbrain_dsu.nnet.heads import DepthHead, FrameHead, SoftmaxHead
from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.tokens.interleave import Interleave
from speechbrain_dsu.tokens.patterns import CoarseFirst, Delay, Flatten, Parallel
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError

SIZES = (5, 4, 3)
OWN, SHARED = Vocabulary(sizes=SIZES), Vocabulary(sizes=SIZES, shared=True)
LAYOUTS = {
    "flatten": Flatten(OWN),
    "parallel": Parallel(SHARED),
    "delay": Delay(SHARED, delays=(0, 1, 3)),
    "coarse first": CoarseFirst(OWN, levels=(1, 2)),
}
DIM = 16


def build_lm(layout, head=SoftmaxHead, seed=0, **options) -> UnitLM:
    torch.manual_seed(seed)
    return UnitLM(
        UnitEmbedding(layout, DIM),
        Transformer(DIM, 2, 4, kv_heads=2),
        head(layout, DIM),
        **options,
    ).eval()


def build_translator(layout, **options) -> UnitTranslator:
    torch.manual_seed(0)
    return UnitTranslator(
        torch.nn.Linear(6, DIM),
        Transformer(DIM, 1, 4, causal=False),
        UnitEmbedding(layout, DIM),
        Transformer(DIM, 2, 4, memory_dim=DIM),
        SoftmaxHead(layout, DIM),
        **options,
    ).eval()


def depth_head(layout, dim):
    return DepthHead(layout, dim, depth_dim=8, n_layers=1, n_heads=2)


def draw(layout, counts, seed=0):
    torch.manual_seed(seed)
    frames = max(counts)
    codes = torch.stack([torch.randint(s, (len(counts), frames)) for s in SIZES], -1)
    return layout.apply(codes, torch.tensor(counts) / frames)


def cached(session, ids) -> torch.Tensor:
    return torch.cat([session.feed(step) for step in ids[:, :-1].split(1, dim=1)], 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_cached_states_equal_those_of_one_pass(name):
    model, (ids, _) = build_lm(LAYOUTS[name]), draw(LAYOUTS[name], [4, 4])
    prefix, lens = torch.randn(2, 3, DIM), torch.tensor([1 / 3, 1.0])
    with torch.no_grad():
        plain, behind = model.hidden(ids), model.hidden(ids, prefix, lens)
    assert torch.allclose(cached(model.session(), ids), plain, atol=1e-4)
    found = cached(model.session(prefix, lens), ids)
    assert torch.allclose(found, behind, atol=1e-4)
    assert not torch.allclose(plain, behind, atol=1e-2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_cached_translation_equals_one_pass(name):
    model, (ids, _) = build_translator(LAYOUTS[name]), draw(LAYOUTS[name], [4, 4])
    source, lens = torch.randn(2, 5, 6), torch.tensor([0.6, 1.0])
    with torch.no_grad():
        whole = model.hidden(source, lens, ids)
        memory = model.encode(source, lens)
    assert torch.allclose(cached(model.session(memory, lens), ids), whole, atol=1e-4)


@pytest.mark.parametrize("head", [SoftmaxHead, depth_head])
@pytest.mark.parametrize("name", LAYOUTS)
def test_likelihoods_in_a_batch_are_those_of_items_alone(name, head):
    layout = LAYOUTS[name]
    model, (ids, lens) = build_lm(layout, head), draw(layout, [2, 5, 4])
    prefix, prefix_lens = torch.randn(3, 4, DIM), torch.tensor([0.5, 0.0, 1.0])
    with torch.no_grad():
        totals, counts = model.log_likelihood(ids, lens, prefix, prefix_lens)
        loss = model(ids, lens, prefix, prefix_lens)["loss"]
        for item, steps in enumerate((lens * ids.shape[1]).round().int().tolist()):
            mine = prefix[item : item + 1, : int(prefix_lens[item] * 4)]
            alone = ids[item : item + 1, :steps]
            total, count = model.log_likelihood(alone, None, mine)
            assert torch.allclose(total, totals[item], atol=1e-4)
            assert count == counts[item]
    assert torch.allclose(loss.double(), -totals.sum() / counts.sum(), atol=1e-5)


def test_only_what_a_layout_leaves_open_counts():
    model, layout = build_lm(LAYOUTS["delay"]), LAYOUTS["delay"]
    ids, lens = draw(layout, [2, 3])
    # A code of each codebook and one end per stream; no corner, no padding.
    assert model.counted(ids, lens).sum((1, 2)).tolist() == [2 * 3 + 3, 3 * 3 + 3]
    both = Interleave(Vocabulary(sizes=(5,), text=7))
    ids, lens = both.apply(torch.tensor([[3, 4]]), torch.tensor([[[0], [1], [2]]]))
    assert build_lm(both).counted(ids, lens).sum() == 2 + 3 + 1


def test_the_loss_is_the_cross_entropy_of_the_next_id():
    model, (ids, _) = build_lm(LAYOUTS["flatten"]), draw(LAYOUTS["flatten"], [3, 3])
    with torch.no_grad():
        logits = model.head.logits(model.transformer(model.embedding(ids)))
        loss = model(ids)["loss"]
    expected = F.cross_entropy(logits[:, :-1, 0].flatten(0, 1), ids[:, 1:].flatten())
    assert torch.allclose(loss, expected, atol=1e-5)


def test_a_depth_head_sums_to_one_over_all_steps_and_sees_earlier_streams():
    layout = Parallel(Vocabulary(sizes=(2, 2), shared=True))
    torch.manual_seed(0)
    head, size = depth_head(layout, DIM).eval(), 5
    every = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    hidden = torch.randn(DIM).expand(size * size, DIM)
    with torch.no_grad():
        scores = head.score(hidden, every)
        assert math.isclose(scores.sum(1).exp().sum(), 1, abs_tol=1e-5)
        # Stream 1 depends on stream 0, not the other way round.
        table = scores.view(size, size, 2)
        assert torch.allclose(table[..., 0], table[:, :1, 0].expand(-1, size))
        assert not torch.allclose(table[0, :, 1], table[1, :, 1], atol=1e-3)
        seen = []
        emitted = head.emit(
            hidden[:3], lambda logits, k: seen.append(logits) or logits.argmax(-1)
        ).tokens
        taught = head.teacher_logits(hidden[:3], emitted)
    assert torch.allclose(torch.cat(seen, 1), taught, atol=1e-5)


def test_tied_weights_are_one():
    layout = LAYOUTS["delay"]
    embedding = UnitEmbedding(layout, DIM)
    model = UnitLM(
        embedding, Transformer(DIM, 1, 2), SoftmaxHead(layout, DIM, tie=embedding)
    )
    assert model.head.out.weight is embedding.table.weight
    ids, lens = draw(layout, [3])
    model(ids, lens)["loss"].backward()
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))
    with pytest.raises(DsuError, match="tied"):
        SoftmaxHead(layout, DIM, tie=UnitEmbedding(layout, DIM, width=8))


def test_tables_begin_as_the_codebooks():
    quantizer = ResidualVQ(3, 5, 8)
    torch.manual_seed(0)
    vectors = quantizer.embed(torch.arange(5)[None, :, None].expand(1, 5, 3))[0]
    for shared in (True, False):
        vocabulary = Vocabulary(sizes=(5, 5, 5), shared=shared)
        layout = Parallel(vocabulary)
        table = UnitEmbedding(layout, DIM, width=8).load_codebooks(quantizer).table
        rows = table.weight.view(3, vocabulary.size, 8)
        for book in range(3):
            mine = rows[book, vocabulary.offsets[book] :][:5]
            # Distances between ids are the codebook's, up to one common factor.
            ratio = torch.pdist(mine) / torch.pdist(vectors[:, book])
            assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-3)
    with pytest.raises(DsuError, match="tables of"):
        UnitEmbedding(Flatten(vocabulary), DIM, width=8).load_codebooks(
            ResidualVQ(2, 5, 8)
        )
    with pytest.raises(DsuError, match="width=8"):
        UnitEmbedding(Flatten(vocabulary), DIM).load_codebooks(quantizer)


def test_attention_weighs_streams_and_a_sum_adds_them():
    layout = LAYOUTS["parallel"]
    ids, _ = draw(layout, [3])
    plain = UnitEmbedding(layout, DIM)
    size = layout.vocabulary.size
    rows = [plain.table.weight[ids[..., k] + k * size] for k in range(3)]
    assert torch.allclose(plain(ids), sum(rows), atol=1e-6)
    pooled = UnitEmbedding(layout, DIM, combine="attention")
    rows = torch.stack([pooled.table.weight[ids[..., k] + k * size] for k in range(3)])
    scores = torch.stack([pooled.score(row) for row in rows]).softmax(0)
    assert torch.allclose(pooled(ids), (scores * rows).sum(0), atol=1e-6)


def test_frames_count_each_once_and_stop_at_the_last():
    torch.manual_seed(0)
    model = UnitLM(FrameEmbedding(4, DIM), Transformer(DIM, 1, 2), FrameHead(4, DIM))
    model.eval()
    frames, lens = torch.randn(2, 5, 4), torch.tensor([0.6, 1.0])
    steps, step_lens = model.with_begin(frames, lens)
    with torch.no_grad():
        losses = model(steps, step_lens)
        other = frames.clone()
        other[0, 3:] = 99
        padded = model(*model.with_begin(other, lens))
        hidden = model.hidden(steps)
        stops = model.head.stop(hidden)[..., 0]
        error = (model.head.frame(hidden) - frames).abs().mean(-1)
    rows = [(0, 3), (1, 5)]
    errors = torch.cat([error[i, :n] for i, n in rows]).mean()
    wanted = torch.tensor([0, 0, 1, 0, 0, 0, 0, 1.0])
    stop = F.binary_cross_entropy_with_logits(
        torch.cat([stops[i, :n] for i, n in rows]), wanted
    )
    assert torch.allclose(losses["error"], errors, atol=1e-6)
    assert torch.allclose(losses["stop"], stop, atol=1e-6)
    assert torch.equal(losses["loss"], padded["loss"])


def test_a_hidden_condition_is_none():
    layout = LAYOUTS["flatten"]
    model, (ids, lens) = build_lm(layout, condition_dropout=0.999), draw(layout, [3, 3])
    prefix = torch.randn(2, 4, DIM)
    with torch.no_grad():
        expected = model(ids, lens)["loss"]
        model.train()
        torch.manual_seed(0)
        assert torch.allclose(model(ids, lens, prefix)["loss"], expected, atol=1e-5)
    seq2seq = build_translator(layout, condition_dropout=0.999).train()
    with torch.no_grad():
        seq2seq.null.normal_()
        one = seq2seq(torch.randn(2, 5, 6), None, ids, lens)["loss"]
        other = seq2seq(torch.randn(2, 5, 6), None, ids, lens)["loss"]
    assert torch.allclose(one, other, atol=1e-5)


def test_mistakes_are_named():
    layout = LAYOUTS["parallel"]
    with pytest.raises(DsuError, match="3 streams"):
        build_lm(layout)(torch.zeros(1, 4, 1, dtype=torch.int64))
    with pytest.raises(DsuError, match="eval"):
        build_lm(layout).train().session()
    with pytest.raises(DsuError, match="condition_dropout"):
        build_lm(layout, condition_dropout=1.0)
    with pytest.raises(DsuError, match="nothing to guide"):
        model = build_translator(layout)
        model.with_unconditional(torch.zeros(1, 2, DIM))
    with pytest.raises(DsuError, match="causal"):
        UnitLM(
            UnitEmbedding(layout, DIM),
            Transformer(DIM, 1, 2, causal=False),
            SoftmaxHead(layout, DIM),
        )
    with pytest.raises(DsuError, match="combine"):
        UnitEmbedding(layout, DIM, combine="mean")
    with pytest.raises(DsuError, match="memory_dim"):
        UnitTranslator(
            torch.nn.Identity(),
            torch.nn.Identity(),
            UnitEmbedding(layout, DIM),
            Transformer(DIM, 1, 2),
            SoftmaxHead(layout, DIM),
        )
