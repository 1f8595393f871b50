"""The few MQTT packets that the relay writes and reads itself: PUBLISH, PUBREL and the acknowledgements.

Everything else (CONNECT, SUBSCRIBE, keepalive, inbound messages) is paho's. Section numbers are those of
MQTT 5; 3.1.1 differs only by having no properties and no reason codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .errors import MalformedPacketError

PUBLISH = 0x30
PUBACK = 0x40
PUBREC = 0x50
PUBREL = 0x60
PUBCOMP = 0x70

#: Largest remaining length that four bytes can say (2.1.4).
MAX_REMAINING = 268_435_455


class Ack(NamedTuple):
    """A PUBACK, PUBREC or PUBCOMP from the broker."""

    kind: int
    packet_id: int
    #: 0 is success, 0x80 and above a refusal (2.4); always 0 in MQTT 3.1.1.
    reason: int


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
    topic: bytes, payload: bytes, *, packet_id: int, qos: int, retain: bool, dup: bool, v5: bool
) -> bytes:
    """Return a PUBLISH packet of QoS 1 or 2 without properties (3.3)."""
    properties = b"\x00" if v5 else b""
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
    """Return a PUBREL packet that says success (3.6)."""
    return b"\x62\x02" + packet_id.to_bytes(2, "big")


def decode_ack(header: int, body: bytes) -> Ack:
    """Return the acknowledgement in a packet.

    :raises MalformedPacketError: it is too short to name a packet.
    """
    if len(body) < 2:
        raise MalformedPacketError(f"an acknowledgement of {len(body)} bytes names no packet")
    return Ack(header & 0xF0, body[0] << 8 | body[1], body[2] if len(body) > 2 else 0)


class FrameReader:
    """Cuts a byte stream into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Add received bytes; yield the first byte and the body of each packet that is now whole.

        :raises MalformedPacketError: a remaining length of more than four bytes (1.5.5).
        """
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
                break  # the fixed header is not whole yet
            if at + length > end:
                break
            yield buffer[start], bytes(buffer[at : at + length])
            start = at + length
        del buffer[:start]
