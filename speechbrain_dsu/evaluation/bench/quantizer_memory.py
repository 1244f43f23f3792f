"""How much memory a call holds at most."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], Any]) -> int:
    """Most bytes of tensors on the CPU that a call held at one time.

    Every allocation and release of the call is counted, so the answer is the same on
    a busy machine and in a process that already holds much. Scratch memory inside the
    matrix library isn't seen.

    Arguments
    ---------
    call : callable
        What to measure; is called once.

    Returns
    -------
    int
        Bytes beyond what lived before the call.

    Example
    -------
    >>> import torch
    >>> peak_bytes(lambda: torch.zeros(1000).add(1).add(1)) // 4000
    2
    """
    settings = {
        "activities": [ProfilerActivity.CPU],
        "profile_memory": True,
        "acc_events": True,
    }
    with profile(**settings) as trace:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda event: event["args"]["Ev Idx"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most
