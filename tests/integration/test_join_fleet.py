"""Vessels and a follower that begin at the same time: nothing is sent twice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from bench.listener import Listener
from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from extensions import db, sync
from tests.support.follower import FollowerThread
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

VESSELS, ROWS = 3, 40
PREFIX = "fleet/{vessel_id}/sync"


@pytest.fixture
def make_vessel(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    tmp_path: Path,
) -> Callable[[int], Flask]:
    """Makes a vessel with rows that were never sent; it is not connected yet."""

    def make(number: int) -> Flask:
        database = tmp_path / f"ship-{number}.sqlite"
        shutil.copy(migrated_database_url.removeprefix("sqlite:///"), database)
        app = make_app(
            f"sqlite:///{database}",
            VESSEL_ID=f"ship-{number}",
            MQTT_BROKER_URL=mosquitto.url,
            MQTT_RECONNECT_PERIOD="0.2",
            MQTT_TOPIC_PREFIX=PREFIX,
        )
        with app.app_context():
            for row in range(ROWS):
                name = f"{number}/{row}"
                db.session.add(
                    CrewMember(name=name) if row % 3 else Equipment(name=name, type="pump")
                )
            db.session.commit()
        return app

    return make


@pytest.fixture
def tap(mosquitto: Mosquitto) -> Iterator[Listener]:
    """Hears each message once, as the broker receives it."""
    with Listener(mosquitto.port, "fleet") as listener:
        yield listener


def _are_equal(follower: FollowerThread) -> bool:
    vessels = follower.status().vessels
    return len(vessels) == VESSELS and all(
        vessel.seq == ROWS and bool(vessel.audit and vessel.audit["equal"]) for vessel in vessels
    )


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_vessels_that_join_at_once_send_each_row_once(
    make_app: Callable[..., Flask],
    make_vessel: Callable[[int], Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    tap: Listener,
) -> None:
    ships = [make_vessel(number) for number in range(VESSELS)]
    shore = make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
        MQTT_TOPIC_PREFIX=PREFIX,
    )
    # Each vessel's first status goes ahead of its changes, and says that its log is complete.
    with FollowerThread(shore) as follower:
        # Otherwise a vessel might have sent some before anybody listened.
        eventually(
            lambda: "Sending SUBACK to arus_follow_" in mosquitto.log, message="it is subscribed"
        )
        for ship in ships:
            sync.start(ship)
        eventually(lambda: _are_equal(follower), 60, message="all vessels are proved equal")
    kinds = Counter(
        (body["vesselId"], body["type"])
        for _, _, body in tap.arrivals
        if body.get("type") in {"data_change", "catchup"}
    )
    assert kinds == {(f"ship-{number}", "data_change"): ROWS for number in range(VESSELS)}
