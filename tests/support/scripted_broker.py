"""A broker that says what a test makes it say, packet by packet; for what a real one never does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from arus.mqtt.packets import FrameReader, encode_remaining
from tests.support.lifecycle import Started

CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
PUBREC, PUBREL, PUBCOMP = 0x50, 0x60, 0x70
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x80, 0x90, 0xA0, 0xB0
PINGREQ, PINGRESP, DISCONNECT = 0xC0, 0xD0, 0xE0

PATIENCE = 40.0


class _Reader:
    """Takes fields off a packet's body."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, length: int) -> bytes:
        taken = self.body[self.at : self.at + length]
        assert len(taken) == length, f"the packet ends within a field: {self.body!r}"
        self.at += length
        return taken

    def number(self, length: int = 2) -> int:
        return int.from_bytes(self.take(length), "big")

    def binary(self) -> bytes:
        return self.take(self.number())

    def properties(self) -> bytes:
        length = shift = 0
        while True:
            digit = self.number(1)
            length |= (digit & 0x7F) << shift
            if digit < 0x80:
                return self.take(length)
            shift += 7


@dataclass(frozen=True)
class Connect:
    """A CONNECT."""

    level: int
    clean: bool
    keepalive: int
    properties: bytes
    client_id: str
    will_topic: str
    will: dict[str, Any]
    will_qos: int
    will_retain: bool
    username: str | None
    password: str | None


@dataclass(frozen=True)
class Publish:
    """A PUBLISH."""

    topic: str
    qos: int
    dup: bool
    retain: bool
    packet_id: int
    payload: bytes

    @property
    def json(self) -> Any:
        """The payload, parsed."""
        return orjson.loads(self.payload)


@dataclass(frozen=True)
class Packet:
    """Any other packet."""

    kind: int
    packet_id: int


def packet(header: int, body: bytes) -> bytes:
    """A whole packet."""
    return bytes((header,)) + encode_remaining(len(body)) + body


