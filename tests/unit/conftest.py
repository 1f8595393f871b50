"""Unit tests start no server: what tries to fails, wherever it is called from.

A test that needs a server belongs in tests/integration.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from tools.processes import Child


class NotInAUnitTestError(Exception):
    """A unit test started a server; it belongs in tests/integration."""


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen.__init__

    def start(self: subprocess.Popen[Any], args: Any, *more: Any, **options: Any) -> None:
        program = args if isinstance(args, (str, os.PathLike)) else args[0]
        if os.fspath(program) != sys.executable:
            raise NotInAUnitTestError(f"it starts {args}")
        popen(self, args, *more, **options)

    def listen(_socket: socket.socket, *_: Any) -> None:
        raise NotInAUnitTestError("it opens a listening socket")

    def child(_child: Child, name: str, *_: Any, **_options: Any) -> None:
        raise NotInAUnitTestError(f"it starts {name}")

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    monkeypatch.setattr(socket.socket, "listen", listen)
    monkeypatch.setattr(Child, "__init__", child)
