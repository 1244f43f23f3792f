"""The parts of a tokenizer's evaluation, from the tokens of a corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.abx import abx, phone_tokens
from speechbrain_dsu.evaluation.alignments import Alignment, frame_labels, phone_ids
from speechbrain_dsu.evaluation.intervals import bootstrap_interval
from speechbrain_dsu.evaluation.pitch import pitch_error
from speechbrain_dsu.evaluation.probes import probe, unit_histograms
from speechbrain_dsu.evaluation.resynthesis import Metric, mel_distance, pesq, stoi
from speechbrain_dsu.evaluation.speaker import (
    Embed,
    mfcc_statistics,
    speaker_similarity,
)
from speechbrain_dsu.evaluation.stability import perturbations, stability
from speechbrain_dsu.evaluation.units import unit_quality
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import read_audio, resample
from speechbrain_dsu.utils.errors import DsuError

PARTS = ("units", "abx", "speakers", "stability", "resynthesis")
"""What an evaluation looks at beside rates and usage."""


@dataclass(frozen=True)
class Utterance:
    """A recording to evaluate on, and what is known of it.

    Arguments
    ---------
    id : str
        Unique.
    path : str
        Of the audio file.
    start, stop : int
        Stretch in samples of the file; None is its end.
    speaker : str, optional
        A name.
    alignment : Alignment, optional
        Its phones.
    """

    id: str
    path: str
    start: int = 0
    stop: int | None = None
    speaker: str | None = None
    alignment: Alignment | None = None

    def read(self, sample_rate: int | None = None) -> tuple[Tensor, int]:
        """The audio ``[time]`` and its rate."""
        wav, rate = read_audio(self.path, None, self.start, self.stop)
        wanted = sample_rate or rate
        return resample(wav, rate, wanted), wanted


@dataclass(frozen=True)
class Settings:
    """How much of an evaluation is done, and its limits.

    Arguments
    ---------
    parts : sequence of str
        Of ``PARTS``.
    seed : int
        Of everything that is drawn.
    embed_speaker : callable
        See ``speaker.speaker_similarity``.
    codebooks : int
        Unit measures are taken of the first codebooks, at most this many.
    abx_tokens, abx_speakers : int
        Tokens of a phone per speaker, and speakers, in ABX tests.
    probe_frames : int
        Frames of the phone probe.
    stability_utterances : int
        Utterances that are perturbed.

    Raises
    ------
    DsuError
        If a part is unknown.
    """

    parts: Sequence[str] = PARTS
    seed: int = 0
    embed_speaker: Embed = field(default=mfcc_statistics, repr=False)
    codebooks: int = 8
    abx_tokens: int = 5
    abx_speakers: int = 8
    probe_frames: int = 5000
    stability_utterances: int = 20

    def __post_init__(self):
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise DsuError(f"no part {', '.join(unknown)}: take of {', '.join(PARTS)}")

    @property
    def metrics(self) -> Mapping[tuple[str, ...], Metric]:
        """The scores of decoded speech."""

        def melody(*pair: Any) -> tuple[float, float, float]:
            found = pitch_error(*pair)
            return found.rmse_cents, found.correlation, found.voicing_error

        def voice(*pair: Any) -> float:
            return speaker_similarity(self.embed_speaker, *pair)

        kind = "mfcc_similarity"
        if self.embed_speaker is not mfcc_statistics:
            kind = "speaker_similarity"
        return {
            ("stoi",): stoi,
            ("pesq",): pesq,
            ("mel_l1", "mel_l2"): mel_distance,
            ("f0_rmse_cents", "f0_correlation", "voicing_error"): melody,
            (kind,): voice,
        }


@dataclass(frozen=True, eq=False)
class Encoded:
    """An utterance, its tokens and the centres of their frames in seconds."""

    utterance: Utterance
    tokens: Tokens
    times: Tensor


def unit_part(
    tokenizer: Any, items: Sequence[Encoded], settings: Settings
) -> dict[str, Any]:
    """PNMI and purity of each codebook, and a phone probe.

    Returns
    -------
    dict
        ``codebooks`` (list of ``UnitQuality``) and ``phone_probe``.

    Raises
    ------
    DsuError
        If no utterance has an alignment.
    """
    items = _aligned(items)
    ids = phone_ids({x.utterance.id: x.utterance.alignment for x in items})
    labels = [frame_labels(x.utterance.alignment, x.times, ids) for x in items]
    joined = torch.cat(labels)
    codes = torch.cat([x.tokens.codes[0] for x in items])
    books = codes.unbind(1)[: settings.codebooks]
    groups = torch.repeat_interleave(torch.tensor([len(x) for x in labels]))
    found = [
        unit_quality(units, joined, seed=settings.seed, groups=groups)
        for units in books
    ]
    known = (joined >= 0).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = known[torch.randperm(len(known), generator=generator)]
    drawn = drawn[: settings.probe_frames].sort().values
    vectors = torch.cat(_vectors(tokenizer, items))[drawn].float()
    result: dict[str, Any] = {"codebooks": [quality.as_dict() for quality in found]}
    try:
        probed = probe(
            vectors, joined[drawn], groups[drawn], folds=3, seed=settings.seed
        )
        result["phone_probe"] = probed.as_dict()
    except DsuError as error:
        result["phone_probe"] = {"accuracy": None, "reason": str(error)}
    return result


def abx_part(
    tokenizer: Any, items: Sequence[Encoded], settings: Settings
) -> dict[str, Any]:
    """ABX errors of units and, where the tokenizer has them, of their vectors.

    Returns
    -------
    dict
        ``identity`` and ``angular``, each with ``within``, ``across``,
        ``within_context`` and ``across_context``.

    Raises
    ------
    DsuError
        If no utterance has an alignment.
    """
    items = _aligned(items)
    names = sorted({x.utterance.speaker or "" for x in items})
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randperm(len(names), generator=generator)[: settings.abx_speakers]
    chosen = {names[k] for k in drawn.tolist()}
    items = [x for x in items if (x.utterance.speaker or "") in chosen]
    kinds = {"identity": [x.tokens.codes[0] for x in items]}
    vectors = _vectors(tokenizer, items, one_hot=False)
    if vectors is not None:
        kinds["angular"] = vectors
    result: dict[str, Any] = {}
    for distance, frames in kinds.items():
        row = result.setdefault(distance, {})
        for context in (False, True):
            triples = (
                (f, x.times, x.utterance.alignment, x.utterance.speaker or "")
                for f, x in zip(frames, items, strict=True)
            )
            tokens = phone_tokens(triples, context)
            for across in (False, True):
                name = ("across" if across else "within") + "_context" * context
                row[name] = abx(
                    tokens,
                    across,
                    distance,
                    max_tokens=settings.abx_tokens,
                    max_speakers=2,
                    seed=settings.seed,
                ).as_dict()
    return result


def speaker_part(items: Sequence[Encoded], settings: Settings) -> dict[str, Any]:
    """A speaker probe on histograms of units: what leaks of the speaker.

    Raises
    ------
    DsuError
        If fewer than two speakers have two utterances each.
    """
    by_name: dict[str, list[Tokens]] = {}
    for item in items:
        if item.utterance.speaker is not None:
            by_name.setdefault(item.utterance.speaker, []).append(item.tokens)
    named = {name: rows for name, rows in sorted(by_name.items()) if len(rows) > 1}
    if len(named) < 2:
        raise DsuError(f"{len(named)} speakers with two utterances, 2 are needed")
    vectors = torch.cat([unit_histograms(t) for rows in named.values() for t in rows])
    sizes = torch.tensor([len(rows) for rows in named.values()])
    labels = torch.repeat_interleave(sizes)
    return probe(vectors, labels, seed=settings.seed).as_dict()


def stability_part(
    tokenizer: Any,
    items: Sequence[Encoded],
    settings: Settings,
    n_codebooks: int | None = None,
) -> dict[str, Any]:
    """Unit edit rates by perturbation: means over utterances with intervals."""
    step = max(1, len(items) // settings.stability_utterances)
    chosen = items[::step][: settings.stability_utterances]
    rows: dict[str, list[Any]] = {}
    for item in chosen:
        wav, rate = item.utterance.read(tokenizer.sample_rate)

        def encode(changed: Tensor) -> Tokens:
            return tokenizer.encode_long(changed, n_codebooks=n_codebooks)

        changes = perturbations(settings.seed)
        for name, found in stability(encode, wav, rate, changes).items():
            rows.setdefault(name, []).append(found)
    result: dict[str, Any] = {}
    for name, found in rows.items():
        frames = [row.frames for row in found]
        flips = [row.flips for row in found if row.flips is not None]
        result[name] = {
            "frames": sum(frames) / len(frames),
            "interval": bootstrap_interval(frames, seed=settings.seed),
            "runs": sum(row.runs for row in found) / len(found),
            "flips": sum(flips) / len(flips) if flips else None,
            "utterances": len(found),
        }
    return result


def _aligned(items: Sequence[Encoded]) -> list[Encoded]:
    found = [x for x in items if x.utterance.alignment is not None]
    if not found:
        raise DsuError("no alignments: give them with --alignments")
    return found


def _vectors(
    tokenizer: Any, items: Sequence[Encoded], one_hot: bool = True
) -> list[Tensor] | None:
    """``[frames, dim]`` of each item: the tokenizer's vectors, or one-hot units."""
    if tokenizer.has_vectors:
        return [tokenizer.embed(x.tokens)[0].cpu() for x in items]
    if not one_hot:
        return None
    found = []
    for x in items:
        columns = zip(x.tokens.codes[0].unbind(1), x.tokens.sizes, strict=True)
        hot = [torch.nn.functional.one_hot(ids, size) for ids, size in columns]
        found.append(torch.cat(hot, 1))
    return found
