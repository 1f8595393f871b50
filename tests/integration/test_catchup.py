"""Catch-ups as a receiver gets them: from the log, from the tables, in pieces, and after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from arus.protocol.digests import bucket_of
from extensions import db, sync
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually


@dataclass
class Caught:
    """The messages of one catch-up of one entity."""

    begin: dict[str, Any]
    items: list[dict[str, Any]]
    end: dict[str, Any]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Operation and name of each item."""
        return [(item["operation"], item["data"]["name"]) for item in self.items]


class Ship:
    """The application with its owner in this process, and a subscriber that hears all."""

    def __init__(self, app: Flask, subscriber: Subscriber, mosquitto: Mosquitto) -> None:
        self.app = app
        self.mosquitto = mosquitto
        self.client: FlaskClient = app.test_client()
        self.subscriber = subscriber
        self.asked = 0

    def crew(self, name: str) -> str:
        answer = self.client.post("/api/crew", json={"name": name})
        assert answer.status_code == 201, answer.data
        return str(answer.get_json()["id"])

    def rename(self, crew_id: str, name: str) -> None:
        assert self.client.patch(f"/api/crew/{crew_id}", json={"name": name}).status_code == 200

    def remove(self, crew_id: str) -> None:
        assert self.client.delete(f"/api/crew/{crew_id}").status_code == 204

    def settle(self) -> dict[str, Any]:
        """Wait until all is delivered; return the last change."""

        def depth() -> int:
            with self.app.app_context():
                return sync.runtime().status().depth

        eventually(lambda: depth() == 0, message="a delivered queue")
        with self.app.app_context():
            head = sync.runtime().status().head_seq

        def last() -> dict[str, Any] | None:
            return next((c for c in self.subscriber.changes() if c["seq"] == head), None)

        # what the broker has acknowledged may still be on its way to the subscriber
        change = eventually(last, 30, message="the last change at the subscriber")
        assert change is not None
        return change

    def request(self, body: Any) -> None:
        """Publish a request."""
        self.mosquitto.publish("vessel/sync/catchup_requests", json.dumps(body), "-q", "1")

    def ask(self, entity: str = "crew", **wanted: Any) -> Caught:
        """Ask over MQTT and collect the answer."""
        self.asked += 1
        request_id = f"request-{self.asked}"
        self.request({"requestId": request_id, "entity": entity, **wanted})

        def is_end(message: Any) -> bool:
            return (
                message.topic.startswith("vessel/sync/catchup/")
                and message.json["type"] == "catchup_end"
                and message.json["requestId"] == request_id
            )

        end = self.subscriber.wait_for(is_end, what="the end of a catch-up").json
        mine = [p for p in self.subscriber.payloads if p.get("catchupId") == end["catchupId"]]
        assert [p["type"] for p in (mine[0], mine[-1])] == ["catchup_begin", "catchup_end"]
        caught = Caught(mine[0], mine[1:-1], mine[-1])
        check(caught)
        return caught


def check(caught: Caught) -> None:
    """What is announced is what comes."""
    total = len(caught.items)
    assert caught.begin["total"] == caught.end["total"] == total
    assert [item["sequence"] for item in caught.items] == list(range(total))
    assert {item["total"] for item in caught.items} <= {total}
    assert caught.begin["highSeq"] == caught.end["highSeq"]
    digest = ""
    for item in caught.items:
        row = f"{item['entity']}/{item['data']['id']}/{item['version']}/{item['operation']}"
        digest = hashlib.sha256(f"{digest}{row}".encode()).hexdigest()
    assert caught.end["digest"] == digest


@pytest.fixture
def ship(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
) -> Ship:
    """A ship whose owner is connected."""
    app = make_app(
        migrated_database_url, MQTT_BROKER_URL=mosquitto.url, MQTT_RECONNECT_PERIOD="0.2"
    )
    sync.start(app)

    def connected() -> bool:
        with app.app_context():
            return sync.runtime().status().connected

    eventually(connected, message="a connection")
    return Ship(app, subscriber, mosquitto)


