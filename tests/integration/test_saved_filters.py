"""Filters of lists are saved under a name, and the dashboard shows the work of whoever is at the device."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from extensions import db

from .test_access import FROM_PAGE, logged_in, login_app
from .test_ui_forms import browser

__all__ = ["browser", "login_app"]

QUERY = "status=open&status=in_progress&priority=1"


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """What is saved does not depend on the database."""
    return str(request.param)


def save(browser: FlaskClient, name: str, query: str = QUERY, kind: str = "work-orders") -> str:
    answer = browser.post(
        f"/ui/filters/{kind}",
        data={"name": name, "query": query},
        headers=FROM_PAGE,
        follow_redirects=True,
    )
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


def saved(browser: FlaskClient, kind: str = "work-orders") -> dict[str, str]:
    """The saved filters that a list shows: their addresses by name."""
    page = browser.get(f"/{kind}").text
    found = re.search(r'<nav aria-label="Saved filters">(.*?)</nav>', page, re.DOTALL)
    links = re.findall(r'href="([^"]+)"[^>]*>([^<]*)<', found[1]) if found else []
    return {unescape(name): unescape(address) for address, name in links}


def test_a_filter_is_saved_used_replaced_and_removed(browser: FlaskClient) -> None:
    assert "The filter Urgent was saved." in save(browser, "  Urgent ")
    address = saved(browser)["Urgent"]
    assert address == f"/work-orders?{QUERY}"
    assert 'aria-current="page">Urgent' in browser.get(address).text
    save(browser, "URGENT", "q=pump")
    assert saved(browser) == {"URGENT": "/work-orders?q=pump"}
    assert saved(browser, "alerts") == {}

    page = browser.get("/work-orders").text
    remove = re.search(r'action="(/ui/filters/work-orders/[^"]+/remove)"', page)
    assert remove is not None
    assert browser.post(remove[1], headers=FROM_PAGE).status_code == 303
    assert saved(browser) == {}
    assert browser.post(remove[1], headers=FROM_PAGE).status_code == 404


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\x01b"])
def test_a_name_that_is_none_is_refused(browser: FlaskClient, name: str) -> None:
    assert "A name has 1 to 60 characters." in save(browser, name)
    assert saved(browser) == {}


@pytest.mark.parametrize("query", ["sort=nothing", "status=other&status=" + "x" * 400])
def test_a_query_that_no_list_has_is_refused(browser: FlaskClient, query: str) -> None:
    answer = browser.post(
        "/ui/filters/work-orders", data={"name": "a", "query": query}, headers=FROM_PAGE
    )
    assert answer.status_code == 422
    assert saved(browser) == {}


def test_only_what_a_list_understands_is_saved(browser: FlaskClient) -> None:
    save(browser, "a", "q=pump&after=x&unknown=1&//elsewhere.example")
    assert saved(browser) == {"a": "/work-orders?q=pump"}


def test_a_name_that_two_save_at_the_same_time_is_saved_once(
    browser: FlaskClient, app: Flask
) -> None:
    both = threading.Barrier(2, timeout=20)

    def wait(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT INTO saved_filters"):
            both.wait()

    def post(query: str) -> int:
        answer = app.test_client().post(
            "/ui/filters/work-orders",
            data={"name": "Urgent", "query": query},
            headers={**FROM_PAGE, "Accept": "text/html"},
        )
        return answer.status_code

    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", wait)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(post, ["q=pump", "q=valve"])) == [303, 303]
    assert saved(browser)["Urgent"] in {"/work-orders?q=pump", "/work-orders?q=valve"}


def test_there_is_a_limit(browser: FlaskClient) -> None:
    for number in range(30):
        save(browser, f"filter {number}")
    assert "There are 30 filters already: remove one first." in save(browser, "one more")
    save(browser, "filter 3", "q=x")
    assert len(saved(browser)) == 30


def test_each_person_has_their_own(login_app: Flask) -> None:
    engineer, crew = logged_in(login_app, "engineer"), logged_in(login_app, "crew")
    save(engineer, "Urgent")
    save(crew, "Urgent", "q=pump")
    assert saved(engineer) == {"Urgent": f"/work-orders?{QUERY}"}
    assert saved(crew) == {"Urgent": "/work-orders?q=pump"}
    remove = re.search(r'action="([^"]+/remove)"', crew.get("/work-orders").text)
    assert remove is not None
    assert engineer.post(remove[1], headers=FROM_PAGE).status_code == 404
    assert saved(crew)


def assigned(client: FlaskClient, name: str, status: str = "open") -> dict[str, Any]:
    """A work order of a crew member with a name; both are new."""
    pump = client.post("/api/equipment", json={"name": "Pump", "type": "pump"}).get_json()
    person = client.post("/api/crew", json={"name": name}).get_json()
    body = {"equipmentId": pump["id"], "reason": f"Work of {name}", "status": status}
    answer = client.post("/api/work-orders", json={**body, "assignedCrewId": person["id"]})
    made: dict[str, Any] = answer.get_json()
    schedule = {
        "equipmentId": pump["id"],
        "scheduledDate": "2030-01-01T08:00:00Z",
        "maintenanceType": f"inspection by {name}",
        "assignedCrewId": person["id"],
    }
    assert client.post("/api/maintenance-schedules", json=schedule).status_code == 201
    return made


def mine(browser: FlaskClient) -> str:
    page = unescape(browser.get("/").text)
    found = re.search(r'<section class="mine".*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def test_the_dashboard_shows_the_work_of_who_is_at_the_device(browser: FlaskClient) -> None:
    anna = assigned(browser, "Anna")
    assigned(browser, "Bert")
    assert mine(browser) == ""
    answer = browser.post("/ui/who", data={"by": anna["assignedCrewId"]})
    assert answer.status_code == 303
    assert "Work of Anna" in mine(browser)
    assert "inspection by Anna" in mine(browser)
    assert "Bert" not in mine(browser)
    done = browser.patch(f"/api/work-orders/{anna['id']}", json={"status": "completed"})
    assert done.status_code == 200
    assert "Work of Anna" not in mine(browser)


def test_who_logs_in_sees_the_work_of_the_crew_member_with_this_name(login_app: Flask) -> None:
    engineer, crew = logged_in(login_app, "engineer"), logged_in(login_app, "crew")
    engineer.environ_base |= {"HTTP_ORIGIN": "http://localhost"}
    assert mine(engineer) == ""
    assigned(engineer, "ENGINEER")
    assert "Work of ENGINEER" in mine(engineer)
    assert mine(crew) == ""
    assigned(engineer, "Engineer")
    assert mine(engineer) == "", "two have the name: it is not known which of them it is"


def test_who_logs_in_acknowledges_in_their_own_name(login_app: Flask) -> None:
    engineer = logged_in(login_app, "engineer")
    engineer.environ_base |= {"HTTP_ORIGIN": "http://localhost"}
    order = assigned(engineer, "Anna")
    alert = {"sensorType": "level", "alertType": "critical", "message": "High", "value": 2}
    body = {**alert, "threshold": 1, "equipmentId": order["equipmentId"]}
    made = engineer.post("/api/alerts", json=body).get_json()
    answer = engineer.post(f"/alerts/{made['id']}/acknowledge", data={"version": "1"})
    assert (answer.status_code, answer.location) == (303, f"/alerts/{made['id']}")
    found = engineer.get(f"/api/alerts/{made['id']}").get_json()
    assert found["acknowledgedBy"] == "engineer"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)  # it counts characters
def test_a_name_that_grows_when_it_is_compared_is_saved(browser: FlaskClient) -> None:
    name = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 60
    save(browser, name)
    assert saved(browser) == {name: f"/work-orders?{QUERY}"}
