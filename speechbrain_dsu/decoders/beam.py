"""Beam search: the likeliest sequences, for models of one stream."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from speechbrain_dsu.decoders.generation import constrain, read_prompt
from speechbrain_dsu.decoders.protocol import Session
from speechbrain_dsu.decoders.rules import Rules
from speechbrain_dsu.utils.errors import DsuError


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One sequence that search has found.

    Arguments
    ---------
    tokens : Tensor
        Ids ``[steps, 1]``, prompt and end included.
    score : float
        What hypotheses are ranked by.
    log_probability : float
        Of what follows the prompt, in nats.
    stopped : str
        "end", or "length": cut by a cap.
    """

    tokens: Tensor
    score: float
    log_probability: float
    stopped: str


def beam_search(
    session: Session,
    rules: Rules,
    prompt: Tensor | None = None,
    prompt_lens: Tensor | None = None,
    beams: int = 4,
    n_best: int = 1,
    length_power: float = 0.0,
    batch: int = 1,
) -> list[list[Hypothesis]]:
    """The best sequences that ``beams`` open ones at a time lead to.

    A hypothesis of log probability s and n ids behind the prompt, the end included,
    scores ``s / n ** length_power``: 0 is the plain log probability (which favours
    short ones), 1 the mean per id. Probabilities are the model's own: ids that the
    rules forbid are left out and nothing is scaled up for it. An item is done when
    ``n_best`` hypotheses have ended that no open one can still beat, whatever its
    length; so with as many beams as there are sequences, the result is exact. Those
    cut by a cap rank behind those that ended.

    Arguments
    ---------
    session : Session
        Of a model whose head has ``logits``.
    rules : Rules
        What may stand where, and the cap: see `decoders.rules`.
    prompt : Tensor, optional
        ``[batch, steps, 1]``, the begin included; None: the begin alone.
    prompt_lens : Tensor, optional
        Relative lengths of the prompt.
    beams : int
        Open hypotheses of each item.
    n_best : int
        How many to give back, at most.
    length_power : float
        See above; at least 0.
    batch : int
        How many items, if there is no prompt.

    Returns
    -------
    list of list of Hypothesis
        For each item, best first; at least one.

    Raises
    ------
    DsuError
        If numbers make no sense, or the model has several streams.
    """
    if beams < 1 or n_best < 1 or length_power < 0:
        raise DsuError(
            f"beams={beams}, n_best={n_best}, length_power={length_power}: at least "
            "1, 1 and 0"
        )
    if len(session.begin) != 1:
        raise DsuError(
            f"beam search over {len(session.begin)} streams: flatten the codebooks, "
            "or sample"
        )
    prompt, counts, hidden = read_prompt(session, prompt, prompt_lens, batch)
    rules.begin(counts)
    search = _Search(session, rules, counts, beams, n_best, length_power)
    search.start(hidden)
    while len(search.items):
        search.step()
    rows = zip(prompt, counts.tolist(), strict=True)
    return [
        [_behind(row[:n], hypothesis) for hypothesis in search.best(item)]
        for item, (row, n) in enumerate(rows)
    ]


def _behind(prompt: Tensor, found: Hypothesis) -> Hypothesis:
    tokens = torch.cat([prompt, found.tokens[:, None]])
    return Hypothesis(tokens, found.score, found.log_probability, found.stopped)


@dataclass
class _Search:
    """Open hypotheses: rows ``items x beams`` of the session and the rules."""

    session: Session
    rules: Rules
    prompts: Tensor
    beams: int
    n_best: int
    power: float
    found: list[list[Hypothesis]] = field(init=False)

    def start(self, hidden: Tensor) -> None:
        batch, device = len(hidden), hidden.device
        self.found = [[] for _ in range(batch)]
        self.items = torch.arange(batch, device=device)
        rows = self.items.repeat_interleave(self.beams)
        self.session.select(rows)
        self.rules.select(rows)
        self.hidden = hidden[rows]
        # All beams of an item are equal at first: let one of them count.
        self.scores = torch.full((batch, self.beams), float("-inf"), device=device)
        self.scores = self.scores.double()
        self.scores[:, 0] = 0
        self.ids = torch.zeros(batch * self.beams, 0, dtype=torch.int64, device=device)

    def step(self) -> None:
        """One more id for all open hypotheses."""
        logits = self.session.logits(self.hidden).double().log_softmax(-1)
        logits = constrain(logits, self.rules.masks())[:, 0]
        n, size = len(self.items), logits.shape[1]
        total = (self.scores.view(-1, 1) + logits).view(n, self.beams * size)
        # Of any beam one id at most is the end: twice as many leave enough open.
        width = min(2 * self.beams, total.shape[1])
        scores, place = total.topk(width, 1)
        first = torch.arange(n, device=place.device)[:, None] * self.beams
        parents = (first + place // size).flatten()
        ids = place.flatten() % size
        self.rules.select(parents)
        ids, done, cut = self.rules.accept(ids[:, None])
        history = torch.cat([self.ids[parents], ids], 1)
        possible = scores > float("-inf")
        done, cut = (x.view(n, width) & possible for x in (done, cut))
        self._keep(history.view(n, width, -1), scores, done, cut)
        self._go_on(history, parents, scores, possible & ~(done | cut))

    def _keep(self, history: Tensor, scores: Tensor, done: Tensor, cut: Tensor) -> None:
        """Note hypotheses that have stopped."""
        for row, place in (done | cut).nonzero().tolist():
            total, ids = float(scores[row, place]), history[row, place]
            stopped = "end" if done[row, place] else "length"
            found = Hypothesis(ids, total / len(ids) ** self.power, total, stopped)
            item = int(self.items[row])
            self.found[item] = _ranked([*self.found[item], found])[: self.n_best]

    def _go_on(
        self, history: Tensor, parents: Tensor, scores: Tensor, open_: Tensor
    ) -> None:
        """The best open ones, of items that are not done."""
        n, width = scores.shape
        scores = scores.masked_fill(~open_, float("-inf"))
        if width < self.beams:
            short = (0, self.beams - width)
            scores = torch.nn.functional.pad(scores, short, value=float("-inf"))
        scores, place = scores.topk(self.beams, 1)
        place = place.clamp(max=width - 1)
        going = [
            r for r in range(n) if not self._settled(r, float(scores[r, 0]), width)
        ]
        keep = torch.tensor(going, dtype=torch.int64, device=scores.device)
        self.items, self.scores = self.items[keep], scores[keep]
        rows = (place[keep] + keep[:, None] * width).flatten()
        self.ids = history[rows]
        if not going:
            return
        self.rules.select(rows)
        self.session.select(parents[rows])
        self.hidden = self.session.feed(self.ids[:, -1:, None])[:, 0]

    def _settled(self, row: int, best_open: float, width: int) -> bool:
        """Whether no open hypothesis can change an item's result any more."""
        if best_open == float("-inf"):
            return True
        item = int(self.items[row])
        ended = [h for h in self.found[item] if h.stopped == "end"]
        if len(ended) < self.n_best:
            return False
        # Log probabilities only fall, and the longest divides by most.
        longest = int(self.rules.caps.view(-1, width)[row].max())
        longest -= int(self.prompts[item])
        return ended[-1].score >= best_open / max(longest, 1) ** self.power

    def best(self, item: int) -> list[Hypothesis]:
        """Results of an item."""
        return self.found[item]


def _ranked(found: list[Hypothesis]) -> list[Hypothesis]:
    return sorted(found, key=lambda h: (h.stopped != "end", -h.score))
