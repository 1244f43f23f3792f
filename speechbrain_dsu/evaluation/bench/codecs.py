"""Neural codecs against their peers, and streams by the size of their pieces.

EnCodec 24 kHz, DAC 16 kHz and Mimi of transformers with random weights, converted to
our modules; the same audio in turn through both, a batch of equal lengths at once: ours
runs what is faster one after another by itself. Latents and waveforms are timed,
quantizers have a section of their own. Seconds are those of the processor, so
that a busy machine does the least harm. ``difference`` is the largest one between the
outputs; moshi keeps its own random weights and has none.

``stream`` rows put pieces through encoder, quantizer and decoder, ``one pass`` the
whole, and ``tokenizing`` is to units that aren't decoded: ``ratio`` is the speed in
times of real time, ``first_ms`` what passes from the first sample to the first one
heard: the audio that has to be there, and the computing.
"""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.bench.codec_peers import PEERS, Pair
from speechbrain_dsu.utils.errors import DsuError

logger = logging.getLogger(__name__)

BATCHES = (1, 8)
CHUNKS_MS = (20, 80, 320)


def run(
    quick: bool = False,
    convert: Callable[..., tuple] | None = None,
    streaming: Callable[[], Any] | None = None,
    units: Callable[[], Any] | None = None,
    only: str = "",
    seconds: float = 10.0,
    turns: int = 2,
) -> list[dict[str, Any]]:
    """All rows of the section; peers whose package is missing are left out.

    Arguments
    ---------
    quick : bool
        Small models, short audio, one turn.
    convert : callable, optional
        Configuration and weights of transformers to (encoder, quantizer, decoder).
    streaming : callable, optional
        Gives a codec tokenizer for the rows about streams and one pass.
    units : callable, optional
        Gives a tokenizer of units, for the row about tokenizing.
    only : str
        Cases whose name contains it.
    seconds : float
        Of audio per item.
    turns : int
        How often both sides run.

    Returns
    -------
    list of dict
        Rows with case, peer, ours_s, peer_s, ratio and difference; of streams
        first_ms instead.
    """
    rows: list[dict[str, Any]] = []
    seconds, turns = (0.1, 1) if quick else (seconds, turns)
    for name, build in PEERS.items():
        if convert is None or only not in name:
            continue
        torch.manual_seed(0)
        try:
            pair = build(convert, quick)
        except DsuError as error:
            logger.warning("left out: %s: %s", name, error)
            continue
        for batch in (1, 2) if quick else BATCHES:
            rows += _rows(pair, batch, seconds, turns)
    if streaming is not None and only in "stream":
        tokenizer = streaming()
        rows.append(_pass(tokenizer, "encode and decode in one pass", seconds, turns))
        rows += [_stream(tokenizer, size, max(seconds, 1.0)) for size in CHUNKS_MS]
    if units is not None and only in "tokenizing":
        rows.append(_pass(units(), "tokenizing", seconds, turns))
    return rows


def _pass(tokenizer: Any, case: str, seconds: float, turns: int) -> dict[str, Any]:
    wav = 0.1 * torch.randn(1, round(seconds * tokenizer.sample_rate))
    spent = []
    for _ in range(turns + 1):  # the first one warms up
        start = time.process_time()
        tokens = tokenizer.encode(wav)
        if tokenizer.has_decoder:
            tokenizer.decode(tokens)
        spent.append(time.process_time() - start)
    median = statistics.median(spent[1:])
    return _real_time(case, median, seconds)


def _real_time(case: str, spent: float, seconds: float) -> dict[str, Any]:
    ratio = round(seconds / spent, 2)
    peer = {"peer": "real time", "peer_s": seconds}
    return {"case": case, "ours_s": round(spent, 4), **peer, "ratio": ratio}


@torch.no_grad()
def _rows(pair: Pair, batch: int, seconds: float, turns: int) -> list[dict[str, Any]]:
    wavs = 0.1 * torch.randn(batch, round(seconds * pair.sample_rate))
    latents = torch.cat([pair.encoder(wav) for wav in wavs.split(1)])
    rows = []
    for case, ours, theirs, inputs in (
        ("encode", pair.encoder, pair.encode, wavs),
        ("decode", pair.decoder, pair.decode, latents),
    ):
        spent: tuple[list[float], list[float]] = [], []
        for _ in range(turns + (turns > 1)):
            start = time.process_time()
            mine = ours(inputs)
            spent[0].append(time.process_time() - start)
            start = time.process_time()
            other = theirs(inputs)
            spent[1].append(time.process_time() - start)
        # The first turn warms up.
        mine_s, other_s = (side[turns > 1 :] for side in spent)
        ratios = [b / a for a, b in zip(mine_s, other_s, strict=True)]
        rows.append(
            {
                "case": f"{pair.name}, {case} {batch} x {seconds:g} s",
                "peer": pair.peer,
                "ours_s": round(statistics.median(mine_s), 4),
                "peer_s": round(statistics.median(other_s), 4),
                "ratio": round(statistics.median(ratios), 2),
                "difference": _difference(mine, other) if pair.same else "",
            }
        )
    return rows


def _difference(mine: Tensor, other: Tensor) -> float:
    return (mine - other.view_as(mine)).abs().max().item()


def _stream(tokenizer: Any, chunk_ms: int, seconds: float) -> dict[str, Any]:
    rate = tokenizer.sample_rate
    wav = 0.1 * torch.randn(round(seconds * rate))
    for _ in range(2):  # the first one warms up
        stream, back = tokenizer.stream(), tokenizer.decode_stream()
        spent, first_ms = 0.0, None
        for index, piece in enumerate(wav.split(rate * chunk_ms // 1000)):
            start = time.process_time()
            heard = back.push(stream.push(piece))
            spent += time.process_time() - start
            if first_ms is None and len(heard):
                computing = 1000 * (time.process_time() - start)
                first_ms = round((index + 1) * chunk_ms + computing, 1)
        start = time.process_time()
        rest = stream.flush()
        if rest.codes.shape[1]:
            back.push(rest)
        back.flush()
        spent += time.process_time() - start
    row = _real_time(f"stream, pieces of {chunk_ms} ms", spent, seconds)
    return {**row, "first_ms": first_ms}
