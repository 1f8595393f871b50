"""A vessel that is restored from each kind of backup begins a new epoch, and its copy ashore ends with its rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import make_url

from arus.ops.backup import back_up
from extensions import db, sync
from tests.support.follower import FollowerThread
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually

#: two outages of a vessel.
pytestmark = pytest.mark.slow

MakeApp = Callable[..., Flask]
#: Backs up; returns what puts the backup in place.
BackUp = Callable[[], Callable[[], None]]


class Ship:
    """A vessel that can be stopped and started again on the same database."""

    def __init__(self, make_app: MakeApp, database_url: str, broker: Mosquitto) -> None:
        self._make = lambda: make_app(
            database_url,
            MQTT_BROKER_URL=broker.url,
            MQTT_RECONNECT_PERIOD="0.2",
            VESSEL_ID="ship-1",
        )
        self.start()

    def start(self) -> None:
        self.app = self._make()
        self.client: FlaskClient = self.app.test_client()
        sync.start(self.app)

    def stop(self) -> None:
        sync.stop(self.app)
        with self.app.app_context():
            db.engine.dispose()

    def add(self, name: str) -> str:
        answer = self.client.post("/api/crew", json={"name": name})
        assert answer.status_code == 201
        return str(answer.get_json()["id"])

    def status(self) -> Any:
        with self.app.app_context():
            return sync.runtime().status()

    def names(self) -> set[str]:
        return names(self.client)


def names(client: FlaskClient) -> set[str]:
    return {row["name"] for row in client.get("/api/crew").get_json()["items"]}


def become_equal(ship: Ship, shore: FollowerThread) -> None:
    """Return when an audit in the ship's epoch has found the copy equal."""

    def equal() -> bool:
        status = ship.status()
        (vessel,) = shore.status().vessels
        return (
            (vessel.epoch, vessel.seq) == (status.epoch, status.head_seq)
            and bool(vessel.audit and vessel.audit["equal"])
            and names(shore.app.test_client()) == ship.names()
        )

    eventually(equal, 60, interval=0.1, message="the copy is equal")


@pytest.fixture(params=["sqlite: in use", "sqlite: stopped", "postgresql: dump"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_kind(kind: str) -> str:
    return kind.partition(":")[0]


def sqlite_copy(url: str, directory: Path, ship: Ship, *, stopped: bool) -> Callable[[], None]:
    database, copy = Path(str(make_url(url).database)), directory / "copy.sqlite"
    if stopped:
        ship.stop()
        assert not list(database.parent.glob(f"{database.name}-*al")), "one file is everything"
        shutil.copy(database, copy)
        ship.start()
    else:
        back_up(database, copy)

    def put_back() -> None:
        # as docs/operations.md says
        for end in ("-wal", "-shm"):
            database.with_name(database.name + end).unlink(missing_ok=True)
        shutil.copy(copy, database)

    return put_back


def postgres_dump(url: str, directory: Path, server: PostgresServer) -> Callable[[], None]:
    name, dump = str(make_url(url).database), directory / "ship.dump"
    server.run("pg_dump", "--format=custom", f"--file={dump}", name)

    def put_back() -> None:
        server.run("dropdb", name)
        server.run("createdb", name)
        server.run("pg_restore", "--exit-on-error", f"--dbname={name}", str(dump))

    return put_back


def test_a_restored_vessel_begins_a_new_epoch_and_its_copy_follows(
    kind: str,
    make_app: MakeApp,
    migrated_database_url: str,
    mosquitto: Mosquitto,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    shore_database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shore_app = make_app(
        shore_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
    )
    ship = Ship(make_app, migrated_database_url, mosquitto)
    with FollowerThread(shore_app) as shore:
        bosun, cook = ship.add("Bosun"), ship.add("Cook")
        eventually(lambda: len(shore.status().vessels) == 1, message="the follower knows the ship")
        become_equal(ship, shore)
        if kind == "postgresql: dump":
            server = request.getfixturevalue("postgres_server")
            put_back = postgres_dump(migrated_database_url, tmp_path, server)
        else:
            stopped = kind.endswith("stopped")
            put_back = sqlite_copy(migrated_database_url, tmp_path, ship, stopped=stopped)
        ship.add("Stowaway")
        assert ship.client.delete(f"/api/crew/{cook}").status_code == 204
        assert ship.client.patch(f"/api/crew/{bosun}", json={"name": "Mate"}).status_code == 200
        become_equal(ship, shore)
        before = ship.status().epoch
        assert "new epoch" not in caplog.text

        ship.stop()
        put_back()
        ship.start()
        eventually(lambda: ship.status().epoch != before, 30, message="a new epoch")
        ship.add("Pilot")
        become_equal(ship, shore)
        assert names(shore.app.test_client()) == {"Bosun", "Cook", "Pilot"}
    assert "restored from an older copy" in caplog.text
