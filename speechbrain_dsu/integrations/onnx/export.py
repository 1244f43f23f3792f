"""A codec's encoder, quantizer and decoder as three ONNX graphs.

Lengths are free, the batch is one item, no operator works on complex numbers. What a
graph takes is written into ``codec.json`` beside the graphs.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.integrations.onnx.graphs import DecoderGraph, search_graph
from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.optional import require

OPSET = 17
_SECONDS = 1.3
"""Of the example that is traced; long enough for the paths of long signals."""


def export_onnx(tokenizer: Tokenizer, folder: str | Path) -> list[Path]:
    """Write ``encoder.onnx``, ``quantizer.onnx``, ``decoder.onnx`` and ``codec.json``.

    - encoder: ``wavs`` float32 ``[1, time]`` to ``latents`` ``[1, frames, dim]``
    - quantizer: ``latents`` to ``codes`` int64 ``[1, frames, codebooks]``
    - decoder: ``codes`` to ``wavs`` ``[1, frames * hop]``

    The encoder runs in float32, that of ``CodecTokenizer`` in float64: tokens are
    equal but where two codes are equally near up to float32's rounding.

    Arguments
    ---------
    tokenizer : Tokenizer
        A ``CodecTokenizer`` over quantizers that can be exported: residual chains and
        codebooks by distance or direction, and FSQ.
    folder : str or Path
        Made if it is missing.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    DsuError
        If the tokenizer is no codec, or a part of it can't be exported.
    """
    require("onnx", extra="onnx", needed_by="ONNX export")
    codec = getattr(tokenizer, "codec", None)
    if codec is None:
        raise DsuError(
            f"{type(tokenizer).__name__} is no codec: only CodecTokenizer is exported"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wav = 0.1 * torch.randn(1, round(_SECONDS * tokenizer.sample_rate))
    encoder, decoder = tokenizer.plain_parts()
    with torch.no_grad():
        latents = encoder(wav)
        codes = codec.quantizer.encode(latents)
    search, decoding = search_graph(codec.quantizer), DecoderGraph(codec, decoder)
    parts = {
        "encoder": (encoder, wav, ("wavs", "latents")),
        "quantizer": (search, latents, ("latents", "codes")),
        "decoder": (decoding, codes, ("codes", "wavs")),
    }
    files = [_export(*part, folder / f"{name}.onnx") for name, part in parts.items()]
    about = _describe(tokenizer)
    files.append(folder / "codec.json")
    files[-1].write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return files


def _export(
    module: nn.Module, example: Tensor, names: tuple[str, str], path: Path
) -> Path:
    axes = {name: {1: f"{name}_time"} for name in names}
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of every size it reads; the test runs other sizes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (example,),
            str(path),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return path


def _describe(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "sample_rate": tokenizer.sample_rate,
        "hop": tokenizer.hop,
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "fingerprint": tokenizer.fingerprint,
        "lookahead": tokenizer.lookahead,
        "opset": OPSET,
        "lengths": "frames = ceil(samples / hop); decoded samples = frames * hop",
    }
