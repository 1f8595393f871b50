"""Loopback ports: which are in use, and which are free."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

LOOPBACK = "127.0.0.1"
#: The state of a listening socket in /proc/net/tcp (include/net/tcp_states.h).
_LISTENS = "0A"


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server could listen on a port."""
    with socket.socket() as probe:
        # as servers do: lingering connections of the last run do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def first_free(candidates: Iterable[int], host: str = LOOPBACK) -> int | None:
    """Return the first free port."""
    return next((port for port in candidates if is_free(port, host)), None)


def listens(pid: int, port: int) -> bool:
    """Return whether it is this process that listens on a port: another one may have been quicker."""
    try:
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        sockets = {
            f"socket:[{row[9]}]"
            for row in rows
            if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port
        }
        return any(os.readlink(file) in sockets for file in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # it has ended


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server accepts connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
