"""Two brokers joined by deploy/mosquitto/bridge.conf: what crosses the link, and what an outage of it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from extensions import sync
from tests.support.bridge import PREFIX, USERS, VESSEL_ID, Brokers
from tests.support.certificates import Certificates
from tests.support.follower import FollowerThread
from tests.support.subscriber import Received, Subscriber
from tests.support.waiting import eventually

#: two brokers and an outage.
pytestmark = pytest.mark.slow

MakeApp = Callable[..., Flask]
BRIDGE = f"fleet/{VESSEL_ID}/bridge"
CHANGES, ALERTS = 60, 20


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """The database is not what is looked at here."""
    return str(request.param)


@pytest.fixture
def brokers(tmp_path: Path, certificates: Certificates) -> Iterator[Brokers]:
    """Both brokers, joined; the shore's with secured.conf and acl."""
    with Brokers(tmp_path / "brokers", certificates=certificates) as brokers:
        yield brokers


def start(make_app: MakeApp, url: str, broker_url: str, **settings: str) -> Flask:
    """The app, aboard or ashore."""
    return make_app(
        url,
        MQTT_BROKER_URL=broker_url,
        MQTT_TOPIC_PREFIX="fleet/{vessel_id}/sync",
        MQTT_RECONNECT_PERIOD="0.2",
        **settings,
    )


def status_of(ship: Flask) -> Any:
    with ship.app_context():
        return sync.runtime().status()


def write(ship: Flask) -> set[str]:
    """Write on board; the message ids."""
    client = ship.test_client()
    pump = client.post("/api/equipment", json={"name": "Fire pump No.1", "type": "pump"})
    reading = {"sensorType": "pressure", "value": 9.5, "threshold": 7.0, "message": "Too high"}
    alert = {**reading, "alertType": "warning", "equipmentId": pump.get_json()["id"]}
    answers = [
        pump,
        *(client.post("/api/crew", json={"name": f"Rating {n}"}) for n in range(CHANGES)),
        *(client.post("/api/alerts", json=alert) for _ in range(ALERTS)),
    ]
    assert {answer.status_code for answer in answers} == {201}
    return {answer.headers["Sync-Message-Id"] for answer in answers}


def is_bridge(state: str) -> Callable[[Received], bool]:
    return lambda message: (message.topic, message.payload) == (BRIDGE, state)


def test_a_follower_behind_the_bridge_is_equal_after_an_outage_of_which_the_app_sees_nothing(
    brokers: Brokers,
    certificates: Certificates,
    make_app: MakeApp,
    migrated_database_url: str,
    shore_database_url: str,
) -> None:
    assert brokers.ship is not None
    ship = start(make_app, migrated_database_url, brokers.url, VESSEL_ID=VESSEL_ID)
    ashore = start(
        make_app,
        shore_database_url,
        brokers.shore.tls_url,
        LOCAL_MODE="false",
        MQTT_USERNAME="shore",
        MQTT_PASSWORD=USERS["shore"],
        MQTT_TLS_CA=str(certificates.ca),
    )
    listens = ("-u", "shore", "-P", USERS["shore"], "--cafile", str(certificates.ca))
    with (
        Subscriber(brokers.ship.port, BRIDGE) as aboard,
        Subscriber(
            brokers.shore.port, f"{PREFIX}/crew", f"{PREFIX}/alerts", args=listens
        ) as arrivals,
        FollowerThread(ashore) as follower,
    ):
        aboard.wait_for(is_bridge("1"), what="the bridge")
        sync.start(ship)

        def equal() -> bool:
            (vessel,) = follower.status().vessels
            at_head = vessel.seq == status_of(ship).head_seq
            return at_head and bool(vessel.audit and vessel.audit["equal"])

        # the requests for a catch-up and a digest go one way, the answers the other
        eventually(lambda: bool(follower.status().vessels), 30, message="the follower knows it")
        eventually(equal, 60, interval=0.1, message="the copy is equal")

        brokers.cut()
        aboard.wait_for(is_bridge("0"), what="the outage")
        written = write(ship)
        eventually(lambda: status_of(ship).depth == 0, 30, message="the ship's broker has all")
        assert status_of(ship).connected
        assert not arrivals.changes()

        brokers.restore()
        eventually(equal, 60, interval=0.1, message="the copy is equal again")
        # the bridge may repeat messages and change their order; it loses none. The pump's is on another topic
        arrivals.wait_until(
            lambda: len(written - seen(arrivals)) == 1, 30, "everything that was written"
        )


def seen(arrivals: Subscriber) -> set[str]:
    return {change["messageId"] for change in arrivals.changes()}
