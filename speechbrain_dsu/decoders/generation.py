"""Writing sequences step by step, each item until its own end."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_dsu.decoders.protocol import Sampler, Session
from speechbrain_dsu.decoders.repetition import LoopDetector
from speechbrain_dsu.decoders.rules import Rules
from speechbrain_dsu.decoders.sampling import Greedy
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths


@dataclass(frozen=True, eq=False)
class Generated:
    """What was written.

    Arguments
    ---------
    tokens : Tensor
        Ids ``[batch, steps, streams]`` or frames ``[batch, steps, frame_dim]``, the
        prompt included; padding (``<pad>``, or zeros) behind an item's end.
    lens : Tensor
        Relative lengths ``[batch]``.
    prompts : Tensor
        Steps of each prompt, int64 ``[batch]``.
    stopped : tuple of str
        Why each item stopped: "end", "length" (cut by a cap) or "loop".
    """

    tokens: Tensor
    lens: Tensor
    prompts: Tensor
    stopped: tuple[str, ...]

    def unpad(self) -> list[Tensor]:
        """The steps of each item, prompt included, without padding."""
        counts = absolute_lengths(self.lens, self.tokens.shape[1]).tolist()
        return [row[:n] for row, n in zip(self.tokens, counts, strict=True)]


def generate(
    session: Session,
    rules: Rules,
    prompt: Tensor | None = None,
    prompt_lens: Tensor | None = None,
    sampler: Sampler | None = None,
    loops: LoopDetector | None = None,
    batch: int = 1,
) -> Generated:
    """Let a model write until every item has ended.

    An item's result doesn't depend on the others in the batch (with `Sampling`, if
    each item has its own generator). Items that have ended leave the batch as soon as
    a quarter of it can go, so that a long one doesn't pay for them.

    Arguments
    ---------
    session : Session
        Of the model, see `decoders.protocol`; with its condition, if any.
    rules : Rules
        What may stand where, and the cap: see `decoders.rules`.
    prompt : Tensor, optional
        Steps that the sequences begin with, ``[batch, steps, streams]``, the begin
        included; None: the begin alone.
    prompt_lens : Tensor, optional
        Relative lengths of the prompt.
    sampler : callable, optional
        See `decoders.sampling`; greedy if not given.
    loops : LoopDetector, optional
        Stops items that repeat themselves.
    batch : int
        How many items, if there is no prompt.

    Returns
    -------
    Generated
        See there; ``layout.undo(found.tokens, found.lens)`` gives the codes of items
        that stopped at "end", ``undo_partial`` those of all.
    """
    # A copy: items that leave must not take the caller's generators along.
    sampler = Greedy() if sampler is None else copy.copy(sampler)
    prompt, counts, hidden = read_prompt(session, prompt, prompt_lens, batch)
    rules.begin(counts)
    if loops is not None:
        loops.reset()
    alive = torch.arange(len(prompt), device=prompt.device)
    stopped = [""] * len(prompt)
    written: list[tuple[Tensor, Tensor]] = []
    going = torch.ones_like(alive, dtype=torch.bool)
    while True:
        found = session.emit(hidden, _within(rules.masks(), sampler))
        tokens, done, cut = rules.accept(found.tokens)
        done = done if found.ended is None else done | found.ended
        looping = torch.zeros_like(done) if loops is None else loops(tokens)
        written.append((alive[going], tokens[going]))
        leaves = going & (done | cut | looping)
        for row in leaves.nonzero().flatten().tolist():
            reason = "end" if done[row] else "length" if cut[row] else "loop"
            stopped[int(alive[row])] = reason
        going = going & ~leaves
        n_going = int(going.sum())
        if not n_going:
            break
        if n_going <= len(going) * 3 // 4:
            keep = going.nonzero().flatten()
            for part in (session, rules, sampler, loops):
                if hasattr(part, "select"):
                    part.select(keep)
            alive, tokens, going = alive[keep], tokens[keep], going[keep]
        hidden = session.feed(tokens[:, None])[:, 0]
    return collect(prompt, counts, written, tuple(stopped), rules.pad)


def read_prompt(
    session: Session, prompt: Tensor | None, lens: Tensor | None, batch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Feed a prompt, or the begin of ``batch`` items.

    Returns
    -------
    prompt : Tensor
        What was fed.
    counts : Tensor
        Steps of each item, int64 ``[batch]``.
    hidden : Tensor
        The state ``[batch, dim]`` behind each item's last step.
    """
    if prompt is None:
        prompt = session.begin.expand(batch, 1, -1)
    counts = absolute_lengths(lens, prompt.shape[1], len(prompt)).to(prompt.device)
    if not bool((counts > 0).all()):
        raise DsuError("a prompt has at least one step, the begin")
    hidden = session.feed(prompt, lens)
    rows = torch.arange(len(prompt), device=prompt.device)
    return prompt, counts, hidden[rows, counts - 1]


def constrain(logits: Tensor, masks: Tensor | None, stream: int = 0) -> Tensor:
    """Logits ``[batch, n, size]`` with minus infinity where an id may not stand."""
    if masks is None:
        return logits
    allowed = masks[:, stream : stream + logits.shape[1]]
    return logits.masked_fill(~allowed, -math.inf)


def _within(masks: Tensor | None, sampler: Sampler) -> Sampler:
    return lambda logits, stream: sampler(constrain(logits, masks, stream), stream)


def collect(
    prompt: Tensor,
    counts: Tensor,
    written: list[tuple[Tensor, Tensor]],
    stopped: tuple[str, ...],
    pad: int,
) -> Generated:
    """Put together what was written: pairs of (items, their next steps).

    Arguments
    ---------
    prompt : Tensor
        ``[batch, steps, ...]``.
    counts : Tensor
        Steps of each prompt, int64 ``[batch]``.
    written : list of (Tensor, Tensor)
        Items ``[n]`` and steps ``[n, ...]``, in the order of time; every item at
        least once.
    stopped : tuple of str
        Why each item stopped.
    pad : int
        What stands behind an item's end.
    """
    owners = torch.cat([owner for owner, _ in written])
    steps = torch.cat([tokens for _, tokens in written])
    # Stable: the steps of an item keep their order.
    order = owners.argsort(stable=True)
    parts = steps[order].split(owners.bincount(minlength=len(prompt)).tolist())
    rows = [
        torch.cat([row[:n], part])
        for row, n, part in zip(prompt, counts.tolist(), parts, strict=True)
    ]
    tokens, lengths = pad_stack(rows)
    if pad and not tokens.is_floating_point():
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        tokens = torch.where(inside[..., None], tokens, pad)
    return Generated(
        tokens, relative_lengths(lengths, tokens.shape[1]), counts, stopped
    )
