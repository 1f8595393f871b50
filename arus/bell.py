"""The bell: tells the owner, from any process of this host, that something was committed.

Only a hint. A ring that gets lost costs the poll interval, never a change.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path


class Bell:
    """Rings a Unix datagram socket at a path."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket: socket.socket | None = None

    def ring(self) -> None:
        """Ring; never blocks and never fails: without an owner there is nobody to wake."""
        if self._socket is None:
            self._socket = _datagram_socket()
        with contextlib.suppress(OSError):  # nobody listens, or its buffer is full of rings
            self._socket.sendto(b"!", self._path)

    def close(self) -> None:
        """Let go of the socket; the next ring makes another. A forked child does so too."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class BellListener:
    """The owner's end of the bell. Only the holder of the owner's lock may make one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)  # left behind by an owner that was killed
        self._socket = _datagram_socket()
        self._socket.bind(str(path))

    def fileno(self) -> int:
        """Return the socket to wait on."""
        return self._socket.fileno()

    def answer(self) -> bool:
        """Take all rings so far; return whether there was one."""
        rang = False
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(16):
                rang = True
        return rang

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._path.unlink(missing_ok=True)


def _datagram_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock
