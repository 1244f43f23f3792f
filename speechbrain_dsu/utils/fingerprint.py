"""Content hashes: of files, and of everything that decides a tokenizer's ids."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn


def hash_file(path: str | Path) -> str:
    """Hex sha256 of a file, read in blocks.

    Example
    -------
    >>> path = getfixture("tmp_path") / "x"
    >>> _ = path.write_bytes(b"abc")
    >>> hash_file(path)[:8]
    'ba7816bf'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _tensor_bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return (
        memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")
    )


def module_fingerprint(module: nn.Module) -> str:
    """Hex sha256 of what decides a module's output: its parts, settings and weights.

    Settings are taken from ``extra_repr`` of this package's own modules; parts of
    other packages count by class name and weights, since their ``repr`` may change
    from one release to the next.

    Arguments
    ---------
    module : nn.Module
        Any module. Device and training mode do not count.

    Returns
    -------
    str
        64 hexadecimal digits.

    Example
    -------
    >>> layer = nn.Linear(2, 2)
    >>> before = module_fingerprint(layer)
    >>> _ = layer.weight.data.add_(1)
    >>> module_fingerprint(layer) == before
    False
    """
    digest = hashlib.sha256()
    own = __name__.split(".")[0]
    for name, part in module.named_modules():
        cls = type(part)
        line = f"{name}={cls.__module__}.{cls.__qualname__}"
        if cls.__module__.split(".")[0] == own:
            line += f"({part.extra_repr()})"
        digest.update(f"{line}\n".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(_tensor_bytes(tensor))
    return digest.hexdigest()


def state_versions(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """A cheap key that changes when a weight is replaced or written to.

    It lets a fingerprint be kept until the weights move on; it means nothing
    outside the running process.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return tuple((t.data_ptr(), t._version) for t in tensors)
