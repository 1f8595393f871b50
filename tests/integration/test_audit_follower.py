"""A vessel and its follower, each in processes of their own: equal, and if not, found, named and repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, text

from tests.support.follower import FollowerProcess
from tests.support.gunicorn_app import GunicornApp, run_flask
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

REQUESTS = "vessel/sync/catchup_requests"


class Pair:
    """A vessel, and a follower on a database of the other kind."""

    def __init__(
        self, app: GunicornApp, broker: Mosquitto, ship_url: str, shore_url: str, log: Path
    ) -> None:
        self.app = app
        self.broker = broker
        self.ship = create_engine(ship_url)
        self.shore = create_engine(shore_url)
        settings = {
            "DATABASE_URL": shore_url,
            "MQTT_BROKER_URL": broker.url,
            "MQTT_RECONNECT_PERIOD": "1",
        }
        self.settings = settings
        self._log = log
        self.follower = FollowerProcess(log, settings)

    def close(self) -> None:
        self.follower.kill()
        self.ship.dispose()
        self.shore.dispose()

    def follow(self, *vessels: str) -> None:
        """Start the follower again, which accepts these vessels."""
        self.follower.kill()
        settings = {**self.settings, "FOLLOW_VESSELS": ",".join(vessels)}
        self.follower = FollowerProcess(self._log, settings)

    def ask(self) -> None:
        """Have the vessel publish a digest."""
        request = {"requestId": uuid4().hex, "entity": "all", "mode": "digest"}
        self.broker.publish(REQUESTS, json.dumps(request), "-q", "1")

    def verdicts(self) -> list[dict[str, Any]]:
        """The follower's last verdict, as the vessel knows it."""
        with self.ship.connect() as connection:
            return [
                {"seq": row.audit_seq, "equal": bool(row.audit_equal), "at": row.audit_at,
                 "entities": json.loads(row.audit_detail), "applied": row.seq}
                for row in connection.execute(text("SELECT * FROM arus_follower"))
                if row.audit_seq is not None
            ]  # fmt: skip

    def wait_verdict(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first verdict for which `wanted` holds."""

        def found() -> dict[str, Any] | None:
            return next(filter(wanted, self.verdicts()), None)

        verdict = eventually(found, 60, message=what)
        assert verdict is not None
        return verdict

    def wait_equal(self, after: int = -1) -> dict[str, Any]:
        """The first verdict after a time that says equal."""
        return self.wait_verdict(
            lambda told: told["equal"] and told["at"] > after, "the follower says it is equal"
        )

    def crew(self, side: Engine) -> dict[str, tuple[str, int]]:
        with side.connect() as connection:
            rows = connection.execute(text("SELECT id, name, version FROM crew"))
            return {row.id: (row.name, row.version) for row in rows}


@pytest.fixture
def pair(
    start_app: Callable[..., GunicornApp],
    mosquitto: Mosquitto,
    migrated_database_url: str,
    shore_database_url: str,
    tmp_path: Path,
) -> Iterator[Pair]:
    """A vessel with some rows, and a follower."""
    app = start_app()
    equipment = app.post(
        "/api/equipment",
        {"name": "Pump", "type": "pump", "specifications": {"b": 1.5, "a": [10.0]}},
    )
    for number in range(3):
        app.post("/api/crew", {"name": f"Sailor {number}"})
        app.post(
            "/api/work-orders",
            {"equipmentId": equipment.json["id"], "reason": "leak", "estimatedHours": 2},
        )
    log = tmp_path / "follower.log"
    pair = Pair(app, mosquitto, migrated_database_url, shore_database_url, log)
    yield pair
    pair.close()
    print(log.read_text())


def execute(side: Engine, statement: str, **arguments: Any) -> None:
    with side.begin() as connection:
        connection.execute(text(statement), arguments)


def test_what_differs_is_found_named_and_repaired(pair: Pair) -> None:
    first = pair.wait_equal()
    assert first["seq"] >= 7, "who joins late asks for the proof by itself"
    assert first["applied"] >= first["seq"]
    assert all(told["equal"] for told in first["entities"].values())
    changed, gone, *_ = sorted(pair.crew(pair.ship))

    # Behind the follower's back a row is changed, one deleted, and one added.
    execute(pair.shore, "UPDATE crew SET name = 'corrupted' WHERE id = :id", id=changed)
    execute(pair.shore, "DELETE FROM crew WHERE id = :id", id=gone)
    added = str(uuid4())
    execute(
        pair.shore,
        "INSERT INTO crew (id, version, created_at, updated_at, name, active, on_duty)"
        " SELECT :added, version, created_at, updated_at, name, active, on_duty FROM crew"
        " WHERE id = :id",
        added=added, id=changed,
    )  # fmt: skip
    pair.ask()
    verdict = pair.wait_verdict(lambda told: not told["equal"], "the follower differs")
    assert set(verdict["entities"]["crew"]["rows"]) == {changed, gone, added}
    assert verdict["entities"]["work_orders"]["equal"]
    repaired = pair.wait_equal(after=verdict["at"])
    assert pair.crew(pair.shore) == pair.crew(pair.ship)

    # Past the capture, the ship's own rows are.
    execute(pair.ship, "UPDATE crew SET name = 'past the capture' WHERE id = :id", id=changed)
    execute(pair.ship, "DELETE FROM crew WHERE id = :id", id=gone)
    pair.ask()
    verdict = pair.wait_verdict(
        lambda told: (
            not told["equal"]
            and told["at"] > repaired["at"]
            and {changed, gone} <= set(told["entities"]["crew"]["rows"])
        ),
        "the follower differs from the ship",
    )
    pair.wait_equal(after=verdict["at"])
    assert pair.crew(pair.shore) == pair.crew(pair.ship)
    assert gone not in pair.crew(pair.shore)
    assert pair.crew(pair.shore)[changed][0] == "past the capture"


def test_equal_at_a_number_while_writes_go_on(pair: Pair) -> None:
    pair.wait_equal()
    seqs = set()
    ids = sorted(pair.crew(pair.ship))
    for turn in range(6):
        pair.ask()
        for number in range(10):
            pair.app.request("PATCH", f"/api/crew/{ids[0]}", {"name": f"{turn}.{number}"})
            pair.app.post("/api/crew", {"name": f"{turn}.{number}"})
        seqs |= {told["seq"] for told in pair.verdicts()}
        assert all(told["equal"] for told in pair.verdicts())
    pair.ask()
    with pair.ship.connect() as connection:
        head = connection.execute(text("SELECT MAX(seq) FROM arus_change")).scalar_one()
    pair.wait_verdict(lambda told: told["equal"] and told["seq"] >= head, "equal at the end")
    assert pair.crew(pair.shore) == pair.crew(pair.ship)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_audit_command_on_board_and_ashore(pair: Pair, migrated_database_url: str) -> None:
    first = pair.wait_equal()
    secret = {"SECRET_KEY": "for-tests-only-and-long-enough"}
    ship = {**secret, "LOCAL_MODE": "true", "DATABASE_URL": migrated_database_url, "MQTT_BROKER_URL": pair.broker.url}  # fmt: skip
    shore = {**secret, "LOCAL_MODE": "false", **pair.settings}
    done = run_flask("sync", "audit", settings=ship, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"shore: equal at seq {first['seq']}\n"), done
    done = run_flask("sync", "audit", "--name", "shore", settings=shore)
    assert done.returncode == 0, done
    assert "all rows are as they were received" in done.stdout

    changed = sorted(pair.crew(pair.ship))[0]
    execute(pair.shore, "UPDATE crew SET name = 'corrupted' WHERE id = :id", id=changed)
    done = run_flask("sync", "audit", "--name", "shore", "--json", settings=shore)
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["changed"]["crew"] == [changed]
    done = run_flask("sync", "audit", settings=ship, timeout=120)
    assert done.returncode == 1
    assert f"crew differs: 1 row: {changed}" in done.stdout
    assert "shore: repaired, equal at seq" in done.stdout

    pair.follower.kill()
    done = run_flask("sync", "audit", "--timeout", "1", settings=ship, timeout=120)
    assert done.returncode == 1
    assert "shore: no answer within 1 s; it has applied up to" in done.stdout


def retained(pair: Pair, topic: str) -> dict[str, Any]:
    """The last message that the broker keeps of a topic."""
    with Subscriber(pair.broker.port, f"vessel/sync/{topic}") as subscriber:
        got: dict[str, Any] = subscriber.wait(1)[0].json
    return got


def test_what_is_forged_under_the_vessels_name_does_not_last(pair: Pair) -> None:
    first = pair.wait_equal()
    victim, *_ = sorted(pair.crew(pair.ship))
    last = retained(pair, "crew")
    huge = 2**53 - 1
    # A row that the vessel does not have, one overwritten in a version that it will never reach, and all
    # numbers up to the largest taken.
    for row_id, version, seq in ((victim, huge, last["seq"] + 1), (str(uuid4()), 1, huge)):
        data = {**last["data"], "id": row_id, "version": version, "name": "forged"}
        message = {**last, "data": data, "version": version, "seq": seq, "messageId": uuid4().hex}
        pair.broker.publish(
            "vessel/sync/crew", json.dumps({**message, "previousSeq": last["seq"]}), "-q", "1"
        )
    # An epoch that nobody knows, with an empty snapshot that nobody has asked for.
    status = {**retained(pair, "system/status"), "epoch": str(uuid4()), "seq": 3, "topics": {}}
    begin = {
        "type": "catchup_begin", "catchupId": "c", "requestId": None, "entity": "crew",
        "vesselId": status["vesselId"], "epoch": status["epoch"], "timestamp": status["timestamp"],
        "mode": "snapshot", "highSeq": huge, "sinceSeq": None, "complete": True, "buckets": None,
        "total": 0,
    }  # fmt: skip
    end = {**begin, "type": "catchup_end", "digest": "", "next": None}
    pair.broker.publish("vessel/sync/system/status", json.dumps(status), "-q", "1")
    for document in (begin, end):
        pair.broker.publish("vessel/sync/catchup/crew", json.dumps(document), "-q", "1")
    pair.app.post("/api/crew", {"name": "Genuine"})
    pair.app.request("PATCH", f"/api/crew/{victim}", {"rank": "mate"})
    eventually(
        lambda: pair.crew(pair.shore) == pair.crew(pair.ship),
        90,
        message="the copy is equal again by itself",
    )
    pair.ask()
    pair.wait_equal(after=first["at"])
    assert pair.crew(pair.shore) == pair.crew(pair.ship)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_row_that_another_vessel_has_is_never_called_equal(
    pair: Pair, migrated_database_url: str
) -> None:
    pair.wait_equal()
    # Another vessel, met first by nothing but a claim to a row.
    claimed, *_ = sorted(pair.crew(pair.ship))
    before = pair.crew(pair.shore)
    last = retained(pair, "crew")
    pair.follow(last["vesselId"], "other")
    data = {**last["data"], "id": claimed, "version": 9, "name": "claimed"}
    claim = {
        **last, "vesselId": "other", "epoch": str(uuid4()), "data": data, "version": 9, "seq": 1,
        "previousSeq": 0, "operation": "update",
    }  # fmt: skip
    pair.broker.publish("vessel/sync/crew", json.dumps(claim), "-q", "1")
    # The vessel's own claim to a row of the other one.
    foreign = str(uuid4())
    theirs = {**claim, "data": {**data, "id": foreign, "version": 1}, "version": 1}
    theirs = {**theirs, "seq": 2, "previousSeq": 1, "operation": "create"}
    pair.broker.publish("vessel/sync/crew", json.dumps(theirs), "-q", "1")
    eventually(lambda: foreign in pair.crew(pair.shore), 30, message="it is the other's")
    assert {row_id: pair.crew(pair.shore)[row_id] for row_id in before} == before
    execute(
        pair.ship,
        "INSERT INTO crew (id, version, created_at, updated_at, name, active, on_duty)"
        " SELECT :id, 1, created_at, updated_at, 'ours too', active, on_duty FROM crew LIMIT 1",
        id=foreign,
    )
    pair.app.request("PATCH", f"/api/crew/{foreign}", {"rank": "mate"})
    pair.ask()
    verdict = pair.wait_verdict(
        lambda told: foreign in told["entities"]["crew"]["rows"], "the row is named"
    )
    assert not verdict["equal"]
    assert verdict["entities"]["crew"]["heldBy"] == {foreign: "other"}
    assert pair.crew(pair.shore)[foreign][0] == "claimed"
    secret = {"SECRET_KEY": "for-tests-only-and-long-enough"}
    ship = {**secret, "LOCAL_MODE": "true", "DATABASE_URL": migrated_database_url, "MQTT_BROKER_URL": pair.broker.url}  # fmt: skip
    done = run_flask("sync", "audit", "--timeout", "10", settings=ship, timeout=120)
    assert done.returncode == 1
    assert f"{foreign} (held by other)" in done.stdout


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_row_under_a_number_that_was_never_given_out_is_not_passed_over(pair: Pair) -> None:
    first = pair.wait_equal()
    last = retained(pair, "crew")
    forged = str(uuid4())
    message = {**last, "data": {**last["data"], "id": forged, "version": 1}, "version": 1}
    message |= {"seq": last["seq"] + 1000, "previousSeq": last["seq"], "operation": "create"}
    pair.broker.publish("vessel/sync/crew", json.dumps(message), "-q", "1")
    eventually(lambda: forged in pair.crew(pair.shore), 30, message="it is believed at first")
    # Nothing more is written on board: the number stands, until somebody asks.
    pair.ask()
    pair.wait_equal(after=first["at"])
    assert pair.crew(pair.shore) == pair.crew(pair.ship)
