"""Several workers at once, over real connections: numbers, versions and keys hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.gunicorn_app import GunicornApp
from tests.support.http import Answer

pytestmark = pytest.mark.gunicorn


@pytest.fixture
def server(tmp_path: Path, migrated_database_url: str) -> Iterator[GunicornApp]:
    settings = {
        "DATABASE_URL": migrated_database_url,
        "LOCAL_MODE": "true",
        "MQTT_RECONNECT_PERIOD": "3600",
    }
    with GunicornApp(tmp_path, settings, workers=3) as app:
        yield app


def at_once(count: int, call: Callable[[int], Answer]) -> list[Answer]:
    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(call, range(count)))


def statuses(answers: Iterable[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


@pytest.fixture
def equipment(server: GunicornApp) -> dict[str, Any]:
    row: dict[str, Any] = server.post("/api/equipment", {"name": "P", "type": "pump"}).json
    return row


def test_work_order_numbers_have_neither_doubles_nor_gaps(
    server: GunicornApp, equipment: dict[str, Any]
) -> None:
    order = {"equipmentId": equipment["id"], "reason": "r"}
    answers = at_once(90, lambda _: server.post("/api/work-orders", order))
    assert statuses(answers) == {201: 90}
    numbers = sorted(int(answer.json["woNumber"].rsplit("-")[-1]) for answer in answers)
    assert numbers == list(range(1, 91))


def test_of_two_changes_made_for_one_version_one_is_refused(
    server: GunicornApp, equipment: dict[str, Any]
) -> None:
    path = f"/api/equipment/{equipment['id']}"
    answers = at_once(
        24, lambda n: server.request("PATCH", path, {"location": f"deck {n}"}, {"If-Match": '"1"'})
    )
    assert statuses(answers) == {200: 1, 412: 23}
    assert server.get(path).json["version"] == 2


def test_no_update_is_lost(server: GunicornApp, equipment: dict[str, Any]) -> None:
    path = f"/api/equipment/{equipment['id']}"
    answers = at_once(40, lambda n: server.request("PATCH", path, {"location": f"deck {n}"}))
    done = [answer.json for answer in answers if answer.status == 200]
    assert set(statuses(answers)) <= {200, 409}
    assert sorted(row["version"] for row in done) == list(range(2, len(done) + 2))
    last = max(done, key=lambda row: int(row["version"]))
    assert server.get(path).json == last


def test_one_key_creates_one_row_however_often_it_comes(
    server: GunicornApp, equipment: dict[str, Any]
) -> None:
    order = {"equipmentId": equipment["id"], "reason": "r"}
    answers = at_once(
        24, lambda _: server.post("/api/work-orders", order, {"Idempotency-Key": "double-click"})
    )
    assert statuses(answers) == {201: 24}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert len(server.get("/api/work-orders").json["items"]) == 1
    next_order = server.post("/api/work-orders", order).json
    assert next_order["woNumber"].endswith("-0002")


def test_a_schedule_raises_one_work_order(server: GunicornApp, equipment: dict[str, Any]) -> None:
    schedule = server.post(
        "/api/maintenance-schedules",
        {
            "equipmentId": equipment["id"],
            "scheduledDate": "2027-01-01",
            "maintenanceType": "overhaul",
        },
    ).json
    path = f"/api/maintenance-schedules/{schedule['id']}"
    answers = at_once(16, lambda _: server.post(f"{path}/work-order", {}))
    assert statuses(answers) == {201: 1, 409: 15}
    assert len(server.get("/api/work-orders").json["items"]) == 1
    assert server.get(path).json["version"] == 2


def test_equipment_goes_or_gets_its_orders_but_not_both(
    server: GunicornApp, equipment: dict[str, Any]
) -> None:
    path = f"/api/equipment/{equipment['id']}"
    order = {"equipmentId": equipment["id"], "reason": "r"}

    def call(n: int) -> Answer:
        return server.request("DELETE", path) if n == 8 else server.post("/api/work-orders", order)

    answers = at_once(16, call)
    assert set(statuses(answers)) <= {201, 204, 409, 422}
    made = [answer for answer in answers if answer.status == 201]
    assert (answers[8].status == 204) == (server.get(path).status == 404)
    if made:
        assert answers[8].status == 409
