"""The few MQTT packets that are written and read here: PUBLISH, its acknowledgements, and PINGREQ.

Everything else (CONNECT, SUBSCRIBE and their answers) is paho's. Section numbers are those of
MQTT 5; 3.1.1 differs only by having no properties and no reason codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from arus.errors import MalformedPacketError

#: A topic filter, with its QoS or without.
Filter = TypeVar("Filter")

PUBLISH = 0x30
PUBACK = 0x40
PUBREC = 0x50
PUBREL = 0x60
PUBCOMP = 0x70
PINGRESP = 0xD0

PINGREQ_PACKET = b"\xc0\x00"
PINGRESP_PACKET = b"\xd0\x00"

#: Largest remaining length that four bytes can encode (2.1.4).
MAX_REMAINING = 268_435_455

#: Bytes of a PUBLISH of QoS 1 or 2 without properties in addition to its topic and payload, at most: the fixed header, the length
#: of the topic, the packet id, and the length of the properties; and those of a topic alias.
PUBLISH_OVERHEAD, ALIAS_OVERHEAD = 10, 3

#: Filters in one SUBSCRIBE or UNSUBSCRIBE: AWS IoT Core ends the connection on a ninth.
FILTERS = 8

#: Packet ids up to here are for control messages and subscriptions; those above belong to the log.
CONTROL_IDS = 16_383
LOG_IDS = 65_535 - CONTROL_IDS


def packet_id_of(seq: int) -> int:
    """Return the packet id of the change numbered `seq`.

    It is a function of the number, so it need not be journalled: after a crash the same change is sent with the
    same id, and the broker recognises a QoS 2 message that it already holds.
    """
    return CONTROL_IDS + 1 + seq % LOG_IDS


class Ack(NamedTuple):
    """A PUBACK, PUBREC or PUBCOMP from the broker."""

    kind: int
    packet_id: int
    #: 0 is success, 0x80 and above a refusal (2.4); always 0 in MQTT 3.1.1.
    reason: int


def in_packets(filters: Sequence[Filter]) -> Iterator[Sequence[Filter]]:
    """Return filters in parts, each for one SUBSCRIBE or UNSUBSCRIBE."""
    for start in range(0, len(filters), FILTERS):
        yield filters[start : start + FILTERS]


@lru_cache(maxsize=2_048)
def encode_remaining(length: int) -> bytes:
    """Return a remaining length as a variable byte integer (1.5.5)."""
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        if not length:
            encoded.append(digit)
            return bytes(encoded)
        encoded.append(digit | 0x80)


def encode_publish(
    topic: bytes,
    payload: bytes,
    *,
    packet_id: int,
    qos: int,
    retain: bool,
    dup: bool,
    v5: bool,
    alias: int = 0,
) -> bytes:
    """Return a PUBLISH packet of QoS 1 or 2 without properties but a topic alias (3.3).

    :param alias: MQTT 5: stands for the topic from now on, and in this packet if the topic is empty; 0 for none.
    """
    properties = b"\x00" if v5 else b""
    if alias:
        properties = b"\x03\x23" + alias.to_bytes(2, "big")
    remaining = 2 + len(topic) + 2 + len(properties) + len(payload)
    return b"".join(
        (
            bytes((PUBLISH | dup << 3 | qos << 1 | retain,)),
            encode_remaining(remaining),
            len(topic).to_bytes(2, "big"),
            topic,
            packet_id.to_bytes(2, "big"),
            properties,
            payload,
        )
    )


def encode_pubrel(packet_id: int) -> bytes:
    """Return a PUBREL packet with reason code success (3.6)."""
    return b"\x62\x02" + packet_id.to_bytes(2, "big")


def decode_ack(header: int, body: bytes) -> Ack:
    """Return the acknowledgement in a packet.

    :raises MalformedPacketError: it is too short to contain a packet id.
    """
    if len(body) < 2:
        raise MalformedPacketError(f"an acknowledgement of {len(body)} bytes contains no packet id")
    return Ack(header & 0xF0, body[0] << 8 | body[1], body[2] if len(body) > 2 else 0)


def encode_ack(kind: int, packet_id: int) -> bytes:
    """Return a PUBACK, PUBREC or PUBCOMP packet with reason code success (3.4, 3.5, 3.7)."""
    return bytes((kind, 2)) + packet_id.to_bytes(2, "big")


class Publish(NamedTuple):
    """A PUBLISH from the broker."""

    topic: bytes
    payload: bytes
    #: 0 if its QoS is 0.
    packet_id: int
    qos: int
    retain: bool
    #: Why it must be discarded; None if it is valid.
    fault: str | None = None
    #: It may have been delivered before.
    dup: bool = False


class Frame(NamedTuple):
    """A packet: its first byte, and its body."""

    header: int
    #: Everything after the fixed header; of a PUBLISH above the limit, only the topic and the packet id.
    body: bytes
    #: Bytes of the body that were left out.
    left_out: int = 0


def decode_publish(frame: Frame, *, v5: bool) -> Publish:
    """Return the message in a PUBLISH packet (3.3).

    A message that breaks a rule is returned with its `fault` where its packet id is known: the receiver must
    acknowledge it, or the broker would send it again in each connection. Properties are skipped.

    :raises MalformedPacketError: the packet id can't be read.
    """
    header, body, left_out = frame
    qos = header >> 1 & 3
    head = _publish_head(header, body)
    if qos == 3 or head is None or head > len(body):
        raise MalformedPacketError("a PUBLISH packet without a valid QoS, topic or packet id")
    packet_id = int.from_bytes(body[head - 2 : head], "big") if qos else 0
    topic = body[2 : head - 2] if qos else body[2:head]
    fault = _topic_fault(topic)
    payload = b""
    if left_out:
        fault = f"it has {len(body) + left_out} bytes"
    elif v5:
        start = _properties_end(body, head)
        if start is None:
            fault = fault or "its properties are malformed"
        else:
            payload = body[start:]
    else:
        payload = body[head:]
    return Publish(topic, payload, packet_id, qos, bool(header & 1), fault, bool(header & 8))


def _publish_head(header: int, body: bytes | bytearray, at: int = 0) -> int | None:
    """Return the bytes of topic and packet id in a PUBLISH whose body begins at `at`; None if not known yet."""
    if len(body) < at + 2:
        return None
    return 2 + (body[at] << 8 | body[at + 1]) + (2 if header & 0x06 else 0)


def _topic_fault(topic: bytes) -> str | None:
    """Return the rule that the topic name of a message breaks (1.5.4, 4.7); None if it is valid."""
    if not topic:
        return "its topic is empty"
    if b"+" in topic or b"#" in topic or b"\0" in topic:
        return "its topic contains a wildcard or a null character"
    try:
        topic.decode()
    except UnicodeDecodeError:
        return "its topic is not UTF-8"
    return None


def _properties_end(body: bytes, at: int) -> int | None:
    """Return where the properties that begin at `at` end; None if they do not end in `body` (2.2.2)."""
    length = shift = 0
    while at < len(body) and shift <= 21:
        digit = body[at]
        at += 1
        length |= (digit & 0x7F) << shift
        if not digit & 0x80:
            return at + length if at + length <= len(body) else None
        shift += 7
    return None


class FrameReader:
    """Splits a byte stream into packets.

    :param limit: bytes of the largest packet. A larger PUBLISH is not kept: it is yielded without its payload as soon
        as its topic and packet id have arrived, and the rest is skipped as it arrives.
    """

    def __init__(self, limit: int = MAX_REMAINING + 5) -> None:
        self._limit = limit
        self._buffer = bytearray()
        #: Bytes still to arrive of a packet above the limit.
        self._skip = 0

    def renewed(self) -> FrameReader:
        """Return a reader for the next connection, with the same limit."""
        return FrameReader(self._limit)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add received bytes; yield each packet that is now complete.

        :raises MalformedPacketError: a remaining length of more than four bytes (1.5.5), or a packet above the
            limit that is not a PUBLISH.
        """
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        buffer = self._buffer
        buffer += data
        start = 0
        end = len(buffer)
        while True:
            length = shift = 0
            at = start + 1
            while at < end:
                digit = buffer[at]
                at += 1
                length |= (digit & 0x7F) << shift
                if not digit & 0x80:
                    break
                shift += 7
                if shift > 21:
                    raise MalformedPacketError("a remaining length of more than four bytes")
            else:
                break  # the fixed header is not complete yet
            if at - start + length > self._limit:
                head = self._head(buffer[start], at, length)
                if head is None:
                    break
                yield head
                start = at + len(head.body)
                skipped = min(head.left_out, end - start)
                start += skipped
                self._skip = head.left_out - skipped
                continue
            if at + length > end:
                break
            yield Frame(buffer[start], bytes(buffer[at : at + length]))
            start = at + length
        del buffer[:start]

    def _head(self, header: int, at: int, length: int) -> Frame | None:
        """Return a packet above the limit without its payload; None if its topic and packet id are yet to arrive.

        :raises MalformedPacketError: it is not a PUBLISH.
        """
        if header & 0xF0 != PUBLISH:
            raise MalformedPacketError(
                f"the broker sent a packet of {length} bytes that is no message; MQTT_MAX_PACKET_SIZE is {self._limit}"
            )
        size = _publish_head(header, self._buffer, at)
        if size is None or at + min(size, length) > len(self._buffer):
            return None
        size = min(size, length)
        return Frame(header, bytes(self._buffer[at : at + size]), length - size)
