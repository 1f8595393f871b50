"""The link between ship and shore: a TCP proxy that can be cut, hung and slowed, and that looks on.

What it does to bytes follows what a network can do to a TCP stream: delay it, end it early, or both;
never lose a part of it and go on.
"""

from __future__ import annotations

import contextlib
import random
import re
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from paho.mqtt.properties import VariableByteIntegers

_CHUNK = 4096
_MESSAGE_ID = re.compile(rb'"messageId":"([^"]+)"')
_CONNECT, _CONNACK, _PUBLISH, _PUBCOMP = 1, 2, 3, 7


class Mode(StrEnum):
    """What the link does at present."""

    OPEN = "open"
    #: What the ship sends is lost; at the end of the cut the connections are reset.
    CUT_OUT = "cut out"
    #: What the broker sends is lost; likewise.
    CUT_IN = "cut in"
    #: Connections are reset, new ones too.
    DOWN = "down"
    #: Connections are taken, and nothing moves. Afterwards all of it arrives late, as retransmitted.
    HALF_OPEN = "half open"


@dataclass(frozen=True, slots=True)
class Packet:
    """An MQTT packet that passed, as seen where it was delivered."""

    #: seconds, of this machine's steady clock
    at: float
    connection: int
    #: from the ship to the broker
    outward: bool
    #: 1..15, as in MQTT's fixed header
    kind: int
    packet_id: int
    qos: int
    dup: bool
    #: of a PUBLISH that carries a change
    message_id: str | None
    #: of a CONNACK
    session_present: bool
    #: of a CONNECT
    client_id: str | None


