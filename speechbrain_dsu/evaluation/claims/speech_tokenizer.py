"""Claim 9: a teacher's content goes into the first codebook, at no cost to the sound.

Zhang et al., "SpeechTokenizer: Unified Speech Tokenizer for Speech Large Language
Models" (2023): the first residual codebook is pulled towards frames of a
self-supervised model, the others keep what is left. Here: two small codecs that
differ in this loss alone, and a phone classifier's hidden layer as the teacher.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.aligned_speech import (
    HOP,
    RATE,
    Aligned,
    PhoneClassifier,
    Spoken,
    read_aligned,
    train_classifier,
)
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Found,
    make_result,
    make_row,
    seeded,
)
from speechbrain_dsu.evaluation.claims.small_training import (
    draw_crops,
    small_codec,
    spectral_loss,
    train,
)
from speechbrain_dsu.evaluation.probes import probe, unit_histograms
from speechbrain_dsu.evaluation.resynthesis import mel_distance, stoi
from speechbrain_dsu.evaluation.units import unit_quality
from speechbrain_dsu.tokens.streams import Tokens

CLAIM = (
    "With distillation the first codebook tells more of phones and less of speakers, "
    "and all codebooks together reconstruct as well (within 5 %)."
)
_DIM, _BOOKS, _SIZE = 32, 4, 64
_PLAIN, _DISTILLED = "plain RVQ", "distilled"
# The paper's 120 for distillation beside 45 for the mel distance.
_DISTILLATION = 120 / 45
_COMMITMENT = 0.25
_FRAMES, _BATCH = 32, 8
_ABSENT = "a plain codec takes the distilled one's weights and gives its codes"
_LEVELS = "n levels are the first n codes, decoded to the first n vectors' sum"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With synth/.
    quick : bool
        Two seeds, less speech, fewer steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    seeds = range(2 if quick else 3)
    steps = 3 if quick else 160
    found = Found()
    laws = {_ABSENT: True, _LEVELS: True}
    for seed in seeds:
        with seeded(seed) as generator:
            size = {"speakers": 2, "each": 3} if quick else {"speakers": 8, "each": 24}
            held_out = 2 if quick else 12
            speech = read_aligned(data, 9, generator, **size, held_out=held_out)
            teacher = train_classifier(speech, 3 if quick else 240, generator)
        for name in (_PLAIN, _DISTILLED):
            with seeded(seed) as generator:
                taught = teacher if name == _DISTILLED else None
                codec = train_pair(speech, taught, steps, generator)
            found.note_all(name, _measures(codec, speech))
            wavs = speech.sentences[0].wav.unsqueeze(0)
            laws[_LEVELS] &= levels_are_prefixes(codec, wavs)
        laws[_ABSENT] &= fits_plain(codec, wavs)
    return make_result(
        9, "SpeechTokenizer", CLAIM, _setup(len(seeds), steps), _rows(found), laws
    )


def _setup(seeds: int, steps: int) -> str:
    return (
        f"{_BOOKS} codebooks of {_SIZE}, 50 frames a second, in a small codec (log-mel "
        "frames and ConvNeXt; ConvNeXt and inverse Fourier transform; not the paper's "
        "SEANet), spectral losses without discriminators, "
        f"{steps} steps of {_BATCH} x {_FRAMES * HOP / RATE:.2f} s. Synthetic English "
        "with aligned phones. Teacher: hidden layer of a phone classifier trained "
        "with vocal tracts of five lengths on the same speech's labels. PNMI: mutual "
        "information of first codes and phones less that of shuffled labels. Speaker: "
        "linear probe on histograms of first codes, new sentences of training "
        f"voices. {seeds} seeds for speech, start and batches. {RULE}"
    )


def _rows(found: Found) -> list[dict[str, Any]]:
    expected = {
        "PNMI, new sentences": "higher",
        "PNMI, new voices": "higher",
        "speaker told": "lower",
        "mel distance, dB": NOT_STATED,
        "STOI": NOT_STATED,
    }
    rows = [
        found.row(measure, _PLAIN, _DISTILLED, wanted)
        for measure, wanted in expected.items()
    ]
    plain, distilled = (found["mel distance, dB", n] for n in (_PLAIN, _DISTILLED))
    ratio = [d / p for d, p in zip(distilled, plain, strict=True)]
    whole = _PLAIN, [1.0] * len(ratio)
    rows.append(
        make_row("mel distance, share", whole, (_DISTILLED, ratio), "within 0.05")
    )
    return rows


def plain_codec() -> nn.Module:
    """An untrained codec of residual codebooks."""
    codec = small_codec(_DIM)["codec"]
    sizes = {"n_codebooks": _BOOKS, "size": _SIZE, "dim": _DIM}
    codec.quantizer = block("quantizer_rvq", dropout=0.0, **sizes)
    return codec


def train_pair(
    speech: Aligned,
    teacher: PhoneClassifier | None,
    steps: int,
    generator: torch.Generator,
) -> nn.Module:
    """A codec, with distillation where a teacher is given.

    The same generator state gives the same first weights and batches either way.
    """
    codec = plain_codec()
    spectral = spectral_loss()
    tracks: list[tuple[Tensor, ...]] = [
        (item.wav.view(-1, HOP),) for item in speech.train
    ]
    trained = nn.ModuleList([codec])
    if teacher is not None:
        pairs = zip(tracks, speech.train, strict=True)
        tracks = [(*track, teacher.teach(item.wav)) for track, item in pairs]
        width = teacher.outer.in_features
        distil = block("loss_distillation", dim=_DIM, teacher_dim=width)
        trained.append(distil)

    def loss() -> Tensor:
        cut, *taught = draw_crops(tracks, _FRAMES, _BATCH, generator)
        wavs = cut.flatten(1)
        out = codec(wavs)
        total = spectral(out.audio, wavs)
        total = total + _COMMITMENT * sum(out.quantized.losses.values())
        if taught:
            codes = out.quantized.codes
            terms = distil(codec.quantizer, out.latents, codes, *taught)
            total = total + _DISTILLATION * terms["distillation"]
        return total

    train(trained, loss, steps)
    return codec


@torch.no_grad()
def first_codes(codec: nn.Module, speech: Sequence[Spoken]) -> list[Tensor]:
    """Codes ``[n]`` of the first codebook, per utterance."""
    found = []
    for item in speech:
        latents = codec.encoder(item.wav.unsqueeze(0))
        found.append(codec.quantizer.encode(latents, 1)[0, :, 0])
    return found


def _measures(codec: nn.Module, speech: Aligned) -> dict[str, float]:
    ids, out = speech.ids(), {}
    sentences = first_codes(codec, speech.sentences)
    parts = {
        "new sentences": (speech.sentences, sentences),
        "new voices": (speech.voices, first_codes(codec, speech.voices)),
    }
    for name, (items, codes) in parts.items():
        labels = torch.cat([item.labels(ids) for item in items])
        quality = unit_quality(torch.cat(codes), labels)
        out[f"PNMI, {name}"] = quality.pnmi - quality.pnmi_floor
    histograms = torch.cat([_histogram(codes) for codes in sentences])
    names = speech.speakers()
    who = torch.tensor([names.index(item.speaker) for item in speech.sentences])
    out["speaker told"] = probe(histograms, who).accuracy
    scores = [_reconstruct(codec, item.wav) for item in speech.voices]
    out["mel distance, dB"] = fmean(mel for mel, _ in scores)
    out["STOI"] = fmean(clear for _, clear in scores)
    return out


def _histogram(codes: Tensor) -> Tensor:
    one = torch.ones(1)
    return unit_histograms(Tokens(codes.view(1, -1, 1), one, 50.0, (_SIZE,), "-"))


@torch.no_grad()
def _reconstruct(codec: nn.Module, wav: Tensor) -> tuple[float, float]:
    decoded = codec(wav.unsqueeze(0)).audio[0]
    return (
        mel_distance(wav, RATE, decoded, RATE)[0],
        stoi(wav, RATE, decoded, RATE),
    )


@torch.no_grad()
def fits_plain(codec: nn.Module, wavs: Tensor) -> bool:
    """Whether a codec without a teacher takes its weights, all, and gives its codes."""
    plain = plain_codec().eval()
    plain.load_state_dict(codec.state_dict(), strict=True)
    return torch.equal(plain(wavs).quantized.codes, codec(wavs).quantized.codes)


@torch.no_grad()
def levels_are_prefixes(codec: nn.Module, wavs: Tensor) -> bool:
    """Whether the first n codebooks alone decide what n levels give, for every n."""
    full = codec(wavs).quantized.codes
    vectors = codec.quantizer.embed(full)
    held = True
    for n in range(1, full.shape[2] + 1):
        part = codec(wavs, n_codebooks=n)
        held &= torch.equal(part.quantized.codes, full[..., :n])
        wanted = vectors[:, :, :n].sum(2)
        held &= torch.allclose(part.quantized.quantized, wanted, atol=1e-5)
        audio = codec.decoder(codec.quantizer.decode(full[..., :n]))
        held &= torch.allclose(part.audio, audio[:, : wavs.shape[1]], atol=1e-5)
    return held
