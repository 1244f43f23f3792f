"""Units of a HuBERT layer beside SpeechBrain's ``DiscreteSSL``.

Both sides have the same random weights of BASE size, layer 6 and 500 centres; 32
utterances of 2 to 16 seconds, noise whose loudness changes. SpeechBrain's side is
``DiscreteSSL.encode`` itself, built without the vocoder that it would download, one
by one and in sorted, padded batches of 8; its batches see their padding, since the
BASE models can't mask it. Seconds are those of the processor. ``agreement`` is the
share of equal tokens with SpeechBrain's one by one, ``solo`` that of our batches with
each utterance alone.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.lengths import pad_stack, relative_lengths
from speechbrain_dsu.utils.optional import require

_NEEDED_BY = "the tokenize bench"
_QUICK = {
    "hidden_size": 16,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def run(
    quick: bool = False,
    make: Callable[..., Any] | None = None,
    layer: int = 6,
    units: int = 500,
    turns: int = 2,
) -> list[dict[str, Any]]:
    """All rows of the section.

    Arguments
    ---------
    quick : bool
        A small model, short utterances, one turn.
    make : callable, optional
        Configuration, weights of transformers, layer and centres ``[units, dim]`` to
        a tokenizer; None: there is nothing to time.
    layer, units : int
        Whose states, and how many centres.
    turns : int
        How often all sides run.

    Returns
    -------
    list of dict
        Rows with case, peer, ours_s, peer_s, ratio, agreement and solo.

    Raises
    ------
    DsuError
        If transformers or scikit-learn is missing.
    """
    if make is None:
        return []
    torch.manual_seed(0)
    if quick:
        layer, units, turns = 2, 8, 1
    wavs = _utterances(4 if quick else 32, 0.5 if quick else 2, 1 if quick else 16)
    with tempfile.TemporaryDirectory() as folder:
        model = _save_hubert(Path(folder), quick)
        centers = _centers(model, layer, units, wavs[:4])
        tokenizer = make(model.config.to_dict(), model.state_dict(), layer, centers)
        peer = _discrete_ssl(folder, layer, centers)
    ordered = sorted(wavs, key=len)
    sides: dict[str, Callable[[], list[Tensor]]] = {
        "ours": lambda: _ours(tokenizer, ordered),
        "SpeechBrain, one by one": lambda: _theirs(peer, ordered, layer, 1),
        "SpeechBrain, batches of 8": lambda: _theirs(peer, ordered, layer, 8),
    }
    spent: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[Tensor]] = {}
    for _ in range(turns):
        for name, tokens in sides.items():
            start = time.process_time()
            found[name] = tokens()
            spent[name].append(time.process_time() - start)
    alone = [tokenizer.encode(wav.unsqueeze(0)).codes[0, :, 0] for wav in ordered]
    seconds = sum(map(len, ordered)) / tokenizer.sample_rate
    mine = spent.pop("ours")
    return [
        {
            "case": f"HuBERT layer {layer}, K={units}, {seconds:.0f} s",
            "peer": name,
            "ours_s": round(statistics.median(mine), 3),
            "peer_s": round(statistics.median(theirs), 3),
            "ratio": round(
                statistics.median(b / a for a, b in zip(mine, theirs, strict=True)), 2
            ),
            "agreement": _equal(found["ours"], found["SpeechBrain, one by one"]),
            "solo": _equal(found["ours"], alone),
        }
        for name, theirs in spent.items()
    ]


def _utterances(count: int, shortest: float, longest: float) -> list[Tensor]:
    seconds = torch.linspace(shortest, longest, count)[torch.randperm(count)]
    wavs = []
    for length in seconds.tolist():
        loudness = torch.rand(max(2, round(4 * length)))
        samples = round(16000 * length)
        shape = nn.functional.interpolate(loudness[None, None], samples, mode="linear")
        wavs.append(0.3 * shape[0, 0] * torch.randn(samples))
    return wavs


def _save_hubert(folder: Path, quick: bool) -> nn.Module:
    transformers = require("transformers", extra="hf", needed_by=_NEEDED_BY)
    model = transformers.HubertModel(
        transformers.HubertConfig(**(_QUICK if quick else {}))
    ).eval()
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return model


@torch.no_grad()
def _centers(model: nn.Module, layer: int, units: int, wavs: list[Tensor]) -> Tensor:
    """Frames of the layer, drawn at random."""
    states = [
        model(wav.unsqueeze(0), output_hidden_states=True).hidden_states[layer][0]
        for wav in wavs
    ]
    frames = torch.cat(states)
    return frames[torch.randperm(len(frames))[:units]].clone()


def _discrete_ssl(folder: str, layer: int, centers: Tensor) -> nn.Module:
    stem = "speechbrain.integrations"
    hubert = require(f"{stem}.huggingface.hubert", extra="hf", needed_by=_NEEDED_BY)
    ssl = require(
        f"{stem}.audio_tokenizers.discrete_ssl", extra="hf", needed_by=_NEEDED_BY
    )
    cluster = require("sklearn.cluster", extra="dev", needed_by=_NEEDED_BY)
    kmeans = cluster.MiniBatchKMeans(len(centers), n_init=1, max_iter=1)
    kmeans.fit(centers.numpy())
    # scikit-learn turns the tensors that DiscreteSSL hands it into float64.
    kmeans.cluster_centers_ = centers.double().numpy()
    model = ssl.DiscreteSSL.__new__(ssl.DiscreteSSL)
    nn.Module.__init__(model)
    model.ssl_model = hubert.HuBERT(
        folder, folder, output_all_hiddens=True, freeze=True
    )
    model.kmeans_models, model.ssl_layer_ids = [kmeans], [layer]
    model.vocabularies = [kmeans.cluster_centers_]
    model.tokenizer = ssl.DiscreteSSLTokenizer([len(centers)])
    return model.eval()


def _ours(tokenizer: Any, wavs: list[Tensor]) -> list[Tensor]:
    found = []
    for first in range(0, len(wavs), 8):
        batch, counts = pad_stack(wavs[first : first + 8])
        tokens = tokenizer.encode(batch, relative_lengths(counts, batch.shape[1]))
        found += [item[:, 0] for item in tokens.unpad()]
    return found


def _theirs(model: Any, wavs: list[Tensor], layer: int, size: int) -> list[Tensor]:
    found = []
    for first in range(0, len(wavs), size):
        batch, counts = pad_stack(wavs[first : first + size])
        lens = relative_lengths(counts, batch.shape[1])
        tokens = model.encode(batch, lens, SSL_layers=[layer])[0]
        found += list(tokens[..., 0])
    return found


def _equal(mine: list[Tensor], others: list[Tensor]) -> float:
    pairs = [a[: len(b)] == b[: len(a)] for a, b in zip(mine, others, strict=True)]
    return round(torch.cat(pairs).float().mean().item(), 4)
