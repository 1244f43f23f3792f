"""Layouts: codes of several codebooks as the ids of a sequence model, and back.

A layout never loses anything: ``undo(*apply(codes, lens))`` gives back the codes and
lengths. In the drawings time runs to the right, ``a0`` is frame a of codebook 0, ``<``
is ``<bos>``, ``>`` is ``<eos>``, for three frames a, b, c. ``Layout`` in ``layout`` is
their base; text and units in one stream are in ``interleave``.
"""

from collections.abc import Sequence

import torch

from speechbrain_dsu.tokens.layout import Layout
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError


class Delay(Layout):
    """Codebook k is late by ``delays[k]`` steps, one stream per codebook.

    Within a step, a codebook sees the coarser ones of its frame. With delays 0, 1::

        stream 0   <  a0 b0 c0 >  >
        stream 1   <  <  a1 b1 c1 >

    Every stream ends with at least one ``<eos>``, late as its codes. From MusicGen
    (Copet et al. 2023, arXiv:2306.05284, section 2.2).

    Arguments
    ---------
    vocabulary : Vocabulary
        Owner of the ids; needs ``<bos>`` and ``<eos>`` to fill the corners.
    delays : sequence of int or None
        Steps, one for each codebook; None: 0, 1, 2, ...
    codebooks : sequence of int or None
        See ``Layout``.
    ends : bool
        See ``Layout``.

    Example
    -------
    >>> layout = Delay(Vocabulary(sizes=(4, 4), shared=True), delays=(0, 1))
    >>> ids, lens = layout.apply(torch.tensor([[[0, 1], [2, 3]]]))
    >>> ids[0].T.tolist()
    [[1, 3, 5, 2, 2], [1, 1, 4, 6, 2]]
    >>> layout.undo(ids, lens)[0].tolist()
    [[[0, 1], [2, 3]]]
    >>> layout.undo_partial(ids[:, :3])[0].tolist()
    [[[0, 1]]]
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        delays: Sequence[int] | None = None,
        codebooks: Sequence[int] | None = None,
        ends: bool = True,
    ):
        super().__init__(vocabulary, codebooks, ends)
        self.delays = tuple(range(self.streams) if delays is None else delays)
        if len(self.delays) != self.streams or min(self.delays) < 0:
            raise DsuError(
                f"delays {list(self.delays)}: one of at least 0 for each of "
                f"{self.streams} codebooks"
            )
        self._tail = max(self.delays)
        self._set_specials()

    @property
    def streams(self) -> int:
        """Ids per step: one for each codebook."""
        return len(self.codebooks)

    def _locate(self, frames, step, stream):
        return step - stream.new_tensor(self.delays), stream

    def _complete(self, done, final):
        complete = (done - done.new_tensor(self.delays)).amin(1).clamp(min=0)
        return complete if final is None else complete.minimum(final)


class Parallel(Delay):
    """All codebooks of a frame in one step, one stream per codebook::

        stream 0   <  a0 b0 c0 >
        stream 1   <  a1 b1 c1 >

    Arguments
    ---------
    vocabulary : Vocabulary
        Owner of the ids.
    codebooks : sequence of int or None
        See ``Layout``.
    ends : bool
        See ``Layout``.

    Example
    -------
    >>> layout = Parallel(Vocabulary(sizes=(4, 4), shared=True))
    >>> layout.apply(torch.tensor([[[0, 1], [2, 3]]]))[0].tolist()
    [[[1, 1], [3, 4], [5, 6], [2, 2]]]
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        codebooks: Sequence[int] | None = None,
        ends: bool = True,
    ):
        if codebooks is None:
            codebooks = range(vocabulary.n_codebooks)
        super().__init__(vocabulary, (0,) * len(codebooks) or None, codebooks, ends)


