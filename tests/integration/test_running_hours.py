"""Running hours are entered on the equipment's page; each entry is kept, and maintenance shows what is left."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient

from .test_ui_forms import browser

__all__ = ["browser"]

EQUIPMENT = "/api/equipment"


@pytest.fixture
def pump(client: FlaskClient) -> dict[str, Any]:
    """A pump with 12,000 running hours."""
    body = {"name": "Pump", "type": "pump", "runningHours": 12_000}
    made: dict[str, Any] = client.post(EQUIPMENT, json=body).get_json()
    return made


def enter(browser: FlaskClient, pump: dict[str, Any], hours: str) -> str:
    """Enter what the counter shows, and return the page."""
    answer = browser.post(
        f"/equipment/{pump['id']}/hours", data={"hours": hours}, follow_redirects=True
    )
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


def hours(client: FlaskClient, pump: dict[str, Any]) -> tuple[float, int]:
    row = client.get(f"{EQUIPMENT}/{pump['id']}").get_json()
    return row["runningHours"], row["version"]


def entered(page: str) -> list[str]:
    """The entries that the equipment's page shows, newest first."""
    section = page[page.index('id="hours-heading"') :]
    return re.findall(r"<span>([\d,.]+) h</span>", section)


def test_what_is_entered_is_kept_with_its_time(
    client: FlaskClient, browser: FlaskClient, pump: dict[str, Any]
) -> None:
    page = enter(browser, pump, "12100.5")
    assert "12,100.5 running hours were entered." in page
    assert entered(page) == ["12,100.5", "12,000"]
    assert hours(client, pump) == (12_100.5, 2)
    client.patch(f"{EQUIPMENT}/{pump['id']}", json={"runningHours": 12_200})
    assert entered(browser.get(f"/equipment/{pump['id']}").text) == ["12,200", "12,100.5", "12,000"]
    client.patch(f"{EQUIPMENT}/{pump['id']}", json={"location": "Deck 2"})
    assert len(entered(browser.get(f"/equipment/{pump['id']}").text)) == 3


def test_equipment_without_hours_has_none(client: FlaskClient, browser: FlaskClient) -> None:
    body = {"name": "Mooring winch", "type": "winch"}
    winch = client.post(EQUIPMENT, json=body).get_json()
    page = browser.get(f"/equipment/{winch['id']}")
    assert page.status_code == 200
    assert entered(page.text) == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("11999", "The counter stood at 12,000 already. If it was replaced, edit the equipment."),
        ("", "Enter what the counter shows."),
        ("many", "Not a valid number."),
        ("-5", "Must be greater than or equal to 0"),
    ],
)
def test_what_can_not_be_is_refused(
    client: FlaskClient, browser: FlaskClient, pump: dict[str, Any], typed: str, said: str
) -> None:
    assert said in enter(browser, pump, typed)
    assert hours(client, pump) == (12_000, 1)


def test_a_replaced_counter_is_entered_by_editing(
    client: FlaskClient, browser: FlaskClient, pump: dict[str, Any]
) -> None:
    client.patch(f"{EQUIPMENT}/{pump['id']}", json={"runningHours": 10})
    assert entered(enter(browser, pump, "11")) == ["11", "10", "12,000"]


def test_the_same_hours_again_are_no_change(
    client: FlaskClient, browser: FlaskClient, pump: dict[str, Any]
) -> None:
    assert entered(enter(browser, pump, "12000")) == ["12,000"]
    assert hours(client, pump) == (12_000, 1)


def test_maintenance_shows_the_hours_that_are_left(
    client: FlaskClient, browser: FlaskClient, pump: dict[str, Any]
) -> None:
    schedule = {
        "equipmentId": pump["id"],
        "maintenanceType": "overhaul",
        "scheduledDate": "2030-01-01T08:00:00Z",
        "intervalHours": 500,
    }
    made = client.post("/api/maintenance-schedules", json=schedule).get_json()
    pages = ("/schedules", f"/schedules/{made['id']}", f"/equipment/{pump['id']}")
    for page in pages:
        text = " ".join(browser.get(page).text.split())
        assert "or at 12,500 h (500 h left)" in text, page
    enter(browser, pump, "12500")
    for page in pages:
        assert "or at 12,500 h (reached)" in " ".join(browser.get(page).text.split()), page


def test_the_readings_go_with_the_equipment(client: FlaskClient, pump: dict[str, Any]) -> None:
    assert client.delete(f"{EQUIPMENT}/{pump['id']}").status_code == 204
