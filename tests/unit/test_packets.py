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

from arus.errors import MalformedPacketError
from arus.mqtt.packets import (
    MAX_REMAINING,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    Ack,
    Frame,
    FrameReader,
    Publish,
    decode_ack,
    decode_publish,
    encode_publish,
    encode_pubrel,
    encode_remaining,
)

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
    ((header, body, _),) = FrameReader().feed(pahos)
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
    with pytest.raises(MalformedPacketError, match="contains no packet id"):
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
        found += [frame[:2] for frame in reader.feed(stream[:size])]
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
    assert found == [Frame(0x30, body), Frame(0x40, b"\x00\x07")]


@pytest.mark.parametrize("rest", [b"", b"\x01", b"\x80"])
def test_a_remaining_length_of_five_bytes_is_malformed(rest: bytes) -> None:
    with pytest.raises(MalformedPacketError, match="more than four bytes"):
        list(FrameReader().feed(b"\x30\x80\x80\x80\x80" + rest))


def test_a_remaining_length_of_four_bytes_waits_for_its_packet() -> None:
    assert list(FrameReader().feed(b"\x30\xff\xff\xff\x7f" + bytes(10))) == []


# -- packets above the limit ------------------------------------------------------------------------

LIMIT = 100


def publish(topic: bytes, packet_id: int, payload: bytes) -> tuple[int, bytes]:
    """The header and body of a QoS 1 PUBLISH of MQTT 3.1.1."""
    return 0x32, len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + payload


PACKETS = st.lists(
    st.tuples(st.just(0x40), st.binary(max_size=40))
    | st.builds(
        publish,
        st.binary(max_size=300),
        PACKET_IDS,
        st.integers(0, 3_000).map(bytes),
    ),
    max_size=8,
)


@given(PACKETS, st.lists(st.integers(1, 400), min_size=1))
def test_of_a_message_above_the_limit_only_topic_and_packet_id_are_kept(
    packets: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    reader = FrameReader(LIMIT)
    wanted = []
    stream = b""
    for header, body in packets:
        packet = bytes((header,)) + encode_remaining(len(body)) + body
        stream += packet
        head = 4 + int.from_bytes(body[:2], "big")
        whole = len(packet) <= LIMIT
        wanted.append(
            Frame(header, body) if whole else Frame(header, body[:head], len(body) - head)
        )
    found: list[Frame] = []
    sizes = itertools.cycle(cuts)
    while stream:
        size = next(sizes)
        found += reader.feed(stream[:size])
        stream = stream[size:]
        assert len(reader._buffer) <= 5 + 2 + 300 + 2
    assert found == wanted


def test_a_large_message_is_reported_before_all_of_it_has_arrived() -> None:
    header, body = publish(b"a/b", 7, bytes(50))
    reader = FrameReader(LIMIT)
    start = bytes((header,)) + encode_remaining(200_000_000) + body
    (frame,) = reader.feed(start)
    assert decode_publish(frame, v5=False).packet_id == 7
    assert frame.left_out == 200_000_000 - 7
    for _ in range(100):
        assert list(reader.feed(bytes(65_536))) == []
        assert not reader._buffer


def test_another_packet_above_the_limit_is_malformed() -> None:
    with pytest.raises(MalformedPacketError, match="is no message; MQTT_MAX_PACKET_SIZE is 100"):
        list(FrameReader(LIMIT).feed(b"\x90" + encode_remaining(101)))


# -- messages ---------------------------------------------------------------------------------------


@given(
    topic=TOPICS.filter(lambda topic: not set(topic) & set("+#\0")),
    payload=st.binary(max_size=300),
    packet_id=PACKET_IDS,
    qos=st.sampled_from([0, 1, 2]),
    retain=st.booleans(),
    v5=st.booleans(),
)
def test_a_message_of_pahos_is_decoded(
    topic: str, payload: bytes, packet_id: int, qos: int, retain: bool, v5: bool
) -> None:
    written = written_by_paho(
        v5=v5,
        send=lambda c: c._send_publish(packet_id, topic.encode(), payload, qos, retain, False),
    )
    (frame,) = FrameReader().feed(written)
    found = decode_publish(frame, v5=v5)
    assert found == Publish(topic.encode(), payload, packet_id if qos else 0, qos, retain)


@given(st.integers(0, 0x0F), st.binary(max_size=30), st.booleans())
def test_any_message_is_decoded_or_discarded_or_malformed(
    flags: int, body: bytes, v5: bool
) -> None:
    try:
        found = decode_publish(Frame(PUBLISH | flags, body), v5=v5)
    except MalformedPacketError:
        return
    assert found.fault or found.topic.decode()


@pytest.mark.parametrize(
    ("topic", "rest", "fault"),
    [
        (b"", b"\0", "empty"),
        (b"a/+", b"\0", "wildcard"),
        (b"a/#", b"\0", "wildcard"),
        (b"a\0", b"\0", "null"),
        (b"\xff\xfe", b"\0", "UTF-8"),
        (b"a", b"", "properties"),
        (b"a", b"\x09abc", "properties"),
        (b"a", b"\xff\xff\xff\xff\xff", "properties"),
    ],
)
def test_a_message_that_breaks_a_rule_keeps_its_packet_id(
    topic: bytes, rest: bytes, fault: str
) -> None:
    found = decode_publish(Frame(*publish(topic, 7, rest)), v5=True)
    assert found.packet_id == 7
    assert fault in (found.fault or "")


@pytest.mark.parametrize(
    ("header", "body"), [(0x32, b""), (0x32, b"\0"), (0x32, b"\0\x01a"), (0x36, b"\0\x01a\0\x01")]
)
def test_a_message_without_a_packet_id_is_malformed(header: int, body: bytes) -> None:
    with pytest.raises(MalformedPacketError, match="without a valid"):
        decode_publish(Frame(header, body), v5=False)
