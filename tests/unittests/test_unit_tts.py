"""Text to units: levels and durations come back, prompts stay in, batch = solo."""

import pytest
import torch

from speechbrain_dsu.decoders.sampling import Sampling
from speechbrain_dsu.decoders.speech import say
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.lobes.models.aligner import Aligner, best_path
from speechbrain_dsu.lobes.models.text_reader import TextReader
from speechbrain_dsu.nnet.heads import Emission
from speechbrain_dsu.tokens.patterns import Parallel
from speechbrain_dsu.tokens.text import Characters
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.tokens.word_pieces import WordPieces
from speechbrain_dsu.training.systems import build_system
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

SIZES = [11, 7, 5]
SMALL = {"dim": 16, "n_layers": 1, "n_heads": 2, "dropout": 0.0, "voice_dropout": 0.0}
TEXTS = ["three one four", "zero one", "eight"]
MORE = {
    "universal_tokens": {"decoder_layers": 1},
    "qtts_hierarchical": {"depth_dim": 8, "depth_layers": 1, "depth_heads": 2},
    "hebtts": {},
    "uslm": {},
    "qtts": {},
}
WRITERS = sorted(set(MORE) - {"universal_tokens"})


def build(name, sizes=SIZES, **values):
    torch.manual_seed(0)
    options = {**SMALL, **MORE[name], "voices": ["ann", "bob"], "sizes": sizes}
    pieces = b""
    if name == "hebtts":
        pieces = WordPieces.learn(TEXTS * 9, 20)
        options |= {"pieces": 20, "model_bytes": len(pieces)}
    options |= {"units": "f00", **values}
    model = build_system(flatten_yaml, f"systems/tts/{name}.yaml", options)["model"]
    if pieces:
        model.reader.text.load(pieces)
    model.set_pace(3.0, 1.0)
    return model


def batch(frames=(30, 17, 9), sizes=SIZES):
    torch.manual_seed(1)
    codes = torch.stack([torch.randint(n, (3, max(frames))) for n in sizes], 2)
    return codes, torch.tensor(frames).double() / max(frames)


def rows(found):
    counts = absolute_lengths(found.lens, found.codes.shape[1]).tolist()
    return [row[:n] for row, n in zip(found.codes, counts, strict=True)]


@pytest.mark.parametrize("name", sorted(MORE))
def test_losses_read_text_and_voice_but_no_padding(name):
    model = build(
        name, **({} if name == "universal_tokens" else {"condition_dropout": 0})
    )
    codes, lens = batch()
    text, text_lens = model.reader.write(TEXTS)
    voice = torch.tensor([0, 1, 2])

    def losses(text=text, codes=codes, voice=voice):
        torch.manual_seed(2)  # which level, and prompts of which length
        return model(text, text_lens, codes, lens, voice)["loss"]

    first = losses()
    first.backward()
    unused = [k for k, p in model.named_parameters() if p.grad is None]
    assert not unused
    garbage, other = codes.clone(), text.clone()
    for row, count in zip(garbage, (30, 17, 9), strict=True):
        row[count:] = 4 - row[count:].clamp(max=4)
    for row, size in zip(
        other, absolute_lengths(text_lens, text.shape[1]), strict=True
    ):
        row[size:] = 1
    torch.testing.assert_close(losses(text=other, codes=garbage), first)
    assert losses(text=text.roll(1, 1)) != first, "the text isn't read"
    assert losses(voice=voice.flip(0)) != first, "the voice isn't read"


@pytest.mark.parametrize("name", sorted(MORE))
def test_company_changes_nothing(name):
    model = build(name).eval()
    voices = ["ann", None, "bob"]
    together = rows(say(model, TEXTS, voices))
    for text, voice, row in zip(TEXTS, voices, together, strict=True):
        alone = say(model, [text], [voice])
        assert torch.equal(alone.codes[0], row)
        assert row.shape[1] == 3
    assert rows(say(model, [""]))[0].shape[1] == 3


