"""Claim 65: units learnt without labels tell phones and leave the voice to the decoder.

van den Oord et al., "Neural Discrete Representation Learning" (VQ-VAE, 2017): one
codebook between an encoder and a decoder that is told the speaker; the codes are used,
name phones better than chance, carry over to other speakers, and a prior learnt on
them is worth having. Here: a small autoencoder of 16 kHz speech, its decoder given the
speaker's vector, and a recurrent prior. What comes out is judged by classifiers
trained on natural speech: of phones (frame by frame), and of speakers (linear, on mean
and deviation of cepstra).
"""

from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.aligned_speech import (
    HOP,
    RATE,
    Aligned,
    PhoneClassifier,
    Spoken,
    log_mel_50,
    mel_frames,
    read_aligned,
    train_classifier,
)
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Found,
    guess_accuracy,
    make_result,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.evaluation.claims.small_training import (
    draw_crops,
    small_codec,
    spectral_loss,
    train,
)
from speechbrain_dsu.evaluation.claims.unit_prior import (
    Prior,
    bigram_nats,
    train_prior,
    unigram_nats,
)
from speechbrain_dsu.evaluation.probes import fit_probe
from speechbrain_dsu.evaluation.resynthesis import mel_distance
from speechbrain_dsu.evaluation.speaker import mfcc_statistics
from speechbrain_dsu.utils.nearest import nearest_centers

CLAIM = (
    "Units tell more of phones than nothing does; with another speaker's vector the "
    "voice changes and the phones stay; the decoder uses the codes; a learnt prior "
    "beats frequencies."
)
_DIM, _SIZE, _VOICE = 32, 128, 16
_FRAMES, _BATCH = 32, 8
_STE = "the encoder's gradient is the decoder input's, exactly"
_OWN, _SWAPPED = "own vector", "another's vector"
_UNITS, _CLUSTERS = "VQ-VAE", "log-mel k-means"
_MAJORITY = "commonest phone"


class VqVae(nn.Module):
    """One codebook, and a decoder that is told who speaks.

    Arguments
    ---------
    speakers : int
        How many there are.
    """

    def __init__(self, speakers: int):
        super().__init__()
        parts = small_codec(_DIM, decoder_dim=_DIM + _VOICE)
        self.encoder, self.decoder = parts["encoder"], parts["decoder"]
        self.quantizer = block("quantizer_vq", size=_SIZE, dim=_DIM)
        self.voices = nn.Embedding(speakers, _VOICE)

    def render(self, quantized: Tensor, who: Tensor) -> Tensor:
        """Waveforms of ``[batch, frames, dim]`` by the speakers ``[batch]``."""
        voice = self.voices(who).unsqueeze(1).expand(-1, quantized.shape[1], -1)
        return self.decoder(torch.cat([quantized, voice], 2))

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """Codes ``[n]`` of ``[n * HOP]`` samples."""
        return self.quantizer.encode(self.encoder(wav.unsqueeze(0)))[0, :, 0]

    @torch.no_grad()
    def decode(self, codes: Tensor, who: int) -> Tensor:
        """Samples ``[n * HOP]`` of codes ``[n]``."""
        quantized = self.quantizer.decode(codes.view(1, -1, 1))
        return self.render(quantized, torch.tensor([who]))[0]


class Judges(NamedTuple):
    """Phones' and speakers' classifiers, trained on natural speech."""

    phones: PhoneClassifier
    speakers: Any


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
    steps = 3 if quick else 200
    found = Found()
    laws = {_STE: True}
    for seed in seeds:
        with seeded(seed) as generator:
            size = {"speakers": 2, "each": 3} if quick else {"speakers": 6, "each": 28}
            held_out = 2 if quick else 8
            speech = read_aligned(data, 65, generator, **size, held_out=held_out)
            judges = _judges(speech, 3 if quick else 240, generator)
            model = VqVae(len(speech.speakers()))
            laws[_STE] &= gradient_passes(model.quantizer)
            train_vq_vae(model, speech, steps, generator)
            for measured in (
                _phones(model, speech, generator),
                _swaps(model, speech, judges, generator),
                _priors(model, speech, 3 if quick else 120, generator),
            ):
                for (name, measure), value in measured.items():
                    found.note(measure, name, value)
    return make_result(
        65, "VQ-VAE", CLAIM, _setup(len(seeds), steps), _rows(found), laws
    )