def forget_the_log(app: Flask) -> None:
    """What retention does once all is too old."""
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("DELETE FROM arus_change"))
        connection.execute(
            text("UPDATE arus_session SET pruned_seq = head_seq, complete_since = 9999999999999")
        )


def test_the_log_is_replayed_with_what_was_changed_and_deleted(ship: Ship) -> None:
    ada, bob = ship.crew("Ada"), ship.crew("Bob")
    ship.rename(ada, "Ada L.")
    ship.remove(bob)
    ship.settle()
    caught = ship.ask()
    assert caught.begin["mode"] == "log"
    assert caught.rows == [
        ("create", "Ada"),
        ("create", "Bob"),
        ("update", "Ada L."),
        ("delete", "Bob"),
    ]
    live = {change["seq"]: change for change in ship.subscriber.changes("crew")}
    for item in caught.items:
        change = live[item["seq"]]
        assert {key: item[key] for key in change if key != "type"} == {
            key: value for key, value in change.items() if key != "type"
        }
    assert caught.end["next"] is None


def test_only_what_came_after_a_number_is_replayed(ship: Ship) -> None:
    ship.crew("Ada")
    ship.client.post("/api/equipment", json={"name": "Pump", "type": "pump"})
    last = ship.settle()
    ship.crew("Bob")
    ship.settle()
    caught = ship.ask(sinceSeq=last["seq"], epoch=last["epoch"])
    assert caught.rows == [("create", "Bob")]
    assert caught.begin["sinceSeq"] == last["seq"]
    assert caught.begin["highSeq"] == last["seq"] + 1
    nothing = ship.ask(sinceSeq=last["seq"] + 1, epoch=last["epoch"])
    assert (nothing.items, nothing.begin["mode"]) == ([], "log")


def test_changes_of_the_very_time_asked_for_are_among_them(ship: Ship) -> None:
    ship.crew("Ada")
    before = ship.settle()
    ship.crew("Bob")
    after = ship.settle()
    assert ship.ask(since=after["timestamp"]).rows[-1] == ("create", "Bob")
    assert [name for _, name in ship.ask(since=before["timestamp"]).rows] == ["Ada", "Bob"]


def test_another_epoch_must_be_fetched_anew(ship: Ship) -> None:
    ship.crew("Ada")
    ship.settle()
    caught = ship.ask(sinceSeq=1, epoch="00000000-0000-0000-0000-000000000000")
    assert (caught.begin["mode"], caught.items) == ("must_refetch", [])


def test_the_tables_are_sent_where_the_log_has_forgotten(ship: Ship) -> None:
    ada, bob = ship.crew("Ada"), ship.crew("Bob")
    ship.rename(ada, "Ada L.")
    last = ship.settle()
    forget_the_log(ship.app)
    ship.remove(bob)
    ship.settle()
    caught = ship.ask(sinceSeq=1, epoch=last["epoch"])
    assert caught.begin["mode"] == "snapshot"
    assert caught.begin["complete"] is True
    assert caught.rows == [("update", "Ada L."), ("delete", "Bob")]
    assert [item["version"] for item in caught.items] == [2, 2]


def test_a_limit_stops_and_a_cursor_goes_on(ship: Ship) -> None:
    names = [f"Sailor {number:02d}" for number in range(7)]
    for name in names:
        ship.crew(name)
    ship.settle()
    first = ship.ask(limit=3)
    second = ship.ask(limit=3, cursor=first.end["next"])
    third = ship.ask(limit=3, cursor=second.end["next"])
    assert [name for _, name in first.rows + second.rows + third.rows] == names
    assert third.end["next"] is None


def test_a_snapshot_in_pieces_has_each_row_once(ship: Ship) -> None:
    names = {f"Sailor {number:02d}" for number in range(7)}
    gone = [ship.crew(name) for name in [*sorted(names), "Gone"]][-1]
    ship.remove(gone)
    ship.settle()
    seen: list[tuple[str, str]] = []
    cursor = None
    while True:
        more: dict[str, Any] = {"cursor": cursor} if cursor else {}
        caught = ship.ask(mode="snapshot", limit=3, **more)
        seen += caught.rows
        cursor = caught.end["next"]
        if cursor is None:
            break
    assert {name for operation, name in seen if operation == "create"} == names
    assert len(seen) == 8
    assert seen[-1] == ("delete", "Gone")


