"""Units of a text: sampling with a language model, or all at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.decoders.generation import generate
from speechbrain_dsu.decoders.guidance import Guided
from speechbrain_dsu.decoders.protocol import Sampler
from speechbrain_dsu.decoders.repetition import LoopDetector
from speechbrain_dsu.decoders.rules import LayoutRule, LengthCap
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths

_SLACK = 2.5


@dataclass(frozen=True, eq=False)
class Said:
    """What was written for a text.

    Arguments
    ---------
    codes : Tensor
        Units ``[batch, frames, codebooks]``, those of a prompt left out.
    lens : Tensor
        Relative lengths ``[batch]``.
    stopped : tuple of str
        Why each item stopped, as in ``Generated``: "end" where all went well.
    """

    codes: Tensor
    lens: Tensor
    stopped: tuple[str, ...]


@torch.no_grad()
def say(
    model: Any,
    texts: Sequence[str],
    voice: Sequence[str | None] | None = None,
    prompt: Tensor | None = None,
    prompt_lens: Tensor | None = None,
    prompt_texts: Sequence[str] | None = None,
    sampler: Sampler | None = None,
    guidance: float = 1.0,
    loops: LoopDetector | None = None,
    longest: int = 3000,
) -> Said:
    """Write the units of texts; no item depends on the others.

    Arguments
    ---------
    model : TextToUnits, CoarseToFine or TimedUnits
        In evaluation mode; ``lobes.models``.
    texts : sequence of str
        What to say.
    voice : sequence of str, optional
        A name for each, or None for any voice.
    prompt : Tensor, optional
        Units ``[batch, frames, codebooks]`` of a speaker to go on as. They and their
        text stand in front, as in VALL-E (Wang et al. 2023, section 4.3), and do not
        come out.
    prompt_lens : Tensor, optional
        Relative lengths of the prompts.
    prompt_texts : sequence of str, optional
        What the prompts say.
    sampler : callable, optional
        See `decoders.sampling`; greedy if not given.
    guidance : float
        See `Guided`; 1: none.
    loops : LoopDetector, optional
        Ends items that repeat themselves; one of 100 frames if not given.
    longest : int
        Most frames of an item, besides its prompt.

    Returns
    -------
    Said
        See there.

    Raises
    ------
    DsuError
        If a model with durations gets a prompt, or a prompt has no text.
    """
    voice = [None] * len(texts) if voice is None else voice
    if (prompt is None) != (prompt_texts is None):
        raise DsuError("a prompt needs its units and its text: give both")
    reader = model.reader
    places = torch.tensor([reader.place(name) for name in voice])
    if not hasattr(model, "fill"):
        if prompt is not None:
            raise DsuError("a model with durations takes no prompt: name a voice")
        text, lens = reader.write(texts)
        codes, code_lens = model.write(text, lens, places.to(text.device))
        return Said(codes, code_lens, ("end",) * len(texts))
    spoken = [len(reader.text.encode(text)) for text in texts]
    if prompt is not None:
        pairs = zip(prompt_texts, texts, strict=True)
        texts = [f"{before} {text}" for before, text in pairs]
    text, lens = reader.write(texts)
    places = places.to(text.device)
    coarse = getattr(model, "coarse", model)
    begin, begin_lens, given = _begin(coarse, prompt, prompt_lens, len(texts))
    cap = LengthCap(float(coarse.pace), _SLACK, min(50, longest), longest)
    caps = cap(torch.tensor(spoken)).to(text.device) + given
    session = coarse.session(*_prefix(coarse, text, lens, places, guidance))
    if guidance != 1.0:
        session = Guided(session, guidance)
    loops = LoopDetector(100, 50) if loops is None else loops
    rules = LayoutRule(coarse.steps.layout, caps)
    found = generate(session, rules, begin, begin_lens, sampler, loops)
    codes, code_lens = coarse.steps.read(found.tokens)
    if prompt is None:
        prompt = codes.new_zeros(len(codes), 0, len(model.steps.sizes))
    full, _ = model.fill(codes, code_lens, text, lens, places, prompt, prompt_lens)
    return Said(*_without(full, code_lens, given), found.stopped)


def _prefix(
    model: Any, text: Tensor, lens: Tensor, voice: Tensor, guidance: float
) -> tuple[Tensor, Tensor]:
    prefix = model.reader.prefix(text, lens, voice)
    return prefix if guidance == 1.0 else model.with_unconditional(*prefix)


def _begin(
    model: Any, prompt: Tensor | None, lens: Tensor | None, batch: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Steps to feed, their relative lengths, and frames of the prompts."""
    begin = model.head.begin
    if prompt is None:
        none = torch.zeros(batch, dtype=torch.int64, device=begin.device)
        return begin.expand(batch, 1, -1), None, none
    prompt = prompt.to(begin.device)
    given = absolute_lengths(lens, prompt.shape[1], batch).to(begin.device)
    ids, _, _ = model.steps.write(prompt[..., : len(model.steps.sizes)], lens)
    size = prompt.shape[1] + 1
    return ids[:, :size], relative_lengths(given + 1, size), given


def _without(codes: Tensor, lens: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Codes behind each item's prompt."""
    counts = absolute_lengths(lens, codes.shape[1]).tolist()
    pairs = zip(codes, given.tolist(), counts, strict=True)
    rows, sizes = pad_stack([row[first:last] for row, first, last in pairs])
    return rows, relative_lengths(sizes, rows.shape[1])
