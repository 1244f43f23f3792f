"""Jobs on two ranks: two processes that talk over loopback."""

import datetime
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RUN_OPTS = {
    "device": "cpu",
    "noprogressbar": True,
    "distributed_launch": True,
    "distributed_backend": "gloo",
}
"""Of SpeechBrain, for a Brain inside a job."""


def _work(rank: int, port: int, limit: int, job: Callable, folder: Path) -> None:
    torch.set_num_threads(1)
    # As torchrun sets them, which SpeechBrain reads.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    timeout = datetime.timedelta(seconds=limit)
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timeout)
    try:
        torch.save(job(rank, folder), folder / f"rank{rank}")
        # One that ends late can abort when the first is gone.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def on_two_ranks(
    job: Callable[[int, Path], Any], folder: Path, limit: int = 120
) -> list[Any]:
    """What a job gives on each of two ranks.

    Arguments
    ---------
    job : callable
        ``job(rank, folder)`` to tensors and plain values; a function of a module, or
        a ``partial`` of one: it is imported anew in each process.
    folder : Path
        Gets the results.
    limit : int
        Seconds that a rank waits for the other, and half of what both may take.

    Returns
    -------
    list
        Of rank 0 and of rank 1.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = (port, limit, job, folder)
    context = mp.spawn(_work, given, nprocs=2, join=False)
    try:
        if not context.join(timeout=limit) and not context.join(timeout=limit):
            pytest.fail(f"two ranks did not finish in {2 * limit} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"rank{rank}") for rank in (0, 1)]


def mine(rank: int | None) -> slice:
    """A rank's two items of a joined batch of four; all for None, which holds it."""
    return slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
