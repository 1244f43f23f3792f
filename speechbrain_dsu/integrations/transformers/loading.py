"""Configurations and weights of transformers models, strictly and offline first.

Nothing here runs code from elsewhere: classes come from a fixed list, weights from
safetensors only.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.optional import require

CLASSES = {
    "hubert": "Hubert",
    "wav2vec2": "Wav2Vec2",
    "wavlm": "WavLM",
    "wav2vec2-bert": "Wav2Vec2Bert",
    "encodec": "Encodec",
    "dac": "Dac",
    "mimi": "Mimi",
    "xcodec": "Xcodec",
}
"""Beginning of the class names for each ``model_type``."""

_NESTED = {
    "acoustic_model_config": ("dac",),
    "semantic_model_config": ("hubert", "wavlm"),
}
# What neither shapes a model nor decides its output in evaluation mode.
_IDLE = re.compile(
    r"_.*|transformers_version|(torch_)?dtype|architectures|auto_map|.*dropout|layerdrop"
    r"|(mask_(time|feature)|ctc|tdnn|classifier|xvector|contrastive|diversity)_.*"
    r"|apply_spec_augment|.*_token_id|num_negatives|num_ctc_classes|vocab_size"
    r"|(proj_)?codevector_dim|num_codevectors?_.*|use_weighted_layer_sum|use_cache"
    r"|initializer_range|.*_loss_weight|final_dropout|tie_word_embeddings|id2label"
    r"|label2id|problem_type|output_(attentions|hidden_states)|return_dict"
    r"|gradient_checkpointing|use_streaming|chunk_size_feed_forward|is_.*"
)
_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def make_config(config: Mapping[str, Any], allowed: Sequence[str], needed_by: str):
    """A transformers configuration object from a plain mapping.

    Arguments
    ---------
    config : mapping
        As in a ``config.json``, with ``model_type``; what is left out takes
        transformers' default.
    allowed : sequence of str
        The model types that will do.
    needed_by : str
        Whoever asks, for messages.

    Raises
    ------
    DsuError
        If transformers is missing, or the configuration is not one of these models'.
    """
    transformers = require("transformers", extra="hf", needed_by=needed_by)
    if not isinstance(config, Mapping) or config.get("model_type") not in allowed:
        kind = config.get("model_type") if isinstance(config, Mapping) else config
        raise DsuError(
            f"{needed_by} takes a mapping with model_type in {list(allowed)}, got "
            f"{kind!r}"
        )
    for key, kinds in _NESTED.items():
        inner = config.get(key)
        if inner is not None and inner.get("model_type") not in kinds:
            raise DsuError(
                f"{key}: model_type must be in {list(kinds)}, got "
                f"{inner.get('model_type')!r}"
            )
    values = {
        key: value for key, value in _plain(config).items() if key != "model_type"
    }
    maker = getattr(transformers, CLASSES[config["model_type"]] + "Config")
    try:
        return maker(**values)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DsuError(f"{needed_by}: configuration refused: {reason}") from error


def _plain(value: Any) -> Any:
    """The configuration without idle entries, tuples as lists.

    YAML 1.1 reads 1e-05 as a word; here it is the number it was meant to be.
    """
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if not _IDLE.fullmatch(str(k))}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value)
    return value


def describe_config(config: Any) -> dict[str, Any]:
    """What a configuration object says beyond the defaults of its class.

    The shortest mapping that builds the same model, without what decides no output:
    it goes into YAML files and fingerprints.
    """
    found, default = (_plain(c.to_dict()) for c in (config, type(config)()))
    if config.model_type == "mimi":
        found["frame_rate"], default["frame_rate"] = config.frame_rate, 12.5
    nested = set(_NESTED) & set(found)
    kept = {k for k, v in found.items() if k in nested or v != default.get(k)}
    return {"model_type": config.model_type} | {k: found[k] for k in sorted(kept)}


def config_line(config: Mapping[str, Any]) -> str:
    """The mapping in one line whose text does not depend on the order of its keys."""
    return json.dumps(config, sort_keys=True)


def build(config: Any, needed_by: str) -> nn.Module:
    """The model of a configuration, in evaluation mode, weight norm folded in."""
    transformers = require("transformers", extra="hf", needed_by=needed_by)
    model = getattr(transformers, CLASSES[config.model_type] + "Model")(config).eval()
    fold_module(model)
    return model


def fold_module(model: nn.Module) -> None:
    """Replace weight-normalised weights by what they amount to, once for all calls."""
    from torch.nn.utils import parametrize

    for part in model.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")


def fold_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with both spellings of weight normalisation folded into ``weight``."""
    folded = dict(state)
    spellings = (
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ("weight_g", "weight_v"),
    )
    for magnitude, direction in spellings:
        for key in [k for k in folded if k.endswith(f".{magnitude}")]:
            stem = key.removesuffix(magnitude)
            g, v = folded.pop(key), folded.pop(stem + direction)
            kept = [d for d in (0, 2, 1) if g.numel() == g.shape[d] == v.shape[d]]
            folded[stem + "weight"] = torch._weight_norm(v, g, kept[0])
    return folded


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], unused: str, where: str
) -> None:
    """Copy weights into a model: none missing, none left over.

    Arguments
    ---------
    model : nn.Module
        From ``build``.
    state : mapping
        Weights in either spelling of weight normalisation.
    unused : str
        Regular expression of the keys that the model has no place for, on purpose.
    where : str
        For messages.

    Raises
    ------
    DsuError
        With the keys that are missing, left over or of another shape.
    """
    wanted = model.state_dict()
    found = {
        key: value.detach().float() if value.is_floating_point() else value.detach()
        for key, value in fold_state(state).items()
        if key in wanted or not re.fullmatch(unused, key)
    }
    faults = [f"{key} is missing" for key in wanted if key not in found]
    faults += [f"{key} is left over" for key in found if key not in wanted]
    faults += [
        f"{key} is {list(found[key].shape)}, not {list(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DsuError(f"{where}: weights don't fit: {'; '.join(faults[:5])}{more}")
    model.load_state_dict(found)


def find_folder(source: str | Path, revision: str | None = None) -> Path:
    """A folder with a model's files: a local one, or a snapshot from the Hub.

    What is in the local cache is taken without a look at the network.

    Raises
    ------
    DsuError
        If there is no configuration, or the weights are not safetensors.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _snapshot(str(source), revision)
    if not (folder / "config.json").is_file():
        raise DsuError(f"{source}: no config.json there")
    if not any(folder.glob("*.safetensors")):
        raise DsuError(
            f"{source}: no *.safetensors there, and pickles are not loaded: convert "
            "the weights once with transformers' save_pretrained"
        )
    return folder


def _snapshot(repo: str, revision: str | None) -> Path:
    hub = require("huggingface_hub", extra="hf", needed_by="a model from the Hub")
    wanted = [
        "config.json",
        "preprocessor_config.json",
        "*.safetensors",
        "*.index.json",
    ]
    given = {"revision": revision, "allow_patterns": wanted}
    try:
        return Path(hub.snapshot_download(repo, local_files_only=True, **given))
    except Exception:
        pass  # Not in the cache: ask the Hub.
    try:
        return Path(hub.snapshot_download(repo, **given))
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise DsuError(f"{repo}: no folder, and the Hub says: {reason}") from None


def read_pretrained(
    source: str | Path, allowed: Sequence[str], revision: str | None, needed_by: str
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Configuration, weights and preprocessing of a published model.

    transformers reads the weights, since it knows how their keys were called in each
    of its releases; a weight that it would make up is an error here.

    Returns
    -------
    config : dict
        As ``describe_config`` gives it.
    state : dict
        The weights of the plain model, heads left out.
    preprocessor : dict
        ``preprocessor_config.json``, empty if there is none.
    """
    transformers = require("transformers", extra="hf", needed_by=needed_by)
    folder = find_folder(source, revision)
    raw = json.loads((folder / "config.json").read_text())
    config = make_config(raw, allowed, needed_by)
    maker = getattr(transformers, CLASSES[config.model_type] + "Model")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        model, report = maker.from_pretrained(
            str(folder),
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    finally:
        transformers.logging.set_verbosity(verbosity)
    made_up = sorted(
        str(k) for k in (*report["missing_keys"], *report["mismatched_keys"])
    )
    if made_up:
        raise DsuError(
            f"{source}: not a complete {config.model_type} model: {len(made_up)} "
            f"weights are missing or of another shape, among them {made_up[0]}"
        )
    extra = folder / "preprocessor_config.json"
    preprocessor = json.loads(extra.read_text()) if extra.is_file() else {}
    return describe_config(config), model.state_dict(), preprocessor
