"""ABX: is a phone nearer to another token of itself than to one of another phone?

After Schatz et al. (2013) as the ZeroSpeech challenges use it. A and X are tokens of
one phone, B of another; an error is ``d(A, X) > d(B, X)``, a tie half of one. Chance
is 0.5. Within a speaker all three are of one speaker, across speakers X is of
another one than A and B.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.alignments import SILENCES, Alignment
from speechbrain_dsu.evaluation.distances import edit_distances, frame_costs, warp
from speechbrain_dsu.utils.errors import DsuError

# Numbers in one block of distances: 16 MB of float32.
_BLOCK = 2**22
_OUTSIDE = "#"


@dataclass(frozen=True, eq=False)
class PhoneTokens:
    """Spoken tokens of phones, to be told apart.

    Arguments
    ---------
    frames : sequence of Tensor
        ``[n_i, dim]`` of each token: vectors, or ids (one column per codebook).
    phones, speakers, contexts : Tensor
        int64 ``[tokens]``. Only tokens of one context are compared; all zero where
        the context is not to count.

    Raises
    ------
    DsuError
        If the numbers of tokens disagree or a token has no frame.
    """

    frames: Sequence[Tensor]
    phones: Tensor
    speakers: Tensor
    contexts: Tensor

    def __post_init__(self):
        for labels in (self.phones, self.speakers, self.contexts):
            if labels.shape != (len(self.frames),):
                raise DsuError(
                    f"{len(self.frames)} tokens with labels {list(labels.shape)}"
                )
        if not all(len(item) for item in self.frames):
            raise DsuError("a token without frames can't be compared: leave it out")

    def __getitem__(self, index: Tensor) -> "PhoneTokens":
        return PhoneTokens(
            [self.frames[i] for i in index.tolist()],
            self.phones[index],
            self.speakers[index],
            self.contexts[index],
        )


@dataclass(frozen=True)
class Abx:
    """Result of an ABX test.

    Arguments
    ---------
    error : float or None
        Share of wrong triples, averaged over contexts, then speakers, then pairs of
        phones; 0.5 is chance. None if there is no triple.
    triples : int
        How many were judged.
    pairs : int
        Ordered pairs of phones among them.
    """

    error: float | None
    triples: int
    pairs: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def phone_tokens(
    utterances: Iterable[tuple[Tensor, Tensor, Alignment, str]],
    context: bool = True,
    silences: Sequence[str] = SILENCES,
) -> PhoneTokens:
    """Cut utterances into tokens of phones.

    A token is made of the frames whose centres lie in the phone; phones without one
    are left out.

    Arguments
    ---------
    utterances : iterable of (frames, times, alignment, speaker)
        Frames ``[n, dim]``, their centres in seconds ``[n]``, the alignment and a
        name of the speaker.
    context : bool
        Compare only tokens between the same two neighbours (silence is one).
    silences : sequence of str
        Labels that are no phones.

    Returns
    -------
    PhoneTokens
        Phones and speakers numbered as they come.

    Example
    -------
    >>> said = Alignment(torch.tensor([0.0, 0.1]), torch.tensor([0.1, 0.2]), ("a", "b"))
    >>> frames, times = torch.tensor([[4], [4], [7]]), torch.tensor([0.0, 0.05, 0.1])
    >>> tokens = phone_tokens([(frames, times, said, "p1")])
    >>> [item.flatten().tolist() for item in tokens.frames], tokens.phones.tolist()
    ([[4, 4], [7]], [0, 1])
    """
    cuts: list[Tensor] = []
    labels: list[tuple[int, int, int]] = []
    names: list[dict[Any, int]] = [{}, {}, {}]
    for frames, times, alignment, speaker in utterances:
        times = times.double()
        starts = torch.searchsorted(times, alignment.starts.double()).tolist()
        stops = torch.searchsorted(times, alignment.ends.double()).tolist()
        said = [_OUTSIDE if p in silences else p for p in alignment.phones]
        around = zip([_OUTSIDE, *said[:-1]], [*said[1:], _OUTSIDE], strict=True)
        for phone, neighbours, start, stop in zip(
            said, around, starts, stops, strict=True
        ):
            if phone == _OUTSIDE or stop <= start:
                continue
            keys = (phone, speaker, neighbours if context else "")
            labels.append(
                tuple(n.setdefault(k, len(n)) for n, k in zip(names, keys, strict=True))
            )
            cuts.append(frames[start:stop])
    phones, speakers, contexts = torch.tensor(labels).reshape(-1, 3).long().unbind(1)
    return PhoneTokens(cuts, phones, speakers, contexts)


def abx(
    tokens: PhoneTokens,
    across: bool = False,
    distance: str = "angular",
    max_tokens: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
) -> Abx:
    """ABX error of phones, within or across speakers.

    Arguments
    ---------
    tokens : PhoneTokens
        As of ``phone_tokens``.
    across : bool
        X of another speaker than A and B.
    distance : str
        ``angular``, ``cosine`` or ``identity``: dynamic time warping over these
        distances of frames, cost per cell of the path. ``edit``: edit distance of
        the ids over the length of the longer one.
    max_tokens : int
        At most this many tokens of a phone by a speaker in a context, drawn by
        ``seed``.
    max_speakers : int
        At most this many speakers of X for each of A and B.
    seed : int
        Of the drawing.

    Returns
    -------
    Abx
        See there.

    Example
    -------
    >>> frames = [torch.tensor(x)[:, None] for x in ([1, 1], [1], [2], [2, 2, 2])]
    >>> zeros = torch.zeros(4, dtype=torch.int64)
    >>> tokens = PhoneTokens(frames, torch.tensor([0, 0, 1, 1]), zeros, zeros)
    >>> abx(tokens, distance="identity")
    Abx(error=0.0, triples=8, pairs=2)
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = tokens[_draw(tokens, max_tokens, generator)]
    groups = list(_groups(tokens, across, max_speakers, generator))
    if not groups:
        return Abx(None, 0, 0)
    pairs = torch.cat([torch.cartesian_prod(x, ab) for ab, x in groups])
    values = token_distances(tokens.frames, pairs, distance)
    sizes = [len(ab) * len(x) for ab, x in groups]
    keys, scores, triples = [], [], 0
    for (ab, x), part in zip(groups, values.split(sizes), strict=True):
        judged = _judge(tokens.phones, ab, x, part.view(len(x), len(ab)))
        for first, seconds, errors, count in judged:
            # Context, speakers of A and B and of X, and the two phones.
            who = tokens.speakers[ab[0]], tokens.speakers[x[0]]
            fixed = torch.stack([tokens.contexts[ab[0]], *who, first])
            keys.append(
                torch.cat([fixed.expand(len(seconds), -1), seconds[:, None]], 1)
            )
            scores.append(errors)
            triples += count
    if not triples:
        return Abx(None, 0, 0)
    cells, means = torch.cat(keys), torch.cat(scores)
    # Contexts first, then the speakers, then the pairs of phones.
    for first in (1, 3):
        cells, means = _mean_by(cells[:, -(5 - first) :], means)
    return Abx(float(means.mean()), triples, len(means))


