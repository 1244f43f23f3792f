"""Written text as ids of a fixed set of symbols, and back."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError


class Text(Protocol):
    """What models of text ask of its symbols.

    Ids are raw, 0 to ``size - 1``: specials are the vocabulary's, as
    ``Vocabulary(text=text.size, ...)``.
    """

    size: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""


class Characters:
    """Text as its letters, lower case, one id each.

    Arguments
    ---------
    letters : str
        All there are, the space included, each once.
    edges : bool
        A space before and behind each text: for models of speech in which the pauses
        at its ends would otherwise belong to the first and the last letter.

    Raises
    ------
    DsuError
        If a letter comes twice or there is none, or edges have no space.

    Example
    -------
    >>> text = Characters("abc ")
    >>> text.encode("A cab"), text.decode([1, 0, 1])
    ([0, 3, 2, 0, 1], 'bab')
    >>> Characters("abc ", edges=True).encode("cab")
    [3, 2, 0, 1, 3]
    """

    def __init__(
        self, letters: str = "abcdefghijklmnopqrstuvwxyz' ", edges: bool = False
    ):
        if not letters or len(set(letters)) != len(letters):
            raise DsuError(f"letters={letters!r}: give each letter once")
        if edges and " " not in letters:
            raise DsuError(f"letters={letters!r}: edges are spaces, and there is none")
        self.letters, self.edges = letters, edges
        self._places = {letter: place for place, letter in enumerate(letters)}

    @property
    def size(self) -> int:
        """Number of letters."""
        return len(self.letters)

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises
        ------
        DsuError
            If it has a character that isn't among the letters.
        """
        found = text.lower()
        for letter in found:
            if letter not in self._places:
                raise DsuError(
                    f"{letter!r} in {text!r} is not among the letters "
                    f"{self.letters!r}: add it, or write the text without it"
                )
        if self.edges and found:
            found = f" {found} "
        return [self._places[letter] for letter in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""
        found = "".join(self.letters[index] for index in ids)
        return found[1:-1] if self.edges else found


class Words:
    """Text as words of a short list, lower case, one id each.

    Arguments
    ---------
    words : sequence of str
        All there are.

    Raises
    ------
    DsuError
        If a word comes twice or there is none.

    Example
    -------
    >>> text = Words(["zero", "one", "two"])
    >>> text.encode("two zero"), text.decode([1, 1])
    ([2, 0], 'one one')
    """

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        if not self.words or len(set(self.words)) != len(self.words):
            raise DsuError(f"words={list(words)}: give each word once")
        self._places = {word: place for place, word in enumerate(self.words)}

    @property
    def size(self) -> int:
        """Number of words."""
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises
        ------
        DsuError
            If it has a word that isn't in the list.
        """
        found = text.lower().split()
        for word in found:
            if word not in self._places:
                raise DsuError(f"{word!r} in {text!r} is none of {list(self.words)}")
        return [self._places[word] for word in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, a space between words."""
        return " ".join(self.words[index] for index in ids)


class Transcripts:
    """Texts as a recogniser writes them: symbols, and the special ids of its searches.

    Ids of the symbols come first, so raw ids of texts are the model's.

    Arguments
    ---------
    symbols : str or sequence of str
        Letters (see ``Characters``) or words (see ``Words``).

    Example
    -------
    >>> transcripts = Transcripts(["zero", "one"])
    >>> transcripts.encode("one zero"), transcripts.size, transcripts.vocabulary.eos
    ([1, 0], 6, 4)
    >>> transcripts.decode([1, 4])
    'one'
    """

    def __init__(self, symbols: str | Sequence[str]):
        letters = isinstance(symbols, str)
        self.text: Text = Characters(symbols) if letters else Words(symbols)
        specials = ("<pad>", "<bos>", "<eos>", "<blank>")
        self.vocabulary = Vocabulary(text=self.text.size, specials=specials)

    @property
    def size(self) -> int:
        """Number of ids, the special ones included."""
        return self.vocabulary.size

    @property
    def blank(self) -> int:
        """Id of the blank of CTC and transducers."""
        return self.vocabulary["<blank>"]

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self.text.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special ones write nothing."""
        found = self.text.decode(i for i in map(int, ids) if i < self.text.size)
        return " ".join(found.split())
