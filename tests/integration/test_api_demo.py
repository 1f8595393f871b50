"""The demo's ship, and the API's description."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from sqlalchemy import func, select

from blueprints.alerts.models import Alert
from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from extensions import db

pytestmark = pytest.mark.slow

#: Fields that no client sets.
SERVERS = {"id", "version", "createdAt", "updatedAt", "woNumber", "previousScheduleId"}
MODELS = (Equipment, CrewMember, MaintenanceSchedule, WorkOrder, Alert)


def load(app: Flask) -> str:
    done = app.test_cli_runner().invoke(args=["demo", "load"])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def everything(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor = ""
    while cursor is not None:
        page = client.get(
            path, query_string={"limit": 200, **({"cursor": cursor} if cursor else {})}
        )
        assert page.status_code == 200
        rows += page.get_json()["items"]
        cursor = page.get_json()["next"]
    return rows


def test_a_believable_ship_once_and_captured(app: Flask) -> None:
    assert load(app).startswith("Loaded ")
    with app.app_context():
        counts = [
            db.session.scalar(select(func.count()).select_from(model)) or 0 for model in MODELS
        ]
        captured = db.session.scalar(
            select(func.count()).select_from(db.metadata.tables["arus_change"])
        )
        assert counts == [63, 20, 190, 80, 40]
        assert captured == sum(counts)
    assert load(app) == "The database has rows already: nothing loaded.\n"

    client = app.test_client()
    schedules = everything(client, "/api/maintenance-schedules")
    assert {"scheduled", "completed"} <= {schedule["status"] for schedule in schedules}
    orders = everything(client, "/api/work-orders")
    assert set(Counter(order["status"] for order in orders)) == {
        "open", "in_progress", "completed", "cancelled",
    }  # fmt: skip
    assert len({order["woNumber"] for order in orders}) == 80
    assert [order["createdAt"] for order in orders] == sorted(
        (order["createdAt"] for order in orders), reverse=True
    )
    alerts = everything(client, "/api/alerts")
    assert {alert["acknowledged"] for alert in alerts} == {True, False}
    assert {alert["alertType"] for alert in alerts} == {"warning", "critical"}
    for equipment in everything(client, "/api/equipment"):
        assert equipment["manufacturer"]
        assert equipment["specifications"]["sfi"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_demo_keeps_the_rules_of_the_api(app: Flask) -> None:
    load(app)
    client = app.test_client()
    for path in ("equipment", "crew", "work-orders", "alerts", "maintenance-schedules"):
        for row in everything(client, f"/api/{path}"):
            given = {key: value for key, value in row.items() if key not in SERVERS}
            again = client.post(f"/api/{path}", json=given)
            assert again.status_code == 201, (row, again.get_json())


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_description_is_valid_and_complete(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    for resource in ("work-orders", "alerts", "equipment", "crew", "maintenance-schedules"):
        assert {"get", "post"} <= set(document["paths"][f"/api/{resource}"])
        assert {"get", "patch", "delete"} <= set(document["paths"][f"/api/{resource}/{{row_id}}"])
    assert "/api/alerts/{row_id}/acknowledge" in document["paths"]
    assert "/api/maintenance-schedules/{row_id}/work-order" in document["paths"]
    order = document["components"]["schemas"]["WorkOrder"]
    assert order["required"] == ["equipmentId", "reason"]
    assert order["properties"]["woNumber"]["readOnly"] is True


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_description_is_a_page_too(client: FlaskClient) -> None:
    page = client.get("/api/docs")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