class Frames:
    """Cuts one direction of one connection into MQTT packets."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        self._data += data
        packets = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def _next(self) -> tuple[int, bytes] | None:
        length = 0
        for at in range(1, 5):
            if len(self._data) <= at:
                return None
            length |= (self._data[at] & 0x7F) << (7 * (at - 1))
            if not self._data[at] & 0x80:
                break
        end = at + 1 + length
        if len(self._data) < end:
            return None
        header, body = self._data[0], bytes(self._data[at + 1 : end])
        del self._data[:end]
        return header, body


def _client_id(body: bytes) -> str | None:
    """The client id of a CONNECT (MQTT 3.1.1 and 5, section 3.1); None if it is TLS that looks like one."""
    if body[:6] != b"\0\4MQTT":
        return None
    at = 10
    if body[6] == 5:
        properties, size = VariableByteIntegers.decode(body[at:])
        at += size + properties
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    return body[at + 2 : end].decode()


@dataclass(slots=True)
class _Pipe:
    """One direction of a connection: what was read and is still under way."""

    source: socket.socket
    sink: socket.socket
    outward: bool
    connection: int
    #: (when it arrives, bytes); an empty one is the end of the stream
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)
    frames: Frames = field(default_factory=Frames)
    read_all: bool = False
    done: bool = False


class Link:
    """Listens on `port` and connects each caller with `broker_port`, under the rules of the moment.

    `distance` is the delay each way in seconds; drawn from the seed if not given.
    """

    def __init__(
        self, port: int, broker_port: int, seed: int, *, distance: float | None = None
    ) -> None:
        self.port = port
        self._broker_port = broker_port
        self._random = random.Random(seed)
        #: seconds each way in the best of times: what is never under way is never interrupted
        drawn = self._random.choice([0, 0.005, 0.05])
        self._distance = drawn if distance is None else distance
        self._lock = threading.Lock()
        self._mode = Mode.OPEN
        self._satellite = False
        self._packets: list[Packet] = []
        self._connections = 0
        self._pipes: list[_Pipe] = []
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._server = socket.create_server(("127.0.0.1", port))
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and raise what went wrong meanwhile, if anything did."""
        self._stop.set()
        self._wake()
        self._thread.join(10)
        for sock in (self._server, self._wake_read, self._wake_write):
            sock.close()
        if self._failure is not None:
            raise self._failure

    @property
    def mode(self) -> Mode:
        """What the link does at present."""
        return self._mode

    @property
    def satellite(self) -> bool:
        """Whether it goes by satellite."""
        return self._satellite

    def set_mode(self, mode: Mode) -> None:
        """Change what the link does; returns once it is so."""
        with self._lock:
            before, self._mode = self._mode, mode
            if before in {Mode.CUT_IN, Mode.CUT_OUT} or mode is Mode.DOWN:
                self._reset_all()
        self._wake()

    def set_satellite(self, satellite: bool) -> None:
        """600 ms +-50 ms there and back, 2 % of the packets retransmitted; or as fast as it goes."""
        with self._lock:
            self._satellite = satellite
        self._wake()

    @property
    def packets(self) -> list[Packet]:
        """What has passed so far, in order of arrival."""
        with self._lock:
            return list(self._packets)

    def packets_of(self, client_id: str) -> list[Packet]:
        """What has passed so far on the connections of this client, in order of arrival.

        A probe of the broker has a client id, and so a session, of its own.
        """
        packets = self.packets
        own = {packet.connection for packet in packets if packet.client_id == client_id}
        return [packet for packet in packets if packet.connection in own]

    # -- its thread -------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._wake_write.send(b"!")

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                ready = self._selector.select(self._patience())
                with self._lock:
                    for key, _ in ready:
                        if key.fileobj is self._wake_read:
                            self._wake_read.recv(4096)
                        elif key.fileobj is self._server:
                            self._accept()
                        else:
                            self._read(key.data)
                    for pipe in list(self._pipes):
                        self._deliver(pipe)
                    self._sweep()
        except BaseException as error:  # noqa: BLE001  # handed to whoever stops the link
            self._failure = error
        finally:
            with self._lock:
                self._reset_all()
            self._selector.close()

    def _patience(self) -> float | None:
        if self._mode is Mode.HALF_OPEN:
            return None
        due = [pipe.under_way[0][0] for pipe in self._pipes if pipe.under_way]
        return max(0.001, min(due) - time.monotonic()) if due else None

    def _accept(self) -> None:
        ship, _ = self._server.accept()
        if self._mode is Mode.DOWN:
            _reset(ship)
            return
        try:
            shore = socket.create_connection(("127.0.0.1", self._broker_port), timeout=2)
        except OSError:
            _reset(
                ship
            )  # the broker is down; it is not the link that says so, but it looks the same
            return
        self._connections += 1
        for end in (ship, shore):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink, outward in ((ship, shore, True), (shore, ship, False)):
            pipe = _Pipe(source, sink, outward, self._connections)
            self._pipes.append(pipe)
            self._selector.register(source, selectors.EVENT_READ, pipe)

    def _read(self, pipe: _Pipe) -> None:
        if pipe.read_all or pipe.done:
            return
        try:
            data = pipe.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            pipe.read_all = True
            self._selector.unregister(pipe.source)
        swallowed = self._mode is (Mode.CUT_OUT if pipe.outward else Mode.CUT_IN)
        if swallowed:
            return
        pipe.under_way.append((self._arrival(pipe), data))

    def _arrival(self, pipe: _Pipe) -> float:
        at = time.monotonic() + self._distance
        if self._satellite:
            at += 0.3 + self._random.uniform(-0.025, 0.025)
            if self._random.random() < 0.02:
                at += 1.2  # lost once: sent again after the retransmission timeout
        # a stream stays in order: what comes behind a lost packet waits for it
        return max(at, pipe.under_way[-1][0]) if pipe.under_way else at

    def _deliver(self, pipe: _Pipe) -> None:
        if self._mode is Mode.HALF_OPEN or pipe.done:
            return
        now = time.monotonic()
        while pipe.under_way and pipe.under_way[0][0] <= now:
            at, data = pipe.under_way[0]
            if not data:
                pipe.done = True
                return
            try:
                sent = pipe.sink.send(data)
            except BlockingIOError:
                pipe.under_way[0] = (now + 0.005, data)
                return
            except OSError:
                pipe.done = True
                return
            self._note(pipe, data[:sent])
            if sent < len(data):
                pipe.under_way[0] = (at, data[sent:])
                return
            pipe.under_way.popleft()

    def _note(self, pipe: _Pipe, data: bytes) -> None:
        now = time.monotonic()
        for header, body in pipe.frames.feed(data):
            kind, qos = header >> 4, header >> 1 & 3
            packet_id, message_id, client_id = 0, None, None
            if kind == _CONNECT:
                client_id = _client_id(body)
            elif kind == _PUBLISH:
                topic_end = 2 + int.from_bytes(body[:2], "big")
                packet_id = int.from_bytes(body[topic_end : topic_end + 2], "big") if qos else 0
                found = _MESSAGE_ID.search(body, topic_end)
                message_id = found[1].decode() if found else None
            elif _PUBLISH < kind <= _PUBCOMP:
                packet_id, qos = int.from_bytes(body[:2], "big"), 0
            self._packets.append(
                Packet(
                    now,
                    pipe.connection,
                    pipe.outward,
                    kind,
                    packet_id,
                    qos,
                    kind == _PUBLISH and bool(header & 8),
                    message_id,
                    # TLS may look like a CONNACK without a body.
                    kind == _CONNACK and bool(int.from_bytes(body[:1], "big") & 1),
                    client_id,
                )
            )

    def _sweep(self) -> None:
        """Close what has ended at either side, once what was under way has arrived."""
        ended = {pipe.connection for pipe in self._pipes if pipe.done}
        for pipe in [pipe for pipe in self._pipes if pipe.connection in ended]:
            self._close(pipe)

    def _close(self, pipe: _Pipe) -> None:
        self._pipes.remove(pipe)
        pipe.done = True
        with contextlib.suppress(KeyError, ValueError):  # it was read to its end already
            self._selector.unregister(pipe.source)
        pipe.source.close()

    def _reset_all(self) -> None:
        for pipe in list(self._pipes):
            _linger_none(pipe.source)
            self._close(pipe)


def _linger_none(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _reset(sock: socket.socket) -> None:
    _linger_none(sock)
    sock.close()
