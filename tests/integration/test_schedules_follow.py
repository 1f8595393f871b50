"""A schedule follows its work order, and refers to a person by id."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, text

from blueprints.maintenance.people import assign_names
from blueprints.work_orders.models import WorkOrder
from extensions import db

ORDERS, SCHEDULES, CREW = "/api/work-orders", "/api/maintenance-schedules", "/api/crew"


def made(client: FlaskClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.get_json()
    return row


def changed(client: FlaskClient, path: str, row: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = client.patch(f"{path}/{row['id']}", json=body)
    assert answer.status_code == 200, answer.text
    now: dict[str, Any] = answer.get_json()
    return now


def read(client: FlaskClient, path: str, row: dict[str, Any]) -> dict[str, Any]:
    now: dict[str, Any] = client.get(f"{path}/{row['id']}").get_json()
    return now


def scheduled(client: FlaskClient, equipment_id: str, **body: Any) -> dict[str, Any]:
    given = {"scheduledDate": "2026-12-01T08:00:00Z", "maintenanceType": "oil change"}
    return made(client, SCHEDULES, equipmentId=equipment_id, **given, **body)


def changes(app: Flask) -> int:
    with app.app_context():
        return int(db.session.execute(text("SELECT count(*) FROM arus_change")).scalar() or 0)


@pytest.fixture
def schedule(client: FlaskClient, equipment_id: str) -> dict[str, Any]:
    return scheduled(client, equipment_id)


@pytest.fixture
def order(client: FlaskClient, schedule: dict[str, Any]) -> dict[str, Any]:
    """The work order of the schedule."""
    return made(client, f"{SCHEDULES}/{schedule['id']}/work-order")


def test_a_completed_order_completes_its_schedule_with_one_change_of_each_row(
    app: Flask, client: FlaskClient, schedule: dict[str, Any], order: dict[str, Any]
) -> None:
    before = changes(app)
    changed(client, ORDERS, order, status="in_progress")
    assert read(client, SCHEDULES, schedule)["version"] == 2, "started: still to be done"
    assert changes(app) == before + 1
    changed(client, ORDERS, order, status="completed")
    done = read(client, SCHEDULES, schedule)
    assert (done["status"], done["workOrderId"], done["version"]) == ("completed", order["id"], 3)
    assert changes(app) == before + 3
    changed(client, ORDERS, order, actualHours=2)
    assert changes(app) == before + 4


def test_a_reopened_order_reopens_its_schedule(
    client: FlaskClient, schedule: dict[str, Any], order: dict[str, Any]
) -> None:
    changed(client, ORDERS, order, status="completed")
    changed(client, ORDERS, order, status="open")
    again = read(client, SCHEDULES, schedule)
    assert (again["status"], again["workOrderId"]) == ("scheduled", order["id"])


def test_a_cancelled_order_frees_its_schedule_for_another(
    client: FlaskClient, schedule: dict[str, Any], order: dict[str, Any]
) -> None:
    changed(client, ORDERS, order, status="completed")
    changed(client, ORDERS, order, status="cancelled")
    free = read(client, SCHEDULES, schedule)
    assert (free["status"], free["workOrderId"]) == ("scheduled", None)
    another = made(client, f"{SCHEDULES}/{schedule['id']}/work-order")
    # The cancelled one is no longer the schedule's.
    changed(client, ORDERS, order, status="open")
    changed(client, ORDERS, order, status="completed")
    now = read(client, SCHEDULES, schedule)
    assert (now["status"], now["workOrderId"]) == ("scheduled", another["id"])


def test_a_cancelled_order_that_is_reopened_takes_its_free_schedule_back(
    client: FlaskClient, schedule: dict[str, Any], order: dict[str, Any]
) -> None:
    changed(client, ORDERS, order, status="cancelled")
    changed(client, ORDERS, order, status="open")
    assert read(client, SCHEDULES, schedule)["workOrderId"] == order["id"]


@pytest.mark.parametrize(("status", "then"), [("in_progress", "scheduled"), ("overdue", "overdue")])
def test_a_deleted_order_frees_its_schedule(
    client: FlaskClient, schedule: dict[str, Any], order: dict[str, Any], status: str, then: str
) -> None:
    changed(client, SCHEDULES, schedule, status=status)
    assert client.delete(f"{ORDERS}/{order['id']}").status_code == 204
    free = read(client, SCHEDULES, schedule)
    assert (free["status"], free["workOrderId"], free["version"]) == (then, None, 4)


@pytest.mark.slow
def test_an_order_made_for_a_schedule_by_its_id_completes_it(
    client: FlaskClient, equipment_id: str, schedule: dict[str, Any]
) -> None:
    body = {"equipmentId": equipment_id, "reason": "By hand", "scheduleId": schedule["id"]}
    order = made(client, ORDERS, **body)
    changed(client, ORDERS, order, status="completed")
    assert read(client, SCHEDULES, schedule)["status"] == "completed"


def test_a_cancelled_schedule_stays_cancelled(
    client: FlaskClient, schedule: dict[str, Any], order: dict[str, Any]
) -> None:
    changed(client, SCHEDULES, schedule, status="cancelled")
    changed(client, ORDERS, order, status="completed")
    assert read(client, SCHEDULES, schedule)["status"] == "cancelled"


# --- people --------------------------------------------------------------------------------------


def test_who_writes_an_id_gives_the_name_and_who_writes_a_name_gives_the_id(
    client: FlaskClient, equipment_id: str
) -> None:
    ada = made(client, CREW, name="Ada Berg")
    schedule = scheduled(client, equipment_id, assignedCrewId=ada["id"])
    assert schedule["assignedTo"] == "Ada Berg"
    by_old_client = scheduled(client, equipment_id, assignedTo="ADA  berg")
    assert (by_old_client["assignedTo"], by_old_client["assignedCrewId"]) == (
        "ADA  berg",
        ada["id"],
    )
    nobody = changed(client, SCHEDULES, by_old_client, assignedTo="The agent")
    assert (nobody["assignedTo"], nobody["assignedCrewId"]) == ("The agent", None)
    freed = changed(client, SCHEDULES, schedule, assignedCrewId=None)
    assert (freed["assignedTo"], freed["assignedCrewId"]) == (None, None)
    order = made(client, f"{SCHEDULES}/{by_old_client['id']}/work-order")
    assert order["assignedCrewId"] is None


def test_a_renamed_person_keeps_the_jobs_and_is_shown_by_the_new_name(
    client: FlaskClient, equipment_id: str
) -> None:
    ada = made(client, CREW, name="Ada Berg")
    schedule = scheduled(client, equipment_id, assignedCrewId=ada["id"])
    changed(client, CREW, ada, name="Ada Lund")
    now = read(client, SCHEDULES, schedule)
    assert (now["assignedCrewId"], now["version"]) == (ada["id"], 1)
    html = {"Accept": "text/html"}
    assert "Ada Lund" in client.get("/schedules", headers=html).text
    assert f"/schedules/{schedule['id']}" in client.get(f"/crew/{ada['id']}", headers=html).text
    assert "Ada Lund" in client.get(f"/schedules/{schedule['id']}", headers=html).text
    # An old client that sends back what it has read changes nothing.
    changed(client, SCHEDULES, schedule, assignedTo=now["assignedTo"])
    assert read(client, SCHEDULES, schedule) == now
    (found,) = client.get(f"{SCHEDULES}?assignedCrewId={ada['id']}").get_json()["items"]
    assert found["id"] == schedule["id"]


def test_namesakes_are_told_apart(client: FlaskClient, equipment_id: str) -> None:
    bosun = made(client, CREW, name="Jo Cruz", rank="Bosun")
    fitter = made(client, CREW, name="JO CRUZ", rank="Fitter")
    schedule = scheduled(client, equipment_id, assignedTo="Jo Cruz")
    assert schedule["assignedCrewId"] is None, "which of the two is not known"
    changed(client, SCHEDULES, schedule, assignedCrewId=fitter["id"])
    html = {"Accept": "text/html"}
    text_of_form = client.get(f"/schedules/{schedule['id']}/edit", headers=html).text
    assert f'value="{bosun["id"]}">Jo Cruz (Bosun)' in text_of_form
    assert f'value="{fitter["id"]}" selected>JO CRUZ (Fitter)' in text_of_form
    assert "JO CRUZ (Fitter)" in client.get("/schedules", headers=html).text
    page = f"/schedules/{schedule['id']}"
    assert page in client.get(f"/crew/{fitter['id']}", headers=html).text
    assert page not in client.get(f"/crew/{bosun['id']}", headers=html).text


def test_the_names_of_before_are_assigned_once_each_with_a_change_that_is_sent(
    app: Flask, client: FlaskClient, equipment_id: str
) -> None:
    ada = made(client, CREW, name="Ada Berg")
    for _ in range(2):
        made(client, CREW, name="Bo")
    schedules = [
        scheduled(client, equipment_id, assignedTo=name)
        for name in ("Ada Berg", "Bo", "The agent", None)
    ]
    with app.app_context():
        # As they were before there were ids.
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE maintenance_schedules SET assigned_crew_id = NULL"))
        before = changes(app)
        assert assign_names() == 1
        assert assign_names() == 0
        assert changes(app) == before + 1
    now = [read(client, SCHEDULES, each) for each in schedules]
    assert [each["assignedCrewId"] for each in now] == [ada["id"], None, None, None]
    assert [each["version"] for each in now] == [2, 1, 1, 1]
    assert [each["assignedTo"] for each in now] == ["Ada Berg", "Bo", "The agent", None]


def test_names_are_assigned_while_another_upgrade_assigns_them_too(
    app: Flask, client: FlaskClient, equipment_id: str
) -> None:
    ada = made(client, CREW, name="Ada Berg")
    first, second = [scheduled(client, equipment_id, assignedTo="Ada Berg") for _ in range(2)]
    unassign = text("UPDATE maintenance_schedules SET assigned_crew_id = NULL")
    assign = text(
        "UPDATE maintenance_schedules SET assigned_crew_id = :ada, version = 2 WHERE id = :id"
    )

    def another(*_: Any) -> None:
        with db.engine.begin() as connection:
            connection.execute(assign, {"ada": ada["id"], "id": first["id"]})

    with app.app_context():
        with db.engine.begin() as connection:
            connection.execute(unassign)
        event.listen(db.session, "before_flush", another, once=True)
        assert assign_names() == 1
    for schedule in (first, second):
        now = read(client, SCHEDULES, schedule)
        assert (now["assignedCrewId"], now["version"]) == (ada["id"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_an_upgrade_that_ended_before_its_last_steps_is_completed_by_the_next(
    app: Flask, client: FlaskClient, equipment_id: str
) -> None:
    ada = made(client, CREW, name="Ada Berg")
    schedule = scheduled(client, equipment_id, assignedTo="Ada Berg")
    runner = app.test_cli_runner()
    assert runner.invoke(args=["db", "downgrade", "0022"]).exit_code == 0
    with app.app_context(), db.engine.begin() as connection:
        # nothing can be logged: the migrations are committed, and the steps after them are not
        connection.execute(
            text(
                "CREATE TRIGGER disk_full BEFORE INSERT ON arus_change"
                " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
        )
    assert runner.invoke(args=["db", "upgrade"]).exit_code != 0
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER disk_full"))
    assert read(client, SCHEDULES, schedule)["assignedCrewId"] is None
    for _ in range(2):
        assert runner.invoke(args=["db", "upgrade"]).exit_code == 0
        now = read(client, SCHEDULES, schedule)
        assert (now["assignedCrewId"], now["version"]) == (ada["id"], 2)


def test_a_name_that_is_nobodys_is_shown_and_kept(client: FlaskClient, equipment_id: str) -> None:
    schedule = scheduled(client, equipment_id, assignedTo="The agent")
    html = {"Accept": "text/html"}
    for url in ("/schedules", f"/schedules/{schedule['id']}", f"/schedules/{schedule['id']}/edit"):
        assert "The agent" in client.get(url, headers=html).text


def test_a_completed_order_that_has_no_id_yet_completes_no_schedule_of_others(
    app: Flask, client: FlaskClient, schedule: dict[str, Any]
) -> None:
    with app.app_context():
        order = WorkOrder(
            wo_number="WO-1",
            equipment_id=schedule["equipmentId"],
            reason="done long ago",
            status="completed",
        )
        db.session.add(order)
        db.session.commit()
    assert read(client, SCHEDULES, schedule)["status"] == "scheduled"
