"""Vocoders of units: lengths, company, voices, contours, durations, refusals."""

import pytest
import torch

from speechbrain_dsu.evaluation.pitch import pitch
from speechbrain_dsu.lobes.contours import (
    EnergyTracker,
    PitchTracker,
    cut_frames,
    normalised,
)
from speechbrain_dsu.lobes.vocoders.conditions import (
    CodedContour,
    Contour,
    Durations,
    FrameContent,
    UnitContent,
    Voices,
)
from speechbrain_dsu.lobes.vocoders.hifigan import HifiganDecoder, upsampling
from speechbrain_dsu.lobes.vocoders.levels import LevelDecoder
from speechbrain_dsu.lobes.vocoders.seanet import SEANetDecoder
from speechbrain_dsu.lobes.vocoders.unit_vocoder import UnitVocoder
from speechbrain_dsu.lobes.vocoders.vocos import VocosDecoder
from speechbrain_dsu.nnet.quantizers.codebook import Codebook
from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import bundles_dir

SMALL = {"channels": 16, "hidden": 16, "layers": 1}
GENERATORS = {
    "levels": lambda: LevelDecoder(20, rounds=2, **SMALL),
    "vocos": lambda: VocosDecoder(20, **SMALL),
    "hifigan": lambda: HifiganDecoder(20, channels=16, kernels=[3]),
    "seanet": lambda: SEANetDecoder(16000, n_filters=2, dim=20, lstm_layers=0),
}


def clip(seconds=1.0):
    wav = read_audio(bundles_dir() / "speech.wav", 16000)[0]
    return wav[8000 : 8000 + round(16000 * seconds)]


def make(generator="levels", durations=True, sizes=(9, 5)):
    torch.manual_seed(0)
    return UnitVocoder(
        GENERATORS[generator](),
        UnitContent(sizes, 8),
        Voices(["ann", "bob", "cid"], 8),
        {"pitch": Contour(PitchTracker(), 4)},
        Durations(16) if durations else None,
        units="f00",
    ).eval()


def tokens_of(*counts, sizes=(9, 5), fingerprint="f00"):
    generator = torch.Generator().manual_seed(3)
    draw = [
        torch.stack(
            [torch.randint(s, (n,), generator=generator) for s in sizes], dim=-1
        )
        for n in counts
    ]
    return Tokens.from_list(draw, 50.0, sizes, fingerprint)


@pytest.mark.parametrize("generator", GENERATORS)
def test_lengths_are_exact_and_company_changes_nothing(generator):
    vocoder = make(generator)
    tokens = tokens_of(5, 1, 0, 12, 5)
    contour = torch.randn(5, 12, 2)
    voices = ["bob", "ann", "ann", "cid", "bob"]
    wavs, lens = vocoder.decode(tokens, voices, pitch=contour)
    assert wavs.shape == (5, 12 * 320)
    assert (lens * wavs.shape[1]).round().tolist() == [1600, 320, 0, 3840, 1600]
    for place, name in enumerate(voices):
        alone = tokens[place]
        count = alone.codes.shape[1]
        wav, _ = vocoder.decode(alone, name, pitch=contour[place : place + 1, :count])
        found = wavs[place, : count * 320]
        torch.testing.assert_close(wav[0], found, rtol=1e-4, atol=1e-5)
        assert not wavs[place, count * 320 :].any()


def test_voice_and_pitch_are_heard_and_pitch_may_be_left_out():
    vocoder = make()
    tokens = tokens_of(10)
    wav, _ = vocoder.decode(tokens, "ann")
    assert not torch.allclose(wav, vocoder.decode(tokens, "bob")[0], atol=1e-4)
    risen = torch.ones(1, 10, 2)
    assert not torch.allclose(wav, vocoder.decode(tokens, "ann", pitch=risen)[0], 1e-4)
    again, _ = vocoder.decode(tokens, torch.tensor([0]), pitch=None)
    assert torch.equal(wav, again)


def test_speaker_vectors_count_by_direction():
    voices = Voices(["ann"], 4, vector=6)
    vectors = torch.randn(2, 6)
    torch.testing.assert_close(voices(vectors, 2), voices(3 * vectors, 2))
    with pytest.raises(DsuError, match="by name"):
        Voices(["ann"], 4)(vectors, 2)
    with pytest.raises(DsuError, match=r"\[2, 6\]"):
        voices(torch.randn(2, 5), 2)


