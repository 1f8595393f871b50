"""The main job: what is committed on board arrives ashore, through an outage and an owner's death.

The real thing: `flask db upgrade`, gunicorn with four workers, a Mosquitto, a mosquitto_sub.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from arus.protocol.topics import TopicTree
from tests.support.gunicorn_app import HEALTH, GunicornApp, flask
from tests.support.http import Answer
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import PATIENCE, eventually

WORKERS = 4
#: Requests at a time.
CLIENTS = 8
TOPICS = {"work_orders": "work_orders", "alerts": "alerts", "equipment": "equipment"}
#: MQTT_TOPIC_PREFIX, with the database of the vessel.
PREFIXES = pytest.mark.parametrize(
    ("database_kind", "prefix"),
    [("sqlite", "fleet/{vessel_id}/sync"), ("postgresql", "vessel/sync")],
)


@dataclass(frozen=True)
class Posted:
    """A row that the vessel says it has."""

    entity: str
    row_id: str
    #: None where the answer got lost with its worker and the repeated request was answered.
    message_id: str | None


class Vessel:
    """The app, and whoever enters work on board."""

    def __init__(self, app: GunicornApp) -> None:
        self.app = app
        self.posted: list[Posted] = []
        answer = app.post("/api/equipment", {"name": "Main engine", "type": "engine"})
        self.equipment_id: str = self._note("equipment", answer).row_id

    def post_all(
        self, work_orders: int, alerts: int, died: Callable[[], bool] | None = None
    ) -> None:
        """Enter work orders and alerts, `CLIENTS` at a time, in mixed order.

        With `died`, a request whose worker was killed is sent again: that is what an
        Idempotency-Key is for.
        """
        every = (work_orders + alerts) // alerts
        kinds = ["alerts" if n % every == 0 else "work_orders" for n in range(alerts * every)]
        kinds += ["work_orders"] * (work_orders + alerts - len(kinds))
        assert (kinds.count("work_orders"), kinds.count("alerts")) == (work_orders, alerts)
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(lambda n: self._post(kinds[n], n, died), range(len(kinds))))

    def ids(self, entity: str) -> set[str]:
        """The rows of a resource, as the API lists them."""
        path = f"/api/{entity.replace('_', '-')}"
        found: list[str] = []
        cursor = ""
        while True:
            page = self.app.get(f"{path}?limit=200{cursor}").json
            found += [item["id"] for item in page["items"]]
            if page["next"] is None:
                assert len(found) == len(set(found))
                return set(found)
            cursor = f"&cursor={page['next']}"

    def _post(self, entity: str, n: int, died: Callable[[], bool] | None) -> None:
        key = f"{entity}-{len(self.posted)}-{n}-{time.monotonic_ns()}"
        bodies: dict[str, dict[str, Any]] = {
            "work_orders": {"equipmentId": self.equipment_id, "reason": f"Work {n}"},
            "alerts": {
                "equipmentId": self.equipment_id,
                "sensorType": "temperature",
                "alertType": "warning",
                "message": f"Alert {n}",
                "value": 91.5,
                "threshold": 90,
            },
        }
        path = f"/api/{entity.replace('_', '-')}"
        while True:
            try:
                answer = self.app.post(path, bodies[entity], {"Idempotency-Key": key})
            except OSError:
                if died is None or not died():
                    raise
            else:
                self._note(entity, answer)
                return

    def _note(self, entity: str, answer: Answer) -> Posted:
        assert answer.status == 201, answer.text
        message_id = answer.headers.get("Sync-Message-Id")
        assert message_id or answer.headers.get("Idempotency-Replayed"), dict(answer.headers)
        posted = Posted(entity, answer.json["id"], message_id)
        self.posted.append(posted)
        return posted


@contextmanager
def only(app: GunicornApp, pid: int) -> Iterator[None]:
    """Stop all workers but one, so that nobody else can answer."""
    others = [other for other in app.worker_pids() if other != pid]
    try:
        for other in others:
            os.kill(other, signal.SIGSTOP)
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def ask_each_worker(app: GunicornApp) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Health and the sync's metrics, as each of the workers tells them."""
    answers = []
    pids = app.worker_pids()
    assert len(pids) == WORKERS
    for pid in pids:
        with only(app, pid):
            answers.append((app.get(HEALTH).json, metrics(app)))
    return answers


#: What changes between two scrapes without a change of a row.
MOVING = ("arus_mqtt_disk_free_bytes", "arus_mqtt_bytes_sent_total", "arus_mqtt_data_used_bytes")


