"""A receiver that reports nothing gets its window and no more, and holds up nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from arus.catchup import quota, sender
from extensions import sync
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"])


class Ship:
    """A ship with thirty people aboard, and a subscriber that hears all."""

    def __init__(self, app: Flask, subscriber: Subscriber, mosquitto: Mosquitto) -> None:
        self.app = app
        self.subscriber = subscriber
        self._mosquitto = mosquitto
        self.client = app.test_client()
        for number in range(30):
            self.hire(f"Sailor {number}")
        # A snapshot has the rows that are numbered.
        eventually(lambda: len(subscriber.changes("crew")) == 30, message="all are delivered")

    def hire(self, name: str) -> None:
        assert self.client.post("/api/crew", json={"name": name}).status_code == 201

    def ask(self, request_id: str, **wanted: Any) -> None:
        document = {"requestId": request_id, "entity": "crew", "limit": None, **wanted}
        self._publish("catchup_requests", document)

    def report(self, consumer: str, received: int, of: dict[str, Any]) -> None:
        catchup = {"catchupId": of["catchupId"], "entity": "crew", "received": received}
        document = {"epoch": of["epoch"], "seq": 0, "timestamp": "", "catchup": catchup}
        self._publish(f"watermarks/{consumer}", document)

    def begin_of(self, request_id: str) -> dict[str, Any]:
        return self._message("catchup_begin", request_id)

    def end_of(self, request_id: str) -> dict[str, Any]:
        return self._message("catchup_end", request_id)

    def begun(self) -> list[str | None]:
        """The ids of the requests whose answers have begun; None for one over HTTP."""
        return [
            p["requestId"] for p in self.subscriber.payloads if p.get("type") == "catchup_begin"
        ]

    def catch_up_over_http(self) -> None:
        """Request everything over HTTP, and wait for the end of the answer."""
        wanted = {"entity": "crew", "limit": None}
        asked = self.client.post("/api/mqtt/reliable-sync/catchup", json=wanted)
        catchup_id = asked.get_json()["catchupId"]
        self.subscriber.wait_for(
            lambda message: (
                message.json.get("type") == "catchup_end"
                and message.json["catchupId"] == catchup_id
            ),
            what="the catch-up of another requester",
        )

    def items(self, catchup_id: str) -> list[int]:
        """The sequences of the items that have come."""
        return [
            p["sequence"]
            for p in self.subscriber.payloads
            if p.get("type") == "catchup" and p["catchupId"] == catchup_id
        ]

    def wait_items(self, catchup_id: str, count: int) -> None:
        eventually(lambda: len(self.items(catchup_id)) == count, message=f"{count} items")

    def failure(self, catchup_id: str) -> str | None:
        with self.app.app_context():
            return sync.runtime().catchups.find(catchup_id).reason

    def _message(self, kind: str, request_id: str) -> dict[str, Any]:
        def is_it(message: Any) -> bool:
            document = message.json
            return (document.get("type"), document.get("requestId")) == (kind, request_id)

        found: dict[str, Any] = self.subscriber.wait_for(is_it, what=f"{kind} {request_id}").json
        return found

    def _publish(self, topic: str, document: dict[str, Any]) -> None:
        self._mosquitto.publish(f"vessel/sync/{topic}", json.dumps(document), "-q", "1")


@pytest.fixture
def ship(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
) -> Ship:
    app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url)
    sync.start(app)
    return Ship(app, subscriber, mosquitto)


def test_a_silent_receiver_gets_its_window_and_holds_up_nobody(ship: Ship) -> None:
    ship.ask("mute", consumer="mute", window=8)
    mute = ship.begin_of("mute")
    ship.wait_items(mute["catchupId"], 8)
    ship.ask("other", consumer="other", window=8)
    ship.ask("plain")
    assert ship.end_of("plain")["total"] == 30
    ship.hire("Late")
    eventually(
        lambda: any(c["data"]["name"] == "Late" for c in ship.subscriber.changes("crew")),
        message="a live change",
    )
    other = ship.begin_of("other")
    assert (mute["consumer"], other["consumer"]) == ("mute", "other")
    for received in (8, 16, 24):
        ship.wait_items(other["catchupId"], received)
        ship.report("other", received, of=other)
    assert ship.end_of("other")["total"] == 30
    assert ship.items(mute["catchupId"]) == list(range(8))
    ship.report("mute", 4, of=mute)
    ship.wait_items(mute["catchupId"], 12)


@pytest.mark.slow
def test_a_receiver_that_stays_silent_fails_with_the_reason(
    ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "SHORT_SILENCE", 0.2)
    ship.ask("mute", consumer="mute", window=8)
    first = ship.begin_of("mute")["catchupId"]
    ship.wait_items(first, 8)
    ship.ask("again", consumer="mute", window=8)
    again = ship.begin_of("again")["catchupId"]
    assert "requested it again" in (ship.failure(first) or "")
    monkeypatch.setattr(sender, "SILENCE", 0.2)
    eventually(lambda: "has reported nothing" in (ship.failure(again) or ""), message="a reason")
    assert ship.items(again) == list(range(8))


def test_a_flood_of_requests_is_answered_up_to_the_quota_and_holds_up_nobody(
    ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "MIN_MESSAGES", 1)  # so that the quota is four copies
    for number in range(12):
        ship.ask(f"flood-{number}", mode="snapshot")
    # 30 rows, a begin and an end each: the fourth copy exceeds the quota of 120.
    for number in range(4):
        assert ship.end_of(f"flood-{number}")["total"] == 30
    ship.catch_up_over_http()
    ship.hire("Late")
    eventually(
        lambda: any(c["data"]["name"] == "Late" for c in ship.subscriber.changes("crew")),
        message="a live change",
    )
    answered = ship.begun()
    assert answered == [*(f"flood-{number}" for number in range(4)), None]
    # Another owner continues to count.
    sync.stop(ship.app)
    sync.start(ship.app)
    ship.catch_up_over_http()
    assert ship.begun() == [*answered, None]
