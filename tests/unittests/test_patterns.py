"""Layouts against loops that place one code at a time, and their inverses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.tokens.patterns import CoarseFirst, Delay, Flatten, Parallel
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, relative_lengths


@st.composite
def layouts(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    shared = draw(st.booleans())
    specials = draw(
        st.sampled_from([("<pad>", "<bos>", "<eos>"), ("<eos>", "<bos>", "<pad>")])
    )
    vocabulary = Vocabulary(
        sizes, specials, text=draw(st.integers(0, 2)), shared=shared
    )
    subset = draw(st.permutations(range(len(sizes))))
    books = subset[: draw(st.integers(1, len(sizes)))]
    kwargs = {"codebooks": books, "ends": draw(st.booleans())}
    kind = draw(st.sampled_from(["parallel", "delay", "flatten", "coarse"]))
    if kind == "parallel":
        return Parallel(vocabulary, **kwargs)
    if kind == "flatten":
        return Flatten(vocabulary, **kwargs)
    if kind == "delay":
        delay = st.lists(st.integers(0, 3), min_size=len(books), max_size=len(books))
        return Delay(vocabulary, draw(delay), **kwargs)
    cut = draw(st.integers(0, len(books)))
    levels = [n for n in (cut, len(books) - cut) if n]
    return CoarseFirst(vocabulary, draw(st.sampled_from([levels, None])), **kwargs)


@st.composite
def batches(draw, layout):
    batch, frames = draw(st.integers(1, 4)), draw(st.integers(0, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    sizes = [layout.vocabulary.sizes[k] for k in layout.codebooks]
    columns = [torch.randint(0, n, (batch, frames), generator=generator) for n in sizes]
    codes = torch.stack(columns, -1)
    counts = torch.randint(0, frames + 1, (batch,), generator=generator)
    counts[draw(st.integers(0, batch - 1))] = frames
    return codes, counts


def naive(layout, codes):
    """Ids of one item, ``[steps][streams]``, placed code by code."""
    vocabulary, books = layout.vocabulary, layout.codebooks
    # The offset of each codebook, worked out once more.
    first = vocabulary.text + len(vocabulary.specials) + len(vocabulary.tags)
    start = [
        first + (0 if vocabulary.shared else sum(vocabulary.sizes[:k])) for k in books
    ]
    frames = [[start[j] + c for j, c in enumerate(frame)] for frame in codes.tolist()]
    bos = vocabulary["<bos>"]
    eos = vocabulary["<eos>"]
    if isinstance(layout, Delay):
        last = max(layout.delays)
        rows = [
            [bos] * d + [frame[j] for frame in frames] + [eos] * (last - d)
            for j, d in enumerate(layout.delays)
        ]
        rows = [[bos, *row, eos] if layout.ends else row for row in rows]
        return [list(step) for step in zip(*rows, strict=True)]
    flat, done = [], 0
    for level in layout.levels:
        for frame in frames:
            flat += frame[done : done + level]
        done += level
    flat = [bos, *flat, eos] if layout.ends else flat
    return [[i] for i in flat]


@settings(max_examples=300)
@given(st.data())
def test_apply_matches_the_loop_and_undo_gives_back(data):
    layout = data.draw(layouts())
    codes, counts = data.draw(batches(layout))
    noisy = codes.clone()
    for item, n in zip(noisy, counts.tolist(), strict=True):
        item[n:] = 999  # What is behind the end must not be read.
    before = noisy.clone()
    ids, lens = layout.apply(noisy, relative_lengths(counts, codes.shape[1]))
    assert torch.equal(noisy, before)
    steps = absolute_lengths(lens, ids.shape[1])
    assert torch.equal(steps, layout.length(counts))
    assert ids.shape == (len(codes), layout.length(codes.shape[1]), layout.streams)
    for i, n in enumerate(counts.tolist()):
        assert ids[i, : steps[i]].tolist() == naive(layout, codes[i, :n])
        assert (ids[i, steps[i] :] == layout.vocabulary.pad).all()
        codes[i, n:] = 0
    back, back_lens = layout.undo(ids, lens)
    assert torch.equal(back, codes)
    assert torch.equal(absolute_lengths(back_lens, back.shape[1]), counts)


@settings(max_examples=300)
@given(st.data())
def test_partial_sequences_give_the_complete_frames(data):
    layout = data.draw(layouts())
    codes, counts = data.draw(batches(layout))
    ids, _ = layout.apply(codes, relative_lengths(counts, codes.shape[1]))
    coarse = isinstance(layout, CoarseFirst) and len(layout.levels) > 1
    told = counts if coarse and layout.vocabulary.shared else None
    cut = data.draw(st.integers(0, ids.shape[1]))
    back, lens = layout.undo_partial(ids[:, :cut], told)
    found = absolute_lengths(lens, back.shape[1], len(ids)).tolist()
    for i, n in enumerate(counts.tolist()):
        # Mark every code, then see which frames are whole before the cut.
        expected = 0
        marks = naive_frames(layout, n)[:cut]
        seen = {cell for step in marks for cell in step if cell is not None}
        while all((expected, j) in seen for j in range(len(layout.codebooks))):
            expected += 1
        assert found[i] == expected
        assert torch.equal(back[i, :expected], codes[i, :expected])
        assert not back[i, expected:].any()


def naive_frames(layout, n):
    """(frame, position in codebooks) in each cell of an item, None for specials."""
    books = range(len(layout.codebooks))
    ends = [[None] * layout.streams] if layout.ends else []
    if isinstance(layout, Delay):
        body = [
            [
                (s - d, j) if 0 <= s - d < n else None
                for j, d in enumerate(layout.delays)
            ]
            for s in range(n + max(layout.delays))
        ]
    else:
        body, done = [], 0
        for level in layout.levels:
            body += [[(f, j)] for f in range(n) for j in books[done : done + level]]
            done += level
    return ends + body + ends


@settings(max_examples=200)
@given(st.data())
def test_masks_allow_what_stands_there_and_nothing_else(data):
    layout = data.draw(layouts())
    codes, counts = data.draw(batches(layout))
    ids, _ = layout.apply(codes)
    n, size = codes.shape[1], layout.vocabulary.size
    books = layout.step_codebooks(n)
    cells = naive_frames(layout, n)
    assert books.tolist() == [
        [-1 if c is None else layout.codebooks[c[1]] for c in row] for row in cells
    ]
    for step in range(ids.shape[1]):
        mask = layout.allowed(step, n)
        assert mask.shape == (layout.streams, size)
        for stream in range(layout.streams):
            assert mask[stream, ids[:, step, stream]].all()
            k = int(books[step, stream])
            assert mask[stream].sum() == (1 if k < 0 else layout.vocabulary.sizes[k])
    past = layout.allowed(ids.shape[1], n)
    assert past.nonzero()[:, 1].tolist() == [layout.vocabulary.pad] * layout.streams


@settings(max_examples=100)
@given(st.data())
def test_of_unknown_length_a_sequence_may_end_where_frames_begin(data):
    layout = data.draw(layouts())
    vocabulary = layout.vocabulary
    if isinstance(layout, CoarseFirst) and len(layout.levels) > 1:
        with pytest.raises(DsuError, match="frames="):
            layout.allowed(0)
        return
    for n in range(4):
        codes = torch.zeros(1, n, len(layout.codebooks), dtype=torch.int64)
        # Every sequence of the layout, of any length, is allowed step by step.
        for step, row in enumerate(layout.apply(codes)[0][0][: n + 1]):
            allowed = layout.allowed(step)
            assert allowed[torch.arange(layout.streams), row].all()
    if isinstance(layout, Flatten) and layout.ends:
        for step in range(1, 9):
            start = (step - 1) % len(layout.codebooks) == 0
            assert layout.allowed(step)[0, vocabulary.eos] == start


def test_steps_of_the_published_layouts():
    vocabulary = Vocabulary(sizes=(16,) * 4, shared=True)
    assert Parallel(vocabulary, ends=False).length(10) == 10
    assert Delay(vocabulary, ends=False).length(10) == 10 + 4 - 1
    assert Flatten(vocabulary, ends=False).length(10) == 10 * 4


def test_an_early_end_stops_the_sequence():
    layout = Flatten(Vocabulary(sizes=(4, 4)))
    ids, _ = layout.apply(torch.tensor([[[1, 2], [3, 0], [2, 2]]]))
    ids[0, 4] = layout.vocabulary.eos
    assert layout.undo_partial(ids)[0].tolist() == [[[1, 2]]]
    delay = Delay(Vocabulary(sizes=(4, 4)))
    ids, _ = delay.apply(torch.tensor([[[1, 2], [3, 0], [2, 2]]]))
    ids[0, 3, 0] = delay.vocabulary.eos
    assert delay.undo_partial(ids)[0].tolist() == [[[1, 2], [3, 0]]]


def test_specials_never_become_codes():
    layout = Flatten(Vocabulary(sizes=(4, 4)))
    ids, lens = layout.apply(torch.tensor([[[1, 2], [3, 0]]]))
    wrong = ids.clone()
    wrong[0, 2] = layout.vocabulary.eos
    with pytest.raises(DsuError, match=r"id 2 at position \[0, 0, 1\].*codebook 1"):
        layout.undo(wrong, lens)
    wrong[0, 2] = layout.vocabulary.offsets[0]
    with pytest.raises(DsuError, match="codebook 1"):
        layout.undo_partial(wrong)
    with pytest.raises(DsuError, match="5 steps.*Flatten"):
        layout.undo(ids[:, :5])


def test_mistakes_are_named():
    vocabulary = Vocabulary(sizes=(4, 4))
    with pytest.raises(DsuError, match="delays"):
        Delay(vocabulary, (0,))
    with pytest.raises(DsuError, match="delays"):
        Delay(vocabulary, (0, -1))
    with pytest.raises(DsuError, match="levels"):
        CoarseFirst(vocabulary, (1, 2))
    with pytest.raises(DsuError, match=r"\[0, 2\]"):
        Flatten(vocabulary, (0, 2))
    with pytest.raises(DsuError, match="<bos>"):
        Delay(Vocabulary(sizes=(4, 4), specials=("<pad>",)), ends=False)
    Parallel(Vocabulary(sizes=(4, 4), specials=("<pad>",)), ends=False)
    with pytest.raises(DsuError, match=r"\[1, 3, 1\]"):
        Flatten(vocabulary).apply(torch.zeros(1, 3, 1, dtype=torch.int64))
    with pytest.raises(DsuError, match="2 streams"):
        Parallel(vocabulary).undo(torch.zeros(1, 3, 1, dtype=torch.int64))
    shared = CoarseFirst(Vocabulary(sizes=(4, 4), shared=True))
    with pytest.raises(DsuError, match="frames="):
        shared.undo_partial(torch.zeros(1, 3, 1, dtype=torch.int64))


def test_an_empty_batch_stays_empty():
    for layout in (Flatten(Vocabulary(sizes=(4,))), Delay(Vocabulary(sizes=(4,)))):
        ids, lens = layout.apply(torch.zeros(0, 3, 1, dtype=torch.int64))
        assert layout.undo(ids, lens)[0].shape == (0, 0, 1)
