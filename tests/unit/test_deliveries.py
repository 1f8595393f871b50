"""Messages from the broker: how each is acknowledged, and which are discarded."""

from __future__ import annotations

import logging

import pytest

from arus.mqtt.deliveries import LINES, PERIOD, Deliveries
from arus.mqtt.events import Discarded, Received
from arus.mqtt.packets import Frame

LIMIT = 1_000


class Scene:
    """The deliveries of a session with a clock to set."""

    def __init__(self) -> None:
        self.now = 50.0
        self.deliveries = Deliveries(LIMIT, clock=lambda: self.now)

    def take(
        self, topic: bytes = b"a", packet_id: int = 7, qos: int = 1, *, left_out: int = 0
    ) -> Received | Discarded:
        body = len(topic).to_bytes(2, "big") + topic
        body += packet_id.to_bytes(2, "big") if qos else b""
        if not left_out:
            body += b"text"
        return self.deliveries.take(Frame(0x30 | qos << 1, body, left_out), v5=False)


def test_a_message_is_acknowledged_by_its_qos() -> None:
    scene = Scene()
    assert scene.take(packet_id=0, qos=0) == Received("a", b"text", 0, 0, retain=False)
    assert scene.take(packet_id=258) == Received("a", b"text", 258, 1, retain=False)
    assert scene.take(packet_id=259, qos=2) == Received("a", b"text", 259, 2, retain=False)
    assert scene.deliveries.acknowledgement(258) == b"\x40\x02\x01\x02"  # PUBACK
    assert scene.deliveries.acknowledgement(259) == b"\x50\x02\x01\x03"  # PUBREC


def test_the_packet_ids_of_qos_2_end_with_their_connection() -> None:
    scene = Scene()
    scene.take(qos=2)
    scene.deliveries.begin()
    scene.take(qos=1)
    assert scene.deliveries.acknowledgement(7)[0] == 0x40


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_above_the_limit_is_discarded_with_topic_size_and_remedy(
    qos: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = Scene().take(b"big", qos=qos, left_out=2_000)
    assert isinstance(found, Discarded)
    assert (found.topic, found.packet_id, found.qos) == ("big", 7 if qos else 0, qos)
    (line,) = caplog.messages
    assert "'big'" in line
    assert f"{2_000 + 5 + (2 if qos else 0)} bytes" in line
    assert "MQTT_MAX_PACKET_SIZE is 1000: raise it" in line


def test_a_topic_that_is_not_text_can_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    found = Scene().take(b"a\xff\n" + b"x" * 1_000)
    assert isinstance(found, Discarded)
    (line,) = caplog.messages
    assert "not UTF-8" in line
    assert "\n" not in line
    assert len(line) < 500


def test_a_flood_writes_few_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene()
    for _ in range(LINES + 500):
        scene.take(left_out=2_000)
    assert len(caplog.messages) == LINES
    scene.now += PERIOD
    scene.take(left_out=2_000)
    assert len(caplog.messages) == LINES + 2
    assert "500 more messages were discarded in the last 60 s" in caplog.messages[-2]
