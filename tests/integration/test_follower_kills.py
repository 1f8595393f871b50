"""A ship and its follower, each in processes of their own, while everything between and in them is killed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from tests.support.follower import FollowerProcess
from tests.support.gunicorn_app import GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

TABLES = ("equipment", "crew", "work_orders", "alerts", "maintenance_schedules")
WRITES = 240


class Writer(threading.Thread):
    """Writes on the ship, whatever happens to it: each write is tried until it is answered."""

    def __init__(self, app: GunicornApp, seed: int) -> None:
        super().__init__(daemon=True)
        self._app = app
        self._random = random.Random(seed)
        self._ids: dict[str, list[str]] = {"crew": [], "equipment": [], "work-orders": []}
        self._allowed = threading.Semaphore(0)
        self.done = 0
        self.error: Exception | None = None

    def allow(self, writes: int) -> None:
        """Let it write so many times more."""
        self._allowed.release(writes)

    def run(self) -> None:
        try:
            while self.done < WRITES:
                self._allowed.acquire()
                self._write()
                self.done += 1
        except Exception as error:  # noqa: BLE001  # shown by the test
            self.error = error

    def wait(self, done: int) -> None:
        """Return once it has written so many times."""
        eventually(lambda: self.done >= done or self.error, 120, message=f"{done} writes")
        assert self.error is None, self.error

    def _write(self) -> None:
        resource = self._random.choice(["crew", "crew", "equipment", "work-orders", "alerts"])
        ids = self._ids.get(resource, [])
        kind = self._random.random()
        if kind < 0.5 or not ids:
            body = self._body(resource)
            if body is None:
                return
            answer = self._send("POST", f"/api/{resource}", body)
            ids.append(answer.json["id"])
        elif kind < 0.8 or resource == "equipment":
            words = {"work-orders": "reason"}
            change = {words.get(resource, "name"): f"{self._random.random()}"}
            self._send("PATCH", f"/api/{resource}/{self._random.choice(ids)}", change)
        else:
            self._send("DELETE", f"/api/{resource}/{ids.pop()}")

    def _body(self, resource: str) -> dict[str, Any] | None:
        if resource == "crew":
            return {"name": "Ann"}
        if resource == "equipment":
            return {"name": "Pump", "type": "pump", "specifications": {"kW": 1.5}}
        if not self._ids["equipment"]:
            return None
        equipment = self._random.choice(self._ids["equipment"])
        if resource == "work-orders":
            return {"equipmentId": equipment, "reason": "leak", "estimatedHours": 1.25}
        return {
            "equipmentId": equipment, "sensorType": "t", "alertType": "warning", "message": "hot",
            "value": 91.5, "threshold": 90,
        }  # fmt: skip

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        def answered() -> Any:
            answer = self._app.request(method, path, body)
            if method == "DELETE" and answer.status == 404:
                return answer  # the answer to the first try was lost
            assert answer.status in {200, 201, 204}, answer.text
            return answer

        return eventually(answered, 60, interval=0.1, message=f"{method} {path} is answered")


class Sea:
    """The ship, the broker and the shore."""

    def __init__(
        self,
        app: GunicornApp,
        broker: Mosquitto,
        ship_url: str,
        shore_url: str,
        log: Path,
    ) -> None:
        self.app = app
        self.broker = broker
        self.ship = create_engine(ship_url)
        self.shore = create_engine(shore_url)
        self._log = log
        self._settings = {
            "DATABASE_URL": shore_url,
            "MQTT_BROKER_URL": broker.url,
            "MQTT_RECONNECT_PERIOD": "0.5",
        }
        self.follower = self.start_follower()

    def start_follower(self) -> FollowerProcess:
        self.follower = FollowerProcess(self._log, self._settings)
        return self.follower

    def close(self) -> None:
        self.follower.kill()
        self.ship.dispose()
        self.shore.dispose()

    def applied(self) -> int:
        """How many changes the follower has applied."""
        with self.shore.connect() as connection:
            return int(
                connection.execute(
                    text(
                        "SELECT coalesce(sum(value), 0) FROM arus_counter WHERE name = 'follow_applied'"
                    )
                ).scalar_one()
            )

    def wait_applied(self, before: int) -> None:
        """Return once more changes are applied than before."""
        eventually(lambda: self.applied() > before, 90, message=f"more than {before} are applied")

    def rows(self, side: Engine) -> dict[str, set[tuple[str, int]]]:
        with side.connect() as connection:
            return {
                table: {
                    (row.id, row.version)
                    for row in connection.execute(text(f"SELECT id, version FROM {table}"))
                }
                for table in TABLES
            }

    def equal(self) -> bool:
        """Whether the follower has proved itself equal at the ship's last number, and is."""
        with self.ship.connect() as connection:
            head = connection.execute(text("SELECT head_seq FROM arus_session")).scalar_one()
            told = connection.execute(text("SELECT * FROM arus_follower")).one_or_none()
        assert self.rows(self.shore) == self.rows(self.ship)
        assert told is not None, "the ship has heard no watermark"
        assert told.seq == head, f"the ship has heard {told.seq} of {head}"
        assert told.audit_equal, f"the audit says {told.audit_detail}"
        return True


@pytest.fixture
def sea(
    start_app: Callable[..., GunicornApp],
    mosquitto: Mosquitto,
    migrated_database_url: str,
    shore_database_url: str,
    tmp_path: Path,
) -> Iterator[Sea]:
    """A ship on one kind of database, a shore on the other."""
    log = tmp_path / "shore.log"
    sea = Sea(start_app(), mosquitto, migrated_database_url, shore_database_url, log)
    yield sea
    sea.close()
    print(log.read_text()[-20_000:])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [11])
def test_it_is_equal_whatever_is_killed(sea: Sea, seed: int) -> None:
    chance = random.Random(seed)
    writer = Writer(sea.app, seed)
    writer.start()
    kills = ["follower", "follower", "owner", "follower", "broker", "forgetful broker", "follower"]
    chance.shuffle(kills)
    share = WRITES // (len(kills) + 1)
    for number, victim in enumerate(kills):
        # Each at another point of the work, and the follower in the middle of its own.
        before = sea.applied()
        writer.allow(share)
        writer.wait(number * share + chance.randint(1, share))
        if victim == "follower":
            sea.wait_applied(before)
            sea.follower.kill()
            sea.start_follower()
        elif victim == "owner":
            sea.app.kill_worker(sea.app.wait_connected(60))
        else:
            sea.broker.kill()
            if victim == "forgetful broker":
                sea.broker.forget()
            sea.broker.start()
    writer.allow(WRITES)
    writer.wait(WRITES)
    eventually(sea.equal, 150, interval=0.25, message=f"equal after {kills}")
