"""What a tokenizer or codec keeps and costs over a corpus."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from speechbrain_dsu.evaluation.parts import (
    Encoded,
    Settings,
    Utterance,
    abx_part,
    speaker_part,
    stability_part,
    unit_part,
)
from speechbrain_dsu.evaluation.rates import rates
from speechbrain_dsu.evaluation.resynthesis import Scores, score, summarize
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import resample
from speechbrain_dsu.utils.errors import DsuError


def evaluate_corpus(
    tokenizer: Any,
    utterances: Sequence[Utterance],
    settings: Settings | None = None,
    n_codebooks: int | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Tokenize a corpus, decode it where possible, and sum up.

    Rates and usage are those of all frames together; scores are means over
    utterances, against the original at its own sample rate. A file that can't be read
    is reported, counted and left out. A part that can't be done is skipped and named.

    Arguments
    ---------
    tokenizer : Tokenizer
        As in ``tokenizers.base``, or a ``UnitTokenizer``'s module.
    utterances : sequence of Utterance
        The corpus.
    settings : Settings, optional
        Parts and limits; all parts by default.
    n_codebooks : int, optional
        Use the first codebooks only.
    report : callable
        Takes one line per file that failed.

    Returns
    -------
    dict
        ``utterances``, ``failed``, ``hours``, ``frame_rate``, nominal and
        entropy-coded bit rates, mean ``usage`` of codebooks, the parts by name
        (``resynthesis``: each score as of ``summarize``), and ``skipped``: the reason
        by part.

    Raises
    ------
    DsuError
        If no file can be used.

    Example
    -------
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
    >>> from speechbrain_dsu.tokenizers.features import FeatureTokenizer
    >>> from speechbrain_dsu.utils.paths import bundles_dir
    >>> dmel = FeatureTokenizer(LogMel(), UniformBins(80, 16, -11.5, 2.0))
    >>> speech = Utterance("speech", str(bundles_dir() / "speech.wav"))
    >>> result = evaluate_corpus(dmel, [speech], Settings(parts=["units"]))
    >>> result["utterances"], result["nominal_bitrate"], result["skipped"]["units"]
    (1, 25600.0, 'no alignments: give them with --alignments')
    """
    settings = Settings() if settings is None else settings
    decode = "resynthesis" in settings.parts and tokenizer.has_decoder
    items: list[Encoded] = []
    scores: list[Scores] = []
    failed, seconds = [], 0.0
    for utterance in utterances:
        try:
            wav, rate = utterance.read()
            given = resample(wav, rate, tokenizer.sample_rate)
            tokens = tokenizer.encode_long(given, n_codebooks=n_codebooks)
            if decode:
                decoded = tokenizer.decode(tokens)[0][0].cpu()
                pair = (wav, rate, decoded, tokenizer.sample_rate)
                scores.append(score(*pair, settings.metrics))
        except DsuError as error:
            failed.append(utterance.id)
            report(str(error))
            continue
        times = tokenizer.frame_times(len(given))
        items.append(Encoded(utterance, tokens.to("cpu"), times))
        seconds += len(wav) / rate
    if not items:
        raise DsuError(f"none of {len(utterances)} files could be used")
    found = rates(_joined(items))
    result: dict[str, Any] = {
        "fingerprint": items[0].tokens.fingerprint,
        "utterances": len(items),
        "failed": failed,
        "hours": seconds / 3600,
        "frame_rate": found.frame_rate,
        "codebooks": len(found.usage),
        "nominal_bitrate": found.nominal_bitrate,
        "entropy_bitrate": found.entropy_bitrate,
        "conditional_bitrate": found.conditional_bitrate,
        "runs_per_second": found.runs_per_second,
        "usage": sum(found.usage) / len(found.usage),
        "perplexity": sum(found.perplexities) / len(found.perplexities),
    }
    todo = {
        "units": lambda: unit_part(tokenizer, items, settings),
        "abx": lambda: abx_part(tokenizer, items, settings),
        "speakers": lambda: speaker_part(items, settings),
        "stability": lambda: stability_part(tokenizer, items, settings, n_codebooks),
        "resynthesis": lambda: _decoded(scores, decode, settings),
    }
    return result | _do(todo, settings)


def evaluate_classic(
    codec: Any,
    utterances: Sequence[Utterance],
    settings: Settings | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The rates and scores of a codec that gives no tokens.

    Arguments
    ---------
    codec : object
        With ``name``, ``bitrate``, ``sample_rate`` and ``run(wav, sample_rate)``, as
        those of ``evaluation.classic``.
    utterances : sequence of Utterance
        The corpus.
    settings : Settings, optional
        Parts and limits.
    report : callable
        Takes one line per file that failed.

    Returns
    -------
    dict
        As of ``evaluate_corpus``, as far as it goes; ``entropy_bitrate`` is what the
        encoder wrote.

    Raises
    ------
    DsuError
        If no file can be used.
    """
    settings = Settings() if settings is None else settings
    scores, failed, seconds, bits = [], [], 0.0, 0
    for utterance in utterances:
        try:
            wav, rate = utterance.read()
            found = codec.run(wav, rate)
        except DsuError as error:
            failed.append(utterance.id)
            report(str(error))
            continue
        pair = (wav, rate, found.wav, codec.sample_rate)
        scores.append(score(*pair, settings.metrics))
        seconds, bits = seconds + len(wav) / rate, bits + found.bits
    if not scores:
        raise DsuError(f"{codec.name}: none of {len(utterances)} files could be used")
    result = {
        "utterances": len(scores),
        "failed": failed,
        "hours": seconds / 3600,
        "nominal_bitrate": codec.bitrate,
        "entropy_bitrate": bits / seconds,
    }
    return result | {
        "resynthesis": summarize(scores, settings.seed),
        "skipped": {p: "no tokens" for p in settings.parts if p != "resynthesis"},
    }


def _do(todo: dict[str, Callable[[], Any]], settings: Settings) -> dict[str, Any]:
    found, skipped = {}, {}
    for name, part in todo.items():
        if name not in settings.parts:
            continue
        try:
            found[name] = part()
        except DsuError as error:
            skipped[name] = str(error)
    return found | {"skipped": skipped}


def _decoded(scores: list[Scores], decode: bool, settings: Settings) -> dict[str, Any]:
    if not decode:
        raise DsuError("no decoder")
    return summarize(scores, settings.seed)


def _joined(items: Sequence[Encoded]) -> Tokens:
    """All frames one after another: padding to the longest could fill the memory."""
    codes = torch.cat([x.tokens.codes[0] for x in items])
    first = items[0].tokens
    sizes = first.frame_rate, first.sizes, first.fingerprint
    return Tokens.from_list([codes], *sizes)