class CoarseFirst(Layout):
    """Groups of codebooks one after the other, each over all frames; one stream.

    With levels (1, 1), level after level; with (1, 2), codebook 0 first, the two
    others frame by frame behind it::

        (1, 1)     <  a0 b0 c0 a1 b1 c1 >
        (1, 2)     <  a0 b0 c0 a1 a2 b1 b2 c1 c2 >

    From AudioLM (Borsos et al. 2022, arXiv:2209.03143, section III-C). Where a code
    sits depends on the number of frames: ``allowed`` needs it, and ``undo_partial``
    needs it when the vocabulary is shared (else the first id of the second group
    tells).

    Arguments
    ---------
    vocabulary : Vocabulary
        Owner of the ids.
    levels : sequence of int or None
        Codebooks in each group; None: one each.
    codebooks : sequence of int or None
        See ``Layout``.
    ends : bool
        See ``Layout``.

    Example
    -------
    >>> layout = CoarseFirst(Vocabulary(sizes=(4, 4)), ends=False)
    >>> ids, lens = layout.apply(torch.tensor([[[0, 1], [2, 3]]]))
    >>> ids.squeeze(2).tolist()
    [[3, 5, 8, 10]]
    >>> layout.undo_partial(ids[:, :3])[0].tolist()
    [[[0, 1]]]
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        levels: Sequence[int] | None = None,
        codebooks: Sequence[int] | None = None,
        ends: bool = True,
    ):
        super().__init__(vocabulary, codebooks, ends)
        self.levels = tuple((1,) * len(self.codebooks) if levels is None else levels)
        if min(self.levels) < 1 or sum(self.levels) != len(self.codebooks):
            raise DsuError(
                f"levels {list(self.levels)} don't add up to the "
                f"{len(self.codebooks)} codebooks"
            )

    def _locate(self, frames, step, stream):
        frame, book = stream.new_full((), -1), stream.new_zeros(())
        first = 0
        for level in self.levels:
            inside = step - frames * first
            frame = torch.where(inside >= 0, inside // level, frame)
            book = torch.where(inside >= 0, first + inside % level, book)
            first += level
        return frame, book

    @property
    def _needs_frames(self) -> bool:
        return len(self.levels) > 1

    def _final_frames(self, body, done):
        if not self._needs_frames:
            return None
        if self.vocabulary.shared:
            raise DsuError(
                "ids of a shared vocabulary don't tell where a level ends in "
                "CoarseFirst: pass frames="
            )
        firsts = body.new_tensor(self.codebooks[: self.levels[0]])
        books = self.vocabulary.codebook_of(body[..., 0])
        later = ~torch.isin(books, firsts)
        steps = (later.cumsum(1) == 0).sum(1)
        # Before the second group starts, how many frames there are is open.
        return torch.where(steps < done[:, 0], steps // self.levels[0], 0)

    def _complete(self, done, final):
        done = done[:, 0]
        before = len(self.codebooks) - self.levels[-1]
        if final is None:
            return done // self.levels[-1]
        complete = (done - final * before) // self.levels[-1]
        return complete.clamp(min=0).minimum(final)


class Flatten(CoarseFirst):
    """All codebooks of a frame, then the next frame; one stream::

        <  a0 a1 b0 b1 c0 c1 >

    Arguments
    ---------
    vocabulary : Vocabulary
        Owner of the ids.
    codebooks : sequence of int or None
        See ``Layout``.
    ends : bool
        See ``Layout``.

    Example
    -------
    >>> layout = Flatten(Vocabulary(sizes=(4, 4)))
    >>> ids, lens = layout.apply(torch.tensor([[[0, 1], [2, 3]]]))
    >>> ids.squeeze(2).tolist()
    [[1, 3, 8, 5, 10, 2]]
    >>> layout.allowed(3).nonzero()[:, 1].tolist()
    [2, 3, 4, 5, 6]
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        codebooks: Sequence[int] | None = None,
        ends: bool = True,
    ):
        if codebooks is None:
            codebooks = range(vocabulary.n_codebooks)
        super().__init__(vocabulary, (len(codebooks),), codebooks, ends)
