"""Slow links: what takes long delays a connection and never prevents it."""

from __future__ import annotations

import pytest

from arus.mqtt.connection import UNANSWERED
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import PUBACK, SUBSCRIBE, Link, ScriptedBroker
from tests.support.slow_link import SlowLink
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually

#: Limits that a slow link reaches within seconds.
FAST = {"MQTT_KEEPALIVE": "1", "MQTT_CONNECT_TIMEOUT": "0.5"}
PROTOCOLS = pytest.mark.parametrize("protocol", ["5", "3.1.1"])


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


def attempts(vessel: Vessel) -> int:
    return len(vessel.heard("error"))


@pytest.mark.slow
@PROTOCOLS
def test_retained_messages_that_arrive_slowly_delay_the_first_connection(
    protocol: str, mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    """They take four connect timeouts and two keepalives."""
    mosquitto.publish("vessel/sync/work_orders", b"x" * 100_000, "-r")
    with SlowLink(mosquitto.port, down=50_000) as link:
        vessel = start_vessel(link.url, MQTT_PROTOCOL=protocol, **FAST)
        vessel.wait_connected(20)
        assert link.connections == 1
        assert link.received > 100_000
        assert not attempts(vessel)


@pytest.mark.slow
def test_sixteen_kilobytes_at_ten_kilobits_with_the_default_limits(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    mosquitto.publish("vessel/sync/work_orders", b"x" * 16_000, "-r")
    with SlowLink(mosquitto.port, down=1_200) as link:
        vessel = start_vessel(link.url)
        vessel.wait_connected(40)
        assert link.connections == 1


@pytest.mark.slow
def test_a_look_back_that_is_cut_continues_where_it_was(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    """The link is cut while the second of two large messages arrives: the first is not read again."""
    mosquitto.publish("vessel/sync/alerts", b"x" * 40_000, "-r")
    mosquitto.publish("vessel/sync/work_orders", b"x" * 40_000, "-r")
    with SlowLink(mosquitto.port, down=40_000) as link:
        vessel = start_vessel(link.url)
        eventually(lambda: link.received > 60_000, 10, message="the first message and a half")
        link.cut()
        before = link.received
        vessel.wait_connected(20)
        assert link.received - before < 60_000


@PROTOCOLS
def test_a_retained_message_above_the_limit_does_not_stop_the_look_back(
    protocol: str,
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mosquitto.publish("vessel/sync/work_orders", b"x" * 200_000, "-r")
    vessel = start_vessel(mosquitto.url, MQTT_PROTOCOL=protocol, MQTT_MAX_PACKET_SIZE="10000")
    vessel.wait_connected()
    assert not attempts(vessel)
    # On MQTT 5 the broker does not send it.
    assert ("'vessel/sync/work_orders' is discarded" in caplog.text) == (protocol == "3.1.1")


@pytest.mark.slow
@PROTOCOLS
def test_a_large_change_on_a_slow_uplink_is_delivered(
    protocol: str, mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    """It takes four keepalives, and the ping waits behind it."""
    with SlowLink(mosquitto.port, up=50_000) as link:
        vessel = start_vessel(link.url, MQTT_PROTOCOL=protocol, **FAST)
        vessel.wait_connected()
        vessel.commit(data='{"fill":"' + "x" * 200_000 + '"}')
        vessel.wait_drained(30)
        assert link.connections == 1


@pytest.mark.slow
def test_a_large_message_on_a_slow_downlink_is_received(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    """The answer to a ping waits behind it, and the broker is told meanwhile that we are there."""
    with SlowLink(mosquitto.port, down=50_000) as link:
        vessel = start_vessel(link.url, **FAST)
        vessel.wait_connected()
        got: list[bytes] = []
        vessel.subscriptions.add("vessel/sync/news", 1, lambda message: got.append(message.payload))
        eventually(
            lambda: vessel.query("SELECT 1 FROM arus_subscription WHERE topic_filter LIKE '%news'"),
            message="the subscription",
        )
        mosquitto.publish("vessel/sync/news", b"x" * 200_000, "-q", "1")
        eventually(lambda: got, 20, message="the message")
        assert len(got[0]) == 200_000
        assert link.connections == 1


@pytest.mark.slow
def test_a_broker_that_never_answers_unsubscribe_is_used_without_a_look_back(
    broker: ScriptedBroker,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = Link._answer_subscription

    def ignore_unsubscribe(link: Link, header: int, body: bytes) -> None:
        if header & 0xF0 == SUBSCRIBE:
            answer(link, header, body)

    monkeypatch.setattr(Link, "_answer_subscription", ignore_unsubscribe)
    vessel = start_vessel(broker.url, MQTT_CONNECT_TIMEOUT="0.3")
    for _ in range(UNANSWERED):
        link = broker.accept()
        link.connect()
        link.connack()
        with pytest.raises(ConnectionError):
            link.next(10)
    link = broker.accept()
    link.accept()
    vessel.wait_connected()
    assert "does not answer UNSUBSCRIBE" in caplog.text
    vessel.commit()
    link.ack(PUBACK, link.publish().packet_id)
    vessel.wait_drained()


@pytest.mark.slow
def test_a_broker_that_hangs_in_a_look_back_is_found_by_the_keepalive(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    start_vessel(broker.url, MQTT_KEEPALIVE="1", MQTT_CONNECT_TIMEOUT="60")
    link = broker.accept()
    link.connect()
    link.connack()
    broker.accept(15)
    assert "the broker did not answer a ping" in caplog.text
