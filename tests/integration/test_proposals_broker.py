"""A ship that accepts and a follower that proposes, with a real broker between them that goes and comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from flask import Flask
from sqlalchemy import text

from arus.follower import Follower
from arus.inbound.proposals import Proposal
from blueprints.crew.models import CrewMember
from extensions import db, sync
from tests.support.follower import FollowerProcess
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

CREW = "vessel/sync/proposals/crew"


class Ship:
    """The vessel app in this process, and the shore's app beside its follower's process."""

    def __init__(self, app: Flask, shore: Flask) -> None:
        self.app = app
        self.shore = shore
        self.follower = Follower(shore, "shore")

    def write(self, **values: Any) -> str:
        with self.app.app_context():
            row = CrewMember(**values)
            db.session.add(row)
            db.session.commit()
            return row.id

    def rename(self, row_id: str, name: str) -> None:
        with self.app.app_context():
            row = db.session.get(CrewMember, row_id)
            assert row is not None
            row.name = name
            db.session.commit()

    def crew(self, app: Flask) -> dict[str, tuple[str, int]]:
        with app.app_context(), db.engine.connect() as connection:
            rows = connection.execute(text("SELECT id, name, version FROM crew"))
            return {row.id: (row.name, row.version) for row in rows}

    def wait_alike(
        self,
        what: str,
        wanted: Callable[[dict[str, tuple[str, int]]], bool] = lambda _crew: True,
    ) -> dict[str, tuple[str, int]]:
        """The crew, once both sides have the same and nothing waits for an answer."""

        def alike() -> bool:
            assert all(one.state != "pending" for one in self.follower.proposals())
            crew = self.crew(self.app)
            assert crew == self.crew(self.shore)
            assert wanted(crew), crew
            return True

        eventually(alike, 60, message=what)
        return self.crew(self.app)


@pytest.fixture
def accepting() -> Iterator[list[Proposal]]:
    """Crew is accepted; what was proposed."""
    seen: list[Proposal] = []

    @sync.accept("crew")
    def check(proposal: Proposal) -> None:
        seen.append(proposal)

    yield seen
    sync.unsubscribe("{prefix}/proposals/crew")


@pytest.fixture
def ship(
    accepting: list[Proposal],
    make_app: Callable[..., Flask],
    mosquitto: Mosquitto,
    migrated_database_url: str,
    tmp_path: Path,
    _migrated: Callable[[str], str],
) -> Iterator[Ship]:
    shutil.copy(_migrated("sqlite"), tmp_path / "shore.sqlite")
    quick = {"MQTT_BROKER_URL": mosquitto.url, "MQTT_RECONNECT_PERIOD": "0.3"}
    app = make_app(migrated_database_url, VESSEL_ID="ship-1", **quick)
    shore_url = f"sqlite:///{tmp_path}/shore.sqlite"
    shore = make_app(shore_url, LOCAL_MODE="false", **quick)
    sync.start(app)
    log = tmp_path / "follower.log"
    settings = {"DATABASE_URL": shore_url, **quick}
    with FollowerProcess(log, settings):
        yield Ship(app, shore)
    print(log.read_text())


@pytest.mark.slow
def test_what_is_written_ashore_comes_on_board_and_back(
    ship: Ship, accepting: list[Proposal], mosquitto: Mosquitto
) -> None:
    bosun, cook = ship.write(name="Bosun"), ship.write(name="Cook")
    ship.wait_alike("the follower has the crew")

    ship.follower.propose("update", "crew", bosun, {"name": "Chief bosun"})
    assert ship.crew(ship.shore)[bosun] == ("Chief bosun", 2), "it is seen ashore at once"
    ship.follower.propose("delete", "crew", cook)
    new = "6f9b7c1e-3d9b-4f0e-8d2a-1c5e7a9b2c02"
    ship.follower.propose("create", "crew", new, {"name": "Mate"})
    crew = ship.wait_alike("the ship has answered all three")
    assert crew == {bosun: ("Chief bosun", 3), new: ("Mate", 2)}
    assert {proposal.origin for proposal in accepting} == {"shore"}

    # Both write the same row while there is no link.
    mosquitto.stop()
    ship.follower.propose("update", "crew", bosun, {"name": "ashore"})
    ship.rename(bosun, "on board")
    ship.rename(bosun, "on board again")
    mosquitto.start()
    with Subscriber(mosquitto.port, "vessel/sync/conflicts") as reports:
        # The ship's has more versions, and then one above both.
        kept = ("on board again", 6)
        ship.wait_alike("both sides agree", lambda crew: crew[bosun] == kept)
        told = reports.wait_for(lambda message: "conflictId" in message.payload).json
    data = told["data"]
    assert (told["type"], told["entity"], told["operation"]) == (
        "data_change",
        "conflicts",
        "create",
    )
    assert (data["winner"], data["rule"], data["rowId"]) == ("local", "version", bosun)
    assert (data["local"]["name"], data["remote"]["name"]) == ("on board again", "ashore")
    with ship.app.app_context(), db.engine.connect() as connection:
        (stored,) = connection.execute(text("SELECT report FROM arus_conflict")).scalars()
    assert orjson.loads(bytes(stored)) == data