def token_distances(
    frames: Sequence[Tensor], pairs: Tensor, distance: str = "angular"
) -> Tensor:
    """Distance of each pair of tokens.

    Arguments
    ---------
    frames : sequence of Tensor
        ``[n_i, dim]`` of each token.
    pairs : Tensor
        int64 ``[pairs, 2]``: indices of tokens.
    distance : str
        See ``abx``.

    Returns
    -------
    Tensor
        Floating point ``[pairs]``.

    Raises
    ------
    DsuError
        If ``edit`` is asked for with several codebooks, or the distance is unknown.

    Example
    -------
    >>> frames = [torch.tensor([[1], [1], [2]]), torch.tensor([[1], [2]])]
    >>> token_distances(frames, torch.tensor([[0, 1]]), "edit")
    tensor([0.3333])
    """
    joined = torch.cat(list(frames))
    if distance == "edit" and joined.shape[1] != 1:
        raise DsuError(f"edit distance takes one codebook, got {joined.shape[1]}")
    counts = torch.tensor([len(item) for item in frames])
    offsets = counts.cumsum(0) - counts
    # A token against itself, or a pair that comes twice, is measured once.
    unique, inverse = pairs.sort(1).values.unique(dim=0, return_inverse=True)
    lengths = counts[unique]
    order = lengths.amax(1).argsort(stable=True)
    found = torch.empty(len(unique))
    for block in _blocks(lengths.amax(1)[order], joined.shape[1]):
        rows = order[block]
        sides = []
        for side in (0, 1):
            items = unique[rows, side]
            steps = torch.arange(int(counts[items].max()))
            index = offsets[items, None] + steps.clamp(max=counts[items, None] - 1)
            sides.append((joined[index], counts[items]))
        (first, n), (second, m) = sides
        if distance == "edit":
            edits = edit_distances(first[..., 0], n, second[..., 0], m)
            found[rows] = edits / torch.maximum(n, m)
        else:
            found[rows] = warp(frame_costs(first, second, distance), n, m).mean
    return found[inverse]


