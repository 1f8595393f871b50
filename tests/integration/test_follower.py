"""The follower against a vessel that says, and loses, what a test makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask

from tests.support.follower import FollowerThread, ScriptedVessel
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

StartFollower = Callable[..., FollowerThread]


@pytest.fixture
def start_follower(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> Iterator[StartFollower]:
    """Starts a follower on the test's database and broker; stopped after the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> FollowerThread:
            app = make_app(
                migrated_database_url,
                LOCAL_MODE="false",
                MQTT_BROKER_URL=mosquitto.url,
                MQTT_RECONNECT_PERIOD="0.2",
            )
            return stack.enter_context(FollowerThread(app, **options))

        yield start


@pytest.fixture
def ship(mosquitto: Mosquitto) -> Iterator[ScriptedVessel]:
    with ScriptedVessel(mosquitto.port) as ship:
        yield ship


def test_live_changes_are_applied(start_follower: StartFollower, ship: ScriptedVessel) -> None:
    shore = start_follower()
    pump = ship.change("equipment", {"name": "Pump"})["data"]
    ship.change("equipment", {"id": pump["id"], "name": "Bilge pump", "specifications": {"kW": 3}})
    order = ship.change("work_orders", {"equipmentId": pump["id"], "estimatedHours": 2.5})["data"]
    gone = ship.change("crew")["data"]
    ship.change("crew", row_id=gone["id"], operation="delete")
    ship.status()
    shore.wait_seq(5)
    assert shore.query("SELECT name, version FROM equipment") == [("Bilge pump", 2)]
    assert shore.query("SELECT id, estimated_hours FROM work_orders") == [(order["id"], 2.5)]
    assert shore.query("SELECT * FROM crew") == []
    assert ship.wait_watermark(lambda mark: mark["seq"] == 5)["epoch"] == ship.epoch
    (vessel,) = shore.status().vessels
    eventually(lambda: shore.status().up_to_date, 20)
    assert vessel.vessel_id == "ship-1"
