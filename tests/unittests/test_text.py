"""Text symbols: what went in comes back; what can't be written is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbrain_dsu.tokens.text import Characters, Words
from speechbrain_dsu.utils.errors import DsuError

LETTERS = "abcdefghijklmnopqrstuvwxyz' "
DIGITS = "zero one two three four".split()


@given(st.text(LETTERS))
def test_letters_come_back(text):
    symbols = Characters(LETTERS)
    ids = symbols.encode(text.upper())
    assert symbols.decode(ids) == text
    assert all(
        LETTERS[index] == letter for index, letter in zip(ids, text, strict=True)
    )


@given(st.lists(st.sampled_from(DIGITS)))
def test_words_come_back(words):
    symbols = Words(DIGITS)
    ids = symbols.encode("  ".join(words))
    assert ids == [DIGITS.index(word) for word in words]
    assert symbols.decode(ids) == " ".join(words)


@pytest.mark.parametrize(
    "symbols, text, named",
    [(Characters("ab"), "abc", "'c'"), (Words(DIGITS), "one five", "'five'")],
)
def test_what_cannot_be_written_is_named(symbols, text, named):
    with pytest.raises(DsuError, match=named):
        symbols.encode(text)


@pytest.mark.parametrize("make", [lambda: Characters("aa"), lambda: Characters("")])
def test_letters_stand_once(make):
    with pytest.raises(DsuError, match="each letter once"):
        make()


@pytest.mark.parametrize("words", [[], ["one", "one"]])
def test_words_stand_once(words):
    with pytest.raises(DsuError, match="each word once"):
        Words(words)