def test_what_it_can_not_do_is_said():
    vocoder, tokens = make(durations=False), tokens_of(4)
    with pytest.raises(DsuError, match="another tokenizer: theirs is f11"):
        vocoder.decode(tokens_of(4, fingerprint="f11"), "ann")
    with pytest.raises(DsuError, match="1 codebooks"):
        vocoder.decode(tokens.codebooks(1), "ann")
    with pytest.raises(DsuError, match="'eve' is not among the voices: ann, bob"):
        vocoder.decode(tokens, "eve")
    with pytest.raises(DsuError, match="name a speaker: one of ann"):
        vocoder.decode(tokens)
    with pytest.raises(DsuError, match="takes no 'energy'"):
        vocoder.decode(tokens, "ann", energy=torch.zeros(1, 4, 1))
    with pytest.raises(DsuError, match="contour"):
        vocoder.decode(tokens, "ann", pitch=torch.zeros(1, 3, 2))
    with pytest.raises(DsuError, match="no durations"):
        vocoder.decode(tokens, "ann", deduplicated=True)
    with pytest.raises(DsuError, match="20"):
        UnitVocoder(GENERATORS["levels"](), UnitContent([4], 8), Voices(["a"], 8))
    with pytest.raises(DsuError, match="different names"):
        Voices(["ann", "ann"], 4)


def test_a_contour_is_hidden_in_training_only():
    stream = Contour(PitchTracker(), 4, hide=0.5)
    contour = torch.randn(64, 3, 2)
    torch.manual_seed(0)
    trained = stream.train()(contour, 64, 3)[0]
    used = stream.eval()(contour, 64, 3)[0]
    absent = stream(None, 64, 3)[0]
    hidden = (trained == absent).flatten(1).all(1)
    assert 16 < int(hidden.sum()) < 48
    assert torch.equal(trained[~hidden], used[~hidden])


def test_durations_learn_how_long_units_last():
    torch.manual_seed(0)
    vocoder = make(sizes=(6,)).train()
    # Unit u lasts 1 + u frames, in any order.
    units = torch.stack([torch.randperm(6) for _ in range(32)])
    codes = [u.repeat_interleave(u + 1) for u in units]
    codes = torch.stack(codes).unsqueeze(-1)
    optimizer = torch.optim.Adam(vocoder.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        vocoder(codes, None, "ann").losses["durations"].backward()
        optimizer.step()
    runs = deduplicate(codes[:4])
    tokens = Tokens(runs.units, runs.lens, 50.0, (6,), "f00")
    wavs, lens = vocoder.eval().decode(tokens, "ann", deduplicated=True)
    frames = (lens * wavs.shape[1]).round() / 320
    assert (frames - 21).abs().max() <= 2


def test_the_duration_of_a_cut_run_does_not_count():
    vocoder = make(sizes=(6,)).eval()
    codes = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2, 2]]).unsqueeze(-1)
    longer = torch.cat([codes[:, :1], codes, codes[:, -1:]], dim=1)
    losses = [vocoder(c, None, "ann").losses["durations"] for c in (codes, longer)]
    torch.testing.assert_close(*losses)


def test_pitch_follows_a_slow_reference_and_leaves_the_register_out():
    steps = torch.arange(16000) / 16000
    for hertz in (90.0, 150.0, 320.0):
        wav = torch.sin(2 * torch.pi * hertz * steps) * 0.3
        found = PitchTracker().hertz(wav[None])[0]
        assert found.shape == (50,)
        torch.testing.assert_close(
            found[5:45], torch.full((40,), hertz), rtol=0.02, atol=0
        )
    speech = clip(2.0)
    found, slow = PitchTracker().hertz(speech[None])[0], pitch(speech)[1::2]
    both = (found > 0) & (slow[: len(found)] > 0)
    assert both.float().mean() > 0.3
    error = (found[both] / slow[: len(found)][both]).log2().abs()
    assert error.median() < 1 / 24, "half a semitone"
    assert (error > 0.3).float().mean() < 0.1
    hertz = torch.tensor([[100.0, 0.0, 120.0]])
    torch.testing.assert_close(normalised(hertz), normalised(1.7 * hertz))
    assert not PitchTracker()(torch.zeros(1, 3200)).any()


