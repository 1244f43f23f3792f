"""Units to speech: what every interface that speaks does at its end."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError


def speak(
    modules: Mapping[str, nn.Module], tokens: Tokens, **conditions: Any
) -> tuple[Tensor, Tensor]:
    """Speech of units, by a system's vocoder or its tokenizer's own decoder.

    Arguments
    ---------
    modules : mapping
        With ``vocoder``, or a ``tokenizer`` that decodes. Both refuse tokens of
        another fingerprint.
    tokens : Tokens
        What to say.
    **conditions
        What a vocoder takes beside: a speaker, pitch.

    Returns
    -------
    wavs : Tensor
        ``[batch, time]``.
    lens : Tensor
        Relative lengths.

    Raises
    ------
    DsuError
        If there is neither, or the tokens are another tokenizer's.
    """
    return _speaker(modules).decode(tokens, **conditions)


def speech_rate(modules: Mapping[str, nn.Module]) -> int:
    """Sample rate of what ``speak`` gives, in hertz."""
    return _speaker(modules).sample_rate


def _speaker(modules: Mapping[str, nn.Module]) -> Any:
    if "vocoder" in modules:
        return modules["vocoder"]
    tokenizer = modules["tokenizer"] if "tokenizer" in modules else None
    if tokenizer is None or not tokenizer.has_decoder:
        raise DsuError(
            "this system has no vocoder and its tokenizer can't decode: seal it with "
            "a unit vocoder trained on these units"
        )
    return tokenizer
