"""Scripts of language models lose nothing, and SpeechLM keeps its promises."""

import pytest
import torch

from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.lm import SpeechLM
from speechbrain_dsu.inference.loading import load_yaml
from speechbrain_dsu.inference.tokenizer import UnitTokenizer
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.training.lm import Corpus, word_starts
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths
from speechbrain_dsu.utils.paths import hparams_dir

TINY = {"dim": 16, "n_layers": 1, "n_heads": 2, "ffn_dim": 16}


def system(name, seed=0, **changes):
    torch.manual_seed(seed)
    path = hparams_dir() / "systems" / "lm" / f"{name}.yaml"
    built = load_yaml(flatten_yaml(path), {**TINY, **changes})
    built["model"].eval()
    return built


def speech(n=12, size=9, books=1, seed=0):
    """Codes with runs, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for k in range(n):
        units = torch.randint(size, (10 + k, books), generator=generator)
        lasts = torch.randint(1, 4, (len(units),), generator=generator)
        rows.append(units.repeat_interleave(lasts, 0))
    return rows


@pytest.mark.parametrize("name", ["gslm", "dau_bpe", "sutlm"])
def test_what_is_written_comes_back(name):
    pieces = {"pieces": 20} if name == "dau_bpe" else {}
    script = system(name, sizes=[9], **pieces)["script"]
    rows = speech()
    script.fit(rows)
    batch = Tokens.from_list(rows, 50.0, (9,), "")
    ids, _ = script.write(batch.codes, batch.lens)
    runs = script.runs(batch.codes, batch.lens)
    codes, lens = script.read(ids, runs)
    found = Tokens(codes, lens, 50.0, (9,), "")
    for before, after in zip(rows, found.unpad(), strict=True):
        assert after.equal(before)
    # Without the prompt's runs: the same units, each as long as usual.
    codes, lens = script.read(ids)
    again, _ = script.write(codes, lens)
    assert script.runs(codes, lens).units.equal(runs.units) and again.equal(ids)
    total = sum(map(len, rows))
    assert abs(int(absolute_lengths(lens, codes.shape[1]).sum()) - total) < 0.15 * total


def test_durations_are_the_means_of_training():
    script = system("gslm", sizes=[3])["script"]
    script.fit([torch.tensor([[0], [0], [0], [1], [0]]), torch.tensor([[1], [1]])])
    # Unit 2 never came: the mean of all runs, 7 frames in 4.
    assert script.durations.tolist() == [2.0, 1.5, 1.75]
    assert float(script.frames_per_unit) == 1.75


def test_subwords_travel_in_the_weights():
    first = system("dau_bpe", sizes=[9], pieces=20)
    first["script"].fit(speech())
    second = system("dau_bpe", sizes=[9], pieces=20)
    codes = speech(1)[0][None]
    with pytest.raises(DsuError, match="no subwords yet"):
        second["script"].write(codes)
    second["script"].load_state_dict(first["script"].state_dict())
    ids = second["script"].write(codes)[0]
    assert ids.equal(first["script"].write(codes)[0])
    plain = system("gslm", sizes=[9])["script"].write(codes)[0]
    assert ids.shape[1] < plain.shape[1]


@pytest.mark.parametrize("kind", ["text", "text_speech", "speech_text", "alternate"])
def test_both_streams_of_a_mix_come_apart(kind):
    script = system("sutlm", sizes=[9])["script"]
    row = speech(1)[0]
    entry = {"text": "five nine", "word_starts": "0.06 0.22"}
    corpus = Corpus(script, {"a": row}.get, {"a": entry})
    ids = corpus.write(f"a|{kind}")[None]
    assert script.text_of(ids) == ["five nine"]
    runs = script.runs(row[None])
    codes, _ = script.read(ids, runs)
    assert codes[0].equal(row[: 0 if kind == "text" else None])
    turns = script.layout.vocabulary
    opened = int((ids == turns["<speech>"]).sum())
    # Words stand at frames 3 and 11: speech before, between and behind them.
    assert opened == {"text": 0, "alternate": 3}.get(kind, 1)


def test_words_without_times_share_the_recording():
    assert word_starts({"text": "ab c"}, 8, 50.0) == [0, 0, 4, 4]
    with pytest.raises(DsuError, match="1 word_starts for 2 words"):
        word_starts({"text": "a b", "word_starts": "0.1"}, 8, 50.0)


@pytest.fixture(scope="module")
def lms():
    tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    units = {"sizes": [100], "units": tokenizer.fingerprint}
    names = {"gslm": "gslm", "draft": "gslm", "joint": "sutlm"}
    out = {}
    for seed, (key, name) in enumerate(names.items()):
        built = system(name, seed, **units)
        # Tied random weights would repeat the last unit; and sharp odds, so that
        # nothing hangs on rounding.
        head = built["model"].head
        head.out.weight = torch.nn.Parameter(torch.randn_like(head.out.weight))
        out[key] = SpeechLM({**built["modules"], "tokenizer": tokenizer})
    return out


WAVS = 0.1 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
LENS = torch.tensor([1.0, 0.6])


def codes_of(found):
    return [row[:, 0].tolist() for row in found.tokens.unpad()]


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_batch_is_one_by_one(lms, temperature):
    lm, how = lms["gslm"], {"seconds": 0.4, "temperature": temperature}
    together = codes_of(lm.continue_batch(WAVS, LENS, **how))
    # Item k of a batch draws with seed + k.
    alone = [
        codes_of(lm.continue_batch(WAVS[k : k + 1, :n], seed=k, **how))[0]
        for k, n in enumerate((9000, 5400))
    ]
    assert together == alone
    total, count = lm.log_likelihood_batch(WAVS, LENS)
    one = lm.log_likelihood_batch(WAVS[1:, :5400])
    torch.testing.assert_close(total[1:], one[0])
    assert count[1:].equal(one[1])


def test_the_prompt_stays_and_the_length_is_kept(lms):
    lm = lms["gslm"]
    found = lm.continue_batch(WAVS, LENS, seconds=0.4)
    tokens = lm.mods.tokenizer.encode(WAVS, LENS)
    for row, prompt in zip(found.tokens.unpad(), tokens.unpad(), strict=True):
        assert row[: len(prompt)].equal(prompt)
        assert len(row) <= len(prompt) + 20
    assert found.tokens.fingerprint == lm.mods.tokenizer.fingerprint


def test_a_draft_changes_nothing_of_what_is_likeliest(lms):
    lm, draft = lms["gslm"], lms["draft"]
    how = {"seconds": 0.4, "temperature": 0}
    plain = lm.continue_batch(WAVS, LENS, **how)
    fast = lm.continue_batch(WAVS, LENS, draft=draft, ahead=3, **how)
    assert codes_of(fast) == codes_of(plain)
    assert plain.speculation is None and fast.speculation.proposed > 0
    itself = lm.continue_batch(WAVS, LENS, draft=lm, **how)
    assert itself.speculation.acceptance > fast.speculation.acceptance


def test_coarse_groups_accept_more(lms):
    lm, draft = lms["gslm"], lms["draft"]
    share = {}
    for coarse in (1.1, 0.0):
        kept = [
            lm.continue_batch(WAVS, draft=draft, coarse=coarse, seed=s, seconds=0.5)
            for s in range(0, 20, 2)
        ]
        share[coarse] = sum(k.speculation.accepted for k in kept) / sum(
            k.speculation.proposed for k in kept
        )
    assert share[0.0] > share[1.1]


def test_a_joint_model_goes_on_in_either(lms):
    lm = lms["joint"]
    spoken = lm.continue_text(["nine", "six"], seconds=0.3, temperature=0)
    assert spoken.text == ["nine", "six"] and spoken.prompts.tolist() == [0, 0]
    written = lm.continue_batch(WAVS, LENS, writes="text", seconds=0.2, temperature=0)
    plain = lm.mods.tokenizer.encode(WAVS, LENS)
    assert written.tokens.counts.equal(plain.counts)
    assert all(len(text) > 0 for text in written.text)


def test_eight_bits_change_the_odds_a_little(lms):
    lm = lms["gslm"]
    small = SpeechLM(dict(lm.mods.items())).use_int8()
    exact, count = lm.log_likelihood_batch(WAVS)
    rounded, _ = small.log_likelihood_batch(WAVS)
    assert not rounded.equal(exact)
    assert ((rounded - exact).abs() / count < 0.1).all()
    assert lm.log_likelihood_batch(WAVS)[0].equal(exact), "the model was changed"


def test_foreign_tokens_drafts_and_text_are_refused(lms):
    other = UnitTokenizer.from_hparams("logmel-k100")
    with pytest.raises(DsuError, match="take the tokenizer"):
        lms["gslm"].continue_tokens(other.encode_batch(WAVS))
    with pytest.raises(DsuError, match="other ids"):
        lms["gslm"].continue_batch(WAVS, draft=lms["joint"])
    with pytest.raises(DsuError, match="knows no text"):
        lms["gslm"].continue_text("one")
    with pytest.raises(DsuError, match="seconds=0"):
        lms["gslm"].continue_batch(WAVS, seconds=0)
