"""A link between vessel and broker that stalls between two packets: what is behind them is on its way, and never arrives."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from arus.mqtt.packets import FrameReader
from tests.support.lifecycle import Started
from tests.support.scripted_broker import packet

_ALL: Mapping[int, float] = {}
_NONE = dict.fromkeys(range(0, 256, 16), 0.0)


class Direction:
    """The packets in one direction of the present connection, in order."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._sink: socket.socket | None = None
        self._under_way: list[bytes] = []
        self._passed: Counter[int] = Counter()
        self._limits = _ALL

    def connect(self, sink: socket.socket) -> None:
        """Begin a connection."""
        with self._lock:
            self._sink, self._under_way = sink, []

    def send(self, data: bytes) -> None:
        """Send a packet, unless it or one before it is held."""
        with self._lock:
            self._under_way.append(data)
            self._flush()

    def limit(self, limits: Mapping[int, float]) -> None:
        """From now on pass so many packets of some kinds, and hold the next one of them with all that follow."""
        with self._lock:
            self._limits = limits
            self._passed.clear()
            self._flush()

    def held(self, kind: int) -> list[bytes]:
        """The packets of a kind that are held."""
        with self._lock:
            return [data for data in self._under_way if data[0] & 0xF0 == kind]

    def _flush(self) -> None:
        while self._under_way:
            kind = self._under_way[0][0] & 0xF0
            if self._passed[kind] >= self._limits.get(kind, float("inf")):
                return
            self._passed[kind] += 1
            data = self._under_way.pop(0)
            if self._sink is not None:
                with suppress(OSError):  # that end is gone: so is the link
                    self._sink.sendall(data)


class StallingLink(Started):
    """Listens on a port of its own, and connects one vessel with the broker.

    `hold` stalls both directions, `outward` and `inward` say what may pass, and `cut` ends the connection and refuses
    others: what was held is lost.
    """

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._lock = threading.RLock()
        self.outward, self.inward = Direction(self._lock), Direction(self._lock)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What MQTT_BROKER_URL takes."""
        return f"mqtt://127.0.0.1:{self._port}"

    def hold(self) -> None:
        """Stall: nothing more passes."""
        self.outward.limit(_NONE)
        self.inward.limit(_NONE)

    def cut(self) -> None:
        """End the connection, and take no other."""
        with suppress(OSError):  # it was cut before
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        self._thread.join(10)
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):  # the other side has closed it
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                vessel, _ = self._listener.accept()
            except OSError:
                return  # cut
            broker = socket.create_connection(("127.0.0.1", self._broker_port))
            self._ends += [vessel, broker]
            for end in (vessel, broker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, way in (
                (vessel, broker, self.outward),
                (broker, vessel, self.inward),
            ):
                way.connect(sink)
                arguments = (source, sink, way)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, way: Direction) -> None:
        frames = FrameReader()
        with suppress(OSError):  # either end is gone: so is the link
            while data := source.recv(65_536):
                for header, body, _ in frames.feed(data):
                    way.send(packet(header, body))
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()
