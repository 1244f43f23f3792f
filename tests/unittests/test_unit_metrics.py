"""Unit metrics by hand, beside naive loops and beside outsiders' implementations."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_dsu.evaluation.abx import (
    PhoneTokens,
    abx,
    phone_tokens,
    token_distances,
)
from speechbrain_dsu.evaluation.alignments import (
    Alignment,
    frame_labels,
    phone_ids,
    read_alignments,
)
from speechbrain_dsu.evaluation.distances import edit_distances, frame_costs, warp
from speechbrain_dsu.evaluation.units import (
    joint_counts,
    phone_purity,
    pnmi,
    unit_quality,
)
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import pad_stack


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Mutual information and purity.


def test_unit_quality_by_hand():
    """Two phones of 4 frames; unit 0 holds 3 a, unit 1 one a and 4 b."""
    units = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 9])
    labels = torch.tensor([5, 5, 5, 5, 8, 8, 8, 8, -1])
    found = unit_quality(units, labels, permutations=0)
    h_phone = math.log(2)
    h_given_unit = 5 / 8 * -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert found.pnmi == pytest.approx((h_phone - h_given_unit) / h_phone)
    assert (found.frames, found.phones, found.units) == (8, 2, 2)
    assert found.phone_purity == 7 / 8 == found.cluster_purity
    assert joint_counts(units, labels).tolist() == [[3, 1], [0, 4]]


def test_pnmi_is_scikit_learns_mutual_information_over_entropy():
    metrics = pytest.importorskip("sklearn.metrics")
    units = torch.randint(0, 40, (3000,), generator=seeded())
    labels = (units // 3 + torch.randint(0, 4, (3000,), generator=seeded(1))) % 12
    shared = metrics.mutual_info_score(labels.numpy(), units.numpy())
    alone = metrics.mutual_info_score(labels.numpy(), labels.numpy())
    assert pnmi(joint_counts(units, labels)) == pytest.approx(shared / alone, abs=1e-9)


def test_the_floor_is_what_chance_gives():
    """Many units on few frames explain much of anything; the floor shows it."""
    units = torch.randint(0, 200, (1000,), generator=seeded())
    labels = torch.randint(0, 20, (1000,), generator=seeded(1))
    found = unit_quality(units, labels)
    assert found.pnmi > 0.4
    assert found.pnmi_floor == pytest.approx(found.pnmi, abs=0.02)
    told = unit_quality(labels * 10 + units % 10, labels)
    assert told.pnmi == pytest.approx(1) and told.pnmi_floor < 0.5
    assert found == unit_quality(units, labels)


def test_the_interval_narrows_with_more_utterances_and_holds_the_value():
    units = torch.randint(0, 6, (4000,), generator=seeded())
    noise = torch.rand(4000, generator=seeded(1)) < 0.5
    labels = torch.where(
        noise, torch.randint(0, 6, (4000,), generator=seeded(2)), units
    )
    widths = []
    for frames in (400, 4000):
        groups = torch.arange(frames) // 20
        found = unit_quality(units[:frames], labels[:frames], 0, groups=groups)
        low, high = found.pnmi_interval
        assert 0 < low < found.pnmi < high < 1
        widths.append(high - low)
    # Ten times the utterances: about a third of the width.
    assert 2 < widths[0] / widths[1] < 5
    one = unit_quality(units, labels, 0, groups=torch.zeros(4000))
    assert one.pnmi_interval is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1))
@settings(max_examples=50, deadline=None)
def test_laws_of_pnmi(pairs):
    units, labels = torch.tensor(pairs).unbind(1)
    counts = joint_counts(units, labels)
    assert 0 <= pnmi(counts) <= 1 and 0 < phone_purity(counts) <= 1
    # Names mean nothing, and a unit of its own for each frame explains everything.
    assert pnmi(joint_counts(9 - units, labels)) == pytest.approx(pnmi(counts))
    each = joint_counts(torch.arange(len(labels)), labels)
    assert pnmi(each) == pytest.approx(1 if len(labels.unique()) > 1 else 0)


def test_nothing_labelled_is_an_error():
    with pytest.raises(DsuError, match="none of 2 frames"):
        unit_quality(torch.zeros(2).long(), torch.tensor([-1, -1]))
    with pytest.raises(DsuError, match="of one length"):
        joint_counts(torch.zeros(2).long(), torch.zeros(3).long())


# Distances.


def slow_edits(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, j in itertools.product(range(len(first) + 1), range(len(second) + 1)):
        ways = [table[i - 1][j] + 1] * (i > 0) + [table[i][j - 1] + 1] * (j > 0)
        if i and j:
            ways.append(table[i - 1][j - 1] + (first[i - 1] != second[j - 1]))
        table[i][j] = min(ways, default=0)
    return table[-1][-1]


sequences = st.lists(st.integers(0, 2), max_size=9)


@given(st.lists(st.tuples(sequences, sequences), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_edit_distances_against_a_loop(pairs):
    first, n = pad_stack([torch.tensor(a).long() for a, _ in pairs])
    second, m = pad_stack([torch.tensor(b).long() for _, b in pairs])
    found = edit_distances(first, n, second, m).tolist()
    assert found == [slow_edits(a, b) for a, b in pairs]


def test_edit_distances_are_torchaudios():
    from torchaudio.functional import edit_distance

    first = torch.randint(0, 20, (3, 60), generator=seeded())
    second = torch.randint(0, 20, (3, 45), generator=seeded(1))
    full = torch.full((3,), 60), torch.full((3,), 45)
    found = edit_distances(first, full[0], second, full[1]).tolist()
    pairs = zip(first, second, strict=True)
    assert found == [edit_distance(a.tolist(), b.tolist()) for a, b in pairs]


def slow_warp(costs):
    """Cost and steps; the way back takes the diagonal, then right, then down."""
    n, m = costs.shape
    table = np.full((n, m), np.inf)
    for i, j in itertools.product(range(n), range(m)):
        ways = [table[i - 1, j]] * (i > 0) + [table[i, j - 1]] * (j > 0)
        ways += [table[i - 1, j - 1]] * (i > 0 and j > 0)
        table[i, j] = costs[i, j] + min(ways, default=0)
    i, j, steps = n - 1, m - 1, 1
    while i or j:
        ways = {(1, 1): np.inf, (0, 1): np.inf, (1, 0): np.inf}
        for down, right in ways:
            if i >= down and j >= right:
                ways[down, right] = table[i - down, j - right]
        down, right = min(ways, key=ways.get)
        i, j, steps = i - down, j - right, steps + 1
    return table[-1, -1], steps


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_warping_against_a_loop(n, m, seed, ties):
    costs = torch.rand(2, 8, 9, generator=seeded(seed), dtype=torch.float64)
    costs = (costs * 2).round() if ties else costs
    counts = torch.tensor([n, 8]), torch.tensor([m, 9])
    found = warp(costs, *counts)
    for k, part in enumerate((costs[0, :n, :m], costs[1])):
        cost, steps = slow_warp(part.numpy())
        assert found.cost[k].item() == pytest.approx(cost)
        assert found.steps[k].item() == steps


def test_frame_costs():
    first = torch.randn(2, 4, 16, generator=seeded())
    second = torch.randn(2, 5, 16, generator=seeded(1))
    cosine = torch.nn.functional.cosine_similarity(
        first.unsqueeze(2), second.unsqueeze(1), dim=-1
    )
    assert torch.allclose(frame_costs(first, second, "cosine"), 1 - cosine, atol=1e-5)
    angle = cosine.arccos() / math.pi
    assert torch.allclose(frame_costs(first, second, "angular"), angle, atol=1e-5)
    # Equal vectors are exactly 0 apart.
    assert not frame_costs(first, first, "angular").diagonal(dim1=1, dim2=2).any()
    ids = torch.tensor([[[1, 2], [3, 4]]])
    assert frame_costs(ids, ids[:, :1], "identity").flatten().tolist() == [0, 1]
    with pytest.raises(DsuError, match="take angular"):
        frame_costs(first, second, "euclid")


# ABX.


def ids(*frames):
    return torch.tensor(frames).unsqueeze(1)


def test_abx_by_hand():
    """Phone a: 1, 1, 2; phone b: 2. One frame each, so a distance is 0 or 1.

    X of the first a: A the second (0) or third (1), B 1 away: right, tie: 1/4.
    The second a: the same. The third a: A 1 away, B 0: wrong twice: 1. There is no
    second b to be A. Error (1/4 + 1/4 + 1) / 3 = 1/2.
    """
    zeros = torch.zeros(4, dtype=torch.int64)
    tokens = PhoneTokens(
        [ids(1), ids(1), ids(2), ids(2)], torch.tensor([0, 0, 0, 1]), zeros, zeros
    )
    for distance in ("identity", "edit"):
        found = abx(tokens, distance=distance)
        assert found.error == pytest.approx(1 / 2)
        assert (found.triples, found.pairs) == (6, 1)


def test_abx_across_speakers_by_hand():
    """A and B of one speaker, X of the other, in both directions.

    Speaker 0 says a as 1, b as 2; speaker 1 says a as 1, b as 3. X = a: right both
    ways. X = b of 1 (3): 1 from A = 2 and from B = 1: tie. X = b of 0 (2): tie.
    """
    tokens = PhoneTokens(
        [ids(1), ids(2), ids(1), ids(3)],
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([0, 0, 1, 1]),
        torch.zeros(4, dtype=torch.int64),
    )
    found = abx(tokens, across=True, distance="identity")
    assert found.error == 0.25 and found.triples == 4
    assert abx(tokens, distance="identity").error is None


def slow_abx(tokens, across):
    frames, labels = tokens.frames, [tokens.phones, tokens.speakers, tokens.contexts]
    rows = list(zip(*(x.tolist() for x in labels), strict=True))
    cells = {}
    for x, a, b in itertools.permutations(range(len(rows)), 3):
        (px, sx, cx), (pa, sa, ca), (pb, sb, cb) = rows[x], rows[a], rows[b]
        if not (cx == ca == cb and px == pa != pb and sa == sb):
            continue
        if (sx == sa) == across:
            continue
        near, far = (
            slow_edits(frames[x].flatten().tolist(), frames[o].flatten().tolist())
            / max(len(frames[x]), len(frames[o]))
            for o in (a, b)
        )
        key = (pa, pb), (sa, sx), cx
        cells.setdefault(key, []).append((near > far) + (near == far) / 2)
    count = sum(map(len, cells.values()))
    for _ in range(3):
        upper = {}
        for key, values in cells.items():
            upper.setdefault(key[:-1], []).append(np.mean(values))
        cells = upper
    return np.mean(cells[()]), count


@pytest.mark.parametrize("across", [False, True])
def test_abx_against_a_loop(across):
    generator = seeded(3)
    sizes = torch.randint(1, 5, (28,), generator=generator).tolist()
    frames = [torch.randint(0, 3, (n, 1), generator=generator) for n in sizes]
    labels = [torch.randint(0, k, (28,), generator=generator) for k in (3, 2, 2)]
    tokens = PhoneTokens(frames, *labels)
    found = abx(tokens, across, "edit")
    error, count = slow_abx(tokens, across)
    assert found.error == pytest.approx(error) and found.triples == count


def test_abx_finds_what_is_there_and_only_that():
    """Vectors that carry the phone and, twice as strong, the speaker."""
    generator = seeded()
    phones = torch.arange(120) % 4
    speakers = torch.arange(120) // 4 % 3
    directions = torch.eye(8)
    noise = torch.randn(120, 5, 8, generator=generator) * 0.1
    base = directions[phones] + 2 * directions[4 + speakers]
    zeros = torch.zeros_like(phones)
    told = PhoneTokens(list(base.unsqueeze(1) + noise), phones, speakers, zeros)
    assert abx(told).error < 0.01 and abx(told, across=True).error < 0.05
    blind = PhoneTokens(list(noise), phones, speakers, zeros)
    assert abs(abx(blind).error - 0.5) < 0.05
    assert abx(blind, max_tokens=4, seed=1) == abx(blind, max_tokens=4, seed=1)
    assert abx(blind, max_tokens=4).triples < abx(blind).triples


def test_distances_do_not_depend_on_the_other_pairs():
    generator = seeded()
    frames = [torch.randn(n, 6, generator=generator) for n in (1, 9, 3, 30)]
    pairs = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 3], [2, 3]])
    found = token_distances(frames, pairs)
    assert found[0] == found[1] and found[2] == found[4] and found[3] == 0
    alone = [token_distances(frames, pair.unsqueeze(0)).item() for pair in pairs]
    assert found.tolist() == pytest.approx(alone, abs=1e-6)
    with pytest.raises(DsuError, match="one codebook, got 6"):
        token_distances(frames, pairs, "edit")


# Alignments.


def spans(*rows):
    starts, ends, phones = zip(*rows, strict=True)
    return Alignment(torch.tensor(starts).double(), torch.tensor(ends).double(), phones)


def test_frames_get_the_phone_at_their_centre():
    said = spans((0.1, 0.2, "a"), (0.2, 0.25, "sil"), (0.3, 0.4, "b"))
    times = torch.tensor([0.0, 0.1, 0.1999, 0.2, 0.25, 0.3, 0.39, 0.4])
    table = phone_ids({"u": said})
    assert table == {"a": 0, "b": 1}
    labels = frame_labels(said, times.double(), table)
    assert labels.tolist() == [-1, 0, 0, -1, -1, 1, 1, -1]


def test_tokens_of_phones_carry_their_neighbours():
    said = spans((0, 0.1, "a"), (0.1, 0.2, "b"), (0.2, 0.201, "a"), (0.3, 0.4, "sil"))
    times = torch.arange(8) * 0.05 + 0.02
    frames = torch.arange(8).unsqueeze(1)
    tokens = phone_tokens([(frames, times, said, "p"), (frames, times, said, "q")])
    # The short a has no frame.
    assert [item.flatten().tolist() for item in tokens.frames] == [[0, 1], [2, 3]] * 2
    assert tokens.phones.tolist() == [0, 1, 0, 1]
    assert tokens.speakers.tolist() == [0, 0, 1, 1]
    assert tokens.contexts.tolist() == [0, 1, 0, 1]
    free = phone_tokens([(frames, times, said, "p")], context=False)
    assert free.contexts.tolist() == [0, 0]


TEXT_GRID = """File type = "ooTextFile"
Object class = "TextGrid"
xmin = 0
xmax = 0.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "ah"
    item [2]:
        class = "IntervalTier"
        name = "p1 - phones"
        intervals: size = 2
        intervals [1]:
            xmin = 0.0
            xmax = 0.2
            text = ""
        intervals [2]:
            xmin = 0.2
            xmax = 0.5
            text = "AA1"
"""


def test_alignment_files(tmp_path):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "u.TextGrid").write_text(TEXT_GRID)
    (said,) = read_alignments(tmp_path).values()
    assert said.phones == ("AA1",) and said.starts.tolist() == [0.2]
    table = tmp_path / "a.tsv"
    table.write_text("phone\tutterance\tstart\tend\nb\tu\t.1\t.2\na\tu\t0\t.1\n")
    assert read_alignments(table)["u"].phones == ("a", "b")


@pytest.mark.parametrize(
    "text, said",
    [
        ("utterance,start,end\n", "no column phone"),
        ("utterance,start,end,phone\n", "holds no alignments"),
        ("utterance,start,end,phone\nu,0,x,a\n", ":2: start and end must be seconds"),
        ("utterance,start,end,phone\nu,0,2,a\nu,1,3,b\n", "u: phone 1 .'b'.*overlaps"),
    ],
)
def test_bad_alignment_files_say_where(tmp_path, text, said):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DsuError, match=said):
        read_alignments(path)
    with pytest.raises(DsuError, match="wanted one tier 'phones', there are none"):
        (tmp_path / "u.TextGrid").write_text("0\n")
        read_alignments(tmp_path)
