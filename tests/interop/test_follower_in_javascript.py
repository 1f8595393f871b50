"""A follower that was written from docs/protocol.md alone converges on the vessel's tables, and proves it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import paho.mqtt.client as paho
import pytest

from arus.protocol.frames import is_frame
from tests.interop.javascript import JavaScriptFollower, play, run_program
from tests.support.gunicorn_app import ROOT, GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.ship_model import ShipModel
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

# Servers of three kinds are started and stopped: it takes its time on a slow machine.
pytestmark = pytest.mark.timeout(600)

ENTITIES = ("work_orders", "alerts", "equipment", "crew", "maintenance_schedules")
StartFollower = Callable[..., JavaScriptFollower]
SHARED, FLEET = "vessel/sync", "fleet/{vessel_id}/sync"


@pytest.fixture
def database_kind() -> str:
    """The vessel's database is not what is looked at here."""
    return "sqlite"


@pytest.fixture
def prefix() -> str:
    """MQTT_TOPIC_PREFIX."""
    return SHARED


@pytest.fixture
def start_follower(tmp_path: Path, mosquitto: Mosquitto, prefix: str) -> Iterator[StartFollower]:
    """Starts the follower; it is killed after the test."""
    with ExitStack() as stack:

        def start(*options: str) -> JavaScriptFollower:
            follower = JavaScriptFollower(
                tmp_path, mosquitto.port, "ship-1", "--prefix", prefix, "--audit", "1", *options
            )
            return stack.enter_context(follower)

        yield start


@pytest.fixture
def compression() -> str:
    """MQTT_COMPRESSION."""
    return "off"


@pytest.fixture
def vessel(start_app: Callable[..., GunicornApp], prefix: str, compression: str) -> GunicornApp:
    """A vessel that is connected, and says who made each change."""
    settings = {"VESSEL_ID": "ship-1", "MQTT_TOPIC_PREFIX": prefix, "MQTT_SEND_ACTOR": "true"}
    app = start_app({**settings, "MQTT_COMPRESSION": compression})
    app.wait_connected()
    return app


class Crew:
    """Whoever writes on board."""

    def __init__(self, app: GunicornApp) -> None:
        self._app = app
        self.equipment = self.create(
            "equipment", name="Pump", type="pump", specifications={"é": 1.5, "flow": 1e21, "n": 3.0}
        )
        self.count = 0

    def create(self, path: str, **body: Any) -> str:
        answer = self._app.post(f"/api/{path}", body)
        assert answer.status == 201, answer.text
        return str(answer.json["id"])

    def change(self, path: str, row_id: str, **body: Any) -> None:
        answer = self._app.request("PATCH", f"/api/{path}/{row_id}", body)
        assert answer.status == 200, answer.text

    def delete(self, path: str, row_id: str) -> None:
        answer = self._app.request("DELETE", f"/api/{path}/{row_id}")
        assert answer.status == 204, answer.text

    def work(self, rounds: int = 10) -> None:
        """Create, change and delete rows of all kinds."""
        for _ in range(rounds):
            self.count += 1
            order = self.create(
                "work-orders", equipmentId=self.equipment, reason=f"Ölwechsel {self.count} €"
            )
            self.change("work-orders", order, estimatedHours=self.count / 3, priority=1)
            member = self.create("crew", name=f"Søren 😀 {self.count}")
            gone = self.create("crew", name=f"Gone {self.count}")
            self.delete("crew", gone)
            self.change("crew", member, rank="Oiler")
            self.create(
                "alerts",
                equipmentId=self.equipment,
                sensorType="temperature",
                alertType="critical",
                message="hot",
                value=91.5 + self.count,
                threshold=90,
            )
            self.create(
                "maintenance-schedules",
                equipmentId=self.equipment,
                scheduledDate="2026-12-01T08:00:00.000Z",
                maintenanceType="inspection",
            )

    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows, as the API shows them."""
        found: dict[str, dict[str, Any]] = {}
        for entity in ENTITIES:
            rows = found[entity] = {}
            cursor = ""
            while cursor is not None:
                path = f"/api/{entity.replace('_', '-')}?limit=200{cursor}"
                page = self._app.get(path).json
                rows.update((item["id"], item) for item in page["items"])
                cursor = f"&cursor={page['next']}" if page["next"] else None  # type: ignore[assignment]
        return found


@pytest.fixture
def crew(vessel: GunicornApp) -> Crew:
    """The crew of the vessel."""
    return Crew(vessel)


def head(vessel: GunicornApp, database: Path) -> int:
    """The number of the last change, once all are delivered."""
    eventually(lambda: vessel.health()["mqtt"]["queuedMessages"] == 0, 60)
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT head_seq FROM arus_session").fetchone()[0])


def assert_equal(
    follower: JavaScriptFollower, crew: Crew, vessel: GunicornApp, tmp_path: Path
) -> None:
    """The follower says that it is equal at the vessel's last number, and it is."""
    seq = head(vessel, tmp_path / "arus.sqlite")
    verdict = follower.wait_for("audit", lambda event: event["equal"] and event["seq"] >= seq)
    assert set(verdict["entities"]) == set(ENTITIES)
    dump = follower.dump()
    assert dump["rows"] == crew.rows()
    assert dump["refused"] == 0


