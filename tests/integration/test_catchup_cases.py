"""Catch-ups in hard cases: clocks that step, transactions that commit late, rows that change under it, kills."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from arus.protocol.entries import new_message_id
from arus.protocol.times import iso, now_ms
from tests.faults.link import Link
from tests.faults.stage import Clock
from tests.support.gunicorn_app import GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Received, Subscriber
from tests.support.waiting import eventually, free_port

# Kills, far links and large tables take their time on a slow machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

StartApp = Callable[..., GunicornApp]
_CREW = "vessel/sync/crew"
_CATCHUP = "vessel/sync/catchup/crew"
#: A seed of the link that makes it 50 ms long.
FAR = next(n for n in range(100) if random.Random(n).choice([0, 0.005, 0.05]) == 0.05)


class Receiver:
    """A receiver of one topic by docs/protocol.md: what its table is after all messages in order of arrival."""

    def __init__(self, messages: list[Received], request_id: str) -> None:
        self.rows: dict[str, tuple[int, dict[str, Any] | None]] = {}
        self.begins: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        #: Items that came twice, and all that came.
        self.repeated = self.items = 0
        self._seq: dict[str, int] = {}
        self._seen: set[str] = set()
        self._digests = [""]
        self._request_id = request_id
        for message in messages:
            if message.topic == _CREW:
                self._apply(message.json)
            elif message.topic == _CATCHUP:
                self._catchup(message.json)

    def _apply(self, change: dict[str, Any]) -> None:
        row_id = change["data"]["id"]
        known, _ = self.rows.get(row_id, (0, None))
        if change["version"] > known:
            deleted = change["operation"] == "delete"
            self.rows[row_id] = (change["version"], None if deleted else change["data"])
            self._seq[row_id] = change["seq"]

    def _catchup(self, message: dict[str, Any]) -> None:
        if message["type"] == "catchup_begin" and message["requestId"] == self._request_id:
            self.begins.append(message)
            self._digests = [""]
            self._seen.clear()
        if not self.begins or message["catchupId"] != self.begins[-1]["catchupId"]:
            return
        if message["type"] == "catchup":
            self._item(message)
        elif message["type"] == "catchup_end":
            self._finish(message)

    def _item(self, item: dict[str, Any]) -> None:
        sequence = item["sequence"]
        assert sequence < len(self._digests), f"items are missing before {sequence}"
        self.items += 1
        self.repeated += sequence < len(self._digests) - 1
        row = f"{item['entity']}/{item['data']['id']}/{item['version']}/{item['operation']}"
        digest = hashlib.sha256(f"{self._digests[sequence]}{row}".encode()).hexdigest()
        del self._digests[sequence + 1 :]
        self._digests.append(digest)
        self._apply(item)
        self._seen.add(item["data"]["id"])

    def _finish(self, end: dict[str, Any]) -> None:
        self.end = end
        begin = self.begins[-1]
        assert end["total"] == len(self._digests) - 1
        assert end["digest"] == self._digests[-1]
        if begin["mode"] == "snapshot" and begin["complete"]:
            for row_id, (version, row) in self.rows.items():
                if row and row_id not in self._seen and self._seq[row_id] <= end["highSeq"]:
                    self.rows[row_id] = (version, None)

    @property
    def table(self) -> dict[str, dict[str, Any]]:
        """The rows that are there."""
        return {row_id: row for row_id, (_, row) in self.rows.items() if row is not None}


def table(app: GunicornApp) -> dict[str, dict[str, Any]]:
    """The vessel's crew."""
    found: dict[str, dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = app.get(f"/api/crew?limit=200{cursor}").json
        found.update((item["id"], item) for item in page["items"])
        cursor = f"&cursor={page['next']}" if page["next"] else None
    return found


def fill(database_url: str, count: int) -> None:
    """Put rows into the table that are in no log, as after a migration from an earlier system."""
    engine = create_engine(database_url)
    now = "2026-11-22 08:00:00.000000"
    rows = [
        {"id": str(uuid.uuid4()), "name": f"Member {number}", "now": now} for number in range(count)
    ]
    with engine.begin() as connection:
        for start in range(0, count, 1_000):
            connection.execute(
                text(
                    "INSERT INTO crew (id, version, created_at, updated_at, name, active, on_duty)"
                    " VALUES (:id, 1, :now, :now, :name, true, false)"
                ),
                rows[start : start + 1_000],
            )
    engine.dispose()


def ask(mosquitto: Mosquitto, **wanted: Any) -> str:
    """Ask for a catch-up of the crew; the request's id."""
    request_id = str(uuid.uuid4())
    body = {"requestId": request_id, "entity": "crew", "limit": None, **wanted}
    mosquitto.publish("vessel/sync/catchup_requests", json.dumps(body), "-q", "1")
    return request_id


def wait_end(subscriber: Subscriber, request_id: str, timeout: float = 240) -> None:
    """Return once the catch-up has ended."""
    subscriber.wait_for(
        lambda m: "catchup_end" in m.payload and m.json["requestId"] == request_id,
        timeout,
        "the end of the catch-up",
    )


def wait_drained(app: GunicornApp) -> None:
    """Return once everything is delivered."""
    eventually(lambda: app.health()["mqtt"]["queuedMessages"] == 0, 60, interval=0.1)


class Crew(threading.Thread):
    """Creates, changes and deletes members until it is stopped."""

    def __init__(self, app: GunicornApp, known: list[str]) -> None:
        super().__init__(daemon=True)
        self._app = app
        self._known = known
        self._stopping = threading.Event()
        self.writes = 0

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            try:
                self._one(number)
            except OSError:  # the worker that was asked has been killed
                continue
            self.writes += 1

    def _one(self, number: int) -> None:
        # all over the table: before and behind what is being read
        row_id = self._known[number * 7919 % len(self._known)]
        if number % 3 == 0:
            answer = self._app.post("/api/crew", {"name": f"New {number}"})
            if answer.status == 201:
                self._known.append(answer.json["id"])
        elif number % 3 == 1:
            self._app.request("PATCH", f"/api/crew/{row_id}", {"rank": f"Rank {number}"})
        else:
            self._app.request("DELETE", f"/api/crew/{row_id}")

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self.join(60)
        assert not self.is_alive()


@contextmanager
def far_link(broker: Mosquitto) -> Iterator[Link]:
    """A link of 50 ms each way."""
    link = Link(free_port(), broker.port, FAR)
    assert link._distance == 0.05
    link.start()
    try:
        yield link
    finally:
        link.stop()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_time_asked_for_is_met_whatever_the_clock_did(
    start_app: StartApp, mosquitto: Mosquitto, subscriber: Subscriber, tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    assert not clock.missing, clock.missing
    app = start_app(clock.settings)
    app.wait_connected()
    app.post("/api/crew", {"name": "before"})
    began = now_ms()
    # a message id holds the millisecond: the next change is of a later one
    eventually(lambda: now_ms() > began)
    app.post("/api/crew", {"name": "in time"})
    clock.step(-3600)
    app.post("/api/crew", {"name": "an hour back"})
    clock.step(3600)
    app.post("/api/crew", {"name": "an hour ahead"})
    clock.step(0)
    app.post("/api/crew", {"name": "in time again"})
    wait_drained(app)
    names = {}
    for since in (began, began - 1800_000, now_ms() + 1800_000):
        request_id = ask(mosquitto, since=iso(since))
        wait_end(subscriber, request_id)
        begins = [m.json for m in subscriber.messages if '"catchup_begin"' in m.payload]
        mine = {b["catchupId"] for b in begins if b["requestId"] == request_id}
        items = [m.json for m in subscriber.messages if '"type":"catchup"' in m.payload]
        names[since - began] = [i["data"]["name"] for i in items if i["catchupId"] in mine]
    later = ["in time", "an hour back", "an hour ahead", "in time again"]
    assert names[0] == later
    assert names[-1800_000] == ["before", *later]
    # what the clock called half an hour hence, and all that came behind it
    assert list(names.values())[2] == later[2:]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_transaction_that_commits_late_is_in_the_snapshot_or_comes_live(
    start_app: StartApp,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
    migrated_database_url: str,
) -> None:
    app = start_app()
    app.wait_connected()
    app.post("/api/crew", {"name": "first"})
    url = migrated_database_url.replace("postgresql+psycopg", "postgresql")
    row_id = str(uuid.uuid4())
    at = now_ms()
    data = {"id": row_id, "version": 1, "createdAt": iso(at), "updatedAt": iso(at), "name": "late"}
    data |= dict.fromkeys(("rank", "department", "email", "phone", "notes"))
    data |= {"active": True, "onDuty": False}
    with psycopg.connect(url) as late:
        # as capture does it: the entry has its id long before it can be seen
        late.execute(
            "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
            " committed_at, data) VALUES (%s, 'crew', 'crew', 1, 'create', %s, 1, %s, %s)",
            (new_message_id(at), row_id, at, json.dumps(data).encode()),
        )
        late.execute(
            "INSERT INTO crew (id, version, created_at, updated_at, name, active, on_duty)"
            " VALUES (%s, 1, to_timestamp(%s / 1000.0), to_timestamp(%s / 1000.0), 'late', true, false)",
            (row_id, at, at),
        )
        app.post("/api/crew", {"name": "second"})
        wait_drained(app)
        before = ask(mosquitto, mode="snapshot")
        wait_end(subscriber, before)
        logged = ask(mosquitto)
        wait_end(subscriber, logged)
        app.post("/api/crew", {"name": "third"})
        wait_drained(app)
    subscriber.wait_for(lambda m: m.topic == _CREW and row_id in m.payload, 60, "the late change")
    change = next(c for c in subscriber.changes("crew") if c["data"]["id"] == row_id)
    assert change["seq"] == max(c["seq"] for c in subscriber.changes("crew"))
    after = ask(mosquitto, sinceSeq=change["seq"] - 1, epoch=change["epoch"])
    wait_end(subscriber, after)
    wait_drained(app)
    for request_id in (before, logged, after):
        receiver = Receiver(subscriber.messages, request_id)
        assert receiver.table == table(app)
    assert len(receiver._digests) == 2  # the last one was of the late change alone


@pytest.mark.parametrize(
    ("database_kind", "mode"),
    [("sqlite", "snapshot"), ("sqlite", "log"), ("postgresql", "snapshot")],
    indirect=["database_kind"],
)
def test_a_catch_up_survives_kills_of_its_owner_while_rows_change_under_it(
    mode: str,
    start_app: StartApp,
    mosquitto: Mosquitto,
    start_subscriber: Callable[..., Subscriber],
    migrated_database_url: str,
) -> None:
    rows = 1_000
    if mode == "snapshot":
        fill(migrated_database_url, rows)
    with far_link(mosquitto) as link:
        settings = {
            "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{link.port}",
            "MQTT_RECONNECT_PERIOD": "0.3",
            "MQTT_MAX_INFLIGHT": "60",
            "MQTT_KEEPALIVE": "5",
        }
        app = start_app(settings, workers=3)
        app.wait_connected(60)
        subscriber = start_subscriber("vessel/sync/#", qos=1)
        if mode == "log":
            batch = [app.post("/api/crew", {"name": f"Member {n}"}).json["id"] for n in range(500)]
            known = batch
        else:
            known = list(table(app))
        wait_drained(app)
        crew = Crew(app, known)
        crew.start()
        wanted = {"mode": "snapshot"} if mode == "snapshot" else {}
        request_id = ask(mosquitto, **wanted)
        for share in (0.2, 0.5, 0.8):
            # what is on its way is acknowledged 100 ms later: it is always cut in the middle
            subscriber.wait_until(
                lambda: (
                    _items(subscriber, request_id) >= share * (rows if mode == "snapshot" else 500)  # noqa: B023
                ),
                90,
                "items of the catch-up",
            )
            os.kill(app.wait_connected(60), signal.SIGKILL)
        wait_end(subscriber, request_id)
        crew.stop()
        assert crew.writes > 20
        wait_drained(app)
        expected = table(app)

        def equal() -> bool:
            assert Receiver(subscriber.messages, request_id).table == expected
            return True

        eventually(equal, 30, interval=0.5, message="the receiver has what the vessel has")
    receiver = Receiver(subscriber.messages, request_id)
    # It went on behind what was acknowledged each time: it began once.
    (begin,) = receiver.begins
    assert begin["mode"] == mode
    assert receiver.end
    assert receiver.end["total"] == begin["total"]
    assert receiver.items < 2 * begin["total"]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_rows_that_come_past_the_capture_push_none_out_of_a_snapshot(
    start_app: StartApp,
    mosquitto: Mosquitto,
    start_subscriber: Callable[..., Subscriber],
    migrated_database_url: str,
) -> None:
    fill(migrated_database_url, 2_000)
    with far_link(mosquitto) as link:
        url = f"mqtt://127.0.0.1:{link.port}"
        app = start_app({"MQTT_BROKER_URL": url, "MQTT_MAX_INFLIGHT": "60"})
        app.wait_connected(60)
        known = set(table(app))
        subscriber = start_subscriber("vessel/sync/#", qos=1)
        request_id = ask(mosquitto, mode="snapshot")
        subscriber.wait_until(lambda: _items(subscriber, request_id) > 0, 60, "the first item")
        fill(migrated_database_url, 300)
        wait_end(subscriber, request_id)
        receiver = Receiver(subscriber.messages, request_id)
    assert receiver.end
    assert receiver.end["next"] is None
    assert known <= set(receiver.table)


def _items(subscriber: Subscriber, request_id: str) -> int:
    """Items of a catch-up so far; to be asked at each message, so without parsing all of them again."""
    with subscriber._changed:
        texts = [m.payload for m in subscriber._received if m.topic == _CATCHUP]
    return sum(text.startswith('{"type":"catchup",') for text in texts)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_large_table_takes_no_memory(
    start_app: StartApp, mosquitto: Mosquitto, migrated_database_url: str
) -> None:
    rows = 40_000
    fill(migrated_database_url, rows)
    app = start_app(workers=1)
    owner = app.wait_connected(60)
    # once for what is only loaded then
    small = _complete(app, {"entity": "equipment", "limit": None})
    assert small["total"] == 0
    before = _resident(owner)
    began = time.monotonic()
    asked = app.post("/api/mqtt/reliable-sync/catchup", {"entity": "crew", "limit": None})
    assert asked.status == 202, asked.text
    peak = before

    def complete() -> bool:
        nonlocal peak
        peak = max(peak, _resident(owner))
        return _status(app, asked.json["catchupId"])["status"] == "complete"

    eventually(complete, 500, interval=0.2, message="the catch-up is complete")
    took = time.monotonic() - began
    status = _status(app, asked.json["catchupId"])
    assert status["published"] == status["total"] == rows
    assert app.owner_pid() == owner
    print(f"{rows} rows in {took:.1f} s; {(peak - before) / 2**20:.1f} MiB more than before")
    assert peak - before < 16 * 2**20


def _status(app: GunicornApp, catchup_id: str) -> dict[str, Any]:
    status: dict[str, Any] = app.get(f"/api/mqtt/reliable-sync/catchup/{catchup_id}").json
    return status


def _complete(app: GunicornApp, body: dict[str, Any]) -> dict[str, Any]:
    asked = app.post("/api/mqtt/reliable-sync/catchup", body)
    assert asked.status == 202, asked.text
    eventually(lambda: _status(app, asked.json["catchupId"])["status"] == "complete", 60)
    return _status(app, asked.json["catchupId"])


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_digest_does_not_wait_behind_a_long_catch_up(
    start_app: StartApp,
    mosquitto: Mosquitto,
    start_subscriber: Callable[..., Subscriber],
    migrated_database_url: str,
) -> None:
    fill(migrated_database_url, 8_000)
    with far_link(mosquitto) as link:
        url = f"mqtt://127.0.0.1:{link.port}"
        app = start_app({"MQTT_BROKER_URL": url, "MQTT_MAX_INFLIGHT": "60"})
        app.wait_connected(60)
        eventually(lambda: app.health()["mqtt"]["activeSubscriptions"] >= 2, 60, interval=0.3)
        subscriber = start_subscriber("vessel/sync/#", qos=1)
        request_id = ask(mosquitto, mode="snapshot")
        subscriber.wait_until(lambda: _items(subscriber, request_id) > 0, 60, "the first item")
        ask(mosquitto, entity="all", mode="digest")
        subscriber.wait_for(lambda m: m.topic.endswith("system/digest"), 120, "a digest")
        # at 60 in 100 ms the rest takes ten seconds more, and longer on a slow machine
        assert _items(subscriber, request_id) < 8_000
