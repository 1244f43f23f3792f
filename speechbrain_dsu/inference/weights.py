"""Weights in and out of safetensors, strictly."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError

_NORM_KEYS = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def state_of(
    modules: Mapping[str, nn.Module], half: bool | Collection[str] = False
) -> dict[str, Tensor]:
    """State of all modules under ``<module>.<key>``, on the CPU, for a file.

    Tensors that share memory are stored once each, so that any reader gets them all.

    Arguments
    ---------
    modules : mapping
        Name to module.
    half : bool or collection of str
        Store float32 as float16, except what would overflow. Where modules are named,
        those of others only when nothing is lost.

    Raises
    ------
    DsuError
        If a module keeps something else than tensors in its state.

    Example
    -------
    >>> sorted(state_of({"layer": nn.Linear(2, 1)}))
    ['layer.bias', 'layer.weight']
    """
    state = {}
    shrink = half is not False
    rounded = set(modules) if half is True else set(half or ())
    for key, value in nn.ModuleDict(modules).state_dict().items():
        if not isinstance(value, Tensor):
            raise DsuError(
                f"{key} is a {type(value).__name__}: only tensors are stored"
            )
        value = value.detach().cpu()
        if shrink and value.dtype == torch.float32:
            small = value.half()
            if key.split(".")[0] in rounded:
                fits = torch.equal(small.isfinite(), value.isfinite())
            else:
                # Weights that were rounded before lose nothing.
                fits = torch.equal(small.float(), value)
            value = small if fits else value
        state[key] = value.clone().contiguous()
    return state


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; a pickle under that name is refused unread.

    Raises
    ------
    DsuError
        If the file is not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise DsuError(f"{path}: not a safetensors file ({error})") from None


def load_strict(
    modules: Mapping[str, nn.Module], state: Mapping[str, Tensor], where: str
) -> None:
    """Copy a state into modules: no key missing, none left over, all shapes equal.

    Floating-point values are cast to the dtype of their place. Both spellings of
    weight normalisation (``weight_g`` and ``parametrizations.weight.original0``) fit.

    Arguments
    ---------
    modules : mapping
        Name to module, as given to ``state_of``.
    state : mapping
        What ``state_of`` gave.
    where : str
        File name for messages.

    Raises
    ------
    DsuError
        With the keys that are missing, unexpected or of another shape or type; the
        modules are then unchanged.

    Example
    -------
    >>> layer = nn.Linear(2, 1)
    >>> load_strict({"a": layer}, {"a.weight": torch.zeros(1, 2)}, "model.safetensors")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: model.safetensors: missing: a.bias
    """
    wanted = nn.ModuleDict(modules).state_dict()
    state = _respell(state, wanted)
    faults = []
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if missing:
        faults.append(f"missing: {_some(missing)}")
    if unexpected:
        faults.append(f"unexpected: {_some(unexpected)}")
    unlike = []
    for key in wanted:
        if key not in state or not isinstance(wanted[key], Tensor):
            continue
        old, new = wanted[key], state[key]
        if old.shape != new.shape:
            unlike.append(f"{key} is {list(new.shape)}, not {list(old.shape)}")
        elif old.dtype != new.dtype and not (
            old.is_floating_point() and new.is_floating_point()
        ):
            unlike.append(f"{key} is {new.dtype}, not {old.dtype}")
    if unlike:
        faults.append(f"do not fit: {_some(unlike)}")
    if faults:
        raise DsuError(f"{where}: {'; '.join(faults)}")
    cast = {key: value.to(wanted[key].dtype) for key, value in state.items()}
    nn.ModuleDict(modules).load_state_dict(cast, strict=True)


def _some(items: list[str]) -> str:
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return ", ".join(items[:8]) + more


def _respell(state: Mapping[str, Tensor], wanted: Mapping) -> dict[str, Tensor]:
    """The state with weight-normalisation keys spelt as ``wanted`` spells them."""
    swaps = {**_NORM_KEYS, **{new: old for old, new in _NORM_KEYS.items()}}
    found = {}
    for key, value in state.items():
        if key not in wanted:
            for ending, other in swaps.items():
                renamed = key.removesuffix(ending) + other
                if key.endswith(f".{ending}") and renamed in wanted:
                    key = renamed
                    break
        found[key] = value
    return found
