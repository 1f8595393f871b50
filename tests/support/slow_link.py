"""A slow link: forwards TCP connections to a loopback port, at a limited rate each way."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tests.support.lifecycle import Started

#: Bytes that may wait in a buffer of the link: what is written must not count as delivered too early.
_BUFFER = 4_096
#: Pieces a second.
_PIECES = 20
#: Seconds for a thread to end.
PATIENCE = 10.0


class SlowLink(Started):
    """Listens on a loopback port; `down` and `up` are bytes per second from and to `broker_port`."""

    def __init__(self, broker_port: int, *, down: float = 1e9, up: float = 1e9) -> None:
        self._broker_port = broker_port
        self._rates = {"down": down, "up": up}
        self._server = socket.socket()
        # Before listen(): accepted connections inherit it.
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._server.bind(("127.0.0.1", 0))
        self._server.listen()
        self.port: int = self._server.getsockname()[1]
        self._stop = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        #: Connections so far, and bytes that the clients have received.
        self.connections = 0
        self.received = 0

    @property
    def url(self) -> str:
        """What MQTT_BROKER_URL takes."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._spawn(self._accept)
        return self

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def cut(self) -> None:
        """End all connections."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # it has ended already
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)  # no connection is added from here on
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in (self._server, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                broker = socket.socket()
                broker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
                broker.connect(("127.0.0.1", self._broker_port))
                self.connections += 1
                self._sockets += [client, broker]
                for source, sink, way in ((client, broker, "up"), (broker, client, "down")):
                    self._spawn(self._forward, source, sink, way)

    def _forward(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        rate = self._rates[way]
        free_at = time.monotonic()
        with contextlib.suppress(OSError):  # either end is gone: so is the link
            while data := source.recv(max(1, min(65_536, int(rate / _PIECES)))):
                free_at = max(free_at, time.monotonic()) + len(data) / rate
                self._stop.wait(max(0.0, free_at - time.monotonic()))
                sink.sendall(data)
                if way == "down":
                    self.received += len(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):  # as above
                sock.shutdown(socket.SHUT_RDWR)