def _blocks(longest: Tensor, dim: int) -> Iterator[slice]:
    """Stretches of pairs, sorted by length, that fit into a block of memory."""
    start = 0
    while start < len(longest):
        # The last of a stretch is the longest: shrink until it fits.
        size = _BLOCK // int(longest[start]) ** 2 + 1
        while size > 1:
            length = int(longest[min(start + size, len(longest)) - 1])
            if size * length * max(length, dim) <= _BLOCK:
                break
            size //= 2
        yield slice(start, start + size)
        start += size


def _draw(tokens: PhoneTokens, most: int, generator: torch.Generator) -> Tensor:
    """Indices, rising, of at most ``most`` tokens per phone, speaker and context."""
    order = torch.randperm(len(tokens.frames), generator=generator)
    labels = torch.stack([tokens.phones, tokens.speakers, tokens.contexts], 1)[order]
    _, group = labels.unique(dim=0, return_inverse=True)
    by_group = group.argsort(stable=True)
    sizes = torch.bincount(group)
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[group[by_group]]
    return order[by_group[rank < most]].sort().values


def _groups(
    tokens: PhoneTokens, across: bool, most: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of the tokens for A and B, and of those for X."""
    labels = torch.stack([tokens.contexts, tokens.speakers], 1)
    kinds, group = labels.unique(dim=0, return_inverse=True)
    members = group.argsort(stable=True).split(torch.bincount(group).tolist())
    of_context: dict[int, list[int]] = {}
    for k, context in enumerate(kinds[:, 0].tolist()):
        of_context.setdefault(context, []).append(k)
    for k, context in enumerate(kinds[:, 0].tolist()):
        if len(tokens.phones[members[k]].unique()) < 2:
            continue
        if not across:
            yield members[k], members[k]
            continue
        others = torch.tensor([o for o in of_context[context] if o != k])
        drawn = torch.randperm(len(others), generator=generator)[:most]
        for other in others[drawn.sort().values].tolist() if len(others) else ():
            yield members[k], members[other]


def _judge(
    phones: Tensor, ab: Tensor, x: Tensor, distances: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """Phone of A, phones of B, error against each of these, and number of triples."""
    of_ab, of_x = phones[ab], phones[x]
    for phone in of_x.unique():
        mine, asked = of_ab == phone, of_x == phone
        near, far = distances[asked][:, mine], distances[asked][:, ~mine]
        if not near.shape[1] or not far.shape[1]:
            continue
        near, far = near.unsqueeze(2), far.unsqueeze(1)
        wrong = (near > far).double() + (near == far).double() / 2
        # A token is not compared with itself.
        other = ab[mine] != x[asked].unsqueeze(1)
        ways = int(other.sum())
        if not ways:
            continue
        errors = (wrong * other.unsqueeze(2)).sum((0, 1)) / ways
        seconds, errors = _mean_by(of_ab[~mine].unsqueeze(1), errors)
        yield phone, seconds.squeeze(1), errors, ways * far.shape[2]


def _mean_by(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows of ``keys`` and the mean value of each."""
    names, place = keys.unique(dim=0, return_inverse=True)
    total = torch.zeros(len(names), dtype=torch.float64)
    total.index_add_(0, place, values.double())
    return names, total / torch.bincount(place, minlength=len(names))
