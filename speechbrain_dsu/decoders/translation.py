"""Units of a source: search or sampling with an encoder-decoder model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.decoders.beam import beam_search
from speechbrain_dsu.decoders.generation import generate
from speechbrain_dsu.decoders.protocol import Sampler
from speechbrain_dsu.decoders.rules import LayoutRule, LengthCap
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

_SLACK = 2.5


@dataclass(frozen=True, eq=False)
class Translated:
    """What a translator wrote.

    Arguments
    ---------
    codes : Tensor
        Units ``[batch, frames, codebooks]``.
    lens : Tensor
        Relative lengths ``[batch]`` in frames.
    texts : list of str or None
        Text that goes with them, of models that read one.
    stopped : tuple of str
        Why each item stopped, as in ``Generated``: "end" where all went well.
    ids : Tensor
        The steps ``[batch, steps, streams]``.
    """

    codes: Tensor
    lens: Tensor
    texts: list[str] | None
    stopped: tuple[str, ...]
    ids: Tensor


@torch.no_grad()
def translate(
    model: Any,
    source: Tensor,
    lens: Tensor | None = None,
    beams: int = 1,
    length_power: float = 1.0,
    sampler: Sampler | None = None,
    longest: int = 3000,
) -> Translated:
    """Translate a batch of sources; no item depends on the others.

    Arguments
    ---------
    model : SpeechToUnits
        In evaluation mode; ``lobes.models.unit_translation``.
    source : Tensor
        What its reader takes, ``[batch, length, ...]``.
    lens : Tensor, optional
        Relative lengths.
    beams : int
        Of beam search; 1: greedy. Models of several streams take 1.
    length_power : float
        See ``beam_search``.
    sampler : callable, optional
        Draw instead of taking the likeliest; with one beam only.
    longest : int
        Most steps of a translation.

    Returns
    -------
    Translated
        See there.

    Raises
    ------
    DsuError
        If a sampler is to draw in a beam search.
    """
    if sampler is not None and beams > 1:
        raise DsuError(f"a sampler and beams={beams}: take one of the two")
    layout = model.steps.layout
    memory, memory_lens = model.read(source, lens)
    counts = absolute_lengths(lens, source.shape[1], len(source)).to(memory.device)
    # Short sources: at least a word's units.
    cap = LengthCap(float(model.pace), _SLACK, min(50, longest), longest)
    session = model.session(memory, memory_lens)
    rules = LayoutRule(layout, cap(counts))
    batch = len(memory)
    if beams == 1:
        found = generate(session, rules, sampler=sampler, batch=batch)
        ids, id_lens, stopped = found.tokens, found.lens, found.stopped
    else:
        results = beam_search(
            session, rules, beams=beams, length_power=length_power, batch=batch
        )
        best = [result[0] for result in results]
        ids, id_lens = layout.vocabulary.pad_batch([one.tokens for one in best])
        stopped = tuple(one.stopped for one in best)
    codes, code_lens, texts = model.say(memory, memory_lens, ids, id_lens)
    return Translated(codes, code_lens, texts, stopped, ids)