@pytest.mark.parametrize("name", WRITERS)
def test_a_prompt_changes_what_comes_out_and_does_not_come_out(name):
    model = build(name).eval()
    prompt, lens = batch()
    seen = {}
    generators = [torch.Generator().manual_seed(k) for k in range(3)]
    options = {"sampler": Sampling(generator=generators)}
    fill = model.fill

    def spy(codes, code_lens, *rest):
        seen["codes"], (full, _) = codes, fill(codes, code_lens, *rest)
        seen["full"], seen["lens"] = full, code_lens
        return full, code_lens

    model.fill = spy
    found = say(
        model, TEXTS, None, prompt, lens, ["one", "two three"[4:], "four"], **options
    )
    frames = absolute_lengths(seen["lens"], seen["full"].shape[1]).tolist()
    for row, full, size, given in zip(
        rows(found), seen["full"], frames, (30, 17, 9), strict=True
    ):
        assert torch.equal(row, full[given:size])
    if name in ("hebtts", "uslm"):
        for full, item, given in zip(seen["full"], prompt, (30, 17, 9), strict=True):
            assert torch.equal(full[:given], item[:given]), "the prompt was rewritten"
    with pytest.raises(DsuError, match="both"):
        say(model, TEXTS, None, prompt, lens)


def test_levels_that_are_filled_in_are_those_of_one_after_the_other():
    model = build("uslm").eval()
    filler, (codes, lens) = model.filler, batch()
    text, text_lens = model.reader.write(TEXTS)
    voice = torch.zeros(3, dtype=torch.int64)
    full, _ = filler.fill(codes[..., :1], lens, text, text_lens, voice)
    counts = absolute_lengths(lens, codes.shape[1]).tolist()
    for place, count in enumerate(counts):
        size = int(absolute_lengths(text_lens, text.shape[1])[place])
        known = full[place : place + 1, :count]
        for level in (1, 2):
            wrong = known.clone()
            wrong[..., level:] = 0  # what is not known yet must not matter
            logits = filler.logits(
                wrong,
                None,
                None,
                level,
                text[place : place + 1, :size],
                None,
                voice[:1],
            )
            first = filler.layout.vocabulary.offsets[0]
            best = logits[0, :, first : first + SIZES[level]].argmax(-1)
            assert torch.equal(best, known[0, :, level])
        assert not full[place, count:].any()
        assert torch.equal(full[place, :count, 0], codes[place, :count, 0])


def test_durations_expand_exactly():
    model = build("universal_tokens").eval()
    text, lens = model.reader.write(TEXTS)
    torch.manual_seed(3)
    durations = torch.randint(0, 6, text.shape)
    codes, found = model.write(text, lens, torch.zeros(3, dtype=torch.int64), durations)
    sizes = absolute_lengths(lens, text.shape[1]).tolist()
    wanted = [int(row[:n].sum()) for row, n in zip(durations, sizes, strict=True)]
    assert absolute_lengths(found, codes.shape[1]).tolist() == wanted
    states = torch.randn(3, text.shape[1], 16)
    model.decoder = Recorder(16)
    model._frames(states, durations, lens)
    model.place.weight.data.zero_()
    model.place.bias.data.zero_()
    frames, _ = model._frames(states, durations, lens)
    for row, state, many, n in zip(frames, states, durations, sizes, strict=True):
        slow = [state[k] for k in range(n) for _ in range(int(many[k]))]
        assert torch.equal(row[: len(slow)], torch.stack(slow))
    slower = model.write(text, lens, torch.zeros(3, dtype=torch.int64), speed=0.5)[0]
    assert slower.shape[1] >= 1


class Recorder(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x, lens=None):
        return x


def slow_best_path(scores):
    """The best monotonic path by trying all durations."""
    frames, symbols = scores.shape

    def ways(left, parts):
        if parts == 1:
            return [[left]]
        return [
            [first, *rest]
            for first in range(1, left - parts + 2)
            for rest in ways(left - first, parts - 1)
        ]

    def value(durations):
        path = [k for k, many in enumerate(durations) for _ in range(many)]
        return sum(float(scores[t, k]) for t, k in enumerate(path))

    return max(ways(frames, symbols), key=value)


def test_the_alignment_is_the_best_of_all():
    torch.manual_seed(0)
    scores = torch.randn(3, 8, 4).log_softmax(-1)
    counts, frames = torch.tensor([4, 2, 3]), torch.tensor([8, 7, 3])
    found = best_path(scores, counts, frames)
    for row, item, n, size in zip(found, scores, counts, frames, strict=True):
        assert row[:n].tolist() == slow_best_path(item[:size, :n])
        assert not row[n:].any()


