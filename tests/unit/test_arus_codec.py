"""The codec against paho's own: what it writes and reads is byte for byte the same."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode

from arus.codec import (
    MAX_REMAINING,
    PUBACK,
    PUBCOMP,
    PUBREC,
    Ack,
    FrameReader,
    decode_ack,
    encode_publish,
    encode_pubrel,
    encode_remaining,
)
from arus.errors import MalformedPacketError

PACKET_IDS = st.integers(1, 65_535)
TOPICS = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())
ACK_REASONS = {
    PUBACK: (PacketTypes.PUBACK, [0, 16, 128, 131, 135, 144, 145, 151, 153]),
    PUBREC: (PacketTypes.PUBREC, [0, 16, 128, 131, 135, 144, 145, 151, 153]),
    PUBCOMP: (PacketTypes.PUBCOMP, [0, 146]),
}


class Paho(Client):
    """paho's client with a list for a socket."""

    def __init__(self, *, v5: bool) -> None:
        protocol = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
        super().__init__(CallbackAPIVersion.VERSION2, protocol=protocol)
        self.written = b""

    def _packet_queue(self, _command: int, packet: Any, *_rest: Any) -> Any:
        self.written += bytes(packet)
        return 0


def written_by_paho(*, v5: bool, send: Callable[[Any], object]) -> bytes:
    client = Paho(v5=v5)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client._sock = ours
        send(client)
        client._sock = None
    return client.written


@given(
    topic=TOPICS,
    payload=st.binary(max_size=300) | st.integers(16_000, 17_000).map(bytes),
    packet_id=PACKET_IDS,
    qos=st.sampled_from([1, 2]),
    retain=st.booleans(),
    dup=st.booleans(),
    v5=st.booleans(),
)
def test_a_publish_is_pahos(
    topic: str, payload: bytes, packet_id: int, qos: int, retain: bool, dup: bool, v5: bool
) -> None:
    pahos = written_by_paho(
        v5=v5,
        send=lambda c: c._send_publish(packet_id, topic.encode(), payload, qos, retain, dup),
    )
    ours = encode_publish(
        topic.encode(), payload, packet_id=packet_id, qos=qos, retain=retain, dup=dup, v5=v5
    )
    assert ours == pahos


@given(PACKET_IDS, st.booleans())
def test_a_pubrel_is_pahos(packet_id: int, v5: bool) -> None:
    pahos = written_by_paho(v5=v5, send=lambda c: c._send_pubrel(packet_id))
    assert encode_pubrel(packet_id) == pahos


@given(
    st.integers(0, MAX_REMAINING)
    | st.sampled_from([127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
)
def test_a_remaining_length_is_pahos_and_comes_back(length: int) -> None:
    encoded = encode_remaining(length)
    assert encoded == VariableByteIntegers.encode(length)
    assert VariableByteIntegers.decode(encoded) == (length, len(encoded))


@given(st.sampled_from([PUBACK, PUBREC, PUBCOMP]), PACKET_IDS)
def test_an_acknowledgement_of_3_1_1_is_pahos(kind: int, packet_id: int) -> None:
    pahos = written_by_paho(
        v5=False, send=lambda c: c._send_command_with_mid(kind, packet_id, False)
    )
    ((header, body),) = FrameReader().feed(pahos)
    assert decode_ack(header, body) == Ack(kind, packet_id, 0)


@given(st.data(), st.sampled_from(list(ACK_REASONS)), PACKET_IDS, st.text(max_size=200))
def test_an_acknowledgement_of_5_has_pahos_reason(
    data: st.DataObject, kind: int, packet_id: int, words: str
) -> None:
    packet_type, reasons = ACK_REASONS[kind]
    reason = ReasonCode(packet_type, identifier=data.draw(st.sampled_from(reasons)))
    properties = Properties(packet_type)
    properties.ReasonString = words.replace("\0", "").encode(errors="ignore").decode()
    body = packet_id.to_bytes(2, "big") + reason.pack()
    for rest in (b"", properties.pack()):
        assert decode_ack(kind, body + rest) == Ack(kind, packet_id, reason.value)


@pytest.mark.parametrize("body", [b"", b"\x01"])
def test_an_acknowledgement_that_names_no_packet_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedPacketError, match="names no packet"):
        decode_ack(PUBACK, body)


FRAMES = st.lists(
    st.tuples(st.integers(0, 255), st.binary(max_size=20) | st.integers(120, 400).map(bytes)),
    max_size=12,
)


@given(FRAMES, st.lists(st.integers(1, 40), min_size=1))
def test_a_stream_cut_anywhere_gives_the_same_packets(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(bytes((h,)) + encode_remaining(len(body)) + body for h, body in frames)
    reader = FrameReader()
    found: list[tuple[int, bytes]] = []
    sizes = itertools.cycle(cuts)
    while stream:
        size = next(sizes)
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == frames
    assert list(reader.feed(b"")) == []


def test_a_packet_of_two_megabytes_comes_through_in_pieces() -> None:
    body = bytes(2_100_000)
    stream = b"\x30" + encode_remaining(len(body)) + body + b"\x40\x02\x00\x07"
    reader = FrameReader()
    found = [
        f for at in range(0, len(stream), 65_536) for f in reader.feed(stream[at : at + 65_536])
    ]
    assert found == [(0x30, body), (0x40, b"\x00\x07")]


@pytest.mark.parametrize("rest", [b"", b"\x01", b"\x80"])
def test_a_remaining_length_of_five_bytes_is_malformed(rest: bytes) -> None:
    with pytest.raises(MalformedPacketError, match="more than four bytes"):
        list(FrameReader().feed(b"\x30\x80\x80\x80\x80" + rest))


def test_a_remaining_length_of_four_bytes_waits_for_its_packet() -> None:
    assert list(FrameReader().feed(b"\x30\xff\xff\xff\x7f" + bytes(10))) == []
