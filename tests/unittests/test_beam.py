"""Beam search finds what brute force finds, alone and in company."""

import itertools

import pytest
import torch

from speechbrain_dsu.decoders.beam import beam_search
from speechbrain_dsu.decoders.rules import EndRule, LayoutRule
from speechbrain_dsu.tokens.patterns import Flatten
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from tests.unittests.test_unit_lm import DIM, LAYOUTS, build_lm

VOCABULARY = Vocabulary(sizes=(2,))
LAYOUT = Flatten(VOCABULARY)


def brute_force(model, prefix, max_frames, power):
    """Scores of all sequences of up to so many frames, best first."""
    found = []
    for frames in range(max_frames + 1):
        for codes in itertools.product(range(2), repeat=frames):
            ids, lens = LAYOUT.apply(torch.tensor(codes).view(1, frames, 1).long())
            with torch.no_grad():
                total, count = model.log_likelihood(ids, lens, prefix)
            score = float(total) / int(count) ** power
            found.append((score, ids[0, :, 0].tolist()))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_with_enough_beams_it_is_brute_force(power):
    model = build_lm(LAYOUT, seed=3)
    prefix = 3 * torch.randn(3, 2, DIM)
    found = beam_search(
        model.session(prefix),
        LayoutRule(LAYOUT, max_frames=3),
        beams=8,
        n_best=3,
        length_power=power,
        batch=3,
    )
    for item, hypotheses in enumerate(found):
        expected = brute_force(model, prefix[item : item + 1], 3, power)[:3]
        assert [h.tokens[:, 0].tolist() for h in hypotheses] == [e[1] for e in expected]
        scores = torch.tensor([h.score for h in hypotheses])
        assert torch.allclose(scores, torch.tensor([e[0] for e in expected]), atol=1e-4)
        assert {h.stopped for h in hypotheses} == {"end"}


def test_few_beams_in_a_batch_are_those_alone_and_score_what_they_say():
    model = build_lm(LAYOUT, seed=4)
    prefix, lens = 3 * torch.randn(3, 4, DIM), torch.tensor([1.0, 0.5, 0.75])
    rule = LayoutRule(LAYOUT, max_frames=torch.tensor([7, 3, 5]))
    together = beam_search(model.session(prefix, lens), rule, beams=2, batch=3)
    for item, (best,) in enumerate(together):
        mine = prefix[item : item + 1, : int(4 * lens[item])]
        rule = LayoutRule(LAYOUT, max_frames=[7, 3, 5][item])
        ((alone,),) = beam_search(model.session(mine), rule, beams=2)
        assert torch.equal(alone.tokens, best.tokens)
        with torch.no_grad():
            total, _ = model.log_likelihood(best.tokens[None], None, mine)
        assert abs(float(total) - best.log_probability) < 1e-4


def test_a_model_that_never_ends_is_cut():
    model = build_lm(LAYOUT)
    with torch.no_grad():
        model.head.out.weight[VOCABULARY.eos] = 0
    rule = EndRule(VOCABULARY, max_steps=6, allowed=(0,))
    logits = model.head.logits

    def never(hidden):
        scores = logits(hidden)
        scores[..., VOCABULARY.eos] = -torch.inf
        return scores

    model.head.logits = never
    ((best,),) = beam_search(model.session(), rule, beams=2)
    assert best.stopped == "length" and len(best.tokens) == 6


def test_mistakes_are_named():
    model = build_lm(LAYOUTS["parallel"])
    with pytest.raises(DsuError, match="3 streams"):
        beam_search(model.session(), LayoutRule(LAYOUTS["parallel"], 3))
    with pytest.raises(DsuError, match="beams=0"):
        beam_search(build_lm(LAYOUT).session(), LayoutRule(LAYOUT, 3), beams=0)
