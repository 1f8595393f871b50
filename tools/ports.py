"""Loopback ports: which are taken, which are free."""

from __future__ import annotations

import socket
from collections.abc import Iterable

LOOPBACK = "127.0.0.1"


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on it."""
    with socket.socket() as probe:
        # as servers do: connections of the last run that linger do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def first_free(candidates: Iterable[int], host: str = LOOPBACK) -> int | None:
    """The first of them that is free."""
    return next((port for port in candidates if is_free(port, host)), None)


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Whether somebody accepts connections on it."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
