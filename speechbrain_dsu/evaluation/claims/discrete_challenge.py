"""Claim 91: fewer bits by de-duplication and subwords, at little cost in ASR.

Chang et al., "The Interspeech 2024 Challenge on Speech Processing Using Discrete
Units" (2024), states no number; its baseline shortens units by de-duplication and BPE,
and ranks systems by bit rate and error. Here the shipped tokenizers are ranked so on
digits of a speaker nobody trained on.
"""

from pathlib import Path
from typing import Any

from speechbrain_dsu.evaluation.claims import digit_asr as asr
from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    make_result,
    make_row,
    seeded,
)

CLAIM = "Units without repetitions and as subwords take fewer bits; errors stay near."
_TOKENIZERS = ("ssl-k500", "ssl-k100", "mfcc-k100", "codec-16k", "dmel")
_UNITS = "ssl-k100"
_PIECES = 200
_POINTS = 5.0
_HAND = "bits per second of several codebooks equal a hand calculation"


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, two tokenizers, a few steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    takes, steps = (4, 3) if quick else (24, 350)
    names = ("ssl-k100", "mfcc-k100") if quick else _TOKENIZERS
    seeds = range(2 if quick else 3)
    errors: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    laws = {_HAND: True}
    tokenizers = {name: asr.shipped_tokenizer(name) for name in names}
    for seed in seeds:
        parts = asr.read_digits(data, 91, seed, takes)
        inputs = {n: asr.encoded(t, parts, "units") for n, t in tokenizers.items()}
        for name, given in inputs.items():
            laws[_HAND] &= _by_hand(given, tokenizers[name], parts[1])
        plain = inputs[_UNITS]
        inputs[f"{_UNITS}, runs"] = asr.without_runs(plain)
        inputs[f"{_UNITS}, runs, subwords"] = asr.without_runs(plain, _PIECES)
        texts = [[one.text for one in part] for part in parts]
        for name, given in inputs.items():
            with seeded(seed) as generator:
                # Shortened sequences have no steps to spare.
                short = {"stride": 1} if "runs" in name else {}
                model = asr.recogniser(given, **short)
                asr.fit(model, given, texts[0], steps, generator)
            error = asr.digit_error(model, given.test, texts[1])
            errors.setdefault(name, []).append(error)
            rates.setdefault(name, []).append(asr.bits_per_second(given, parts[1]))
    setup = (
        f"{asr.SETUP} {steps} steps; {_PIECES} subwords learnt on the training "
        f"recordings. {len(seeds)} seeds. {RULE}"
    )
    rows = list(_rows(errors, rates))
    return make_result(91, "The discrete-unit challenge", CLAIM, setup, rows, laws)


def _rows(errors: dict[str, list[float]], rates: dict[str, list[float]]):
    plain = _UNITS
    for name in (f"{plain}, runs", f"{plain}, runs, subwords"):
        shorter = (name, rates[name])
        yield make_row("bits per second", (plain, rates[plain]), shorter, "lower")
        near = f"within {_POINTS:g}"
        yield make_row("error, %", (plain, errors[plain]), (name, errors[name]), near)
    ranked = sorted(errors, key=lambda name: sum(rates[name]))
    for name in ranked:
        note = f"{sum(rates[name]) / len(rates[name]):.0f} bit/s"
        found = (name, errors[name])
        yield make_row("rank", (plain, errors[plain]), found, NOT_STATED, note)


def _by_hand(given: asr.Input, tokenizer: Any, spoken: list[asr.Spoken]) -> bool:
    """Frames counted from samples, times the tokenizer's own nominal bits."""
    frames = sum(tokenizer.num_frames(len(one.wav)) for one in spoken)
    bits = frames * tokenizer.bitrate / tokenizer.frame_rate
    seconds = sum(len(one.wav) for one in spoken) / 16000
    return abs(asr.bits_per_second(given, spoken) - bits / seconds) < 1e-6 * bits
