"""What an interrupted k-means run needs to go on: one atomic file, no pickle."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError


def save_state(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts so that a reader sees the old file or the new one.

    Arguments
    ---------
    path : pathlib.Path
        File to write; its folder is made.
    tensors : dict of str to torch.Tensor
        State.
    facts : dict
        What JSON can hold; kept in the file's header.

    Example
    -------
    >>> path = Path(getfixture("tmp_path")) / "state.safetensors"
    >>> save_state(path, {"x": torch.ones(1)}, {"epoch": 2})
    >>> load_state(path)
    ({'x': tensor([1.])}, {'epoch': 2})
    """
    content = save(
        {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
        metadata={"facts": json.dumps(facts, sort_keys=True)},
    )
    write_atomic(path, content)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote.

    Arguments
    ---------
    path : pathlib.Path
        File.

    Returns
    -------
    tensors : dict of str to torch.Tensor
        State, on the CPU.
    facts : dict
        The facts.

    Raises
    ------
    DsuError
        If the file is damaged or was not written by `save_state`.

    Example
    -------
    >>> path = Path(getfixture("tmp_path")) / "state.safetensors"
    >>> _ = path.write_bytes(b"broken")
    >>> load_state(path)
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: ...state.safetensors is not a k-means ...
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise DsuError(
            f"{path} is not a k-means checkpoint ({error}): remove it to start over"
        ) from None
    return tensors, facts


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under another name first, then put it in place.

    Arguments
    ---------
    path : pathlib.Path
        File to write; its folder is made.
    content : bytes
        What to write.

    Example
    -------
    >>> path = Path(getfixture("tmp_path")) / "note.txt"
    >>> write_atomic(path, b"done")
    >>> path.read_bytes()
    b'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def check_same_run(path: Path, facts: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another configuration.

    Arguments
    ---------
    path : pathlib.Path
        Checkpoint, named in the message.
    facts : dict
        Facts of the checkpoint, with its "config".
    config : dict
        Configuration of this run.

    Raises
    ------
    DsuError
        If any value differs; the message names the first.

    Example
    -------
    >>> check_same_run(Path("x"), {"config": {"size": 2}}, {"size": 2})
    """
    # Through JSON, where a tuple becomes a list.
    wanted = json.loads(json.dumps(config))
    for name in sorted(wanted.keys() | facts["config"].keys()):
        old, new = facts["config"].get(name), wanted.get(name)
        if old != new:
            raise DsuError(
                f"{path} belongs to a run with {name}={old}, this one has "
                f"{name}={new}: take another checkpoint folder or the old value"
            )


def same_everywhere(numbers: list[int]) -> bool:
    """Whether all ranks pass the same numbers; True without torch.distributed.

    Arguments
    ---------
    numbers : list of int
        As many on every rank.

    Returns
    -------
    bool
        The same answer on every rank.

    Example
    -------
    >>> same_everywhere([1, 2])
    True
    """
    dist = torch.distributed
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return True
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    mine = torch.tensor(numbers, device=device)
    everywhere = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, mine)
    return all(bool((other == mine).all()) for other in everywhere)
