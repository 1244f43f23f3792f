"""Claim 113: tokens of mel bands can be predicted at once, those of a chain can't.

Langman et al., "Spectral Codecs: Spectrogram-Based Audio Codecs for High Quality
Speech Synthesis" (2024): one codebook per mel band, quality as of other codecs, and
non-autoregressive synthesis is clearly better on such tokens. Here: an autoencoder of
mel frames (no vocoder) with the paper's encoder and finite scalar quantization per
band, beside one with a single band and a residual chain of as many bits. Then one
network per codec predicts all tokens of a frame at once from phones, place in the
phone, pitch and speaker; the prediction is decoded.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.aligned_speech import (
    RATE,
    Aligned,
    Spoken,
    read_aligned,
)
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    make_result,
    make_row,
    seeded,
)
from speechbrain_dsu.evaluation.claims.small_training import (
    draw_crops,
    system,
    train,
)
from speechbrain_dsu.evaluation.pitch import pitch

CLAIM = (
    "Predicted at once, tokens of mel bands are hit more often over chance than those "
    "of a residual chain and decode to a nearer spectrum; the chain's last codebooks "
    "are the worst."
)
_HOP, _MELS, _BANDS = 200, 80, 8
_LEVELS = [4, 4, 4]
_SIZE = 64
_DIM = _BANDS * len(_LEVELS)
_RVQ, _FSQ = "RVQ 8 x 64", "band FSQ 8 x 4^3"
_DB = 8.685889638065037  # of a natural logarithm of magnitudes
_OWN = "another mel band changes another codebook's ids only"
_BIJECTION = "ids and levels of a band are one another's, for every id"
_EQUAL = "both spend 48 bits a frame"


class Frames(NamedTuple):
    """An utterance in frames of 12.5 ms: mel, and what the predictor is told."""

    mel: Tensor
    told: Tensor


class MelCodec(nn.Module):
    """Mel frames through a shipped encoder, a quantizer and a small decoder.

    Arguments
    ---------
    encoder : nn.Module
        With ``encode_mel``.
    quantizer : nn.Module
        By the quantizer contract.
    mean : Tensor
        Of the mel frames ``[channels]``.
    """

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, mean: Tensor):
        super().__init__()
        self.encoder, self.quantizer = encoder, quantizer
        self.decoder = nn.Sequential(
            nn.Conv1d(_DIM, 128, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(128, 128, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(128, len(mean), 1),
        )
        self.register_buffer("mean", mean)

    def render(self, quantized: Tensor) -> Tensor:
        """Mel ``[batch, n, channels]`` of quantized latents ``[batch, n, dim]``."""
        return self.decoder(quantized.transpose(1, 2)).transpose(1, 2) + self.mean

    def loss(self, mel: Tensor) -> Tensor:
        """Mean absolute error of mel ``[batch, n, channels]``, and the quantizer's."""
        found = self.quantizer(self.encoder.encode_mel(mel))
        error = (self.render(found.quantized) - mel).abs().mean()
        return error + 0.25 * sum(found.losses.values())

    @torch.no_grad()
    def encode(self, mel: Tensor) -> Tensor:
        """Codes ``[n, codebooks]`` of mel ``[n, channels]``."""
        return self.quantizer.encode(self.encoder.encode_mel(mel.unsqueeze(0)))[0]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Mel ``[n, channels]`` of codes ``[n, codebooks]``."""
        return self.render(self.quantizer.decode(codes.unsqueeze(0)))[0]


def make_codec(name: str, mean: Tensor) -> MelCodec:
    """One of the two codecs; about as many weights in either encoder."""
    banded = name == _FSQ
    width = {"channels": 24, "hidden": 48} if banded else {"channels": 80}
    parts = system(
        "spectral_codec",
        {
            "dim": _DIM,
            "bands": _BANDS,
            "quantizer": {"levels": _LEVELS},
            "encoder": {
                "bands": _BANDS if banded else 1,
                "layers": 2,
                **{"hidden": 160, **width},
            },
        },
    )
    quantizer = parts["quantizer"]
    if not banded:
        sizes = {"n_codebooks": _BANDS, "size": _SIZE, "dim": _DIM}
        quantizer = block("quantizer_rvq", dropout=0.0, **sizes)
    return MelCodec(parts["encoder"], quantizer, mean)


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
    found: dict[tuple[str, str], list[float]] = {}
    laws = dict.fromkeys((_OWN, _BIJECTION, _EQUAL), True)
    for seed in seeds:
        with seeded(seed) as generator:
            size = {"speakers": 2, "each": 3} if quick else {"speakers": 4, "each": 30}
            held_out = 2 if quick else 8
            speech = read_aligned(data, 113, generator, **size, held_out=held_out)
        seen, new = (_frames(part, speech) for part in (speech.train, speech.sentences))
        mean = torch.cat([item.mel for item in seen]).mean(0)
        for name in (_RVQ, _FSQ):
            with seeded(seed) as generator:
                codec = make_codec(name, mean)
                train_codec(codec, seen, steps, generator)
                guesses = train_predictor(codec, seen, steps, generator)
            laws[_EQUAL] &= codec.quantizer.codebook_sizes == (_SIZE,) * _BANDS
            for measure, value in _measures(codec, guesses, seen, new).items():
                found.setdefault((name, measure), []).append(value)
        laws[_OWN] &= bands_are_apart(codec, new[0].mel)
        laws[_BIJECTION] &= ids_are_levels(codec.quantizer)
    return make_result(
        113, "SpectralCodec", CLAIM, _setup(len(seeds), steps), _rows(found), laws
    )


def _setup(seeds: int, steps: int) -> str:
    return (
        "80 log-mel channels every 12.5 ms of synthetic English, four voices; encoder "
        "of spectral_codec.yaml in small, with eight bands or one, a decoder of three "
        f"convolutions, 48 bits a frame; {steps} steps of 8 x 64 frames. Predictor: "
        "two hidden layers, told this and the neighbouring phones, the place in the "
        f"phone, its length, pitch and speaker; {steps} steps of 512 frames. Hits over "
        "chance: (hits - h) / (1 - h), where h is the share of hits by always naming "
        "the commonest id. dB: mean absolute distance of the spectra. New sentences "
        f"of the same voices. {seeds} seeds for speech, start and batches. {RULE}"
    )


def _rows(found: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    plan = [
        ("hits over chance", _RVQ, "hits", _FSQ, "hits", "higher"),
        ("dB, predicted", _RVQ, "predicted", _FSQ, "predicted", "lower"),
        ("dB, own codes", _RVQ, "coded", _FSQ, "coded", NOT_STATED),
        ("hits: first, last", _RVQ, "hits, book 1", _RVQ, "hits, book 8", "lower"),
        ("hits: last, worst", _RVQ, "hits, book 8", _FSQ, "hits, worst", "higher"),
    ]
    return [
        make_row(
            condition, (old, found[old, a]), (new, found[new, b]), expected, f"{a}, {b}"
        )
        for condition, old, a, new, b, expected in plan
    ]


def _frames(items: list[Spoken], speech: Aligned) -> list[Frames]:
    front = system("spectral_codec", {})["frames"]
    ids, names = speech.ids(silence=True), speech.speakers()
    return [
        Frames(
            front(item.wav.unsqueeze(0))[0],
            describe(item, ids, names.index(item.speaker), len(names)),
        )
        for item in items
    ]


def describe(item: Spoken, ids: dict[str, int], who: int, speakers: int) -> Tensor:
    """What a synthesiser would know of each frame: ``[n, features]``.

    This and the neighbouring phones, one of many each; how far the phone is through,
    the logarithm of its length, that of the pitch and whether there is one; speaker.
    """
    count = len(item.wav) // _HOP
    times = (torch.arange(count) + 0.5) * (_HOP / RATE)
    spoken = item.alignment
    place = spoken.at(times)
    table = torch.tensor([ids.get(phone, -1) for phone in spoken.phones] + [-1])
    at = place.clamp(min=0)
    length = (spoken.ends - spoken.starts).clamp(min=1e-3)[at]
    through = (times - spoken.starts[at]) / length
    around = [
        table[(at + step).clamp(0, len(spoken.phones) - 1)] + 1 for step in (-1, 0, 1)
    ]
    phones = nn.functional.one_hot(torch.stack(around, 1), len(ids) + 1).flatten(1)
    hertz = pitch(item.wav)[(times * 100).round().long()]
    voiced = hertz > 0
    melody = torch.where(voiced, (hertz.clamp(min=1) / 150).log(), 0.0)
    numbers = torch.stack([through, length.log() + 2.5, melody, voiced], 1)
    speaker = nn.functional.one_hot(torch.tensor([who]), speakers).expand(count, -1)
    return torch.cat([phones, numbers, speaker], 1).float()


def train_codec(
    codec: MelCodec, speech: list[Frames], steps: int, generator: torch.Generator
) -> None:
    """Train on stretches of mel frames; leaves it in evaluation mode."""
    tracks = [(item.mel,) for item in speech]
    train(codec, lambda: codec.loss(*draw_crops(tracks, 64, 8, generator)), steps)


def train_predictor(
    codec: MelCodec, speech: list[Frames], steps: int, generator: torch.Generator
) -> nn.Module:
    """All codes of a frame at once: ``[n, features]`` to ``[n, codebooks, size]``."""
    told = torch.cat([item.told for item in speech])
    codes = torch.cat([codec.encode(item.mel) for item in speech])
    model = nn.Sequential(
        nn.Linear(told.shape[1], 256),
        nn.GELU(),
        nn.Linear(256, 256),
        nn.GELU(),
        nn.Linear(256, _BANDS * _SIZE),
        nn.Unflatten(1, (_BANDS, _SIZE)),
    )

    def loss() -> Tensor:
        picks = torch.randint(len(told), (512,), generator=generator)
        scores = model(told[picks]).flatten(0, 1)
        return nn.functional.cross_entropy(scores, codes[picks].flatten())

    train(model, loss, steps)
    return model


@torch.no_grad()
def _measures(
    codec: MelCodec, model: nn.Module, seen: list[Frames], new: list[Frames]
) -> dict[str, float]:
    train_codes = torch.cat([codec.encode(item.mel) for item in seen])
    common = train_codes.mode(0).values
    right, chance, errors, coded = [], [], [], []
    for item in new:
        codes, guessed = codec.encode(item.mel), model(item.told).argmax(2)
        right.append(guessed == codes)
        chance.append(codes == common)
        errors.append((codec.decode(guessed) - item.mel).abs().mean(1))
        coded.append((codec.decode(codes) - item.mel).abs().mean(1))
    hits, chances = (torch.cat(x).double().mean(0) for x in (right, chance))
    over = (hits - chances) / (1 - chances).clamp(min=1e-6)
    return {
        "hits": float(over.mean()),
        "hits, book 1": float(over[0]),
        "hits, book 8": float(over[-1]),
        "hits, worst": float(over.min()),
        "predicted": _DB * float(torch.cat(errors).mean()),
        "coded": _DB * float(torch.cat(coded).mean()),
    }


def bands_are_apart(codec: MelCodec, mel: Tensor) -> bool:
    """Whether changing one mel band ever changes ids, and only its own codebook's."""
    codes, width = codec.encode(mel), _MELS // _BANDS
    own, others = [], []
    for band in range(_BANDS):
        changed, place = mel.clone(), slice(band * width, (band + 1) * width)
        changed[:, place] = mel.flip(0)[:, place]
        differs = (codec.encode(changed) != codes).any(0).tolist()
        own.append(differs.pop(band))
        others += differs
    return any(own) and not any(others)


def ids_are_levels(quantizer: nn.Module) -> bool:
    """Whether all ids of a band have levels of their own and come back from them."""
    ids = torch.arange(_SIZE).view(1, -1, 1).expand(1, -1, _BANDS)
    levels = quantizer.to_levels(ids)[0, :, 0]
    apart = len(levels.unique(dim=0)) == _SIZE
    radix = torch.tensor([1, _LEVELS[0], _LEVELS[0] * _LEVELS[1]])
    return apart and torch.equal((levels * radix).sum(1), ids[0, :, 0])