def _setup(seeds: int, steps: int) -> str:
    return (
        f"One codebook of {_SIZE}, 50 frames a second, in a small autoencoder (log-mel "
        "frames and ConvNeXt; ConvNeXt and inverse Fourier transform; not the paper's "
        f"strided convolutions and WaveNet); spectral losses, {steps} steps of "
        f"{_BATCH} x {_FRAMES * HOP / RATE:.2f} s. Synthetic English, six voices. "
        "Phone told: accuracy of the phone that a unit had most often in training; "
        "commonest phone: without units. Decoded speech is judged by classifiers "
        "trained on natural speech; targets are the next speaker's vectors. Prior: a "
        "GRU over units, nats a unit. "
        f"{seeds} seeds for speech, start and batches. {RULE}"
    )


def _rows(found: Found) -> list[dict[str, Any]]:
    plan = [
        ("phone told, new sentences", _MAJORITY, _UNITS, "higher"),
        ("phone told, new sentences", _CLUSTERS, _UNITS, NOT_STATED),
        ("phone told, new voices", _MAJORITY, _UNITS, NOT_STATED),
        ("phone told, new voices", _CLUSTERS, _UNITS, NOT_STATED),
        ("taken for the target", _OWN, _SWAPPED, "higher"),
        ("taken for the source", "natural", _OWN, NOT_STATED),
        ("phones heard", _OWN, _SWAPPED, "within 0.05"),
        ("phones heard", _MAJORITY, _SWAPPED, "higher"),
        ("phones heard", "natural", _OWN, NOT_STATED),
        ("mel distance, dB", "codes", "codes shuffled", "higher"),
        ("nats a unit", "frequencies", "learnt prior", "lower"),
        ("nats a unit", "pairs", "learnt prior", NOT_STATED),
    ]
    return [
        found.row(measure, baseline, system, expected)
        for measure, baseline, system, expected in plan
    ]


def _judges(speech: Aligned, steps: int, generator: torch.Generator) -> Judges:
    names = speech.speakers()
    statistics = torch.cat([mfcc_statistics(i.wav.unsqueeze(0)) for i in speech.train])
    who = torch.tensor([names.index(item.speaker) for item in speech.train])
    return Judges(
        train_classifier(speech, steps, generator), fit_probe(statistics, who)
    )


def train_vq_vae(
    model: VqVae, speech: Aligned, steps: int, generator: torch.Generator
) -> None:
    """Train on stretches of the training speech; leaves it in evaluation mode."""
    names, spectral = speech.speakers(), spectral_loss()
    tracks = []
    for item in speech.train:
        cut = item.wav.view(-1, HOP)
        who = torch.full((len(cut),), names.index(item.speaker))
        tracks.append((cut, who))

    def loss() -> Tensor:
        cut, who = draw_crops(tracks, _FRAMES, _BATCH, generator)
        wavs = cut.flatten(1)
        found = model.quantizer(model.encoder(wavs))
        audio = model.render(found.quantized, who[:, 0])
        return spectral(audio, wavs) + sum(found.losses.values())

    train(model, loss, steps)


def gradient_passes(quantizer: nn.Module) -> bool:
    """Whether the latents get the very gradient that the quantized frames get."""
    latents = torch.randn(2, 100, quantizer.dim, requires_grad=True)
    gradient = torch.randn(2, 100, quantizer.dim)
    quantizer.eval()(latents).quantized.backward(gradient)
    return torch.equal(latents.grad, gradient)