def test_its_hashes_are_those_of_the_document() -> None:
    verdict = run_program("--vectors", ROOT / "docs" / "protocol.md")
    assert verdict["rows"] >= 3
    assert verdict["wrong"] == []


@pytest.mark.parametrize("prefix", [SHARED, FLEET])
def test_it_joins_late_and_follows_live(
    vessel: GunicornApp, crew: Crew, start_follower: StartFollower, tmp_path: Path
) -> None:
    crew.work()
    follower = start_follower()
    assert_equal(follower, crew, vessel, tmp_path)
    follower.clear()
    crew.work()
    assert_equal(follower, crew, vessel, tmp_path)
    assert not follower.events("asked")  # what was live needed no catch-up
    retained = follower.wait_for("watermark", lambda event: event["seq"] >= 100)
    assert retained


@pytest.mark.parametrize("compression", ["zstd"])
def test_it_reads_what_is_compressed(
    vessel: GunicornApp,
    crew: Crew,
    start_follower: StartFollower,
    mosquitto: Mosquitto,
    tmp_path: Path,
) -> None:
    follower = start_follower()
    crew.work(15)
    database = tmp_path / "arus.sqlite"
    acknowledged = "SELECT count(*) FROM arus_dictionary WHERE acknowledged"
    eventually(lambda: _first(database, acknowledged) == 1, 60, message="a dictionary is used")
    crew.work(5)
    assert_equal(follower, crew, vessel, tmp_path)
    follower.stop()
    crew.work(5)
    follower.start()
    assert_equal(follower, crew, vessel, tmp_path)
    assert _first(database, "SELECT count(*) FROM arus_compressed WHERE dictionary > 0")
    # One that joins late has the dictionary from the broker, and the rows by compressed catch-ups.
    late = JavaScriptFollower(
        tmp_path / "late", mosquitto.port, "ship-1", "--name", "late", "--audit", "1"
    )
    seen: list[bytes] = []
    tap = paho.Client(paho.CallbackAPIVersion.VERSION2)
    tap.on_message = lambda _client, _userdata, message: seen.append(bytes(message.payload))
    tap.connect("127.0.0.1", mosquitto.port)
    tap.subscribe("vessel/sync/catchup/#", 1)
    tap.loop_start()
    with late:
        assert_equal(late, crew, vessel, tmp_path)
    tap.disconnect()
    tap.loop_stop()
    assert len(seen) > 100
    assert all(is_frame(payload) for payload in seen)


def _first(database: Path, statement: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(statement).fetchone()[0])


def test_it_is_killed_and_goes_on(
    vessel: GunicornApp, crew: Crew, start_follower: StartFollower, tmp_path: Path
) -> None:
    follower = start_follower()
    for _ in range(3):
        crew.work(3)
        follower.kill()
        crew.work(3)
        follower.start()
    assert_equal(follower, crew, vessel, tmp_path)


