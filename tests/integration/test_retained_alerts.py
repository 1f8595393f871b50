"""A topic's last alert arrives once more with each new subscription; receivers tell it from a new one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flask import Flask

from arus.inbound.handlers import Message
from extensions import sync
from tests.support.follower import FollowerThread, ScriptedVessel
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

ALERTS = "vessel/sync/alerts"
V311 = ("-V", "mqttv311")


@pytest.fixture
def database_kind() -> str:
    """The database is not what is looked at here."""
    return "sqlite"


def test_a_client_of_3_1_1_that_subscribes_again_gets_the_last_alert_once_more_and_can_tell(
    mosquitto: Mosquitto,
) -> None:
    durable = Subscriber(mosquitto.port, ALERTS, args=(*V311, "-i", "bridge", "-c"))
    with durable, ScriptedVessel(mosquitto.port) as ship:
        alerts = [ship.change("alerts", {"message": f"Alert {n}"}) for n in range(2)]
        durable.wait(2)
        durable.stop()
        alerts.append(ship.change("alerts", {"message": "Alert 2"}))
        durable.start()
        # that which was queued, and the retained one, which is the same; at QoS 1 an earlier one
        # whose PUBACK was on its way may come again, as a queued one does: without the flag
        last = alerts[2]["messageId"]
        durable.wait_until(
            lambda: retained(durable, last) == [False, True], 20, "the last alert both ways"
        )
    for alert in alerts[:2]:
        assert not any(retained(durable, alert["messageId"]))


def retained(subscriber: Subscriber, message_id: str) -> list[bool]:
    """The retain flags of what brought the message."""
    return sorted(m.retain for m in subscriber.messages if m.json["messageId"] == message_id)


def test_a_follower_that_subscribes_again_does_not_apply_the_last_alert_again(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    def follower() -> FollowerThread:
        return FollowerThread(
            make_app(
                migrated_database_url,
                LOCAL_MODE="false",
                MQTT_BROKER_URL=mosquitto.url,
                MQTT_PROTOCOL="3.1.1",
            )
        )

    with ScriptedVessel(mosquitto.port) as ship:
        with follower() as shore:
            engine = ship.change("equipment", {"name": "Main engine"})["data"]["id"]
            alert = {"equipmentId": engine, "message": "hot", "value": 2.0, "threshold": 1.0}
            ship.change("alerts", alert)
            ship.status()
            shore.wait_equal(ship)
            before = shore.status().counters
        asked = len(ship.requests)
        with follower() as shore:
            eventually(
                lambda: shore.status().counters["repeated"] >= before["repeated"] + 2,
                message="the last message of both topics has come again",
            )
            shore.wait_equal(ship)
            assert shore.status().counters["applied"] == before["applied"]
        assert len(ship.requests) == asked


def test_a_handler_is_told_that_a_message_was_retained(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    got: list[tuple[str, bool]] = []

    def handler(message: Message) -> None:
        got.append((json.loads(message.payload)["messageId"], message.retain))

    mosquitto.publish("vessel/sync/ashore", '{"messageId": "1"}', "-q", "1", "-r")
    sync.subscribe("vessel/sync/ashore")(handler)
    try:
        app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url, MQTT_PROTOCOL="3.1.1")
        sync.start(app)
        eventually(lambda: got == [("1", True)], message="what was retained has come")
        mosquitto.publish("vessel/sync/ashore", '{"messageId": "2"}', "-q", "1", "-r")
        eventually(lambda: got[1:] == [("2", False)], message="what is new has come")
    finally:
        sync.unsubscribe("vessel/sync/ashore")