def test_the_aligner_learns_where_symbols_are():
    torch.manual_seed(0)
    layout = Parallel(Vocabulary(sizes=(6,), specials=("<pad>",)), ends=False)
    aligner = Aligner(layout, symbols=3, dim=16, width=0.5)
    optimizer = torch.optim.Adam(aligner.parameters(), lr=0.02)
    misplaced = []
    for _ in range(200):
        text = torch.stack([torch.randperm(3) for _ in range(8)])
        truth = torch.stack([torch.tensor([2, 3, 7])[torch.randperm(3)]] * 8)
        codes = (2 * text + torch.randint(2, text.shape)).repeat_interleave(truth[0], 1)
        loss, found = aligner(text, None, layout.apply(codes.unsqueeze(2))[0], None)
        # A frame given to a wrong symbol is missing at its own.
        wrong = (found.cumsum(1) - truth.cumsum(1)).abs().sum()
        misplaced.append(float(wrong / truth.sum()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, after = sum(misplaced[:5]) / 5, sum(misplaced[-20:]) / 20
    assert after < 0.1 < 0.2 < before, (before, after)
    with pytest.raises(DsuError, match="can't be aligned"):
        aligner(text, None, layout.apply(codes[:, :2].unsqueeze(2))[0], None)


class Endless(torch.nn.Module):
    """Wraps a head whose model never emits the end."""

    def __init__(self, head):
        super().__init__()
        self.head, self.begin = head, head.begin
        self.vocabulary, self.streams = head.vocabulary, head.streams

    def emit(self, hidden, sampler):
        def never(logits, stream):
            logits = logits.clone()
            logits[..., self.vocabulary.eos] = -1e9
            return sampler(logits, stream)

        return self.head.emit(hidden, never)

    def forward(self, *args):
        return Emission(*args)


@pytest.mark.parametrize("name", WRITERS)
def test_a_model_that_never_ends_stops(name):
    model = build(name).eval()
    coarse = getattr(model, "coarse", model)
    coarse.head = Endless(coarse.head)
    generators = [torch.Generator().manual_seed(k) for k in range(3)]
    found = say(model, TEXTS, sampler=Sampling(generator=generators))
    lengths = [len(model.reader.text.encode(text)) for text in TEXTS]
    for row, symbols in zip(rows(found), lengths, strict=True):
        assert len(row) <= max(50, -(-3.0 * 2.5 * symbols // 1))
    greedy = say(model, TEXTS, longest=400)
    assert all(len(row) <= 400 for row in rows(greedy))


def test_guidance_of_one_is_none_and_more_amplifies():
    model = build("uslm").eval()
    plain = rows(say(model, TEXTS))
    assert all(map(torch.equal, plain, rows(say(model, TEXTS, guidance=1.0))))
    guided = rows(say(model, TEXTS, guidance=9.0))
    assert not all(
        a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(plain, guided, strict=True)
    )


def test_word_pieces_come_back_and_travel_in_a_state():
    model = WordPieces.learn(TEXTS * 9, 20)
    text = WordPieces(20, len(model)).load(model)
    for line in TEXTS:
        ids = text.encode(line.upper())
        assert text.decode(ids) == line and max(ids) < 20
    assert len(text.encode("three one four")) < len("three one four")
    other = WordPieces(20, len(model))
    with pytest.raises(DsuError, match="no model yet"):
        other.encode("one")
    other.load_state_dict(text.state_dict())
    assert other.encode("three one") == text.encode("three one")
    with pytest.raises(DsuError, match="letters"):
        text.encode("quiz")
    with pytest.raises(DsuError, match="buffer"):
        WordPieces(20, 3).load(model)
    with pytest.raises(DsuError, match="word pieces"):
        WordPieces.learn(["one"], 500)


def test_voices_have_names():
    reader = TextReader(Characters("ab "), 8, ["ann", "bob"])
    assert reader.place("bob") == 1 and reader.place(None) == 2
    with pytest.raises(DsuError, match="no voice 'eve': ann, bob"):
        reader.place("eve")
    with pytest.raises(DsuError, match="once"):
        TextReader(Characters("ab "), 8, ["ann", "ann"])
    with pytest.raises(DsuError, match="takes no prompt"):
        codes, lens = batch()
        say(build("universal_tokens").eval(), TEXTS, None, codes, lens, TEXTS)
