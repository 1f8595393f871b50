"""Whatever is asked for, well or ill, each catch-up comes to an end and the owner goes on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from arus.errors import CatchupRequestError
from extensions import db, sync
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

SEED = 20_261_122
ASKED = 120


def anything(dice: random.Random, epoch: str) -> dict[str, Any]:
    """A request that looks right, more or less: extremes, other epochs, made-up cursors."""
    epochs = [epoch, "another-epoch"]
    keys = ['k""', 'k"x"', 'k"\\u00e5\\ud83d\\udea2"', "s0", "s1", f"s{10**17}", "kx", "s-1"]
    document: dict[str, Any] = {"entity": dice.choice(["crew", "equipment", "alerts", "all"])}
    way = dice.choice(["since", "seq", "cursor", "snapshot", "everything"])
    if way == "since":
        times = ["1970-01-01", "9999-12-31T23:59:59Z", "2026-11-22T08:00:00.123456+23:59"]
        document["since"] = dice.choice(times)
    elif way == "seq":
        numbers = [0, 1, 2, 1000, 2**31, 2**53, 2**63 - 1]
        document |= {"sinceSeq": dice.choice(numbers), "epoch": dice.choice(epochs)}
    elif way == "cursor":
        document["entity"] = "crew"
        cursor = f"{dice.choice(['log', 'snapshot'])}.{dice.choice(epochs)}.{dice.choice(keys)}"
        document["cursor"] = cursor
    elif way == "snapshot":
        document |= {
            "mode": "snapshot",
            "buckets": dice.choice([None, [0], [0, 63], list(range(64))]),
        }
    document["limit"] = dice.choice([None, 1, 2, 100, 10**9])
    return document


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_each_comes_to_an_end(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(
        migrated_database_url, MQTT_BROKER_URL=mosquitto.url, MQTT_RECONNECT_PERIOD="0.2"
    )
    client = app.test_client()
    rows = [client.post("/api/crew", json={"name": f"c{n}"}).get_json()["id"] for n in range(7)]
    client.delete(f"/api/crew/{rows[3]}")
    with app.app_context():
        epoch = eventually(lambda: sync.runtime().status().epoch, 30, message="an owner") or ""
        dice = random.Random(SEED)
        asked: dict[str, dict[str, Any]] = {}
        refused: list[list[str]] = []
        for _ in range(ASKED):
            document = anything(dice, epoch)
            try:
                asked[sync.runtime().catchups.request(document).catchup_id] = document
            except CatchupRequestError as error:
                refused.append(list(error.errors))

        assert refused == [["cursor"]] * len(refused)

        def unfinished() -> list[dict[str, Any]]:
            query = "SELECT DISTINCT catchup_id FROM arus_catchup WHERE finished_at IS NULL"
            with db.engine.connect() as connection:
                return [asked[found] for found in connection.execute(text(query)).scalars()]

        eventually(lambda: not unfinished(), 240, message=f"an end of each: {unfinished()[:3]}")
        for catchup_id, document in asked.items():
            found = sync.runtime().catchups.find(catchup_id)
            assert found.status == "complete", (document, found.reason)
            for part in found.entities:
                assert part.published == part.total, (document, part)
                assert part.total <= (document["limit"] or 10**9)
        assert sync.runtime().status().owner is not None
    assert not [r.message for r in caplog.records if r.levelname in {"ERROR", "CRITICAL"}]
    assert json.loads(client.get("/api/mqtt/reliable-sync/health").text)["status"] == "healthy"