def test_a_snapshot_of_some_buckets(ship: Ship) -> None:
    ids = [ship.crew(f"Sailor {number}") for number in range(20)]
    ship.settle()
    wanted = sorted({bucket_of(crew_id) for crew_id in ids})[:3]
    caught = ship.ask(mode="snapshot", buckets=wanted)
    assert caught.begin["buckets"] == wanted
    assert {item["data"]["id"] for item in caught.items} == {
        crew_id for crew_id in ids if bucket_of(crew_id) in wanted
    }


def test_all_entities_under_one_id(ship: Ship) -> None:
    ship.crew("Ada")
    ship.settle()
    answer = ship.client.post("/api/mqtt/reliable-sync/catchup", json={"entity": "all"})
    assert answer.status_code == 202
    catchup_id = answer.get_json()["catchupId"]

    def status() -> dict[str, Any]:
        return dict(ship.client.get(f"/api/mqtt/reliable-sync/catchup/{catchup_id}").get_json())

    eventually(lambda: status()["status"] == "complete", message="a complete catch-up")
    ends = {
        payload["entity"]
        for payload in ship.subscriber.payloads
        if payload.get("type") == "catchup_end" and payload["catchupId"] == catchup_id
    }
    assert ends == {"work_orders", "alerts", "equipment", "crew", "maintenance_schedules"}
    assert status()["published"] == status()["total"] == 1


def test_the_same_request_is_answered_once_and_a_malformed_one_is_counted(ship: Ship) -> None:
    ship.crew("Ada")
    ship.settle()
    ship.ask()
    ship.request({"requestId": "request-1", "entity": "crew"})
    ship.request({"requestId": "x", "entity": "gold"})
    ship.request({"requestId": [], "entity": "crew"})
    ship.ask()
    begins = [p for p in ship.subscriber.payloads if p.get("type") == "catchup_begin"]
    assert [begin["requestId"] for begin in begins] == ["request-1", "request-2"]
    metrics = ship.client.get("/metrics").get_data(as_text=True)
    assert "arus_mqtt_catchup_refusals_total 2.0" in metrics


def test_rows_from_before_the_log_are_not_taken_for_known(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
) -> None:
    ashore = make_app(migrated_database_url, LOCAL_MODE="false").test_client()
    assert ashore.post("/api/crew", json={"name": "Ada"}).status_code == 201
    app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url)
    sync.start(app)
    ship = Ship(app, subscriber, mosquitto)
    ship.crew("Bob")
    ship.settle()
    caught = ship.ask()
    assert caught.begin["mode"] == "snapshot"
    assert {name for _, name in caught.rows} == {"Ada", "Bob"}


@pytest.mark.slow
def test_what_the_broker_does_not_take_ends_no_connection(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    start_mosquitto: Callable[..., Mosquitto],
    caplog: pytest.LogCaptureFixture,
) -> None:
    mosquitto = start_mosquitto(options=["max_packet_size 3000"])
    app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url)
    sync.start(app)
    with Subscriber(mosquitto.port, "vessel/sync/#") as subscriber:
        ship = Ship(app, subscriber, mosquitto)
        answer = ship.client.post("/api/crew", json={"name": "Ada", "notes": "long " * 800})
        ship.crew("Bob")
        ship.settle()
        caught = ship.ask(mode="snapshot")
        assert [item["data"].get("name") for item in caught.items if "name" in item["data"]] == [
            "Bob"
        ]
        assert {"id": answer.get_json()["id"], "version": 1} in [i["data"] for i in caught.items]
        ship.request({"requestId": "digest", "mode": "digest"})
        eventually(lambda: "the digest of the tables is larger" in caplog.text, message="a word")
        with app.app_context():
            assert sync.runtime().status().connected
        assert "ended the connection" not in caplog.text
