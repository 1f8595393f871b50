"""The guard of tests/unit/conftest.py refuses what starts a server, and lets a Python process pass."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tools.processes import Child


def test_a_program_is_refused() -> None:
    with pytest.raises(Exception, match="starts"):
        subprocess.run(["mosquitto", "-h"])


def test_a_child_that_runs_beside_the_test_is_refused() -> None:
    with pytest.raises(Exception, match="starts a server"):
        Child("a server", [sys.executable, "-c", "pass"])


def test_a_listening_socket_is_refused() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        with pytest.raises(Exception, match="listening"):
            server.listen()


def test_a_python_process_may_run() -> None:
    assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"]).returncode == 3
