"""Recurring maintenance: completing a schedule plans the next one, by days, by running hours, or both."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.maintenance.recurring import next_of
from extensions import db
from extensions.database import utcnow

SCHEDULES, ORDERS, EQUIPMENT = "/api/maintenance-schedules", "/api/work-orders", "/api/equipment"
DUE = "2026-12-01T08:30:00.000Z"


def made(client: FlaskClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.get_json()
    return row


def patched(client: FlaskClient, path: str, row: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = client.patch(f"{path}/{row['id']}", json=body)
    assert answer.status_code == 200, answer.text
    now: dict[str, Any] = answer.get_json()
    return now


def planned(client: FlaskClient, schedule: dict[str, Any]) -> list[dict[str, Any]]:
    """What was planned after a schedule."""
    rows: list[dict[str, Any]] = client.get(SCHEDULES).get_json()["items"]
    return [row for row in rows if row["previousScheduleId"] == schedule["id"]]


@pytest.fixture
def pump(client: FlaskClient) -> dict[str, Any]:
    return made(client, EQUIPMENT, name="Pump", type="pump", runningHours=12_000)


def scheduled(client: FlaskClient, pump: dict[str, Any], **body: Any) -> dict[str, Any]:
    given = {"scheduledDate": DUE, "maintenanceType": "oil change", "priority": 2}
    return made(client, SCHEDULES, equipmentId=pump["id"], **given, **body)


def changes_of(app: Flask, row_id: str) -> list[str]:
    with app.app_context():
        statement = text("SELECT operation FROM arus_change WHERE row_id = :row_id ORDER BY id")
        return list(db.session.execute(statement, {"row_id": row_id}).scalars())


def test_completing_plans_the_next_from_the_day_it_was_done(
    app: Flask, client: FlaskClient, pump: dict[str, Any]
) -> None:
    schedule = scheduled(client, pump, intervalDays=90, description="with filter")
    patched(client, SCHEDULES, schedule, status="completed")
    (following,) = planned(client, schedule)
    due = datetime.fromisoformat(following["scheduledDate"])
    assert due.date() == (utcnow() + timedelta(days=90)).date()
    assert following["scheduledDate"].endswith("T08:30:00.000Z")
    kept = ("equipmentId", "maintenanceType", "priority", "description", "intervalDays")
    assert [following[key] for key in kept] == [schedule[key] for key in kept]
    assert (following["status"], following["workOrderId"]) == ("scheduled", None)
    assert changes_of(app, schedule["id"]) == ["create", "update"]
    assert changes_of(app, following["id"]) == ["create"]


@pytest.mark.parametrize(
    ("zone", "due", "done", "days", "following"),
    [
        # The clocks are set back meanwhile: midnight stays midnight.
        ("Europe/Athens", "2026-09-01T00:00", "2026-10-10T15:00", 30, "2026-11-09T00:00"),
        # In UTC it was still the day before.
        ("Pacific/Auckland", "2026-06-10T14:00", "2026-06-12T08:00", 7, "2026-06-19T14:00"),
        ("America/Los_Angeles", "2026-06-10T08:00", "2026-06-12T20:00", 7, "2026-06-19T08:00"),
        ("UTC", "2028-02-29T08:00", "2028-02-29T09:00", 366, "2029-03-01T08:00"),
    ],
)
def test_the_next_is_due_at_the_same_time_by_the_ships_clock(
    zone: str, due: str, done: str, days: int, following: str
) -> None:
    clock = ZoneInfo(zone)
    at, end = (datetime.fromisoformat(each).replace(tzinfo=clock) for each in (due, done))
    schedule = MaintenanceSchedule(scheduled_date=at.astimezone(UTC), interval_days=days)
    app = Flask(__name__)
    app.config["SHIP_TIMEZONE"] = zone
    with app.app_context():
        found = next_of(schedule, end.astimezone(UTC), None).scheduled_date
    assert f"{found.astimezone(clock):%Y-%m-%dT%H:%M}" == following
    assert found.tzinfo is UTC


def test_a_completed_work_order_plans_the_next_too(
    client: FlaskClient, pump: dict[str, Any]
) -> None:
    schedule = scheduled(client, pump, intervalDays=30)
    order = made(client, f"{SCHEDULES}/{schedule['id']}/work-order")
    patched(client, ORDERS, order, status="completed")
    assert client.get(f"{SCHEDULES}/{schedule['id']}").get_json()["status"] == "completed"
    assert len(planned(client, schedule)) == 1


def test_running_hours_make_it_due_and_overdue(client: FlaskClient, pump: dict[str, Any]) -> None:
    schedule = scheduled(client, pump, intervalHours=500, status="scheduled")
    assert schedule["dueHours"] == 12_500
    assert schedule["id"] not in client.get("/schedules?due=overdue").text
    patched(client, EQUIPMENT, pump, runningHours=12_500)
    assert schedule["id"] in client.get("/schedules?due=overdue").text
    assert "overdue" in client.get(f"/schedules/{schedule['id']}").text
    patched(client, SCHEDULES, schedule, status="completed")
    (following,) = planned(client, schedule)
    assert (following["dueHours"], following["intervalHours"]) == (13_000, 500)
    earliest = utcnow() + timedelta(days=round(500 / 24))
    assert datetime.fromisoformat(following["scheduledDate"]).date() == earliest.date()


def test_hours_that_are_not_known_yet_leave_the_date(client: FlaskClient) -> None:
    pump = made(client, EQUIPMENT, name="Pump", type="pump")
    assert scheduled(client, pump, intervalHours=500)["dueHours"] is None


def test_reopening_and_completing_again_plans_no_second_one(
    client: FlaskClient, pump: dict[str, Any]
) -> None:
    schedule = scheduled(client, pump, intervalDays=7)
    for status in ("completed", "scheduled", "completed"):
        patched(client, SCHEDULES, schedule, status=status)
    assert len(planned(client, schedule)) == 1


@pytest.mark.parametrize("status", ["cancelled", "in_progress"])
def test_only_completing_plans_anything(
    client: FlaskClient, pump: dict[str, Any], status: str
) -> None:
    schedule = scheduled(client, pump, intervalDays=7)
    patched(client, SCHEDULES, schedule, status=status)
    assert not planned(client, schedule)


def test_a_schedule_without_an_interval_plans_nothing(
    client: FlaskClient, pump: dict[str, Any]
) -> None:
    schedule = scheduled(client, pump)
    patched(client, SCHEDULES, schedule, status="completed")
    assert not planned(client, schedule)


def test_two_who_complete_it_at_the_same_time_plan_one(
    app: Flask, client: FlaskClient, pump: dict[str, Any]
) -> None:
    schedule = scheduled(client, pump, intervalDays=7)
    start, statuses = threading.Barrier(2), []

    def complete() -> None:
        other = app.test_client()
        start.wait()
        answer = other.patch(f"{SCHEDULES}/{schedule['id']}", json={"status": "completed"})
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=complete) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 200 in statuses
    assert set(statuses) <= {200, 409}
    assert len(planned(client, schedule)) == 1


@pytest.mark.parametrize(
    "body", [{"intervalDays": 0}, {"intervalDays": 1.5}, {"intervalHours": -1}, {"dueHours": "x"}]
)
def test_an_interval_that_is_none_is_refused(
    client: FlaskClient, pump: dict[str, Any], body: dict[str, Any]
) -> None:
    given = {"equipmentId": pump["id"], "scheduledDate": DUE, "maintenanceType": "oil change"}
    assert client.post(SCHEDULES, json={**given, **body}).status_code == 422


def test_the_dashboard_shows_what_is_overdue_by_running_hours(
    client: FlaskClient, pump: dict[str, Any]
) -> None:
    for number in range(9):
        scheduled(client, pump, description=f"by date {number}")
    late = {"equipmentId": pump["id"], "scheduledDate": "2190-01-01", "intervalHours": 500}
    made(client, SCHEDULES, **late, maintenanceType="worn seal", dueHours=11_900)
    made(client, SCHEDULES, **late, maintenanceType="not yet worn", dueHours=12_900)
    text = client.get("/", headers={"Accept": "text/html"}).text
    shown = text[text.index('id="schedules"') :]
    assert "worn seal" in shown
    assert "not yet worn" not in shown


def test_hours_alone_are_not_overdue_by_the_date(client: FlaskClient, pump: dict[str, Any]) -> None:
    schedule = scheduled(client, pump, intervalHours=500)
    patched(client, SCHEDULES, schedule, scheduledDate="2020-01-01T08:00:00Z")
    assert schedule["id"] not in client.get("/schedules?due=overdue").text
    assert "overdue" not in client.get(f"/schedules/{schedule['id']}").text
    patched(client, SCHEDULES, schedule, intervalDays=90)
    assert schedule["id"] in client.get("/schedules?due=overdue").text


def test_the_hours_it_is_due_at_follow_the_interval(
    client: FlaskClient, pump: dict[str, Any]
) -> None:
    schedule = scheduled(client, pump, intervalHours=500)
    assert patched(client, SCHEDULES, schedule, intervalHours=100)["dueHours"] == 12_100
    given = patched(client, SCHEDULES, schedule, intervalHours=200, dueHours=13_000)
    assert given["dueHours"] == 13_000
    assert patched(client, SCHEDULES, schedule, intervalHours=None)["dueHours"] is None


def test_hours_that_are_entered_later_count_from_then(app: Flask, client: FlaskClient) -> None:
    pump = made(client, EQUIPMENT, name="Pump", type="pump")
    schedule = scheduled(client, pump, intervalHours=500)
    patched(client, EQUIPMENT, pump, runningHours=100)
    assert client.get(f"{SCHEDULES}/{schedule['id']}").get_json()["dueHours"] == 600
    assert changes_of(app, schedule["id"]) == ["create", "update"]