def test_trackers_cut_frames_around_each_hop():
    wav = torch.arange(40.0)
    frames = cut_frames(wav[None], hop=8, window=16)[0]
    for t in range(5):
        first = t * 8 - 4
        row = [float(s) if 0 <= s < 40 else 0.0 for s in range(first, first + 16)]
        assert frames[t].tolist() == row
    assert cut_frames(wav[None], 8, 16, frames=7).shape == (1, 7, 16)
    loud = torch.cat([0.01 * torch.ones(3200), torch.ones(3200)])
    energy = EnergyTracker()(loud[None])[0, :, 0]
    assert (energy[11:] > 0).all() and (energy[:9] < 0).all()


def test_a_coded_contour_sends_no_gradient_back_and_holds_its_codes():
    torch.manual_seed(0)
    coded = CodedContour(PitchTracker(), Codebook(8, 6), dim=6, every=4)
    contour = torch.randn(3, 10, 2)
    vectors, losses = coded(contour, 3, 10)
    assert not vectors.requires_grad and losses["pitch"].requires_grad
    losses["pitch"].backward()
    assert coded.encoder[0].weight.grad.abs().sum() > 0
    held, _ = coded.eval()(contour, 3, 10)
    codes = coded.codes(contour)
    assert codes.shape == (3, 3, 1)
    expected = coded.quantizer.decode(codes).repeat_interleave(4, dim=1)[:, :10]
    torch.testing.assert_close(held, expected)


def test_soft_units_go_in_as_frames():
    torch.manual_seed(0)
    vocoder = UnitVocoder(
        LevelDecoder(20, rounds=1, **SMALL), FrameContent(6, 12), Voices(["a"], 8)
    ).eval()
    frames = [torch.randn(4, 6), torch.randn(7, 6)]
    wavs, lens = vocoder.decode_frames(frames, vocoder.speakers(None, 2))
    alone, _ = vocoder.decode_frames(frames[:1], vocoder.speakers("a", 1))
    torch.testing.assert_close(wavs[0, :1280], alone[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(DsuError, match="soft units"):
        vocoder.decode(tokens_of(4), "a")


def test_upsampling_multiplies_to_the_hop():
    for hop in (320, 200, 160, 480, 441, 7):
        assert torch.tensor(upsampling(hop)).prod() == hop
    with pytest.raises(DsuError, match="hop=320"):
        HifiganDecoder(4, hop=320, factors=[8, 8])


@pytest.mark.parametrize("hop", [160, 200, 320])
def test_levels_of_any_hop_measure_what_they_write(hop):
    decoder = LevelDecoder(4, hop=hop, win=None, rounds=1, **SMALL)
    target, latents = decoder.target(), torch.randn(1, 6, 4)
    assert target(torch.randn(1, 6 * hop)).shape == decoder.levels(latents).shape
    assert decoder.win >= 640 and decoder(latents).shape == (1, 6 * hop)


def test_jitter_borrows_from_neighbours_in_training_only():
    torch.manual_seed(0)
    heard = {}

    class Spy(UnitContent):
        def forward(self, codes):
            heard.setdefault(len(heard), codes)
            return super().forward(codes)

    generator, voices = GENERATORS["levels"](), Voices(["ann"], 8)
    vocoder = UnitVocoder(generator, Spy([1000], 12), voices, jitter=0.2)
    codes = torch.arange(400).expand(2, -1).unsqueeze(-1)
    lens = torch.tensor([1.0, 0.5])
    vocoder.train()(codes, lens, "ann")
    vocoder.eval()(codes, lens, "ann")
    steps = (heard[0] - codes)[..., 0]
    counts = [int((steps[0] == step).sum()) for step in (-1, 0, 1)]
    assert sum(counts) == 400
    assert 25 <= counts[0] <= 55 and 25 <= counts[2] <= 55  # 10 % each way
    assert heard[0][1, :200].max() <= 199  # nothing from the padding
    assert heard[1].equal(codes)
    with pytest.raises(DsuError, match="jitter"):
        UnitVocoder(generator, UnitContent([9], 12), voices, jitter=2.0)