def metrics(app: GunicornApp) -> dict[str, float]:
    """The sync's metrics by series, but those that move by themselves; a series that is there twice fails."""
    answer = app.get("/metrics")
    assert answer.status == 200, answer.text
    found: dict[str, float] = {}
    for line in answer.text.splitlines():
        if line.startswith("arus_mqtt_") and not line.startswith(MOVING):
            series, value = line.rsplit(" ", 1)
            assert series not in found, series
            found[series] = float(value)
    return found


def the_one(answers: Iterable[Any]) -> Any:
    """What all say."""
    first, *others = answers
    for other in others:
        assert other == first
    return first


def published(series: dict[str, float]) -> dict[str, float]:
    """Acknowledged changes by entity."""
    totals: defaultdict[str, float] = defaultdict(float)
    for name, value in series.items():
        if name.startswith("arus_mqtt_messages_published_total{"):
            assert 'qos="2"' in name if "alerts" in name else 'qos="1"' in name
            totals[name.split('entity_type="')[1].split('"')[0]] += value
    return {entity: total for entity, total in totals.items() if total}


def check_stream(subscriber: Subscriber, vessel: Vessel) -> None:
    """Every change arrived, in order, without a gap, each alert once."""
    received = subscriber.messages
    by_topic: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in received:
        change = message.json
        if not isinstance(change, dict) or change.get("type") != "data_change":
            continue
        topic = message.topic.removeprefix("vessel/sync/").removeprefix("fleet/ship-1/sync/")
        assert TOPICS[change["entity"]] == topic
        assert message.qos == (2 if topic == "alerts" else 1)
        by_topic[topic].append(change)

    firsts: list[dict[str, Any]] = []
    for topic, changes in by_topic.items():
        seen: dict[int, dict[str, Any]] = {}
        for change in changes:
            earlier = seen.setdefault(change["seq"], change)
            assert earlier == change, "a redelivery differs"
        if topic == "alerts":
            assert len(changes) == len(seen), "an alert was seen twice"
        seqs = list(seen)
        assert seqs == sorted(seqs), f"first deliveries on {topic} are out of order"
        assert [c["previousSeq"] for c in seen.values()] == [0, *seqs[:-1]]
        firsts += seen.values()

    assert sorted(change["seq"] for change in firsts) == list(range(1, len(firsts) + 1))
    assert len({change["epoch"] for change in firsts}) == 1
    assert {c["operation"] for c in firsts} == {"create"}
    assert {c["version"] for c in firsts} == {1}

    by_id = {(change["entity"], change["data"]["id"]): change for change in firsts}
    assert len(by_id) == len(firsts), "a row was sent under two numbers"
    assert set(by_id) == {(p.entity, p.row_id) for p in vessel.posted}
    for posted in vessel.posted:
        if posted.message_id is not None:
            assert by_id[posted.entity, posted.row_id]["messageId"] == posted.message_id


def arrived(subscriber: Subscriber, count: int) -> Callable[[], bool]:
    """Whether `count` different changes have arrived."""
    return lambda: len({change["seq"] for change in subscriber.changes()}) >= count


def delivered(app: GunicornApp) -> None:
    """Wait until nothing is undelivered."""

    def empty() -> bool:
        waiting = app.health()["mqtt"]["queuedMessages"]
        assert waiting == 0, f"{waiting} changes are waiting"
        return True

    eventually(empty, 10, interval=0.1)


@pytest.fixture
def vessel(
    tmp_path: Path, database_url: str, mosquitto: Mosquitto, prefix: str
) -> Iterator[tuple[Vessel, Subscriber]]:
    settings = {
        "LOCAL_MODE": "true",
        "DATABASE_URL": database_url,
        "SECRET_KEY": "for-tests-only-and-long-enough",
        "MQTT_BROKER_URL": mosquitto.url,
        "MQTT_RECONNECT_PERIOD": "1",
        "MQTT_TOPIC_PREFIX": prefix,
        "VESSEL_ID": "ship-1",
    }
    flask("db", "upgrade", settings=settings)
    # durable: the broker keeps for it what comes while it is away; it subscribes again at each
    # connection, and -R leaves out the retained messages that it is given then
    ashore = Subscriber(
        mosquitto.port, f"{TopicTree(prefix).any_vessel}/#", client_id="ashore", args=("-R",)
    )
    with ashore, GunicornApp(tmp_path, settings, workers=WORKERS) as app:
        app.wait_connected()
        yield Vessel(app), ashore


