"""The main job with one broker: an outage with a restart of the broker, an owner's death, a catch-up, a follower.

The vessel is the app under gunicorn, its link a proxy that counts packets. Nothing here asserts what a broker keeps:
`Measured` says what it has kept.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.brokers.arrivals import MARKER, PREFIX, Arrived, Tally, subscriber, wait_until_reached
from tests.brokers.catalogue import Case
from tests.brokers.writer import SECRET, start_writer
from tests.faults.link import Link, Mode
from tests.support.broker import Broker
from tests.support.follower import FollowerProcess
from tests.support.gunicorn_app import GunicornApp, flask, run_flask
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

#: Work orders and alerts, as many of each, on a sound link.
LIVE = 20
#: Changes that are queued in the outage, and those that are written while the owner is killed.
QUEUED, STREAMED = 2000, 600
CATCHUP = "/api/mqtt/reliable-sync/catchup"
TABLES = ("equipment", "work_orders", "alerts")
#: Of the link: with this one it has no delay.
SEED = 1


@dataclass
class Measured:
    """What a run has shown; times in seconds."""

    #: of MQTT
    protocol: str = ""
    #: until the first connection, that one included
    attempts: int = 0
    #: QoS of the last alert that left the vessel, and of the last that arrived
    alerts_sent_at: int = 0
    alerts_arrived_at: int = 0
    live: Arrived | None = None
    #: changes that were queued for an absent subscriber, and how many of them it got after the broker's restart
    queued_ashore: int = 0
    kept_ashore: int = 0
    #: retained messages of `alerts`: to its topic and to a wildcard, before and after the restart
    retained: bool = False
    retained_for_wildcards: bool = False
    retained_after_restart: bool = False
    backlog: Arrived | None = None
    backlog_time: float = 0.0
    owner_killed: Arrived | None = None
    takeover_time: float = 0.0
    catchup_total: int = 0
    catchup_arrived: int = 0
    catchup_time: float = 0.0
    follower_equal: bool = False
    follower_time: float = 0.0
    #: until the last will arrived; None: it has not
    will_time: float | None = None
    doctor: str = ""


class MainJob:
    """One run, in a directory of its own; `template` is a migrated SQLite database."""

    def __init__(self, case: Case, directory: Path, template: Path) -> None:
        self._case = case
        self._directory = directory
        self.measured = Measured()
        self._databases = {name: directory / f"{name}.sqlite" for name in ("vessel", "shore")}
        for database in self._databases.values():
            shutil.copy(template, database)

    def run(self) -> Measured:
        """Run it to its end.

        :raises AssertionError: it has not come to its end.
        """
        with ExitStack() as stack:
            self._build(stack)
            self._connect()
            self._work()
            self._look_for_retained()
            self._outage()
            self._kill_owner()
            self._catch_up()
            self._compare()
            self._diagnose()
            self._lose_power()
        return self.measured

    def _build(self, stack: ExitStack) -> None:
        self._broker: Broker = stack.enter_context(self._case.make(self._directory / "broker"))
        self._link = Link(free_port(), self._broker.port, SEED)
        self._link.start()
        stack.callback(self._link.stop)
        self._ashore = stack.enter_context(
            subscriber(self._broker, f"{PREFIX}/#", client_id="ashore")
        )
        self._tally = Tally(self._ashore)
        # At QoS 1: mosquitto_sub ends its connection when it has 21 messages of QoS 2 at a time, as many as wait for it.
        self._sleeper = subscriber(self._broker, f"{PREFIX}/#", qos=1, client_id="sleeper")
        with self._sleeper:
            self._sleeper.stop()
        settings = {
            "SECRET_KEY": SECRET,
            "MQTT_RECONNECT_PERIOD": "1",
            **self._broker.settings,
            **self._case.settings,
        }
        self._vessel_settings = {
            **settings,
            "LOCAL_MODE": "true",
            "VESSEL_ID": "ship-1",
            "DATABASE_URL": f"sqlite:///{self._databases['vessel']}",
            "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{self._link.port}",
        }
        shore = {
            **settings,
            "LOCAL_MODE": "false",
            "DATABASE_URL": f"sqlite:///{self._databases['shore']}",
        }
        self._app: GunicornApp = stack.enter_context(
            GunicornApp(self._directory, self._vessel_settings)
        )
        stack.enter_context(FollowerProcess(self._directory / "follower.log", shore))

    # -- the steps --------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._app.wait_connected(30)
        retries = self._app.health()["detailedMetrics"]["reconnectionAttempts"]
        self.measured.attempts = 1 + retries
        self.measured.protocol = self._known("protocol")

    def _work(self) -> None:
        equipment = self._post("equipment", {"name": "Main engine", "type": "engine"})
        for number in range(LIVE):
            self._post("work-orders", {"equipmentId": equipment, "reason": f"Work {number}"})
            alert = {"sensorType": "oil", "alertType": "warning", "message": "low"}
            self._post("alerts", {"equipmentId": equipment, "value": 1, "threshold": 2, **alert})
        self._drained()
        self.measured.live = self._arrived(1)
        self.measured.queued_ashore = 2 * LIVE + 1
        alerts = [both for both in self._tally.changes if both[1]["entity"] == "alerts"]
        message, alert = alerts[-1]
        self.measured.alerts_arrived_at = message.qos
        self.measured.alerts_sent_at = next(
            packet.qos
            for packet in self._link.packets  # a catch-up may have sent it again later
            if packet.outward and packet.message_id == alert["messageId"]
        )

    def _look_for_retained(self) -> None:
        self.measured.retained = self._retained("alerts")
        self.measured.retained_for_wildcards = self._retained("#")

    def _outage(self) -> None:
        before = self._known("head_seq")
        self._link.set_mode(Mode.DOWN)
        self._broker.stop()
        log = self._directory / "writer.log"
        writer = start_writer(self._vessel_settings["DATABASE_URL"], QUEUED, 100, log)
        assert writer.wait(120) == 0, log.read_text()
        self._broker.start()
        wait_until_reached(self._broker, self._ashore, "restarted")
        with self._sleeper as sleeper:
            wait_until_reached(self._broker, sleeper, "awake")
            tally = Tally(sleeper)
            # NATS sends after 30 s again what it has sent while the client was connecting
            patience = {True: 30, None: 2, False: 0.5}[self._case.keeps.queue]
            _quietly(sleeper, lambda: tally.seen(1) >= self.measured.queued_ashore, patience)
            self.measured.kept_ashore = tally.seen(1)
        # A clean session of the same client discards its queue: with deploy/mosquitto the broker would write all of it
        # to the disk again with each change.
        self._broker.publish(MARKER, "forgotten", "-q", "1", "-i", "sleeper")
        self.measured.retained_after_restart = self._retained("alerts")
        began = time.monotonic()
        self._link.set_mode(Mode.OPEN)
        self._drained()
        self.measured.backlog_time = time.monotonic() - began
        self.measured.backlog = self._arrived(before + 1)
        self._followed()

    def _kill_owner(self) -> None:
        before = self._known("head_seq")
        owner = self._app.wait_connected()
        log = self._directory / "writer.log"
        writer = start_writer(self._vessel_settings["DATABASE_URL"], STREAMED, 5, log)
        self._ashore.wait_until(
            lambda: self._tally.seen(before + 1) >= STREAMED // 6, 30, "a sixth of them"
        )
        began = time.monotonic()
        self._app.kill_worker(owner)
        eventually(lambda: self._app.owner_pid() not in {None, owner}, 20, interval=0.01)
        self._app.wait_connected(30)
        self.measured.takeover_time = time.monotonic() - began
        assert writer.wait(120) == 0, log.read_text()
        self._drained()
        self.measured.owner_killed = self._arrived(before + 1)
        self._followed()

    def _catch_up(self) -> None:
        began = time.monotonic()
        request = {"entity": "all", "since": "2020-01-01T00:00:00.000Z", "limit": 100_000}
        answer = self._app.post(CATCHUP, request)
        assert answer.status == 202, answer.text
        catchup_id = answer.json["catchupId"]

        def complete() -> dict[str, Any] | None:
            run: dict[str, Any] = self._app.get(f"{CATCHUP}/{catchup_id}").json
            assert run["status"] != "failed", run
            return run if run["status"] == "complete" else None

        run = eventually(complete, 60, interval=0.1, message="the catch-up is complete")
        assert run is not None
        self.measured.catchup_time = time.monotonic() - began
        self.measured.catchup_total = run["published"]
        wanted = run["published"]
        patience = 5 if "as shipped" in self._case.name else 30
        _quietly(self._ashore, lambda: self._tally.item_count(catchup_id) >= wanted, patience)
        self.measured.catchup_arrived = self._tally.item_count(catchup_id)

    def _compare(self) -> None:
        began = time.monotonic()
        done = run_flask(
            *("sync", "audit", "--timeout", "90"), settings=self._vessel_settings, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr + self._follower_log()
        self.measured.follower_time = time.monotonic() - began
        self.measured.follower_equal = self._rows("vessel") == self._rows("shore")

    def _diagnose(self) -> None:
        done = run_flask("sync", "doctor", settings=self._vessel_settings)
        self.measured.doctor = done.stdout

    def _lose_power(self) -> None:
        earlier = len(self._ashore.messages)
        began = time.monotonic()
        self._app.kill_all()

        def offline() -> bool:
            return any(
                message.topic == f"{PREFIX}/system/status" and message.json["status"] == "offline"
                for message in self._ashore.messages[earlier:]
            )

        if _quietly(self._ashore, offline):
            self.measured.will_time = time.monotonic() - began

    # -- looking ----------------------------------------------------------------------------------

    def _post(self, path: str, body: dict[str, Any]) -> str:
        answer = self._app.post(f"/api/{path}", body)
        assert answer.status == 201, answer.text
        return str(answer.json["id"])

    def _known(self, column: str, table: str = "arus_session") -> Any:
        """What the log knows: `flask sync status` would take a second of a core each time."""
        with closing(sqlite3.connect(self._databases["vessel"])) as connection:
            ((value,),) = connection.execute(f"SELECT {column} FROM {table}")
        return value

    def _drained(self) -> None:
        def empty() -> bool:
            health = self._app.health()["mqtt"]
            assert health["queuedMessages"] == 0, health
            return True

        eventually(empty, 20, interval=0.1, message="nothing is undelivered")

    def _followed(self) -> None:
        """Return once the follower has it all: what follows at once may be more than a broker keeps for it."""

        def applied() -> bool:
            assert self._known("head_seq") == self._known("MAX(seq)", "arus_follower")
            return True

        eventually(applied, 60, interval=0.1, message="the follower has applied everything")

    def _arrived(self, first: int) -> Arrived:
        """What has arrived of the changes from `first` on, once all have or no more come."""
        last = self._known("head_seq")
        _quietly(self._ashore, lambda: self._tally.seen(first) >= last - first + 1)
        return self._tally.arrived(first, last)

    def _retained(self, topic: str) -> bool:
        """Whether a new subscription to `topic` gets the last alert, marked as retained."""
        with subscriber(self._broker, f"{PREFIX}/{topic}", retained=True) as late:
            return _quietly(
                late,
                lambda: any(m.retain and m.topic == f"{PREFIX}/alerts" for m in late.messages),
                0.5,
            )

    def _rows(self, name: str) -> dict[str, list[Any]]:
        """The rows of each table, without the keys for searching, which each side makes by itself."""
        with closing(sqlite3.connect(self._databases[name])) as connection:
            connection.row_factory = sqlite3.Row
            return {
                table: [
                    {column: row[column] for column in row.keys() if not column.endswith("_key")}  # noqa: SIM118 (a Row's iterator gives values)
                    for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")
                ]
                for table in TABLES
            }

    def _follower_log(self) -> str:
        return (self._directory / "follower.log").read_text()[-4000:]


def _quietly(target: Subscriber, condition: Callable[[], bool], timeout: float = 5) -> bool:
    """Whether `condition` holds within `timeout` seconds (and more); it is asked at each message to `target`."""
    try:
        target.wait_until(condition, timeout, "what was expected")
    except AssertionError:
        return condition()
    return True


def migrated_database(directory: Path) -> Path:
    """Make the template."""
    path = directory / "template.sqlite"
    flask("db", "upgrade", settings={"DATABASE_URL": f"sqlite:///{path}", "SECRET_KEY": SECRET})
    return path