def test_it_is_put_back_to_an_old_copy_and_asks_for_the_log_since_then(
    vessel: GunicornApp, crew: Crew, start_follower: StartFollower, tmp_path: Path
) -> None:
    crew.work()
    follower = start_follower()
    assert_equal(follower, crew, vessel, tmp_path)
    follower.stop()
    follower.copy_store(tmp_path / "copy")
    follower.start()
    crew.work()
    assert_equal(follower, crew, vessel, tmp_path)
    follower.stop()
    follower.restore(tmp_path / "copy")
    follower.start()
    assert_equal(follower, crew, vessel, tmp_path)
    assert all("sinceSeq" in event for event in follower.events("asked")), follower.events("asked")
    assert follower.events("asked")


def test_it_was_away_for_longer_than_the_log_goes_back_and_sweeps_what_is_gone(
    vessel: GunicornApp,
    crew: Crew,
    start_app: Callable[..., GunicornApp],
    start_follower: StartFollower,
    mosquitto: Mosquitto,
    tmp_path: Path,
) -> None:
    doomed = [crew.create("crew", name=f"Doomed {number}") for number in range(5)]
    crew.work()
    follower = start_follower()
    assert_equal(follower, crew, vessel, tmp_path)
    follower.stop()
    for row_id in doomed:
        crew.delete("crew", row_id)
    crew.work(3)
    head(vessel, tmp_path / "arus.sqlite")
    vessel.stop()
    # a week later: the broker has given up what it had queued, the vessel's log has forgotten it
    mosquitto.stop()
    mosquitto.forget()
    mosquitto.start()
    with closing(sqlite3.connect(tmp_path / "arus.sqlite")) as connection:
        connection.execute("UPDATE arus_change SET committed_at = committed_at - 8 * 86400000")
        connection.commit()
    vessel.start()
    vessel.wait_connected()
    eventually(lambda: _log_size(tmp_path) == 0, 60, message="the log is pruned")
    crew.work(2)
    follower.start()
    assert_equal(follower, crew, vessel, tmp_path)
    # asked since its position, it was told to fetch all, or given all at once
    assert not set(doomed) & set(follower.dump()["rows"]["crew"])


def _log_size(tmp_path: Path) -> int:
    with closing(sqlite3.connect(tmp_path / "arus.sqlite")) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM arus_change").fetchone()[0])


