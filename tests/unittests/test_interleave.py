"""Text and units in one stream: against a loop, and back to both."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.tokens.interleave import Interleave
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, relative_lengths


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    vocabulary = Vocabulary(
        sizes, tags=("<text>", "<speech>"), text=4, shared=draw(st.booleans())
    )
    layout = Interleave(
        vocabulary,
        text_chunk=draw(st.integers(1, 3)),
        unit_chunk=draw(st.integers(1, 3)),
        tags=draw(st.sampled_from([None, ("<text>", "<speech>")])),
        ends=draw(st.booleans()),
    )
    batch, frames = draw(st.integers(1, 3)), draw(st.integers(0, 6))
    pieces = draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    columns = [torch.randint(0, n, (batch, frames), generator=generator) for n in sizes]
    text = torch.randint(0, 4, (batch, pieces), generator=generator)
    n_text = torch.randint(0, pieces + 1, (batch,), generator=generator)
    n_frames = torch.randint(0, frames + 1, (batch,), generator=generator)
    starts = None
    if draw(st.booleans()):
        starts = torch.rand(batch, pieces, generator=generator).sort(1).values
        starts = (starts * (n_frames.unsqueeze(1) + 1)).long()
    return layout, text, torch.stack(columns, -1), n_text, n_frames, starts


def naive(layout, text, frames, starts):
    """One item's ids, turn by turn."""
    vocabulary = layout.vocabulary
    frames = vocabulary.to_ids(frames).tolist()
    text, turns = text.tolist(), []
    if starts is None:
        text, rest = list(text), list(frames)
        while text or rest:
            turns.append(("text", text[: layout.text_chunk]))
            turns.append(("units", sum(rest[: layout.unit_chunk], [])))
            del text[: layout.text_chunk], rest[: layout.unit_chunk]
    else:
        for f in range(len(frames) + 1):
            turns.append(
                (
                    "text",
                    [t for t, s in zip(text, starts.tolist(), strict=True) if s == f],
                )
            )
            turns.append(("units", frames[f] if f < len(frames) else []))
    ids, before = [], None
    for kind, turn in turns:
        if turn and kind != before and layout._tags is not None:
            ids.append(vocabulary["<text>" if kind == "text" else "<speech>"])
        before = kind if turn else before
        ids += turn
    return [vocabulary.bos, *ids, vocabulary.eos] if layout.ends else ids


@settings(max_examples=300)
@given(cases())
def test_matches_the_loop_and_comes_apart_again(case):
    layout, text, codes, n_text, n_frames, starts = case
    lens = relative_lengths(n_frames, codes.shape[1])
    text_lens = relative_lengths(n_text, text.shape[1])
    ids, id_lens = layout.apply(text, codes, text_lens, lens, starts)
    steps = absolute_lengths(id_lens, ids.shape[1]).tolist()
    back = layout.undo(ids, id_lens)
    found_text = absolute_lengths(back.text_lens, back.text.shape[1], len(text))
    found_frames = absolute_lengths(back.lens, back.codes.shape[1], len(text))
    assert torch.equal(found_text, n_text) and torch.equal(found_frames, n_frames)
    for i in range(len(text)):
        own_text, own = text[i, : n_text[i]], codes[i, : n_frames[i]]
        own_starts = None if starts is None else starts[i, : n_text[i]]
        expected = naive(layout, own_text, own, own_starts)
        assert ids[i, : steps[i], 0].tolist() == expected
        assert (ids[i, steps[i] :] == layout.vocabulary.pad).all()
        assert torch.equal(back.text[i, : n_text[i]], own_text)
        assert torch.equal(back.codes[i, : n_frames[i]], own)


@given(cases(), st.integers(0, 30))
def test_partial_sequences_give_what_is_there(case, cut):
    layout, text, codes, n_text, n_frames, starts = case
    lens = relative_lengths(n_frames, codes.shape[1])
    text_lens = relative_lengths(n_text, text.shape[1])
    ids = layout.apply(text, codes, text_lens, lens, starts)[0][:, :cut]
    back = layout.undo_partial(ids)
    found_text = absolute_lengths(back.text_lens, back.text.shape[1], len(text))
    found = absolute_lengths(back.lens, back.codes.shape[1], len(text))
    for i in range(len(text)):
        items = ids[i, :, 0]
        units = int(layout.vocabulary.is_unit(items).sum())
        assert found[i] == units // codes.shape[2]
        assert found_text[i] == int(layout.vocabulary.is_text(items).sum())
        assert torch.equal(back.codes[i, : found[i]], codes[i, : found[i]])
        assert torch.equal(back.text[i, : found_text[i]], text[i, : found_text[i]])


def test_text_that_stands_in_for_its_speech_keeps_its_place():
    # Word 1 of three is text, the words around it are speech (word-alternating).
    layout = Interleave(
        Vocabulary(sizes=(9,), tags=("<t>", "<s>"), text=5), tags=("<t>", "<s>")
    )
    codes = torch.tensor([[[1], [1], [7], [8]]])
    ids, _ = layout.apply(torch.tensor([[3, 4]]), codes, starts=torch.tensor([[2, 2]]))
    tag_text, tag_speech = layout.vocabulary["<t>"], layout.vocabulary["<s>"]
    first = layout.vocabulary.offsets[0]
    middle = [tag_speech, first + 1, first + 1, tag_text, 3, 4, tag_speech]
    assert ids[0, 1:-1, 0].tolist() == [*middle, first + 7, first + 8]


def test_mistakes_are_named():
    vocabulary = Vocabulary(sizes=(4, 4), text=3)
    layout = Interleave(vocabulary)
    text, codes = torch.tensor([[0, 1]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    for starts in ([[1, 0]], [[0, 3]], [[-1, 0]]):
        with pytest.raises(DsuError, match="text piece .* of item 0 starts at frame"):
            layout.apply(text, codes, starts=torch.tensor(starts))
    with pytest.raises(DsuError, match="starts"):
        layout.apply(text, codes, starts=torch.tensor([[0]]))
    ids, _ = layout.apply(text, codes)
    with pytest.raises(DsuError, match="item 0 has 3 unit ids"):
        layout.undo(ids[:, :-2])
    with pytest.raises(DsuError, match="at least 1"):
        Interleave(vocabulary, unit_chunk=0)
    with pytest.raises(DsuError, match="of 0 text pieces"):
        Interleave(Vocabulary(sizes=(4,)))
    with pytest.raises(DsuError, match="'<t>'"):
        Interleave(vocabulary, tags=("<t>", "<s>"))
