"""The five resources over HTTP, on SQLite and on PostgreSQL."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from extensions import db

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
NOBODY = "00000000-0000-4000-8000-000000000000"

MINIMAL: dict[str, dict[str, Any]] = {
    "work-orders": {"equipmentId": "EQUIPMENT", "reason": "Leaking seal"},
    "alerts": {
        "equipmentId": "EQUIPMENT",
        "sensorType": "pressure",
        "alertType": "critical",
        "message": "Pressure high",
        "value": 5.25,
        "threshold": 4.5,
    },
    "equipment": {"name": "Bilge pump", "type": "pump"},
    "crew": {"name": "Maria Villanueva"},
    "maintenance-schedules": {
        "equipmentId": "EQUIPMENT",
        "scheduledDate": "2026-12-01T08:00:00.000Z",
        "maintenanceType": "inspection",
    },
}
FIELDS = {
    "work-orders": "equipmentId reason woNumber description status priority maintenanceType assignedCrewId "
    "estimatedHours actualHours plannedStartDate plannedEndDate scheduleId steps",
    "alerts": "equipmentId sensorType alertType message value threshold acknowledged acknowledgedAt "
    "acknowledgedBy",
    "equipment": "name type manufacturer model serialNumber location isActive criticalityLevel specifications "
    "runningHours",
    "crew": "name rank department email phone active onDuty notes",
    "maintenance-schedules": "equipmentId scheduledDate maintenanceType priority estimatedDuration description "
    "status assignedTo assignedCrewId workOrderId intervalDays intervalHours dueHours previousScheduleId",
}
CHANGE: dict[str, dict[str, Any]] = {
    "work-orders": {"status": "in_progress", "actualHours": 1.5},
    "alerts": {"message": "Pressure very high"},
    "equipment": {"specifications": {"powerKw": 30, "class": ["DNV", "LR"]}},
    "crew": {"onDuty": True, "email": "maria@ship.example"},
    "maintenance-schedules": {"status": "completed", "scheduledDate": "2026-12-02T08:00:00.000Z"},
}
RESOURCES = list(MINIMAL)


def body(resource: str, equipment_id: str) -> dict[str, Any]:
    return {
        key: equipment_id if value == "EQUIPMENT" else value
        for key, value in MINIMAL[resource].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("resource", RESOURCES)
def test_a_row_lives_from_post_to_delete(
    client: FlaskClient, equipment_id: str, resource: str
) -> None:
    created = client.post(f"/api/{resource}", json=body(resource, equipment_id))
    row = created.get_json()
    assert created.status_code == 201, row
    assert set(row) == {"id", "version", "createdAt", "updatedAt", *FIELDS[resource].split()}
    assert row["version"] == 1
    assert re.fullmatch(UUID, row["id"])
    assert re.fullmatch(TIME, row["createdAt"])
    assert re.fullmatch(TIME, row["updatedAt"])
    assert created.headers["Location"] == f"/api/{resource}/{row['id']}"
    assert created.headers["ETag"] == '"1"'
    assert created.headers["Sync-Message-Id"]

    read = client.get(created.headers["Location"])
    assert read.status_code == 200
    assert read.get_json() == row
    assert read.headers["ETag"] == '"1"'
    unchanged = client.get(created.headers["Location"], headers={"If-None-Match": '"1"'})
    assert unchanged.status_code == 304
    assert unchanged.data == b""

    changed = client.patch(created.headers["Location"], json=CHANGE[resource])
    assert changed.status_code == 200, changed.get_json()
    after = changed.get_json()
    assert after == {**row, **CHANGE[resource], "version": 2, "updatedAt": after["updatedAt"]}
    assert changed.headers["ETag"] == '"2"'
    assert changed.headers["Sync-Message-Id"] != created.headers["Sync-Message-Id"]
    assert client.get(created.headers["Location"]).get_json() == after

    assert row["id"] in [item["id"] for item in client.get(f"/api/{resource}").get_json()["items"]]

    deleted = client.delete(created.headers["Location"])
    assert deleted.status_code == 204
    assert deleted.headers["Sync-Message-Id"]
    assert client.get(created.headers["Location"]).status_code == 404
    assert client.delete(created.headers["Location"]).status_code == 404


def test_defaults(client: FlaskClient, equipment_id: str) -> None:
    def post(resource: str) -> Any:
        return client.post(f"/api/{resource}", json=body(resource, equipment_id)).get_json()

    order = post("work-orders")
    assert (order["status"], order["priority"]) == ("open", 3)
    assert re.fullmatch(r"WO-\d{4}-\d{4}", order["woNumber"])
    assert post("alerts")["acknowledged"] is False
    assert post("equipment")["isActive"] is True
    crew = post("crew")
    assert (crew["active"], crew["onDuty"]) == (True, False)
    assert post("maintenance-schedules")["status"] == "scheduled"


def test_nothing_is_captured_ashore(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    client = make_app(migrated_database_url, LOCAL_MODE="false").test_client()
    answer = client.post("/api/crew", json={"name": "Ashore"})
    assert answer.status_code == 201
    assert "Sync-Message-Id" not in answer.headers


def test_a_patch_that_changes_nothing_is_no_change(client: FlaskClient, equipment_id: str) -> None:
    path = f"/api/equipment/{equipment_id}"
    answer = client.patch(path, json={"name": "Fire pump No.1"})
    assert answer.status_code == 200
    assert answer.get_json()["version"] == 1
    assert "Sync-Message-Id" not in answer.headers
    assert client.patch(path, json={}).get_json()["version"] == 1


@pytest.mark.parametrize(("old", "new"), [(1, True), (True, 1), (0, False), (3, 3.0)])
def test_what_python_takes_for_equal_is_changed(client: FlaskClient, old: Any, new: Any) -> None:
    made = client.post(
        "/api/equipment", json={"name": "Pump", "type": "pump", "specifications": {"on": [old]}}
    ).get_json()
    path = f"/api/equipment/{made['id']}"
    answer = client.patch(path, json={"location": "aft", "specifications": {"on": [new]}})
    assert "Sync-Message-Id" in answer.headers
    stored = client.get(path).get_json()
    assert (stored["version"], repr(stored["specifications"])) == (2, repr({"on": [new]}))


def test_work_order_numbers_follow_one_another(client: FlaskClient, equipment_id: str) -> None:
    rows = [
        client.post("/api/work-orders", json=body("work-orders", equipment_id)).get_json()
        for _ in range(3)
    ]
    year = rows[0]["createdAt"][:4]
    assert [row["woNumber"] for row in rows] == [f"WO-{year}-{n:04d}" for n in (1, 2, 3)]


def test_times_are_taken_with_any_offset_and_given_in_utc(
    client: FlaskClient, equipment_id: str
) -> None:
    path = "/api/maintenance-schedules"
    given = ("2026-12-01T10:00:00+02:00", "2026-12-01T08:00", "2026-12-01T08:00:00.000999Z")
    for text in given:
        row = {**body("maintenance-schedules", equipment_id), "scheduledDate": text}
        assert client.post(path, json=row).get_json()["scheduledDate"] == "2026-12-01T08:00:00.000Z"


# --- lists


def crew_names(client: FlaskClient, query: str) -> list[str]:
    answer = client.get(f"/api/crew?{query}")
    assert answer.status_code == 200, answer.get_json()
    return [item["name"] for item in answer.get_json()["items"]]


def test_filters_and_search(client: FlaskClient) -> None:
    for name, rank, on_duty in (
        ("Ann_1", "Oiler", True),
        ("Bob%", "Oiler", False),
        ("Čeněk", "Master", True),
    ):
        client.post("/api/crew", json={"name": name, "rank": rank, "onDuty": on_duty})
    assert crew_names(client, "rank=Oiler") == ["Bob%", "Ann_1"]
    assert crew_names(client, "rank=Oiler&onDuty=true") == ["Ann_1"]
    assert crew_names(client, "onDuty=false") == ["Bob%"]
    assert crew_names(client, "q=OILER") == ["Bob%", "Ann_1"]
    assert crew_names(client, "q=%25") == ["Bob%"]
    assert crew_names(client, "q=_") == ["Ann_1"]
    assert crew_names(client, "q=nobody") == []
    assert crew_names(client, "department=") == ["Čeněk", "Bob%", "Ann_1"]
    assert crew_names(client, "name=%C4%8Cen%C4%9Bk") == ["Čeněk"]


@pytest.mark.parametrize("resource", RESOURCES)
def test_each_scalar_field_filters(client: FlaskClient, equipment_id: str, resource: str) -> None:
    row = client.post(f"/api/{resource}", json=body(resource, equipment_id)).get_json()
    for name, value in row.items():
        if name in {"id", "version", "specifications", "steps"}:
            continue
        text = (
            "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        )
        answer = client.get(f"/api/{resource}", query_string={name: text})
        assert answer.status_code == 200, (name, answer.get_json())
        assert row["id"] in [item["id"] for item in answer.get_json()["items"]], name


def test_pages_neither_skip_nor_repeat_while_rows_come_and_go(client: FlaskClient) -> None:
    ids = [client.post("/api/crew", json={"name": f"C{n}"}).get_json()["id"] for n in range(25)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "4", **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/crew", query_string=query).get_json()
        assert len(page["items"]) <= 4
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        client.post("/api/crew", json={"name": "meanwhile"})
        client.delete(f"/api/crew/{seen[-1]}")
    assert seen == ids[::-1]


def test_a_last_page_that_is_full_has_no_next(client: FlaskClient) -> None:
    for n in range(4):
        client.post("/api/crew", json={"name": f"C{n}"})
    assert client.get("/api/crew?limit=4").get_json()["next"] is None
    assert client.get("/api/crew?limit=3").get_json()["next"] is not None


def test_list_is_newest_first_and_fifty_by_default(client: FlaskClient) -> None:
    for n in range(51):
        client.post("/api/crew", json={"name": f"C{n}"})
    page = client.get("/api/crew").get_json()
    assert [item["name"] for item in page["items"]] == [f"C{n}" for n in range(50, 0, -1)]
    assert len(client.get("/api/crew?limit=200").get_json()["items"]) == 51


# --- preconditions


def test_if_match(client: FlaskClient, equipment_id: str) -> None:
    path = f"/api/equipment/{equipment_id}"
    first = client.patch(path, json={"location": "A"}, headers={"If-Match": '"1"'})
    assert first.status_code == 200
    stale = client.patch(path, json={"location": "B"}, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert stale.get_json()["detail"] == "The piece of equipment was changed since: read it again."
    assert client.delete(path, headers={"If-Match": '"1"'}).status_code == 412
    assert (
        client.patch(path, json={"location": "B"}, headers={"If-Match": 'W/"2"'}).status_code == 412
    )
    assert (
        client.patch(path, json={"location": "C"}, headers={"If-Match": '"7", "2"'}).status_code
        == 200
    )
    assert client.patch(path, json={"location": "D"}, headers={"If-Match": "*"}).status_code == 200
    assert client.get(path).get_json()["location"] == "D"
    assert client.delete(path, headers={"If-Match": '"4"'}).status_code == 204


# --- idempotency


def test_the_same_key_and_body_create_once(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    first = client.post("/api/crew", json={"name": "Once", "rank": "Oiler"}, headers=key)
    again = client.post("/api/crew", json={"rank": "Oiler", "name": "Once"}, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.get_json() == first.get_json()
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(client.get("/api/crew").get_json()["items"]) == 1


def test_the_same_key_with_another_body_is_refused(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k"}
    client.post("/api/crew", json={"name": "One"}, headers=key)
    other = client.post("/api/crew", json={"name": "Two"}, headers=key)
    assert other.status_code == 422
    assert "another body" in other.get_json()["detail"]
    elsewhere = client.post("/api/equipment", json={"name": "P", "type": "pump"}, headers=key)
    assert elsewhere.status_code == 201


def test_a_key_is_not_used_up_by_a_refused_request(client: FlaskClient, equipment_id: str) -> None:
    key = {"Idempotency-Key": "k"}
    bad = {"equipmentId": NOBODY, "reason": "r"}
    assert client.post("/api/work-orders", json=bad, headers=key).status_code == 422
    good = {"equipmentId": equipment_id, "reason": "r"}
    assert client.post("/api/work-orders", json=good, headers=key).status_code == 201


def test_a_replay_of_what_is_deleted_says_so(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k"}
    made = client.post("/api/crew", json={"name": "Gone"}, headers=key)
    client.delete(made.headers["Location"])
    assert client.post("/api/crew", json={"name": "Gone"}, headers=key).status_code == 410


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_has_bounds(client: FlaskClient, key: str) -> None:
    answer = client.post("/api/crew", json={"name": "N"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.get_json()["errors"]


# --- what joins resources


def test_acknowledge(client: FlaskClient, equipment_id: str) -> None:
    path = client.post("/api/alerts", json=body("alerts", equipment_id)).headers["Location"]
    done = client.post(f"{path}/acknowledge", json={"acknowledgedBy": "Rajesh Nair"})
    row = done.get_json()
    assert done.status_code == 200
    assert (row["acknowledged"], row["acknowledgedBy"], row["version"]) == (True, "Rajesh Nair", 2)
    assert re.fullmatch(TIME, row["acknowledgedAt"])
    assert done.headers["Sync-Message-Id"]
    again = client.post(f"{path}/acknowledge", json={"acknowledgedBy": "Someone else"})
    assert again.get_json() == row
    assert "Sync-Message-Id" not in again.headers
    undone = client.patch(path, json={"acknowledged": False}).get_json()
    assert (undone["acknowledgedAt"], undone["acknowledgedBy"]) == (None, None)
    assert client.post(f"{path}/acknowledge").get_json()["acknowledged"] is True
    assert client.post(f"/api/alerts/{NOBODY}/acknowledge").status_code == 404


def test_two_who_acknowledge_at_the_same_time_get_the_first_one(
    app: Flask, client: FlaskClient, equipment_id: str
) -> None:
    path = client.post("/api/alerts", json=body("alerts", equipment_id)).headers["Location"]
    both = threading.Barrier(2, timeout=20)

    def wait(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("UPDATE alerts"):
            both.wait()

    def acknowledge(name: str) -> Any:
        answer = app.test_client().post(f"{path}/acknowledge", json={"acknowledgedBy": name})
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", wait)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(acknowledge, ["Maria", "Rajesh"])
    assert first == second == client.get(path).get_json()
    assert first["version"] == 2


def test_a_schedule_raises_its_work_order_once(client: FlaskClient, equipment_id: str) -> None:
    schedule = client.post(
        "/api/maintenance-schedules",
        json={
            **body("maintenance-schedules", equipment_id),
            "estimatedDuration": 90,
            "description": "Grease",
            "priority": 2,
        },
    )
    path = f"{schedule.headers['Location']}/work-order"
    key = {"Idempotency-Key": "k"}
    made = client.post(path, json={"reason": "Due"}, headers=key)
    order = made.get_json()
    assert made.status_code == 201, order
    assert made.headers["Location"] == f"/api/work-orders/{order['id']}"
    assert made.headers["Sync-Message-Id"]
    assert order["scheduleId"] == schedule.get_json()["id"]
    assert order["equipmentId"] == equipment_id
    assert (order["reason"], order["description"], order["priority"]) == ("Due", "Grease", 2)
    assert order["estimatedHours"] == 1.5
    assert order["plannedEndDate"] == "2026-12-01T09:30:00.000Z"
    linked = client.get(schedule.headers["Location"]).get_json()
    assert (linked["workOrderId"], linked["version"]) == (order["id"], 2)

    again = client.post(path, json={"reason": "Due"}, headers=key)
    assert (again.status_code, again.get_json()) == (201, order)
    refused = client.post(path)
    assert refused.status_code == 409
    assert order["id"] in refused.get_json()["detail"]

    kept = client.delete(schedule.headers["Location"])
    assert kept.status_code == 409
    assert "1 in work orders" in kept.get_json()["detail"]
    assert client.delete(made.headers["Location"]).status_code == 204
    unlinked = client.get(schedule.headers["Location"]).get_json()
    assert (unlinked["workOrderId"], unlinked["version"]) == (None, 3)
    assert client.delete(schedule.headers["Location"]).status_code == 204


def test_what_others_refer_to_stays(client: FlaskClient, equipment_id: str) -> None:
    member = client.post("/api/crew", json={"name": "M"}).get_json()["id"]
    order = {**body("work-orders", equipment_id), "assignedCrewId": member}
    assert client.post("/api/work-orders", json=order).status_code == 201
    client.post("/api/alerts", json=body("alerts", equipment_id))
    answer = client.delete(f"/api/equipment/{equipment_id}")
    assert answer.status_code == 409
    assert "1 in alerts" in answer.get_json()["detail"]
    assert "1 in work orders" in answer.get_json()["detail"]
    assert client.get(f"/api/equipment/{equipment_id}").status_code == 200
    assert client.delete(f"/api/crew/{member}").status_code == 409


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resource", "field"),
    [
        ("work-orders", "equipmentId"),
        ("work-orders", "assignedCrewId"),
        ("work-orders", "scheduleId"),
        ("alerts", "equipmentId"),
        ("maintenance-schedules", "equipmentId"),
        ("maintenance-schedules", "workOrderId"),
        ("maintenance-schedules", "assignedCrewId"),
    ],
)
def test_a_reference_must_exist(
    client: FlaskClient, equipment_id: str, resource: str, field: str
) -> None:
    wrong = {**body(resource, equipment_id), field: NOBODY}
    answer = client.post(f"/api/{resource}", json=wrong)
    assert answer.status_code == 422
    assert list(answer.get_json()["errors"]) == [field]
    path = client.post(f"/api/{resource}", json=body(resource, equipment_id)).headers["Location"]
    assert client.patch(path, json={field: NOBODY}).status_code == 422
    assert client.get(path).get_json()["version"] == 1


def test_the_order_of_dates_is_checked_against_the_whole_row(
    client: FlaskClient, equipment_id: str
) -> None:
    order = {
        **body("work-orders", equipment_id),
        "plannedStartDate": "2026-12-02T00:00:00Z",
        "plannedEndDate": "2026-12-01T00:00:00Z",
    }
    answer = client.post("/api/work-orders", json=order)
    assert answer.get_json()["errors"] == {"plannedEndDate": ["Before plannedStartDate."]}
    order["plannedEndDate"] = "2026-12-03T00:00:00Z"
    path = client.post("/api/work-orders", json=order).headers["Location"]
    moved = client.patch(path, json={"plannedStartDate": "2026-12-04T00:00:00Z"})
    assert moved.status_code == 422
    assert client.get(path).get_json()["plannedStartDate"] == "2026-12-02T00:00:00.000Z"


def test_health(client: FlaskClient) -> None:
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").get_json() == {"status": "ready"}


def test_times_are_ordered(client: FlaskClient, equipment_id: str) -> None:
    row = client.patch(f"/api/equipment/{equipment_id}", json={"model": "X"}).get_json()
    created, updated = (datetime.fromisoformat(row[key]) for key in ("createdAt", "updatedAt"))
    assert created <= updated