class Link:
    """One connection of the client under test."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = FrameReader()
        self._packets: list[tuple[int, bytes]] = []
        self.level = 5
        self.pings = 0
        #: The filters of each SUBSCRIBE, and those that are refused.
        self.filters: list[list[str]] = []
        self.refused: set[str] = set()
        #: Whether a filter with a wildcard does not end the connection.
        self.takes_wildcards = True

    def next(self, timeout: float = PATIENCE) -> Connect | Publish | Packet | None:
        """The next packet; None when none comes, ConnectionError when none will.

        Answers pings, and takes the claims of a client whose connections end early.
        """
        deadline = time.monotonic() + timeout
        while True:
            while not self._packets:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._sock.settimeout(left)
                try:
                    data = self._sock.recv(65_536)
                except TimeoutError:
                    return None
                if not data:
                    raise ConnectionError("the client hung up")
                self._packets += [frame[:2] for frame in self._frames.feed(data)]
            header, body = self._packets.pop(0)
            if header & 0xF0 == PINGREQ:
                self.pings += 1
                self.send(packet(PINGRESP, b""))
                continue
            if header & 0xF0 in {SUBSCRIBE, UNSUBSCRIBE}:
                self._answer_subscription(header, body)
                continue
            got = self._parse(header, body)
            if isinstance(got, Publish) and "/system/session/" in got.topic:
                self.ack(PUBACK, got.packet_id)
                continue
            return got

    def _answer_subscription(self, header: int, body: bytes) -> None:
        """Grant what an owner asks for when it looks back: there are no retained messages here."""
        reader = _Reader(body)
        packet_id = reader.take(2)
        if self.level == 5:
            reader.properties()
        filters = []
        while reader.at < len(body):
            filters.append(reader.binary().decode())
            reader.at += header & 0xF0 == SUBSCRIBE
        if header & 0xF0 == SUBSCRIBE:
            self.filters.append(filters)
            if not self.takes_wildcards and any("+" in each for each in filters):
                self.send(packet(DISCONNECT, b"\xa2\x00"))
                raise ConnectionError("no wildcards")
        properties = b"\x00" if self.level == 5 else b""
        codes = bytes(0x80 * (each in self.refused) for each in filters)
        if header & 0xF0 == UNSUBSCRIBE and self.level != 5:
            codes = b""
        kind = SUBACK if header & 0xF0 == SUBSCRIBE else UNSUBACK
        self.send(packet(kind, packet_id + properties + codes))

    def received(self) -> bytes:
        """The bytes that come next, of a client that does not speak MQTT here."""
        self._sock.settimeout(PATIENCE)
        return self._sock.recv(65_536)

    def connect(self) -> Connect:
        """The CONNECT that must come now."""
        got = self.next()
        assert isinstance(got, Connect), got
        self.level = got.level
        return got

    def publish(self, timeout: float = PATIENCE) -> Publish:
        """The PUBLISH that must come now."""
        got = self.next(timeout)
        assert isinstance(got, Publish), got
        return got

    def publishes(self, count: int) -> list[Publish]:
        """The next `count` packets, all of them PUBLISH."""
        return [self.publish() for _ in range(count)]

    def expect(self, kind: int) -> Packet:
        """The packet of `kind` that must come now."""
        got = self.next()
        assert isinstance(got, Packet), got
        assert got.kind == kind, f"{got.kind:#x}"
        return got

    def silent(self, seconds: float = 0.3) -> None:
        """Fail when anything comes within `seconds`."""
        got = self.next(seconds)
        assert got is None, got

    def accept(
        self,
        *,
        session_present: bool = False,
        receive_maximum: int | None = None,
        maximum_packet: int | None = None,
    ) -> Publish:
        """Take CONNECT, send CONNACK, take and acknowledge the online status; return that."""
        self.connect()
        self.connack(
            session_present=session_present,
            receive_maximum=receive_maximum,
            maximum_packet=maximum_packet,
        )
        return self.greeting()

    def greeting(self) -> Publish:
        """Take and acknowledge the online status."""
        status = self.publish()
        assert status.topic.endswith("system/status"), status
        self.ack(PUBACK, status.packet_id)
        return status

    def connack(
        self,
        reason: int = 0,
        *,
        session_present: bool = False,
        receive_maximum: int | None = None,
        maximum_packet: int | None = None,
        topic_aliases: int | None = None,
        keepalive: int | None = None,
        level: int | None = None,
    ) -> None:
        """Answer CONNECT."""
        body = bytes((session_present, reason))
        if (level or self.level) == 5:
            properties = b""
            if receive_maximum is not None:
                properties += b"\x21" + receive_maximum.to_bytes(2, "big")
            if maximum_packet is not None:
                properties += b"\x27" + maximum_packet.to_bytes(4, "big")
            if topic_aliases is not None:
                properties += b"\x22" + topic_aliases.to_bytes(2, "big")
            if keepalive is not None:
                properties += b"\x13" + keepalive.to_bytes(2, "big")
            body += encode_remaining(len(properties)) + properties
        self.send(packet(CONNACK, body))

    def ack(self, kind: int, packet_id: int, reason: int = 0) -> None:
        """Send PUBACK, PUBREC or PUBCOMP."""
        self.acks(kind, [packet_id], reason)

    def acks(self, kind: int, packet_ids: Iterable[int], reason: int = 0) -> None:
        """Send several in one write."""
        tail = bytes((reason,)) if reason else b""
        self.send(b"".join(packet(kind, i.to_bytes(2, "big") + tail) for i in packet_ids))

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._sock.settimeout(PATIENCE)
        self._sock.sendall(data)

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _parse(self, header: int, body: bytes) -> Connect | Publish | Packet:
        kind = header & 0xF0
        reader = _Reader(body)
        if kind == CONNECT:
            return self._parse_connect(reader)
        if kind == PUBLISH:
            topic = reader.binary().decode()
            packet_id = reader.number() if header & 6 else 0
            if self.level == 5:
                reader.properties()
            flags = (header >> 1 & 3, bool(header & 8), bool(header & 1))
            return Publish(topic, *flags, packet_id, reader.body[reader.at :])
        return Packet(kind, int.from_bytes(body[:2], "big"))

    @staticmethod
    def _parse_connect(reader: _Reader) -> Connect:
        assert reader.binary() == b"MQTT"
        level, flags, keepalive = reader.number(1), reader.number(1), reader.number()
        properties = reader.properties() if level == 5 else b""
        client_id = reader.binary().decode()
        has_will = bool(flags & 4)
        others = client_id.endswith("_probe") or "_doctor_" in client_id or "_follow_" in client_id
        assert has_will or others, "no will"
        if level == 5 and has_will:
            reader.properties()
        return Connect(
            level=level,
            clean=bool(flags & 2),
            keepalive=keepalive,
            properties=properties,
            client_id=client_id,
            will_topic=reader.binary().decode() if has_will else "",
            will=orjson.loads(reader.binary()) if has_will else {},
            will_qos=flags >> 3 & 3,
            will_retain=bool(flags & 0x20),
            username=reader.binary().decode() if flags & 0x80 else None,
            password=reader.binary().decode() if flags & 0x40 else None,
        )


class ScriptedBroker(Started):
    """Listens on a loopback port; `accept` returns the next connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: list[Link] = []

    @property
    def url(self) -> str:
        """What MQTT_BROKER_URL takes."""
        return f"mqtt://127.0.0.1:{self.port}"

    def accept(self, timeout: float = PATIENCE) -> Link:
        """The next connection."""
        self._listener.settimeout(timeout)
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(Link(sock))
        return self._links[-1]

    def close(self) -> None:
        self._listener.close()
        for link in self._links:
            link.close()
