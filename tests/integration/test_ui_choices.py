"""Long lists of choices are searched on the server; a repeated filter means either."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, insert

from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from blueprints.ui.choices import MOST_OFFERED
from extensions import db
from extensions.database import new_id, utcnow

from .test_ui_forms import browser, filled, inputs, open_form

__all__ = ["browser"]

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

MANY = 1200


@pytest.fixture
def many(browser: FlaskClient) -> None:
    """More pieces of equipment, and people, than a list shows."""
    now = utcnow()
    with browser.application.app_context():
        for model, more in ((Equipment, {"type": "pump"}), (CrewMember, {})):
            rows = [
                {
                    "id": new_id(),
                    "version": 1,
                    "name": f"Nummer {number}",
                    "created_at": now,
                    "updated_at": now,
                    **({"type": f"type {number}", "location": "Låve"} if more else {}),
                }
                for number in range(MANY)
            ]
            db.session.execute(insert(model), rows)
        db.session.commit()


def options(client: FlaskClient, url: str) -> tuple[list[str], bool]:
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.get_json()
    return [each["text"] for each in document["options"]], document["hasMore"]


@pytest.mark.usefixtures("many")
def test_every_row_is_found_among_the_choices(browser: FlaskClient) -> None:
    for place in (
        "work-orders/equipmentId",
        "work-orders/assignedCrewId",
        "schedules/assignedCrewId",
        "work-orders/filter.equipment",
        "schedules/filter.crew",
    ):
        found, has_more = options(browser, f"/ui/choices/{place}")
        assert found[:2] == ["Nummer 0", "Nummer 1"], "numbers in their order"
        assert (len(found), has_more) == (MOST_OFFERED, True)
        assert options(browser, f"/ui/choices/{place}?q=NUMMER 1199") == (["Nummer 1199"], False)
        assert options(browser, f"/ui/choices/{place}?q=nowhere") == ([], False)
    found, has_more = options(browser, "/ui/choices/equipment/filter.type?q=TYPE 117")
    assert (found[0], len(found), has_more) == ("type 117", 11, False)
    assert options(browser, "/ui/choices/work-orders/equipmentId?q=låve")[1], "by its location"


@pytest.mark.usefixtures("many")
def test_without_scripts_a_form_searches_on_the_server_and_keeps_what_was_typed(
    browser: FlaskClient, equipment_id: str
) -> None:
    assert "The list is longer" in browser.get("/work-orders/new").text
    form = open_form(browser, "/work-orders/new") | {"reason": "Typed before"}
    del form["equipmentId"]
    form["look.equipmentId"] = "nummer 1199"
    answer = browser.post("/work-orders/new", data=form)
    assert answer.status_code == 200
    shown = inputs(answer.text)
    assert shown["reason"] == "Typed before"
    (choices,) = re.findall(r'name="equipmentId".*?</select>', answer.text, re.DOTALL)
    ((offered, name),) = re.findall(r'<option value="([^"]+)">(.*?)<', choices)
    assert name == "Nummer 1199"
    # The search stays in its input, and the form is saved now.
    answer = browser.post("/work-orders/new", data=shown | {"equipmentId": offered})
    assert answer.status_code == 303, answer.text
    url = str(answer.location)
    edit = open_form(browser, f"{url}/edit") | {"look.equipmentId": "fire"}
    shown = inputs(browser.post(f"{url}/edit", data=edit).text)
    assert shown["equipmentId"] == offered, "the present choice stays among those found"
    assert (
        browser.post(f"{url}/edit", data=shown | {"equipmentId": equipment_id}).status_code == 303
    )

    dashboard = filled("work-orders", equipment_id) | {"look.equipmentId": "1198"}
    assert "Nummer 1198" in browser.post("/ui/work-orders", data=dashboard).text
    assert "Nummer 1197<" in browser.get("/work-orders?look.equipment=1197").text
    assert "Nummer 1196<" in browser.get("/ui/who?look.by=1196").text
    asked = browser.post("/ui/who", data={"look.by": "1195", "row_id": "", "then": "/crew"})
    assert "Nummer 1195<" in browser.get(str(asked.location)).text


def test_a_choice_that_is_not_one_is_refused(browser: FlaskClient) -> None:
    for place in ("work-orders/reason", "work-orders/filter.status", "nowhere/equipmentId"):
        assert browser.get(f"/ui/choices/{place}").status_code == 404
    assert browser.get(f"/ui/choices/crew/filter.department?q={'x' * 201}").status_code == 422


def test_a_person_off_board_is_not_offered_but_found(browser: FlaskClient) -> None:
    for name, active in (("Ada", True), ("Bo", False)):
        assert browser.post("/api/crew", json={"name": name, "active": active}).status_code == 201
    assert options(browser, "/ui/choices/work-orders/assignedCrewId") == (["Ada"], False)
    assert options(browser, "/ui/choices/work-orders/assignedCrewId?q=bo") == (["Bo"], False)
    assert options(browser, "/ui/choices/work-orders/filter.crew") == (["Ada", "Bo"], False)


# --- repeated filters, and what is overdue -------------------------------------------------------


@pytest.fixture
def orders(browser: FlaskClient, equipment_id: str) -> None:
    for status, end in (
        ("open", "2020-01-01T00:00:00Z"),
        ("in_progress", None),
        ("completed", "2020-01-01T00:00:00Z"),
        ("cancelled", "2190-01-01T00:00:00Z"),
    ):
        body = {"reason": f"job {status}", "status": status, "plannedEndDate": end}
        answer = browser.post("/api/work-orders", json={**body, "equipmentId": equipment_id})
        assert answer.status_code == 201


def listed(client: FlaskClient, query: str) -> list[str]:
    answer = client.get(f"/work-orders?{query}")
    assert answer.status_code == 200, answer.text
    return sorted(re.findall(r'id="name-[^"]+">job (\w+)</a>', answer.text))


@pytest.mark.usefixtures("orders")
def test_a_repeated_filter_means_either(browser: FlaskClient, equipment_id: str) -> None:
    assert listed(browser, "status=open&status=completed") == ["completed", "open"]
    assert listed(browser, "status=unfinished&status=cancelled&priority=3") == [
        "cancelled",
        "in_progress",
        "open",
    ]
    assert listed(browser, f"equipment={equipment_id}&equipment={new_id()}&status=open") == ["open"]
    answer = browser.get("/api/work-orders?status=open&status=completed&priority=3&priority=1")
    assert {row["status"] for row in answer.get_json()["items"]} == {"open", "completed"}
    wrong = browser.get("/api/work-orders?status=open&status=half", headers={"Accept": "*/*"})
    assert wrong.status_code == 422
    assert list(wrong.get_json()["errors"]) == ["status"]
    assert browser.get("/work-orders?status=open&status=half").status_code == 422


@pytest.mark.usefixtures("orders")
def test_the_page_keeps_all_choices_of_a_filter(browser: FlaskClient) -> None:
    text = browser.get("/work-orders?status=open&status=completed").text
    chosen = re.findall(r'<input type="checkbox" name="status" value="(\w+)" checked>', text)
    assert chosen == ["open", "completed"]
    (sort,) = re.findall(r'<a href="([^"]+)">Priority', text)
    assert sort.replace("&amp;", "&").endswith("sort=priority&status=open&status=completed")
    one = browser.get("/work-orders?status=open").text
    assert '<option value="open" selected>' in one
    assert 'type="checkbox"' not in one


@pytest.mark.usefixtures("orders")
def test_a_planned_end_that_has_passed_is_overdue(browser: FlaskClient) -> None:
    assert listed(browser, "due=overdue") == ["open"]
    assert listed(browser, "due=month&status=unfinished") == ["open"]
    text = browser.get("/work-orders").text
    assert text.count('<span class="tag is-failed">overdue</span>') == 1
    assert '<option value="overdue">overdue</option>' in text
    assert text.index("job open") < text.index('<span class="tag is-failed">overdue</span>')


@pytest.mark.usefixtures("many")
def test_the_dashboard_asks_once_for_the_equipment_on_offer_in_the_order_of_an_index(
    browser: FlaskClient,
) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if "equipment.is_active" in sql:
            asked.append((sql, parameters))

    with browser.application.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
        try:
            assert browser.get("/").text.count(">Nummer 1</option>") == 2
        finally:
            event.remove(db.engine, "before_cursor_execute", note)
        ((sql, parameters),) = asked
        with db.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
        plan = "\n".join(str(row) for row in rows)
        assert "ix_equipment_name_key_list" in plan, plan
        assert "TEMP B-TREE" not in plan, plan
