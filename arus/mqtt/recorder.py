"""A recorder of the answer to a WebSocket handshake: paho discards it, and reports only that the handshake failed."""

from __future__ import annotations

import socket
from typing import Any

#: Bytes that are kept at most.
_SIZE = 4_096


class Recorder:
    """A socket that keeps what it receives up to the end of the handshake."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.heard = bytearray()

    def recv(self, size: int) -> bytes:
        """Receive bytes."""
        data = self._sock.recv(size)
        if len(self.heard) < _SIZE and not self.heard.endswith(b"\r\n\r\n"):
            self.heard += data
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
