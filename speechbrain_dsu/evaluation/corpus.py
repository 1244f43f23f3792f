"""What a tokenizer keeps and costs over a corpus: rates, usage, reconstruction."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.rates import rates
from speechbrain_dsu.evaluation.resynthesis import score, summarize
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError


def evaluate_corpus(
    tokenizer: Any,
    paths: Sequence[str],
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Tokenize files, decode them where possible, and sum up.

    Rates and usage are those of all frames together; scores are means over files. A
    file that can't be read is reported, counted and left out.

    Arguments
    ---------
    tokenizer : Tokenizer
        As in ``tokenizers.base``, or a ``UnitTokenizer``'s module.
    paths : sequence of str
        Audio files.
    report : callable
        Takes one line per file that failed.

    Returns
    -------
    dict
        ``files``, ``failed``, ``hours``, nominal and entropy-coded bit rates, mean
        ``usage`` of codebooks, and for each score ``mean``, ``n_scored``,
        ``n_failed``.

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
    >>> result = evaluate_corpus(dmel, [str(bundles_dir() / "speech.wav")])
    >>> result["files"], result["nominal_bitrate"]
    (1, 25600.0)
    """
    codes: list[Tensor] = []
    scores, failed, samples = [], [], 0
    for path in paths:
        try:
            wav, rate = read_audio(path, tokenizer.sample_rate)
            tokens = tokenizer.encode_long(wav)
            if tokenizer.has_decoder:
                decoded, _ = tokenizer.decode(tokens)
                scores.append(score(wav, rate, decoded[0].cpu(), rate))
        except DsuError as error:
            failed.append(str(path))
            report(str(error))
            continue
        codes.append(tokens.codes[0].cpu())
        samples += len(wav)
    if not codes:
        raise DsuError(f"none of {len(paths)} files could be used")
    joined = torch.cat(codes).unsqueeze(0)
    whole: Tokens = replace(
        tokens, codes=joined, lens=torch.ones(1, dtype=torch.float64)
    )
    found = rates(whole)
    result = {
        "files": len(codes),
        "failed": failed,
        "hours": samples / tokenizer.sample_rate / 3600,
        "frame_rate": found.frame_rate,
        "nominal_bitrate": found.nominal_bitrate,
        "entropy_bitrate": found.entropy_bitrate,
        "usage": sum(found.usage) / len(found.usage),
    }
    return result | (summarize(scores) if scores else {})
