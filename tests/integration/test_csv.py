"""Lists as CSV: the same rows as the list, all of them, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.pool import QueuePool

from extensions import db

RESOURCES = ("work-orders", "alerts", "equipment", "crew", "maintenance-schedules")
#: Texts that spreadsheets would take for formulas, and how they are written.
FORMULAS = {
    '=HYPERLINK("http://evil.example")': '\'=HYPERLINK("http://evil.example")',
    "+47 22 33": "'+47 22 33",
    "-1+2": "'-1+2",
    "@SUM(A1)": "'@SUM(A1)",
    "a, \"b\"\r\nsecond line; ørsted": "a, \"b\"\r\nsecond line; ørsted",
}  # fmt: skip


def read(client: FlaskClient, address: str) -> list[dict[str, str]]:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.content_type == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.data.decode(), newline="")))


def as_cell(key: str, value: Any) -> str:
    """A value of JSON as it is in a file."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    text = str(value)
    return text.replace("T", " ").removesuffix("Z") if key.endswith(("At", "Date")) else text


@pytest.fixture
def equipment_id(client: FlaskClient) -> str:
    row = {"name": "Pump", "type": "pump", "specifications": {"powerKw": 55, "stages": [1, 2]}}
    return str(client.post("/api/equipment", json=row).get_json()["id"])


@pytest.fixture
def rows(client: FlaskClient, equipment_id: str) -> None:
    """Some rows of each resource."""
    for number in range(3):
        work = {"equipmentId": equipment_id, "reason": f"Leak {number}", "priority": 1 + number}
        client.post("/api/work-orders", json={**work, "estimatedHours": 1.5})
        client.post("/api/crew", json={"name": f"Sailor {number}", "onDuty": number == 1})
    schedule = {"equipmentId": equipment_id, "maintenanceType": "inspection"}
    client.post(
        "/api/maintenance-schedules", json={**schedule, "scheduledDate": "2026-12-01T08:00:00.000Z"}
    )
    alert = {"equipmentId": equipment_id, "sensorType": "temperature", "alertType": "warning"}
    client.post("/api/alerts", json={**alert, "message": "cold", "value": -3.25, "threshold": 0})


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("resource", RESOURCES)
def test_each_list_is_a_file_with_the_rows_and_keys_of_its_json(
    client: FlaskClient, resource: str
) -> None:
    items = client.get(f"/api/{resource}").get_json()["items"]
    answer = client.get(f"/api/{resource}.csv")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{resource}.csv"'
    assert answer.data.endswith(b"\r\n")
    found = read(client, f"/api/{resource}.csv")
    assert found == [{key: as_cell(key, value) for key, value in item.items()} for item in items]
    assert items


@pytest.mark.usefixtures("rows")
def test_filters_search_and_limit_are_those_of_the_list(client: FlaskClient) -> None:
    query = "priority=2&priority=3&q=LEAK"
    wanted = [row["id"] for row in client.get(f"/api/work-orders?{query}").get_json()["items"]]
    assert len(wanted) == 2
    assert [row["id"] for row in read(client, f"/api/work-orders.csv?{query}")] == wanted
    assert [row["id"] for row in read(client, f"/api/work-orders.csv?{query}&limit=1")] == wanted[
        :1
    ]
    assert read(client, "/api/work-orders.csv?q=nothing") == []


@pytest.mark.parametrize("query", ["priority=high", "colour=red", "limit=0", "cursor=x"])
def test_a_bad_query_is_answered_and_nothing_is_streamed(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/api/work-orders.csv?{query}")
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")


def test_texts_are_no_formulas_and_negative_numbers_stay_numbers(
    client: FlaskClient, equipment_id: str
) -> None:
    for text in FORMULAS:
        client.post("/api/work-orders", json={"equipmentId": equipment_id, "reason": text})
    found = [row["reason"] for row in read(client, "/api/work-orders.csv")]
    assert sorted(found) == sorted(FORMULAS.values())
    alert = {
        "equipmentId": equipment_id,
        "sensorType": "t",
        "alertType": "warning",
        "message": "-1",
    }
    client.post("/api/alerts", json={**alert, "value": -3.25, "threshold": 0})
    (row,) = read(client, "/api/alerts.csv")
    assert (row["value"], row["threshold"], row["message"]) == ("-3.25", "0.0", "'-1")


def test_a_long_list_is_streamed_in_batches(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blueprints.exports.routes.BATCH", 10)
    for number in range(25):
        client.post("/api/crew", json={"name": f"Sailor {number:02}"})
    answer = client.get("/api/crew.csv", buffered=False)
    parts = list(answer.iter_encoded())
    assert [part.count(b"\r\n") for part in parts] == [11, 10, 5]
    found = list(csv.DictReader(io.StringIO(b"".join(parts).decode(), newline="")))
    names = [row["name"] for row in found]
    assert names == [f"Sailor {number:02}" for number in reversed(range(25))]


def test_a_client_that_goes_away_leaves_no_connection_behind(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blueprints.exports.routes.BATCH", 1)
    for number in range(3):
        client.post("/api/crew", json={"name": f"Sailor {number}"})
    answer = client.get("/api/crew.csv", buffered=False)
    parts = answer.iter_encoded()
    assert [next(parts), next(parts)]
    answer.close()
    with app.app_context():
        pool = db.engine.pool
        assert isinstance(pool, QueuePool)
        assert pool.checkedout() == 0


@pytest.mark.usefixtures("rows")
def test_a_page_links_to_its_list_with_its_filters_in_its_order(client: FlaskClient) -> None:
    page = client.get("/work-orders?status=open&sort=priority").text
    assert 'href="/work-orders.csv?sort=priority&amp;status=open"' in page
    found = read(client, "/work-orders.csv?sort=priority&status=open")
    priorities = [int(row["priority"]) for row in found]
    assert len(priorities) == 3
    assert all(first <= second for first, second in pairwise(priorities))
