"""Topic aliases: the broker reads each message on its topic, and no connection uses the aliases of another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.mqtt.aliases import TopicAliases
from arus.mqtt.packets import FrameReader

NAMES = [f"vessel/sync/topic-{number}".encode() for number in range(6)]


class Broker:
    """Reads PUBLISH packets as MQTT 5 has it (3.3.2)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._topics: dict[int, bytes] = {}
        self._frames = FrameReader()

    def read(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the topic and the payload."""
        (frame,) = self._frames.feed(data)
        length = int.from_bytes(frame.body[:2], "big")
        topic, rest = frame.body[2 : 2 + length], frame.body[4 + length :]
        properties, payload = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
        if properties:
            assert properties[0] == 0x23
            alias = int.from_bytes(properties[1:], "big")
            assert 1 <= alias <= self._most
            if topic:
                self._topics[alias] = topic
            topic = self._topics[alias]
        assert topic
        return topic, payload


def encoded(
    aliases: TopicAliases, topic: bytes, payload: bytes = b"{}", *, v5: bool = True
) -> bytes:
    return aliases.encode_publish(
        topic, payload, packet_id=20_000, qos=1, retain=True, dup=False, v5=v5
    )


@given(
    most=st.integers(0, 70), used=st.lists(st.sampled_from(NAMES), max_size=60), again=st.booleans()
)
def test_whatever_is_sent_the_broker_reads_its_topic(
    most: int, used: list[bytes], again: bool
) -> None:
    for _ in range(1 + again):  # a second connection begins without any alias
        aliases, broker = TopicAliases(most), Broker(most)
        for number, topic in enumerate(used):
            payload = b"%d" % number
            assert broker.read(encoded(aliases, topic, payload)) == (topic, payload)


@pytest.mark.parametrize(("most", "v5"), [(0, True), (0, False)])
def test_a_broker_that_accepts_none_gets_whole_topics(most: int, v5: bool) -> None:
    aliases = TopicAliases(most)
    sizes = {len(encoded(aliases, NAMES[0], v5=v5)) for _ in range(5)}
    assert len(sizes) == 1
    assert not aliases.is_used


def test_from_the_third_message_on_a_topic_takes_four_bytes() -> None:
    aliases = TopicAliases(10)
    first, second, third = (len(encoded(aliases, NAMES[0])) for _ in range(3))
    assert second == first + 3
    assert third == first + 3 - len(NAMES[0])


def test_no_alias_makes_a_packet_larger_than_the_broker_accepts() -> None:
    payload = b"x" * 900
    largest = len(encoded(TopicAliases(), NAMES[0], payload))
    aliases = TopicAliases(5, largest)
    assert [len(encoded(aliases, NAMES[0], payload)) for _ in range(3)] == [largest] * 3
    for _ in range(2):
        encoded(aliases, NAMES[0])  # the second of these introduces it
    assert len(encoded(aliases, NAMES[0], payload)) < largest
