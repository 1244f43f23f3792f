"""Fixtures for all tests: no network, and real speech where it is at hand."""

import os
import socket
from pathlib import Path

import pytest
from speechbrain.utils.importutils import LazyModule

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Hypothesis looks at the file of every loaded module; asking a lazy module of
# SpeechBrain for it would import an optional package and fail.
LazyModule.__file__ = None

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to reach another machine fails the test that makes it."""
    connect = socket.socket.connect

    def refuse(self, address):
        # Processes of one test talk over loopback (distributed tests).
        local = isinstance(address, (str, bytes)) or address[0] in (
            "127.0.0.1",
            "::1",
            "localhost",
        )
        if not local:
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """Folder of real speech: fsdd/, LJSpeech-mini/, VCTK-mini/."""
    folder = Path(os.environ.get("DSU_SPEECH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real speech at {folder} (set DSU_SPEECH_DATA)")
    return folder
