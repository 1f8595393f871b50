"""The follower as a library: another application, with models of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from arus import Follower
from arus.errors import FollowError
from tests.support.follower import FollowerThread
from tests.support.mosquitto import Mosquitto
from tests.support.small_app import small_app
from tests.support.waiting import eventually


def change(topic: str, entity: str, seq: int, previous: int, **data: Any) -> tuple[str, str]:
    """A create, as its topic and payload."""
    message = {
        "type": "data_change", "entity": entity, "operation": "create", "data": data,
        "timestamp": "2026-11-22T08:00:00.000Z", "messageId": f"1795334400000_{seq:09d}",
        "vesselId": "tug-7", "epoch": "e1", "seq": seq, "previousSeq": previous, "version": 1,
    }  # fmt: skip
    return f"vessel/sync/{topic}", json.dumps(message)


def test_an_application_follows_with_its_own_models(
    small_database_url: str, mosquitto: Mosquitto
) -> None:
    with small_app(
        small_database_url, LOCAL_MODE="false", MQTT_BROKER_URL=mosquitto.url
    ) as app, FollowerThread(app, "tugs") as shore:  # fmt: skip
        eventually(lambda: "Sending SUBACK to arus_follow_tugs" in mosquitto.log, 30)
        # A part may come before its hull: the topics have no order between them.
        for topic, payload in (
            change("deck/parts", "parts", 2, 0, id="p1", version=1, name="winch", hullId="h1"),
            change(
                "hulls", "hulls", 1, 0,
                id="h1", version=1, name="Ada", tag="red", changedAt="2026-11-22T07:59:59.250000",
            ),
            change("hulls", "hulls", 3, 1, id="h2", version=1, name=None, tag=None),
            change("hulls", "hulls", 4, 3, id="h3", version=1, name="Bo", tag="x" * 21),
        ):  # fmt: skip
            mosquitto.publish(topic, payload, "-q", "1")
        eventually(lambda: shore.query("SELECT id, name FROM part") == [("p1", "winch")], 30)
        eventually(lambda: shore.status().counters["refused"] == 2, 30)
        rows = shore.query("SELECT id, name, tag, changed_at IS NULL FROM hull ORDER BY id")
        assert [tuple(row) for row in rows] == [("h1", "Ada", "red", False)]
        reasons = shore.query("SELECT reason FROM arus_parked ORDER BY id")
        assert [reason for (reason,) in reasons] == [
            "tag is missing",
            "tag: longer than 20 characters",
        ]
        (vessel,) = shore.status().vessels
        assert [(topic.topic, topic.wants) for topic in vessel.topics] == [
            ("deck/parts", "everything"),
            ("hulls", "everything"),
        ]
        assert "catchup/deck/parts" in mosquitto.log


def test_an_application_without_the_sync_can_t_follow() -> None:
    with pytest.raises(FollowError, match="bind reliable sync"):
        Follower(Flask("bare"))
