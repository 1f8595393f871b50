"""The calendar: maintenance and work orders by day, in the ship's zone, a month or a week at a time."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask, url_for
from flask.testing import FlaskClient

from blueprints.ui.layout import row_url


@pytest.fixture
def pump(client: FlaskClient) -> str:
    return str(
        client.post("/api/equipment", json={"name": "Pump", "type": "pump"}).get_json()["id"]
    )


def scheduled(client: FlaskClient, pump: str, at: str, name: str, **more: object) -> str:
    body = {"equipmentId": pump, "scheduledDate": at, "maintenanceType": name, **more}
    answer = client.post("/api/maintenance-schedules", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["id"])


def day_of(page: str, name: str) -> str:
    """The day under which a name is shown; blank if it is not."""
    for cell in re.findall(r"<td .*?</td>", page, re.DOTALL):
        if name in cell:
            found = re.search(r'datetime="([^"]+)"', cell)
            assert found is not None
            return found[1]
    return ""


def test_a_month_shows_what_is_due_on_its_day(client: FlaskClient, pump: str) -> None:
    scheduled(client, pump, "2026-11-17T08:00:00Z", "oil change")
    order = {
        "equipmentId": pump,
        "reason": "Leaking seal",
        "plannedStartDate": "2026-11-20T10:00:00Z",
    }
    client.post("/api/work-orders", json=order)
    ends = {"equipmentId": pump, "reason": "No start", "plannedEndDate": "2026-11-30T23:59:00Z"}
    client.post("/api/work-orders", json=ends)
    page = client.get("/calendar?month=2026-11").text
    assert day_of(page, "oil change") == "2026-11-17"
    assert day_of(page, "Leaking seal") == "2026-11-20"
    assert day_of(page, "No start") == "2026-11-30"
    assert "oil change" not in client.get("/calendar?month=2026-12").text
    assert day_of(client.get("/calendar?week=2026-W47").text, "oil change") == "2026-11-17"
    assert "oil change" not in client.get("/calendar?week=2026-W48").text


def test_a_day_is_one_of_the_ships_zone(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    client = make_app(migrated_database_url, SHIP_TIMEZONE="Asia/Tokyo").test_client()
    pump = client.post("/api/equipment", json={"name": "Pump", "type": "pump"}).get_json()["id"]
    scheduled(client, pump, "2026-11-17T20:00:00Z", "oil change")
    assert day_of(client.get("/calendar?month=2026-11").text, "oil change") == "2026-11-18"


def test_filters_leave_what_is_somebodys_or_of_one_machine(client: FlaskClient, pump: str) -> None:
    member = client.post("/api/crew", json={"name": "Ada"}).get_json()["id"]
    scheduled(client, pump, "2026-11-17T08:00:00Z", "oil change", assignedCrewId=member)
    scheduled(client, pump, "2026-11-18T08:00:00Z", "inspection")
    page = client.get(f"/calendar?month=2026-11&crew={member}").text
    assert day_of(page, "oil change")
    assert not day_of(page, "inspection")
    other = "00000000-0000-4000-8000-000000000000"
    assert not day_of(client.get(f"/calendar?month=2026-11&equipment={other}").text, "oil change")


def test_a_full_day_leads_to_its_week(client: FlaskClient, pump: str) -> None:
    for number in range(7):
        scheduled(client, pump, "2026-11-17T08:00:00Z", f"task {number}")
    page = client.get("/calendar?month=2026-11").text
    assert "2 more" in page
    assert "/calendar?week=2026-W47" in page
    week = client.get("/calendar?week=2026-W47").text
    assert all(f"task {number}" in week for number in range(7))


def test_what_was_cancelled_is_not_shown_and_what_was_done_is_marked(
    client: FlaskClient, pump: str
) -> None:
    scheduled(client, pump, "2026-11-17T08:00:00Z", "cancelled task", status="cancelled")
    scheduled(client, pump, "2020-11-17T08:00:00Z", "late task")
    scheduled(client, pump, "2020-11-18T08:00:00Z", "done task", status="completed")
    assert "cancelled task" not in client.get("/calendar?month=2026-11").text
    page = client.get("/calendar?month=2020-11").text
    assert page.count('<span class="tag is-failed">') == 1
    assert 'class="is-done"' in page


@pytest.mark.parametrize(
    "query", ["month=2026-13", "month=now", "week=2026-W54", "week=x", "crew=7", "month=9999-01"]
)
def test_a_time_that_is_none_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"/calendar?{query}").status_code == 422


def test_today_is_marked(client: FlaskClient) -> None:
    assert client.get("/calendar").text.count('aria-current="date"') == 1


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    "row_id", ["6f1c3a52-4f0e-4d8c-9b7e-2f0a1d3c5b7e", "of a ship/1?", "6F1C3A52"]
)
def test_the_address_of_a_row_is_that_of_its_page(app: Flask, row_id: str) -> None:
    with app.test_request_context("/calendar", environ_overrides={"SCRIPT_NAME": "/ship"}):
        for _ in range(2):
            expected = url_for("ui.row", kind="schedules", row_id=row_id)
            assert row_url("schedules", row_id) == expected
            assert expected.startswith("/ship/schedules/")
