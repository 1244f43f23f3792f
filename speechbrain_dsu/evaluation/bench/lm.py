"""Greedy writing by a unit language model against transformers' Llama.

Both have the same weights (random, 51 M parameters) and the same prompts, and write
the same ids; turns are interleaved. ``floor_s`` is the time that the bare products of
one vector with every matrix take, once per step: the weights are read, nothing else
is done. Rounded copies of ours (bfloat16; eight-bit matrices) are compared with both
models in float32. They may write other ids, hence ``loss``: nats per id that they
lose over what float32 wrote. ``cpu_s`` is the time of the process, which other
programs disturb less.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.utils.optional import require

Build = Callable[..., nn.Module]
"""``build(units, dim, n_layers, n_heads, ffn_dim)`` gives a model like Llama."""
Write = Callable[[nn.Module, Tensor, int], Tensor]
"""``write(model, prompt, steps)``: the prompt and so many greedy ids behind it."""
Compress = Callable[[nn.Module], nn.Module]
"""A copy of a model with matrices in eight bits."""

_FULL = {"units": 1000, "dim": 512, "n_layers": 12, "n_heads": 8, "ffn_dim": 2048}
_QUICK = {"units": 20, "dim": 32, "n_layers": 2, "n_heads": 4, "ffn_dim": 48}


def run(
    quick: bool = False,
    build: Build | None = None,
    write: Write | None = None,
    compress: Compress | None = None,
    steps: int = 500,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """All rows of the section.

    Arguments
    ---------
    quick : bool
        A tiny model and a dozen steps.
    build : callable, optional
        Makes our model; without it there are no rows.
    write : callable, optional
        Lets it write.
    compress : callable, optional
        Makes its matrices smaller; without it there are no such rows.
    steps : int
        Ids behind the prompt.
    repeats : int
        Turns; medians are given.

    Returns
    -------
    list of dict
        One row per batch size, kind of weights and model to compare with.
    """
    if build is None or write is None:
        return []
    sizes, steps, repeats = (_QUICK, 12, 1) if quick else (_FULL, steps, repeats)
    torch.manual_seed(0)
    ours, theirs = build(**sizes).eval(), _llama(**sizes)
    copy_llama(ours, theirs)
    models = {"float32": ours, "bfloat16": copy.deepcopy(ours).bfloat16()}
    if compress is not None:
        models["int8"] = compress(ours)
    rows = []
    for batch in (1, 8):
        prompt = torch.randint(3, 3 + sizes["units"], (batch, 11, 1))
        prompt[:, 0] = 1
        rows += _compare(models, theirs, write, prompt, steps, repeats)
    return rows


@torch.no_grad()
def copy_llama(ours: nn.Module, theirs: nn.Module) -> None:
    """Give our model the weights of transformers' ``LlamaForCausalLM``.

    Arguments
    ---------
    ours : nn.Module
        `UnitLM` of one stream with RMS norms, "swiglu" and no biases.
    theirs : nn.Module
        With as many layers and sizes.
    """
    ours.embedding.table.weight.copy_(theirs.model.embed_tokens.weight)
    ours.head.out.weight.copy_(theirs.lm_head.weight)
    ours.transformer.norm.weight.copy_(theirs.model.norm.weight)
    for mine, other in zip(ours.transformer.layers, theirs.model.layers, strict=True):
        attention, feed = other.self_attn, other.mlp
        heads = (attention.q_proj, attention.k_proj, attention.v_proj)
        mine.attention.project.weight.copy_(torch.cat([x.weight for x in heads]))
        mine.attention.out.weight.copy_(attention.o_proj.weight)
        into = torch.cat([feed.gate_proj.weight, feed.up_proj.weight])
        mine.feed_forward.into.weight.copy_(into)
        mine.feed_forward.out.weight.copy_(feed.down_proj.weight)
        mine.attention_norm.weight.copy_(other.input_layernorm.weight)
        mine.feed_norm.weight.copy_(other.post_attention_layernorm.weight)


def _llama(units: int, dim: int, n_layers: int, n_heads: int, ffn_dim: int):
    transformers = require("transformers", extra="hf", needed_by="the lm bench")
    config = transformers.LlamaConfig(
        vocab_size=3 + units,
        hidden_size=dim,
        intermediate_size=ffn_dim,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        # Spread logits, so that rounding rarely changes which is highest.
        initializer_range=0.05,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


@torch.no_grad()
def _compare(
    models: dict[str, nn.Module],
    theirs: nn.Module,
    write: Write,
    prompt: Tensor,
    steps: int,
    repeats: int,
) -> list[dict[str, Any]]:
    def llama() -> Tensor:
        ids = prompt[..., 0]
        return theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            suppress_tokens=[0, 1, 2],
        )

    runs: dict[str, Callable[[], Tensor]] = {
        name: lambda model=model: write(model, prompt, steps)
        for name, model in models.items()
    }
    runs["llama"] = llama
    found: dict[str, Tensor] = {}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, call in runs.items():
            begin = time.perf_counter(), time.process_time()
            found[name] = call()
            wall[name].append(time.perf_counter() - begin[0])
            cpu[name].append(time.process_time() - begin[1])
    floor = steps * _floor(models["float32"], repeats)
    written = found["float32"]
    plain = float(models["float32"](written)["nll"])
    rows = []
    for name, model in models.items():
        loss = float(model(written)["nll"]) - plain
        peers = ("llama",) if name == "float32" else ("llama", "float32")
        for peer in peers:
            mine = statistics.median(wall[name])
            turns = zip(wall[name], wall[peer], strict=True)
            cpus = zip(cpu[name], cpu[peer], strict=True)
            same = found[peer] if peer == "llama" else found[peer][..., 0]
            title = "transformers Llama" if peer == "llama" else "ours"
            rows.append(
                {
                    "case": f"{steps} ids, batch {len(prompt)}, {name}",
                    "peer": f"{title}, float32",
                    "ours_s": round(mine, 3),
                    "peer_s": round(statistics.median(wall[peer]), 3),
                    "ratio": round(statistics.median(b / a for a, b in turns), 2),
                    "cpu_s": round(statistics.median(cpu[name]), 3),
                    "cpu_ratio": round(statistics.median(b / a for a, b in cpus), 2),
                    "equal": bool(torch.equal(found[name][..., 0], same)),
                    "loss": round(loss, 4),
                    "ids_per_s": round(steps * len(prompt) / mine, 1),
                    "floor_s": round(floor, 3),
                    "times_floor": round(mine / floor, 2),
                }
            )
    return rows


def _floor(model: nn.Module, repeats: int) -> float:
    """Seconds in which every matrix meets one vector."""
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    dtype = layers[0].weight.dtype
    inputs = [torch.randn(1, part.in_features, dtype=dtype) for part in layers]
    seconds = []
    for _ in range(2 + repeats):
        begin = time.perf_counter()
        for part, x in zip(layers, inputs, strict=True):
            F.linear(x, part.weight)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