Measured = dict[tuple[str, str], float]


def _phones(model: VqVae, speech: Aligned, generator: torch.Generator) -> Measured:
    front = log_mel_50()
    frames = torch.cat([mel_frames(item.wav, front) for item in speech.train])
    centers = lloyd(frames, min(_SIZE, len(frames)), generator, iterations=10)
    coders = {
        _MAJORITY: lambda wav: torch.zeros(len(wav) // HOP, dtype=torch.int64),
        _UNITS: model.encode,
        _CLUSTERS: lambda wav: nearest_centers(mel_frames(wav, front), centers)[0],
    }
    parts = {"new sentences": speech.sentences, "new voices": speech.voices}
    ids, out = speech.ids(), {}
    for name, coder in coders.items():
        seen = _coded(speech.train, coder, ids)
        for part, items in parts.items():
            told = guess_accuracy(seen, _coded(items, coder, ids))
            out[name, f"phone told, {part}"] = told
    return out


def _coded(items: list[Spoken], coder: Any, ids: dict[str, int]) -> tuple:
    units = torch.cat([coder(item.wav) for item in items])
    labels = torch.cat([item.labels(ids) for item in items])
    return units[labels >= 0], labels[labels >= 0]


def _swaps(
    model: VqVae, speech: Aligned, judges: Judges, generator: torch.Generator
) -> Measured:
    names = speech.speakers()
    items = speech.sentences
    codes = [model.encode(item.wav) for item in items]
    own = [names.index(item.speaker) for item in items]
    other = [(who + 1) % len(names) for who in own]
    sounds = {
        "natural": [item.wav for item in items],
        _OWN: [model.decode(c, w) for c, w in zip(codes, own, strict=True)],
        _SWAPPED: [model.decode(c, w) for c, w in zip(codes, other, strict=True)],
    }
    ids = speech.ids(silence=True)
    # Silence is no phone: it neither helps nor harms.
    labels = [item.labels(ids) for item in items]
    labels = [torch.where(part == ids.get("sil", -1), -1, part) for part in labels]
    out: Measured = {}
    for name, wavs in sounds.items():
        found = judges.speakers.predict(
            torch.cat([mfcc_statistics(wav.unsqueeze(0)) for wav in wavs])
        ).tolist()
        out[name, "taken for the source"] = _share(found, own)
        out[name, "taken for the target"] = _share(found, other)
        out[name, "phones heard"] = judges.phones.accuracy(wavs, labels)
    told = torch.cat(labels)
    told = told[told >= 0]
    out[_MAJORITY, "phones heard"] = int(told.bincount().max()) / len(told)
    mixed = [c[torch.randperm(len(c), generator=generator)] for c in codes]
    shuffled = [model.decode(c, w) for c, w in zip(mixed, own, strict=True)]
    for name, wavs in (("codes", sounds[_OWN]), ("codes shuffled", shuffled)):
        pairs = zip(sounds["natural"], wavs, strict=True)
        distances = [mel_distance(a, RATE, b, RATE)[0] for a, b in pairs]
        out[name, "mel distance, dB"] = fmean(distances)
    return out


def _share(found: list[int], wanted: list[int]) -> float:
    return fmean(a == b for a, b in zip(found, wanted, strict=True))


def _priors(
    model: VqVae, speech: Aligned, steps: int, generator: torch.Generator
) -> Measured:
    seen, new = (
        [model.encode(item.wav) for item in part]
        for part in (speech.train, speech.sentences)
    )
    prior = train_prior(Prior(_SIZE), seen, steps, generator)
    measure = "nats a unit"
    return {
        ("frequencies", measure): unigram_nats(seen, new, _SIZE),
        ("pairs", measure): bigram_nats(seen, new, _SIZE),
        ("learnt prior", measure): prior.nats(new),
    }
