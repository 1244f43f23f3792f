"""Speculative decoding: a small model writes ahead, the large one checks at once."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_dsu.decoders.acceptance import Acceptance, Exact
from speechbrain_dsu.decoders.generation import (
    Generated,
    collect,
    constrain,
    read_prompt,
)
from speechbrain_dsu.decoders.protocol import Session
from speechbrain_dsu.decoders.rules import Rules
from speechbrain_dsu.decoders.sampling import Greedy, Sampling
from speechbrain_dsu.utils.errors import DsuError


@dataclass
class Speculation:
    """How well writing ahead went.

    Arguments
    ---------
    proposed, accepted : int
        Ids that the draft wrote, and those of them that stayed.
    rounds : int
        Calls of the target, the prompt's not counted.
    """

    proposed: int = 0
    accepted: int = 0
    rounds: int = 0

    @property
    def acceptance(self) -> float:
        """Share of what was proposed that stayed."""
        return self.accepted / max(self.proposed, 1)


def speculate(
    target: Session,
    draft: Session,
    rules: Rules,
    prompt: Tensor | None = None,
    prompt_lens: Tensor | None = None,
    sampler: Greedy | Sampling | None = None,
    ahead: int = 4,
    acceptance: Acceptance | None = None,
    batch: int = 1,
) -> tuple[Generated, Speculation]:
    """Write as the target would, in fewer of its calls.

    With `Exact` (the default) results have the distribution that ``generate`` with
    the target and the same sampler has (Leviathan et al., "Fast Inference from
    Transformers via Speculative Decoding", 2023, algorithm 1 and appendix A.1);
    greedy results are equal. For models of one stream.

    Arguments
    ---------
    target, draft : Session
        Of models with the same ids and ``logits``; both can rewind.
    rules : Rules
        See `decoders.rules`. There is no loop detector here; the cap holds.
    prompt, prompt_lens : Tensor, optional
        As for ``generate``.
    sampler : Greedy or Sampling, optional
        Shapes the distributions of both models; greedy if not given.
    ahead : int
        Ids that the draft writes before the target looks.
    acceptance : Acceptance, optional
        When a drafted id stays, see `decoders.acceptance`.
    batch : int
        As for ``generate``.

    Returns
    -------
    found : Generated
        See there.
    speculation : Speculation
        Counts.

    Raises
    ------
    DsuError
        If ``ahead`` is below 1 or there are several streams.
    """
    if ahead < 1 or len(target.begin) != 1:
        raise DsuError(
            f"speculation {ahead} ids ahead over {len(target.begin)} streams: at least "
            "1 id, one stream"
        )
    sampler = Greedy() if sampler is None else copy.copy(sampler)
    acceptance = Exact() if acceptance is None else acceptance
    prompt, counts, hidden = read_prompt(target, prompt, prompt_lens, batch)
    draft.feed(prompt, prompt_lens)
    rules.begin(counts)
    chance = _chance(target, hidden[:, None], sampler, rules, 0)
    book = _Book(rules, len(prompt), prompt.device)
    last = book.write(sampler.draw(chance), torch.zeros_like(counts))
    report = Speculation()
    while bool(book.going.any()):
        keep = book.going.nonzero().flatten()
        if len(keep) < len(book.going):
            for part in (target, draft, sampler, book):
                part.select(keep)
            last = last[keep]
        drafted, guess = _write_ahead(draft, last, sampler, rules, ahead)
        states = target.feed(torch.cat([last, drafted], 1)[..., None])
        chance = torch.cat(
            [
                _chance(target, states[:, j : j + 1], sampler, rules, j)
                for j in range(ahead + 1)
            ],
            1,
        )
        stays, instead = acceptance(chance[:, :-1], guess, drafted, sampler)
        kept = stays.long().cumprod(1).sum(1)
        # One more id than stayed: in place of the first refused one, or behind all.
        more = torch.cat([instead, sampler.draw(chance[:, -1:])], 1)
        ids = torch.cat([drafted, last.new_zeros(len(last), 1)], 1)
        ids = ids.scatter(1, kept[:, None], more.gather(1, kept[:, None]))
        report.proposed += drafted.numel()
        report.accepted += int(kept.sum())
        report.rounds += 1
        last = book.write(ids, kept)
        target.rewind(ahead - kept)
        draft.rewind(ahead - kept)
    found = collect(prompt, counts, book.written, tuple(book.stopped), rules.pad)
    return found, report


def _write_ahead(
    draft: Session, last: Tensor, sampler: Greedy | Sampling, rules: Rules, ahead: int
) -> tuple[Tensor, Tensor]:
    """Drafted ids ``[batch, ahead]`` and what they were drawn from."""
    ids, chances = last, []
    for j in range(ahead):
        states = draft.feed(ids[:, -1:, None])
        chances.append(_chance(draft, states, sampler, rules, j))
        ids = torch.cat([ids, sampler.draw(chances[-1])], 1)
    # The draft reads its last id too: both models then have read the same.
    draft.feed(ids[:, -1:, None])
    return ids[:, 1:], torch.cat(chances, 1)


def _chance(
    session: Session,
    hidden: Tensor,
    sampler: Greedy | Sampling,
    rules: Rules,
    ahead: int,
) -> Tensor:
    """Probabilities ``[batch, 1, size]`` from the state of one step."""
    logits = session.logits(hidden[:, 0])
    return sampler.probabilities(constrain(logits, rules.masks(ahead)))


class _Book:
    """What was written, by whom, and who goes on."""

    def __init__(self, rules: Rules, batch: int, device: torch.device):
        self.rules = rules
        self.alive = torch.arange(batch, device=device)
        self.going = torch.ones(batch, dtype=torch.bool, device=device)
        self.stopped = [""] * batch
        self.written: list[tuple[Tensor, Tensor]] = []

    def write(self, ids: Tensor, kept: Tensor) -> Tensor:
        """Take the first ``kept + 1`` of ``ids`` each; the last of them ``[n, 1]``."""
        for j in range(ids.shape[1]):
            now = self.going & (kept >= j)
            tokens, done, cut = self.rules.accept(ids[:, j : j + 1], now)
            self.written.append((self.alive[now], tokens[now]))
            leaves = now & (done | cut)
            for row in leaves.nonzero().flatten().tolist():
                self.stopped[int(self.alive[row])] = "end" if done[row] else "length"
            self.going = self.going & ~leaves
        return ids.gather(1, kept[:, None])

    def select(self, items: Tensor) -> None:
        """Go on with these items."""
        self.alive, self.going = self.alive[items], self.going[items]
        self.rules.select(items)
