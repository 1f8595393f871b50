"""How much of a message fits into a packet."""

from __future__ import annotations

from arus.registry import MAX_TOPIC
from arus.relay.packet_limit import PacketLimit


def test_a_broker_that_does_not_say_takes_anything() -> None:
    limit = PacketLimit("ship")
    assert limit.room("catchup") is None
    assert limit.fits("catchup", b"x" * 1_000_000)
    assert limit.excess("alerts", b"x" * 1_000_000) is None


def test_the_topic_and_the_header_take_their_part_of_a_packet() -> None:
    limit = PacketLimit("ship", 1_000)
    assert limit.excess("alerts", b"x" * (1_000 - len("ship/alerts") - 10)) is None
    assert limit.excess("alerts", b"x" * (1_001 - len("ship/alerts") - 10)) == 1_001
    other = PacketLimit("skip-ø", 1_000)
    assert other.excess("alerts", b"x" * (1_001 - len("skip-ø/alerts".encode()) - 10)) == 1_001
    room = limit.room("catchup")
    assert room == 1_000 - len("shipcatchup") - MAX_TOPIC - 10
    assert limit.fits("catchup", b"x" * room)
    assert not limit.fits("catchup", b"x" * (room + 1))
