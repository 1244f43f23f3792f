"""Ids of a sequence model: one owner, no overlap, none lost or taken for another."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError

vocabularies = st.builds(
    Vocabulary,
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    specials=st.sampled_from([("<pad>",), ("<bos>", "<pad>", "<eos>", "<mask>")]),
    tags=st.sampled_from([(), ("<asr>", "<tts>")]),
    text=st.integers(0, 5),
    shared=st.booleans(),
)


@given(vocabularies)
def test_namespaces_tile_the_ids(vocabulary):
    owners = torch.zeros(vocabulary.size, dtype=torch.int64)
    for name in vocabulary.specials + vocabulary.tags:
        owners[vocabulary[name]] += 1
        assert vocabulary.allowed(name).nonzero().item() == vocabulary[name]
    owners += vocabulary.allowed("text")
    for k, size in enumerate(vocabulary.sizes):
        mask = vocabulary.allowed(k)
        assert mask.sum() == size
        ids = vocabulary.to_ids(torch.arange(size), codebook=k)
        assert mask.nonzero().flatten().tolist() == ids.tolist()
        owners += mask
    first = min(vocabulary.offsets)
    assert (owners[:first] == 1).all()
    if vocabulary.shared:
        assert owners[first] == vocabulary.n_codebooks and (owners >= 1).all()
    else:
        assert (owners == 1).all()
        books = vocabulary.codebook_of(torch.arange(vocabulary.size))
        for k in range(vocabulary.n_codebooks):
            assert torch.equal(books == k, vocabulary.allowed(k))
        assert (books[:first] == -1).all()
    ids = torch.arange(-1, vocabulary.size + 1)
    assert torch.equal(vocabulary.is_text(ids)[1:-1], vocabulary.allowed("text"))
    assert not vocabulary.is_unit(ids)[[0, -1]].any()
    assert vocabulary.is_unit(ids)[1:-1].tolist() == (ids[1:-1] >= first).tolist()


@given(vocabularies, st.data())
def test_ids_come_back_as_codes_and_padding_as_zero(vocabulary, data):
    shape = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 4)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    codes = torch.stack(
        [torch.randint(0, n, shape, generator=generator) for n in vocabulary.sizes], -1
    )
    mask = torch.rand(shape, generator=generator) < 0.7
    before = codes.clone()
    ids = vocabulary.to_ids(codes, mask=mask)
    assert torch.equal(codes, before)
    assert (ids[~mask] == vocabulary.pad).all()
    for k, offset in enumerate(vocabulary.offsets):
        assert torch.equal(ids[..., k][mask], codes[..., k][mask] + offset)
    back = vocabulary.to_codes(ids, mask=mask)
    assert torch.equal(back, codes * mask.unsqueeze(-1))


@given(vocabularies)
def test_plain_values_build_the_same_vocabulary(vocabulary):
    copy = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert copy == vocabulary and hash(copy) == hash(vocabulary)
    assert copy.offsets == vocabulary.offsets and len(copy) == copy.size


def test_text_keeps_its_ids_when_units_are_added():
    pieces = torch.tensor([[0, 4, 2]])
    for vocabulary in (Vocabulary(text=5), Vocabulary(sizes=(7,), text=5)):
        assert torch.equal(vocabulary.text_to_ids(pieces), pieces)
    assert Vocabulary(sizes=(7,)).pad == 0


def test_codebook_may_differ_at_each_position():
    vocabulary = Vocabulary(sizes=(2, 3))
    ids = vocabulary.to_ids(torch.tensor([[1, 2, 0]]), codebook=[0, 1, 1])
    assert ids.tolist() == [[4, 7, 5]]
    assert vocabulary.to_codes(ids, codebook=[0, 1, 1]).tolist() == [[1, 2, 0]]


def test_small_integer_types_do_not_overflow():
    vocabulary = Vocabulary(sizes=(256, 256))
    ids = vocabulary.to_ids(torch.tensor([[255, 255]], dtype=torch.uint8))
    assert ids.tolist() == [[258, 514]]


def test_errors_name_value_codebook_and_position():
    vocabulary = Vocabulary(sizes=(4, 8), text=3)
    codes = torch.zeros(2, 5, 2, dtype=torch.int64)
    codes[1, 3, 1] = 8
    with pytest.raises(DsuError, match=r"code 8 at position \[1, 3, 1\].*codebook 1"):
        vocabulary.to_ids(codes)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3] = False
    assert vocabulary.to_ids(codes, mask=mask)[1, 3].tolist() == [vocabulary.pad] * 2
    with pytest.raises(DsuError, match=r"id 4 at position \[1\].*codebook 0.*6 to 9"):
        vocabulary.to_codes(torch.tensor([6, vocabulary.bos]), codebook=0)
    with pytest.raises(DsuError, match=r"id 3 at position \[0, 1\]"):
        vocabulary.text_to_ids(torch.tensor([[2, 3]]))
    with pytest.raises(DsuError, match="'<mask>'.*<pad>"):
        vocabulary.mask  # noqa: B018
    with pytest.raises(DsuError, match="codebook 2"):
        vocabulary.allowed(2)
    with pytest.raises(DsuError, match="codebook -1"):
        vocabulary.to_ids(torch.tensor([0]), codebook=-1)
    with pytest.raises(DsuError, match="2 codebooks"):
        vocabulary.to_ids(torch.zeros(1, 1, 1, dtype=torch.int64))
    with pytest.raises(DsuError, match="float32"):
        vocabulary.to_ids(torch.zeros(1, 2))


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "codebook sizes"),
        ({"sizes": (4, 0)}, "codebook or namespace 1 is 0"),
        ({"sizes": (4,), "text": -1}, "'text' is -1"),
        ({"sizes": (4,), "specials": ("<bos>",)}, "<pad>"),
        ({"sizes": (4,), "tags": ("<pad>",)}, "each once"),
    ],
)
def test_what_cannot_be_is_refused(values, message):
    with pytest.raises(DsuError, match=message):
        Vocabulary(**values)
    with pytest.raises(DsuError, match="no \\['offset'\\]"):
        Vocabulary.from_dict({"sizes": [4], "offset": 1})


def test_batches_are_padded_with_pad_whatever_its_id():
    vocabulary = Vocabulary(sizes=(4,), specials=("<bos>", "<pad>"), text=2)
    items = [torch.tensor([[4], [5]]), torch.zeros(0, 1, dtype=torch.int64)]
    ids, lens = vocabulary.pad_batch(items)
    assert ids.squeeze(2).tolist() == [[4, 5], [3, 3]] and lens.tolist() == [1, 0]