@PREFIXES
def test_every_change_arrives_through_an_outage_and_an_owners_death(
    vessel: tuple[Vessel, Subscriber], mosquitto: Mosquitto
) -> None:
    ship, ashore = vessel
    app = ship.app

    # on a sound link
    ship.post_all(work_orders=200, alerts=50)
    ashore.wait_until(arrived(ashore, 251), 30, "251 changes")
    delivered(app)
    check_stream(ashore, ship)

    # the link is down
    mosquitto.stop()
    eventually(lambda: app.health()["mqtt"]["status"] == "disconnected", 10, interval=0.1)
    ship.post_all(work_orders=250, alerts=50)
    eventually(lambda: app.health()["detailedMetrics"]["messagesQueued"] >= 300, 5)
    for health, series in ask_each_worker(app):
        assert health["status"] == "degraded"
        assert health["mqtt"]["status"] == "disconnected"
        assert health["mqtt"]["queuedMessages"] == 300
        assert health["mqtt"]["queueUtilization"] == "3.0%"
        assert health["detailedMetrics"]["messagesQueued"] == 300
        assert health["detailedMetrics"]["messagesPublished"] == 251
        assert health["detailedMetrics"]["isConnected"] is False
        assert series["arus_mqtt_queue_depth"] == 300
        assert series["arus_mqtt_queue_utilization_percent"] == 3
        assert series["arus_mqtt_messages_queued_total"] == 300
        assert series["arus_mqtt_connection_status"] == 0
        assert sum(published(series).values()) == 251

    # it is back
    mosquitto.start()
    ashore.wait_until(arrived(ashore, 551), 40, "551 changes")
    delivered(app)
    check_stream(ashore, ship)

    # the owner dies in mid-stream
    owner = app.wait_connected()
    generation = app.health()["owner"]["generation"]
    killed: list[float] = []

    def enter_work() -> None:
        ship.post_all(work_orders=160, alerts=40, died=lambda: bool(killed))

    with ThreadPoolExecutor(1) as background:
        work = background.submit(enter_work)
        ashore.wait_until(arrived(ashore, 551 + 50), 30, "50 changes of the last stream")
        killed.append(time.time())
        app.kill_worker(owner)
        eventually(lambda: app.owner_pid() not in (None, owner), 10)
        work.result(60)

    total = 751
    ashore.wait_until(arrived(ashore, total), 40, f"{total} changes")
    delivered(app)
    check_stream(ashore, ship)
    assert ship.ids("work_orders") == {p.row_id for p in ship.posted if p.entity == "work_orders"}
    assert ship.ids("alerts") == {p.row_id for p in ship.posted if p.entity == "alerts"}
    eventually(lambda: len(app.worker_pids()) == WORKERS and app.get("/readyz").status == 200)

    answers = ask_each_worker(app)
    series = the_one(series for _, series in answers)
    health = the_one({**health, "timestamp": None} for health, _ in answers)
    assert published(series) == {"equipment": 1, "work_orders": 610, "alerts": 140}
    assert series["arus_mqtt_queue_depth"] == 0
    assert series["arus_mqtt_connection_status"] == 1
    assert series["arus_mqtt_messages_dropped_total"] == 0
    assert series["arus_mqtt_publish_failures_total"] == 0
    assert series["arus_mqtt_queue_flushes_total"] >= 1
    assert series["arus_mqtt_reconnection_attempts_total"] >= 1
    assert health["status"] == "healthy"
    assert health["detailedMetrics"]["messagesPublished"] == total
    assert health["detailedMetrics"]["messagesQueued"] >= 300
    assert health["owner"]["generation"] > generation
    assert health["owner"]["pid"] != owner


@PREFIXES
def test_another_worker_takes_over_and_the_figures_stay_the_same(
    vessel: tuple[Vessel, Subscriber],
) -> None:
    ship, ashore = vessel
    app = ship.app
    ship.post_all(work_orders=20, alerts=10)
    ashore.wait_until(arrived(ashore, 31), 20, "31 changes")
    delivered(app)
    before = the_one(series for _, series in ask_each_worker(app))

    owner = app.wait_connected()
    killed_at = time.monotonic()
    app.kill_worker(owner)

    eventually(lambda: app.owner_pid() not in (None, owner), 5, interval=0.01)
    took = time.monotonic() - killed_at
    print(f"another worker took over within {took * 1000:.0f} ms")
    assert took < PATIENCE
    app.wait_connected()
    eventually(lambda: len(app.worker_pids()) == WORKERS and app.get("/readyz").status == 200)
    after = the_one(series for _, series in ask_each_worker(app))
    assert published(after) == published(before)
    assert after == before
