"""Followers: what they told is kept, counted, and shown wherever a change is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, create_engine, text

from arus.database import open_engine, transaction
from arus.errors import RefusedMessageError
from arus.outbox.changes import find_change
from arus.outbox.followers import MAX_FOLLOWERS, SILENCE, note_watermark, read_followers
from tests.support.gunicorn_app import GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually, free_port

CHANGES = "/api/mqtt/reliable-sync/changes"


@pytest.fixture
def vessel(start_vessel: StartVessel) -> Vessel:
    """A vessel that has committed three changes and numbered them, with nobody to send them to."""
    vessel = start_vessel(f"mqtt://127.0.0.1:{free_port()}")
    vessel.commit(2)
    vessel.commit(1, "alerts")
    eventually(lambda: vessel.status().head_seq == 3, 30, message="all are numbered")
    return vessel


@pytest.fixture
def connection(vessel: Vessel) -> Iterator[Connection]:
    engine = open_engine(vessel.engine.url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def note(
    connection: Connection, name: str = "shore", payload: bytes | None = None, **told: Any
) -> None:
    with transaction(connection):
        note_watermark(
            connection, name, orjson.dumps(told) if payload is None else payload, vessel_id="ship-1"
        )


def test_what_a_follower_has_is_known(vessel: Vessel, connection: Connection) -> None:
    epoch = vessel.status().epoch
    assert read_followers(connection) == []
    compared = {"crew": {"equal": False, "buckets": [3], "rows": ["r"]}}
    audit = {
        "seq": 2,
        "timestamp": "2026-11-22T08:00:00.000Z",
        "equal": False,
        "entities": compared,
    }
    note(connection, epoch=epoch, seq=2, timestamp="2026-11-22T08:00:01.000Z", audit=audit)
    note(connection, "office", epoch=epoch, seq=3, vesselId="ship-1")
    office, shore = read_followers(connection)
    assert (office.name, office.seq, office.lag, office.lag_ms, office.audit) == (
        "office",
        3,
        0,
        0,
        None,
    )
    assert (shore.name, shore.seq, shore.lag, shore.applied_seq) == ("shore", 2, 1, 2)
    assert shore.lag_ms > 0
    assert (shore.audit_seq, shore.audit_equal) == (2, False)
    assert shore.document()["audit"] == audit
    note(connection, epoch=epoch, seq=1)
    assert read_followers(connection)[1].lag == 2, "it was restored from an older copy: that counts"


def test_only_the_present_epoch_counts(vessel: Vessel, connection: Connection) -> None:
    note(connection, epoch="another", seq=3, vesselId="ship-1", audit={"seq": 3, "equal": True})
    (shore,) = read_followers(connection)
    assert (shore.current, shore.lag, shore.applied_seq, shore.audit) == (False, 3, 0, None)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_what_is_not_for_us_or_not_true_is_left(vessel: Vessel, connection: Connection) -> None:
    epoch = vessel.status().epoch
    note(connection, epoch=epoch, seq=3, vesselId="ship-2")  # it is about another vessel
    note(connection, epoch="another", seq=3)
    for name, told in (("a b", {"seq": 3}), ("x" * 65, {"seq": 3}), ("shore", {"seq": "3"})):
        with pytest.raises(RefusedMessageError):
            note(connection, name, epoch=epoch, **told)
    with transaction(connection):
        payload = orjson.dumps({"epoch": epoch, "seq": 4, "vesselId": "ship-1"})
        noted = note_watermark(connection, "shore", payload, vessel_id="ship-1")
    assert noted.ahead == 4
    assert read_followers(connection) == []


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_their_number_is_bounded_and_one_that_is_gone_is_forgotten(
    vessel: Vessel, connection: Connection
) -> None:
    epoch = vessel.status().epoch
    for number in range(MAX_FOLLOWERS):
        note(connection, f"f{number}", epoch=epoch, seq=1)
    with pytest.raises(RefusedMessageError, match="already"):
        note(connection, "late", epoch=epoch, seq=1)
    assert len(read_followers(connection)) == MAX_FOLLOWERS
    note(connection, "f0", epoch=epoch, seq=2)
    assert read_followers(connection)[0].seq == 2
    note(connection, "f0", payload=b"")
    note(connection, f"f{MAX_FOLLOWERS}", epoch=epoch, seq=1)
    assert len(read_followers(connection)) == MAX_FOLLOWERS


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_new_follower_replaces_the_one_that_was_silent_for_longest(
    vessel: Vessel, connection: Connection
) -> None:
    epoch = vessel.status().epoch
    for number in range(MAX_FOLLOWERS):
        note(connection, f"f{number}", epoch=epoch, seq=1)
    with transaction(connection):
        for name, hours in (("f3", 2), ("f4", 5)):
            connection.exec_driver_sql(
                "UPDATE arus_follower SET received_at = received_at - ? WHERE name = ?",
                (hours * SILENCE, name),
            )
    note(connection, "late", epoch=epoch, seq=1)
    names = {follower.name for follower in read_followers(connection)}
    assert len(names) == MAX_FOLLOWERS
    assert "late" in names
    assert "f3" in names
    assert "f4" not in names


def test_a_change_says_who_has_applied_it(vessel: Vessel, connection: Connection) -> None:
    epoch = vessel.status().epoch
    note(connection, epoch=epoch, seq=1)
    note(connection, "office", epoch="another", seq=3, vesselId="ship-1")
    first, second = vessel.query("SELECT message_id FROM arus_change WHERE seq <= 2 ORDER BY seq")
    assert find_change(connection, first[0]).applied_by == {"shore": True, "office": False}
    assert find_change(connection, second[0]).applied_by == {"shore": False, "office": False}
    document = find_change(connection, first[0]).document()
    assert document["appliedBy"] == {"shore": True, "office": False}


def applied_by_is(app: GunicornApp, message_id: str, wanted: dict[str, bool]) -> bool:
    return bool(app.get(f"{CHANGES}/{message_id}").json["appliedBy"] == wanted)


def test_three_states_are_seen_from_outside(
    start_app: Callable[..., GunicornApp], mosquitto: Mosquitto, migrated_database_url: str
) -> None:
    app = start_app()
    written = app.post("/api/crew", {"name": "Bosun"})
    message_id = written.headers["Sync-Message-Id"]

    def delivered() -> dict[str, Any] | None:
        change: dict[str, Any] = app.get(f"{CHANGES}/{message_id}").json
        return change if change["state"] == "delivered" else None

    change = eventually(delivered, 40, message="the broker has it")
    assert change is not None
    assert change["appliedBy"] == {}
    engine = create_engine(migrated_database_url)
    with engine.connect() as connection:
        epoch = connection.execute(text("SELECT epoch FROM arus_session")).scalar_one()
    engine.dispose()
    for seq in (0, change["seq"]):
        told = {"epoch": epoch, "seq": seq, "timestamp": "2026-11-22T08:00:00.000Z"}
        mosquitto.publish("vessel/sync/watermarks/shore", json.dumps(told), "-r")
        eventually(
            partial(applied_by_is, app, message_id, {"shore": seq > 0}),
            40,
            message=f"the watermark {seq} is known",
        )
    settings = {"DATABASE_URL": migrated_database_url, "SECRET_KEY": "x" * 20, "LOCAL_MODE": "true"}
    (shore,) = json.loads(flask("sync", "status", "--json", settings=settings))["followers"]
    assert (shore["name"], shore["lag"], shore["lagMs"]) == ("shore", 0, 0)
    assert "shore" in flask("sync", "status", settings=settings)
    metrics = app.get("/metrics").text
    assert 'arus_mqtt_follower_lag{follower="shore"} 0.0' in metrics
    assert f'arus_mqtt_follower_applied_seq{{follower="shore"}} {float(change["seq"])}' in metrics
