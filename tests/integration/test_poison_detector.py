"""A message that a broker can only answer by closing the connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arus.relay.poison import SMALL
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import PUBACK, ScriptedBroker
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def database_kind() -> str:
    """Nothing of this depends on the database."""
    return "sqlite"


def test_a_message_too_large_for_a_broker_of_3_1_1_holds_up_no_other(
    start_mosquitto: Callable[..., Mosquitto], start_vessel: StartVessel
) -> None:
    mosquitto = start_mosquitto(options=["max_packet_size 30000"])
    with Subscriber(mosquitto.port, "vessel/sync/work_orders") as subscriber:
        vessel = start_vessel(mosquitto.url, MQTT_PROTOCOL="3.1.1", MQTT_RECONNECT_PERIOD="0.05")
        vessel.wait_connected()
        before = vessel.commit(3)
        [large] = vessel.commit(data=f'{{"id":"1","text":"{"x" * 40_000}"}}')
        after = vessel.commit(3)
        vessel.wait_drained()
        subscriber.wait_for(lambda message: message.json.get("messageId") == after[-1])
        arrived = {change["messageId"] for change in subscriber.changes()}
    assert arrived == {*before, *after}
    [(outcome, reason)] = vessel.query(
        "SELECT outcome, reason FROM arus_change WHERE message_id = :id", id=large
    )
    assert outcome == "quarantined"
    assert reason == "the broker closes the connection on it"
    assert vessel.status().counter("publish_failures") == 1


def test_a_small_message_is_never_blamed_for_a_bad_link(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_RECONNECT_PERIOD="0.05")
    text = "x" * (SMALL - 1_000)
    [message_id] = vessel.commit(data=f'{{"id":"1","text":"{text}"}}')
    for _ in range(12):
        link = broker.accept()
        link.accept(session_present=True)
        assert link.publish().json["messageId"] == message_id
        link.close()
    link = broker.accept()
    link.accept(session_present=True)
    publish = link.publish()
    link.ack(PUBACK, publish.packet_id)
    vessel.wait_drained()
    assert vessel.status().quarantined == 0


def test_what_was_acknowledged_before_a_hang_up_does_not_go_again(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_RECONNECT_PERIOD="0.05")
    vessel.commit(3)
    link = broker.accept()
    link.accept()
    first, second, third = link.publishes(3)
    link.acks(PUBACK, [first.packet_id, second.packet_id])
    link.close()
    link = broker.accept()
    link.accept(session_present=True)
    again = link.publish()
    assert again.packet_id == third.packet_id
    link.ack(PUBACK, again.packet_id)
    link.silent()
    eventually(lambda: vessel.status().depth == 0, message="all is acknowledged")