def test_the_vessel_is_restored_from_an_old_copy_and_begins_a_new_epoch(
    vessel: GunicornApp, crew: Crew, start_follower: StartFollower, tmp_path: Path
) -> None:
    crew.work(3)
    follower = start_follower()
    assert_equal(follower, crew, vessel, tmp_path)
    epoch = follower.dump()["epoch"]
    database = tmp_path / "arus.sqlite"
    with (
        closing(sqlite3.connect(database)) as live,
        closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy,
    ):
        live.backup(copy)
    crew.work(3)
    assert_equal(follower, crew, vessel, tmp_path)
    vessel.stop()
    for name in ("arus.sqlite-wal", "arus.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "copy.sqlite").replace(database)
    vessel.start()
    vessel.wait_connected()
    crew.work(1)
    eventually(lambda: follower.dump()["epoch"] != epoch, 60)
    follower.clear()
    assert_equal(follower, crew, vessel, tmp_path)


def test_what_was_changed_behind_its_back_is_found_and_repaired(
    vessel: GunicornApp, crew: Crew, start_follower: StartFollower, tmp_path: Path
) -> None:
    crew.work(3)
    follower = start_follower()
    assert_equal(follower, crew, vessel, tmp_path)
    follower.stop()
    # what is in its journal belongs to its state once it has been started
    follower.start()
    follower.stop()
    store = follower.store / "state.json"
    saved = json.loads(store.read_text())
    state = json.loads(saved["state"])
    members = state["topics"]["crew"]["rows"]
    members.remove(next(pair for pair in members if not pair[1]["deleted"]))
    order = state["topics"]["work_orders"]["rows"][0][1]
    order.update(hash="0" * 64, data={**order["data"], "reason": "forged"})
    store.write_text(json.dumps({**saved, "state": json.dumps(state)}))
    follower.start()
    verdict = follower.wait_for("audit", lambda event: not event["equal"])
    wrong = {entity for entity, result in verdict["entities"].items() if not result["equal"]}
    assert wrong == {"crew", "work_orders"}
    follower.wait_for("asked", lambda event: bool(event.get("buckets")))
    follower.wait_for("audit", lambda event: event["equal"])
    assert_equal(follower, crew, vessel, tmp_path)


def fetched(ship: ShipModel, *missing: str) -> list[list[Any]]:
    """The steps of a snapshot that was asked for, and lacks rows."""
    full, request_id = dict(ship.rows), str(uuid4())
    for row_id in missing:
        del ship.rows["crew", row_id]
    request = {"requestId": request_id, "entity": "crew", "mode": "snapshot", "limit": None}
    [(_, messages)] = ship.answers_to(request)
    ship.rows = full
    taken = [["take", "catchup/crew", json.dumps(message)] for message in messages]
    return [["asked", ["crew"], request_id], *taken]


def described(ship: ShipModel) -> list[list[Any]]:
    """The steps of a digest, and of a comparison with it."""
    return [["take", "system/digest", json.dumps(ship.digest_document())], ["compare"]]


def test_rows_that_a_few_answers_lack_are_swept_without_a_digest_up_to_a_tenth_in_all() -> None:
    ship = ShipModel()
    for number in range(30):
        ship.log_change("crew", {}, row_id=f"r{number:02}")
    names = sorted(row_id for _, row_id in ship.rows)
    steps: list[list[Any]] = [["take", "system/status", json.dumps(ship.status_document())]]
    kept = []

    def after(*more: list[list[Any]]) -> None:
        steps.extend(step for part in more for step in part)
        kept.append(len(steps) - 1)

    after(fetched(ship))
    after(fetched(ship, "r00"))
    after(fetched(ship, "r00", "r01"))
    after(fetched(ship, "r00", "r01", "r02"))  # a third one: more than a tenth of the rows
    for row_id in ("r00", "r01"):
        ship.log_change("crew", {}, "delete", row_id)
    steps.extend(["take", "crew", json.dumps(message)] for message in ship.log[-2:])
    after(described(ship))  # equal: r02 is there
    after(fetched(ship, "r02"))  # what was swept before counts no longer
    ids = play(steps)
    gone = [sorted(set(names).difference(ids[step])) for step in kept]
    few = ["r00", "r01"]
    assert gone == [[], ["r00"], few, few, few, [*few, "r02"]]


@pytest.mark.parametrize("prefix", [FLEET])
def test_what_is_forged_under_the_vessels_name_does_not_last(
    vessel: GunicornApp,
    crew: Crew,
    start_follower: StartFollower,
    mosquitto: Mosquitto,
    tmp_path: Path,
) -> None:
    crew.work(3)
    follower = start_follower()
    assert_equal(follower, crew, vessel, tmp_path)
    epoch, highest = follower.dump()["epoch"], 2**53 - 1
    common = {"vesselId": "ship-1", "epoch": epoch, "entity": "crew"}
    common["timestamp"] = "2026-11-22T08:00:00.000Z"
    with Subscriber(mosquitto.port, "fleet/ship-1/sync/crew") as subscriber:
        last = subscriber.wait(1)[0].json
    for seq in (last["seq"] + 1000, highest):
        forged = {**last, "previousSeq": last["seq"], "seq": seq, "version": 1}
        forged["data"] = {**last["data"], "id": f"forged-{seq}", "version": 1}
        mosquitto.publish("fleet/ship-1/sync/crew", json.dumps(forged), "-q", "1")
    # An empty snapshot that nobody has asked for.
    catchup = {**common, "catchupId": "c", "requestId": None, "mode": "snapshot"}
    catchup |= {"highSeq": highest, "total": 0, "complete": True, "sinceSeq": None, "buckets": None}
    for told in ({"type": "catchup_begin"}, {"type": "catchup_end", "digest": "", "next": None}):
        mosquitto.publish(
            "fleet/ship-1/sync/catchup/crew", json.dumps({**catchup, **told}), "-q", "1"
        )
    crew.work(3)
    assert_equal(follower, crew, vessel, tmp_path)
