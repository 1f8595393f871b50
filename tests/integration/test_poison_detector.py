"""A message that a broker can only answer by closing the connection."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from arus.relay.poison import FRUITLESS, SMALL, STRIKES
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import (
    DISCONNECT,
    PATIENCE,
    PUBACK,
    Link,
    Publish,
    ScriptedBroker,
    packet,
)
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel
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


class HangsUp:
    """Acknowledges all changes but those of one topic, and hangs up on these."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self._broker = broker
        self._link: Link | None = None
        #: The topic, under the prefix; None to acknowledge all.
        self.topic: str | None = "work_orders"
        #: Ids of the acknowledged changes.
        self.accepted: list[str] = []

    def serve(self, until: Callable[[], object]) -> None:
        """Answer until something is true."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline, f"only these were accepted: {self.accepted}"
            if self._link is None:
                self._link = self._broker.accept()
                self._link.accept(session_present=True)
            got = self._link.next(0.05)
            if not isinstance(got, Publish):
                continue
            if got.topic == f"vessel/sync/{self.topic}":
                self._link.close()
                self._link = None
                continue
            self._link.ack(PUBACK, got.packet_id)
            if got.json.get("type") == "data_change":
                self.accepted.append(got.json["messageId"])


def test_a_small_message_on_which_a_broker_of_3_1_1_hangs_up_holds_up_no_other_topic(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="3.1.1", MQTT_RECONNECT_PERIOD="0.05")
    refused = vessel.commit(2)
    others = vessel.commit(3, topic="crew")
    hangs_up = HangsUp(broker)
    hangs_up.serve(lambda: vessel.status().depth == len(refused))
    assert hangs_up.accepted == others
    says = "the broker refuses messages: it closes the connection on change 1 on work_orders"
    hangs_up.serve(lambda: vessel.status().refused == says)
    hangs_up.topic = None  # a person has corrected the access rules
    hangs_up.serve(lambda: vessel.status().depth == 0)
    assert hangs_up.accepted == [*others, *refused]
    hangs_up.serve(lambda: vessel.status().obstacle is None)
    assert vessel.status().quarantined == 0


def test_it_is_quarantined_once_others_were_accepted_between_five_hang_ups_on_it(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="3.1.1", MQTT_RECONNECT_PERIOD="0.05")
    refused, second = vessel.commit(2)
    hangs_up = HangsUp(broker)

    def is_quarantined() -> bool:
        status = vessel.status()
        if status.depth < 3:
            vessel.commit(topic="crew")
        return status.quarantined > 0

    hangs_up.serve(is_quarantined)
    [(message_id, reason)] = vessel.query(
        "SELECT message_id, reason FROM arus_change WHERE outcome = 'quarantined'"
    )
    assert message_id == refused
    assert reason == "the broker closes the connection on it, and accepts others"
    assert vessel.status().counter("publish_failures") == 1
    hangs_up.topic = None
    hangs_up.serve(lambda: vessel.status().depth == 0)
    assert second in hangs_up.accepted
    assert refused not in hangs_up.accepted


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


def refuse_by_disconnect(
    broker: ScriptedBroker, vessel: Vessel, message_id: str, reason: int
) -> int:
    """Acknowledge all messages but one, until none waits; return how often the connection was ended on that one."""
    ended = 0
    while vessel.status().depth:
        link = broker.accept()
        link.accept(session_present=ended > 0)
        while vessel.status().depth:
            got = link.next(0.2)
            if not isinstance(got, Publish):
                continue
            if got.json.get("messageId") == message_id:
                link.send(packet(DISCONNECT, bytes((reason,))))
                link.close()
                ended += 1
                break
            link.ack(PUBACK, got.packet_id)
    return ended


@pytest.mark.parametrize(
    ("reason", "says"), [(0x87, "not authorized"), (0x95, "packet too large"), (0x81, "0x81")]
)
def test_a_small_message_that_a_broker_refuses_by_ending_the_connection_holds_up_no_other(
    reason: int, says: str, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5", MQTT_RECONNECT_PERIOD="0.05")
    _, refused, *_ = vessel.commit(5)
    ended = refuse_by_disconnect(broker, vessel, refused, reason)
    assert ended == FRUITLESS + STRIKES
    [(message_id, why)] = vessel.query(
        "SELECT message_id, reason FROM arus_change WHERE outcome = 'quarantined'"
    )
    assert message_id == refused
    assert why.startswith("the broker closes the connection on it: ")
    assert why.endswith(says)


def test_no_message_is_blamed_if_the_broker_lets_the_client_publish_nothing(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5", MQTT_RECONNECT_PERIOD="0.05")
    vessel.commit(3)
    for _ in range(12):
        link = broker.accept()
        link.connect()
        link.connack(session_present=True)
        link.publish()
        link.send(packet(DISCONNECT, b"\x87"))
        link.close()
    link = broker.accept()
    link.accept(session_present=True)
    while vessel.status().depth:
        got = link.next(0.2)
        if isinstance(got, Publish):
            link.ack(PUBACK, got.packet_id)
    assert vessel.status().quarantined == 0


def test_messages_go_together_again_once_the_suspects_are_acknowledged(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_RECONNECT_PERIOD="0.05")
    vessel.commit(3)
    for hung_up in range(FRUITLESS):
        link = broker.accept()
        link.accept(session_present=hung_up > 0)
        link.publishes(3)
        link.close()
    vessel.commit(30)
    link = broker.accept()
    link.accept(session_present=True)
    for _ in range(3):
        suspect = link.publish()
        link.silent()
        link.ack(PUBACK, suspect.packet_id)
    together = link.publishes(10)
    link.acks(PUBACK, [each.packet_id for each in together])
    while vessel.status().depth:
        got = link.next(0.2)
        if isinstance(got, Publish):
            link.ack(PUBACK, got.packet_id)
    assert len(vessel.heard("connected")) == FRUITLESS + 1
