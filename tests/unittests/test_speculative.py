"""Writing ahead changes the speed and not the law of what is written."""

import itertools

import pytest
import torch

from speechbrain_dsu.decoders.acceptance import Coarse, Exact, similarity_groups
from speechbrain_dsu.decoders.generation import generate
from speechbrain_dsu.decoders.rules import LayoutRule
from speechbrain_dsu.decoders.sampling import Sampling
from speechbrain_dsu.decoders.speculative import speculate
from speechbrain_dsu.tokens.patterns import Flatten
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from tests.unittests.test_unit_lm import DIM, LAYOUTS, build_lm

LAYOUT = Flatten(Vocabulary(sizes=(2,)))


def chances(seed, size=6):
    torch.manual_seed(seed)
    return torch.randn(size).mul(2).double().softmax(0)


def enough(counts, expected) -> bool:
    """Chi-square within five standard deviations of what is due by chance."""
    total = counts.sum()
    chi = ((counts - total * expected) ** 2 / (total * expected)).sum()
    free = len(expected) - 1
    return chi < free + 5 * (2 * free) ** 0.5


@pytest.mark.parametrize("seed", range(5))
def test_exact_acceptance_keeps_the_distribution(seed):
    p, q = chances(seed), chances(seed + 50)
    stays = Exact.stay_probability(p, q)
    law = q * stays + (q * (1 - stays)).sum() * Exact.remainder(p, q)
    assert torch.allclose(law, p, atol=1e-12)
    assert torch.allclose((q * stays).sum(), torch.minimum(p, q).sum())


def judged(judge, p, q, n=60_000):
    """Ids that come out of many judgements, and how many were kept."""
    sampler = Sampling(generator=torch.Generator().manual_seed(0))
    rows = [x.expand(n, 1, -1) for x in (p, q)]
    drafted = sampler.draw(rows[1])
    stays, instead = judge(*rows, drafted, sampler)
    ids = torch.where(stays, drafted, instead)[:, 0]
    return ids, stays.double().mean(), torch.where(stays, drafted, -1)[:, 0]


def test_groups_of_one_are_exact():
    p, q = chances(1), chances(2)
    for judge in (Exact(), Coarse(torch.eye(6, dtype=torch.bool))):
        ids, kept, _ = judged(judge, p, q)
        assert enough(ids.bincount(minlength=6), p)
        assert abs(kept - torch.minimum(p, q).sum()) < 0.01


def test_coarse_acceptance_keeps_groups_and_accepts_more():
    torch.manual_seed(3)
    members = similarity_groups(torch.randn(6, 2), 0.3)
    coarse = Coarse(members)
    p, q = chances(1), chances(2)
    wanted, guessed = p @ coarse.kernel, q @ coarse.kernel
    due = torch.minimum(wanted, guessed).sum()
    assert due > torch.minimum(p, q).sum()
    ids, kept, _ = judged(coarse, p, q)
    assert abs(kept - due) < 0.01
    # The law of ids that belongs to groups distributed as the target's: ids of a kept
    # group are the draft's, those of a drawn one the target's, within the group.
    left = Exact.remainder(wanted, guessed)
    stays = Exact.stay_probability(wanted, guessed)
    inside_q = q[:, None] * coarse.kernel / guessed
    inside_p = p[:, None] * coarse.kernel / wanted
    law = inside_q @ (guessed * stays) + inside_p @ (left * (1 - due))
    assert torch.allclose(guessed * stays + left * (1 - due), wanted, atol=1e-12)
    assert enough(ids.bincount(minlength=6), law)


def test_specials_stay_alone():
    vectors, units = torch.ones(4, 2), torch.tensor([False, True, True, True])
    groups = similarity_groups(vectors, 0.9, units)
    assert groups[0].tolist() == [True, False, False, False]
    assert groups[1:, 1:].all() and not groups[1:, 0].any()
    with pytest.raises(DsuError, match="id 0 is in no group"):
        Coarse(groups[1:])


def models():
    return build_lm(LAYOUT, seed=1), build_lm(LAYOUT, seed=2)


@pytest.mark.parametrize("ahead", [1, 3])
def test_greedy_results_are_those_of_the_target(ahead):
    layout = LAYOUTS["flatten"]
    target, draft = build_lm(layout, seed=1), build_lm(layout, seed=2)
    prefix, lens = torch.randn(3, 4, DIM), torch.tensor([1.0, 0.25, 0.5])
    rule = LayoutRule(layout, max_frames=torch.tensor([5, 9, 7]))
    expected = generate(target.session(prefix, lens), rule, batch=3)
    for writer in (draft, target):
        found, report = speculate(
            target.session(prefix, lens),
            writer.session(prefix, lens),
            rule,
            ahead=ahead,
            batch=3,
        )
        assert torch.equal(found.tokens, expected.tokens)
        assert found.stopped == expected.stopped
    assert report.acceptance == 1.0


def test_sampled_results_have_the_law_of_the_target():
    target, draft = models()
    every = {}
    for frames in range(4):
        for codes in itertools.product(range(2), repeat=frames):
            ids, _ = LAYOUT.apply(torch.tensor(codes).view(1, frames, 1).long())
            states = target.hidden(ids)
            rule = LayoutRule(LAYOUT, max_frames=3)
            rule.begin(torch.tensor([1]))
            total = 0.0
            for state, step in zip(states[0], ids[0, 1:], strict=True):
                logits = target.head.logits(state[None]).double()
                logits = logits.masked_fill(~rule.masks(), -torch.inf)
                total += logits.log_softmax(-1)[0, 0, step].item()
                rule.accept(step[None])
            every[tuple(ids[0, :, 0].tolist())] = total
    law = torch.tensor(list(every.values())).double().exp()
    assert abs(law.sum() - 1) < 1e-6
    n = 4000
    found, report = speculate(
        target.session(),
        draft.session(),
        LayoutRule(LAYOUT, max_frames=3),
        sampler=Sampling(generator=torch.Generator().manual_seed(0)),
        ahead=2,
        batch=n,
    )
    names = {key: i for i, key in enumerate(every)}
    seen = [names[tuple(row[:, 0].tolist())] for row in found.unpad()]
    assert enough(torch.tensor(seen).bincount(minlength=len(law)), law)
    assert 0 < report.accepted < report.proposed


def test_an_item_is_the_same_alone_and_in_company():
    target, draft = models()
    prefix = torch.randn(3, 2, DIM)

    def write(rows, seeds):
        sampler = Sampling(
            generator=[torch.Generator().manual_seed(seed) for seed in seeds]
        )
        rule = LayoutRule(LAYOUT, max_frames=9)
        return speculate(
            target.session(prefix[rows]),
            draft.session(prefix[rows]),
            rule,
            sampler=sampler,
            batch=len(seeds),
        )[0].unpad()

    together = write([0, 1, 2], [0, 1, 2])
    for item in range(3):
        assert torch.equal(write([item], [item])[0], together[item])


def test_mistakes_are_named():
    target, draft = models()
    with pytest.raises(DsuError, match="0 ids ahead"):
        speculate(target.session(), draft.session(), LayoutRule(LAYOUT, 3), ahead=0)
