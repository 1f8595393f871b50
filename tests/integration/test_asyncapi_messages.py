"""What a running vessel says is what docs/asyncapi.yaml says, on every channel."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.gunicorn_app import ROOT, GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Received, Subscriber
from tools import asyncapi

_PREFIX = "fleet/ship-1/sync"
#: Catch-ups of each kind: what the vessel says to each is looked at.
_REQUESTS: tuple[dict[str, Any], ...] = (
    {"requestId": "all", "entity": "all", "limit": None},
    {"requestId": "snapshot", "entity": "all", "limit": None, "mode": "snapshot"},
    {"requestId": "buckets", "entity": "crew", "mode": "snapshot", "buckets": [0, 1, 2, 3]},
    {"requestId": "limited", "entity": "crew", "limit": 1},
    {"requestId": "since", "entity": "alerts", "since": "2026-01-01T00:00:00Z"},
    {"requestId": "other-epoch", "entity": "crew", "sinceSeq": 3, "epoch": "no-such-epoch"},
)


@pytest.fixture
def database_kind() -> str:
    """The messages are the same from both."""
    return "sqlite"


@pytest.fixture
def document() -> dict[str, Any]:
    """The document."""
    return asyncapi.load(ROOT / "docs" / "asyncapi.yaml")


def _channel(document: dict[str, Any], topic: str) -> dict[str, Any]:
    for channel in document["channels"].values():
        pattern = re.sub(r"\\\{.*?\\\}", "[^/]+", re.escape(channel["address"]))
        if re.fullmatch(pattern, topic):
            return dict(channel)
    raise AssertionError(f"the document has no channel for {topic}")


def _problems(document: dict[str, Any], message: Received) -> list[str]:
    """Why a message is none of those of its channel; empty when it is one."""
    found: list[str] = []
    for reference in _channel(document, message.topic)["messages"].values():
        name = reference["$ref"].rpartition("/")[2]
        errors = [e.message for e in _validator(document, name).iter_errors(message.json)]
        if not errors:
            return []
        found.append(f"{name}: {errors[:3]}")
    return found


_validators: dict[str, Any] = {}


def _validator(document: dict[str, Any], name: str) -> Any:
    return _validators.setdefault(name, asyncapi.payload_validator(document, name))


def _write(app: GunicornApp) -> None:
    equipment = app.post(
        "/api/equipment", {"name": "Pump", "type": "pump", "specifications": {"flow": 1.5}}
    ).json["id"]
    member = app.post("/api/crew", {"name": "Ana"}).json["id"]
    gone = app.post("/api/crew", {"name": "Gone"}).json["id"]
    alert = {
        "equipmentId": equipment,
        "sensorType": "temperature",
        "alertType": "critical",
        "message": "hot",
        "value": 91.5,
        "threshold": 90,
    }
    schedule = {
        "equipmentId": equipment,
        "scheduledDate": "2026-12-01T08:00:00.000Z",
        "maintenanceType": "inspection",
    }
    order = {"equipmentId": equipment, "reason": "leak", "plannedStartDate": "2026-12-01T08:00:00Z"}
    answers = [
        app.request("PATCH", f"/api/crew/{member}", {"rank": "Oiler"}),
        app.request("DELETE", f"/api/crew/{gone}"),
        app.post("/api/alerts", alert),
        app.post("/api/maintenance-schedules", schedule),
        app.post("/api/work-orders", order),
    ]
    assert all(answer.status in {200, 201, 204} for answer in answers), answers
    made = answers[3].json["id"]
    assert app.post(f"/api/maintenance-schedules/{made}/work-order", {}).status == 201
    assert app.post(f"/api/alerts/{answers[2].json['id']}/acknowledge", {}).status == 200


def test_each_message_of_a_vessel_is_one_of_its_channels_messages(
    document: dict[str, Any],
    start_app: Callable[..., GunicornApp],
    mosquitto: Mosquitto,
    start_subscriber: Callable[..., Subscriber],
) -> None:
    subscriber = start_subscriber(f"{_PREFIX}/#")
    app = start_app({"VESSEL_ID": "ship-1", "MQTT_TOPIC_PREFIX": "fleet/{vessel_id}/sync"})
    app.wait_connected()
    _write(app)
    for request in _REQUESTS:
        mosquitto.publish(f"{_PREFIX}/catchup_requests", json.dumps(request), "-q", "1")
    mosquitto.publish(
        f"{_PREFIX}/catchup_requests",
        json.dumps({"requestId": "digest", "entity": "all", "mode": "digest"}),
        "-q", "1",
    )  # fmt: skip

    def ends(request_id: str) -> int:
        texts = [m.payload for m in subscriber.messages if "catchup_end" in m.payload]
        return sum(f'"requestId":"{request_id}"' in text for text in texts)

    def complete() -> bool:
        wanted = {r["requestId"]: 5 if r["entity"] == "all" else 1 for r in _REQUESTS}
        return all(ends(name) >= count for name, count in wanted.items())

    subscriber.wait_until(complete, 60, "an end of each catch-up")
    subscriber.wait_for(lambda m: m.topic.endswith("system/digest"), 60, "a digest")
    app.stop()
    subscriber.wait_for(lambda m: '"offline"' in m.payload, 60, "the status of a clean stop")
    wrong = {}
    for message in subscriber.messages:
        if problems := _problems(document, message):
            wrong[message.payload[:600]] = problems
    assert not wrong, json.dumps(wrong, indent=1)
    heard = {message.topic.removeprefix(f"{_PREFIX}/") for message in subscriber.messages}
    entities = {"work_orders", "alerts", "equipment", "crew", "maintenance"}
    catchups = {f"catchup/{topic}" for topic in entities}
    assert heard == entities | catchups | {"system/status", "system/digest", "catchup_requests"}
    begins = [m.json for m in subscriber.messages if '"catchup_begin"' in m.payload]
    assert {begin["mode"] for begin in begins} == {"log", "snapshot", "must_refetch"}
    limited = [m.json for m in subscriber.messages if '"catchup_end"' in m.payload]
    assert any(end["next"] for end in limited if end["requestId"] == "limited")
