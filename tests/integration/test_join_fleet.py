"""Vessels and a follower that begin at the same time, or after an outage: nothing is sent twice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text

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
) -> Callable[..., Flask]:
    """Makes a vessel with rows that were never sent; it is not connected yet."""

    def make(number: int, rows: int = ROWS, **settings: str) -> Flask:
        database = tmp_path / f"ship-{number}.sqlite"
        shutil.copy(migrated_database_url.removeprefix("sqlite:///"), database)
        app = make_app(
            f"sqlite:///{database}",
            VESSEL_ID=f"ship-{number}",
            MQTT_BROKER_URL=mosquitto.url,
            MQTT_RECONNECT_PERIOD="0.2",
            MQTT_TOPIC_PREFIX=PREFIX,
            **settings,
        )
        _write(app, number, rows)
        return app

    return make


@pytest.fixture
def shore(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> Flask:
    return make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
        MQTT_TOPIC_PREFIX=PREFIX,
    )


@pytest.fixture
def tap(mosquitto: Mosquitto) -> Iterator[Listener]:
    """Hears each message once, as the broker receives it."""
    with Listener(mosquitto.port, "fleet") as listener:
        yield listener


def _write(app: Flask, number: int, rows: int) -> None:
    with app.app_context():
        for row in range(rows):
            name = f"{number}/{row}"
            db.session.add(CrewMember(name=name) if row % 3 else Equipment(name=name, type="pump"))
        db.session.commit()


def _are_equal(follower: FollowerThread, count: int = VESSELS, rows: int = ROWS) -> bool:
    vessels = follower.status().vessels
    return len(vessels) == count and all(
        vessel.seq == rows and bool(vessel.audit and vessel.audit["equal"]) for vessel in vessels
    )


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_vessels_that_join_at_once_send_each_row_once(
    make_vessel: Callable[..., Flask], shore: Flask, mosquitto: Mosquitto, tap: Listener
) -> None:
    ships = [make_vessel(number) for number in range(VESSELS)]
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


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_repair_after_an_overflow_closes_its_gap_and_nothing_is_requested(
    make_vessel: Callable[..., Flask], shore: Flask, mosquitto: Mosquitto
) -> None:
    ship = make_vessel(0, rows=3, MQTT_MAX_QUEUE_SIZE="10")

    def aboard(statement: str) -> list[str]:
        with ship.app_context():
            return list(db.session.execute(text(statement)).scalars())

    catchups = "SELECT origin FROM arus_catchup WHERE entity <> '*'"
    dropped = "SELECT entity FROM arus_change WHERE reason = 'queue full'"
    with FollowerThread(shore) as follower:
        sync.start(ship)
        eventually(lambda: _are_equal(follower, 1, 3), 60, message="it is proved equal")
        before = Counter(aboard(catchups))
        mosquitto.stop()
        _write(ship, 1, 40)
        eventually(lambda: len(aboard(dropped)) == 30, message="the queue has overflowed")
        mosquitto.start()
        eventually(lambda: _are_equal(follower, 1, 43), 60, message="it is proved equal again")
    assert Counter(aboard(catchups)) - before == {"repair": 2}, (
        "both topics are repaired, and nothing is requested"
    )
