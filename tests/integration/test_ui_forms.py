"""The forms of the pages, without scripts: what is typed is kept, and nothing is overwritten unseen."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from blueprints.ui.kinds import KINDS

#: What the databases do differently is the lists' and the API's business.
pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

NOBODY = "00000000-0000-4000-8000-000000000000"
API = {slug: slug for slug in KINDS} | {"schedules": "maintenance-schedules"}
FILLED: dict[str, dict[str, str]] = {
    "work-orders": {"equipmentId": "EQUIPMENT", "reason": "Leaking seal"},
    "alerts": {
        "equipmentId": "EQUIPMENT",
        "message": "Bearing hot",
        "alertType": "critical",
        "sensorType": "temperature",
        "value": "96,5",
        "threshold": "90",
    },
    "schedules": {
        "equipmentId": "EQUIPMENT",
        "maintenanceType": "inspection",
        "scheduledDate": "2026-12-01T08:00",
    },
    "equipment": {"name": "Bilge pump", "type": "pump", "specifications": "powerKw: 30"},
    "crew": {"name": "Maria Villanueva", "email": "maria@ship.example"},
}
NAMING = {
    "work-orders": "reason",
    "alerts": "message",
    "schedules": "maintenanceType",
    "equipment": "name",
    "crew": "name",
}


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    """A browser without scripts."""
    client = app.test_client()
    client.environ_base |= {"HTTP_ACCEPT": "text/html", "HTTP_ORIGIN": "http://localhost"}
    return client


def inputs(text: str) -> dict[str, str]:
    """What the page's main form would send as it is shown."""
    form = re.findall(r'<form method="post".*?</form>', text, re.DOTALL)[-1]
    sent: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", form):
        named = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if named.get("type") not in {"checkbox", "radio"} or " checked" in tag:
            sent[named["name"]] = unescape(named.get("value", ""))
    for name, body in re.findall(
        r'<select[^>]*name="([^"]+)"[^>]*>(.*?)</select>', form, re.DOTALL
    ):
        chosen = re.findall(r'value="([^"]*)" selected', body) or re.findall(
            r'value="([^"]*)"', body
        )
        sent[name] = unescape(chosen[0])
    for name, body in re.findall(
        r'<textarea[^>]*name="([^"]+)"[^>]*>\n(.*?)</textarea>', form, re.DOTALL
    ):
        sent[name] = unescape(body).replace("\n", "\r\n")
    return sent


def open_form(browser: FlaskClient, url: str) -> dict[str, str]:
    answer = browser.get(url)
    assert answer.status_code == 200, answer.text
    return inputs(answer.text)


def filled(slug: str, equipment_id: str) -> dict[str, str]:
    return {k: equipment_id if v == "EQUIPMENT" else v for k, v in FILLED[slug].items()}


def made(browser: FlaskClient, slug: str, equipment_id: str) -> str:
    """Make a row by its form, and return the address of its page."""
    form = open_form(browser, f"/{slug}/new") | filled(slug, equipment_id)
    answer = browser.post(f"/{slug}/new", data=form)
    assert answer.status_code == 303, answer.text
    return str(answer.location)


def row(browser: FlaskClient, url: str) -> dict[str, Any]:
    _, slug, row_id = url.split("/")
    found: dict[str, Any] = browser.get(f"/api/{API[slug]}/{row_id}").get_json()
    return found


@pytest.mark.parametrize("slug", KINDS)
def test_a_row_is_made_shown_changed_and_deleted(
    browser: FlaskClient, equipment_id: str, slug: str
) -> None:
    url = made(browser, slug, equipment_id)
    page = browser.get(url)
    assert page.status_code == 200
    assert FILLED[slug][NAMING[slug]] in page.text

    form = open_form(browser, f"{url}/edit")
    unchanged = browser.post(f"{url}/edit", data=form)
    assert unchanged.status_code == 303
    assert row(browser, url)["version"] == 1, "a form sent as it was changes nothing"

    changed = browser.post(f"{url}/edit", data=form | {NAMING[slug]: "Otherwise"})
    assert changed.status_code == 303, changed.text
    assert row(browser, url)[NAMING[slug]] == "Otherwise"
    assert row(browser, url)["version"] == 2

    asked = open_form(browser, f"{url}/delete")
    assert browser.post(f"{url}/delete", data=asked).location == f"/{slug}"
    assert "was deleted" in browser.get(f"/{slug}").text
    assert browser.get(url).status_code == 404


def test_what_is_typed_is_read_as_a_person_means_it(
    browser: FlaskClient, equipment_id: str
) -> None:
    alert = row(browser, made(browser, "alerts", equipment_id))
    assert alert["value"] == 96.5
    pump = row(browser, made(browser, "equipment", equipment_id))
    assert pump["specifications"] == {"powerKw": 30}
    assert pump["isActive"] is True
    schedule = row(browser, made(browser, "schedules", equipment_id))
    assert schedule["scheduledDate"] == "2026-12-01T08:00:00.000Z"


def test_times_are_typed_in_the_ships_zone(make_app: Any, migrated_database_url: str) -> None:
    app = make_app(migrated_database_url, SHIP_TIMEZONE="Asia/Manila")
    client = app.test_client()
    client.environ_base |= {"HTTP_ACCEPT": "text/html", "HTTP_ORIGIN": "http://localhost"}
    pump = client.post("/api/equipment", json={"name": "Pump", "type": "pump"}).get_json()
    url = made(client, "schedules", pump["id"])
    assert row(client, url)["scheduledDate"] == "2026-12-01T00:00:00.000Z"
    assert open_form(client, f"{url}/edit")["scheduledDate"] == "2026-12-01T08:00"


def test_a_time_at_the_edge_of_the_calendar_is_an_error_of_its_field(
    make_app: Any, migrated_database_url: str
) -> None:
    client = make_app(migrated_database_url, SHIP_TIMEZONE="America/New_York").test_client()
    client.environ_base |= {"HTTP_ACCEPT": "text/html", "HTTP_ORIGIN": "http://localhost"}
    typed = {"equipmentId": NOBODY, "reason": "Seal", "plannedEndDate": "9999-12-31T23:59"}
    answer = client.post("/work-orders/new", data=typed)
    assert answer.status_code == 422
    assert 'value="Seal"' in answer.text


@pytest.mark.parametrize(
    "arguments", ["endpoint=x", "_external=&_scheme=x", "_scheme=javascript&_external=1", "code=x"]
)
def test_arguments_of_an_address_are_kept_by_the_language_links(
    browser: FlaskClient, arguments: str
) -> None:
    page = browser.get(f"/equipment?{arguments}&type=a&type=b")
    assert page.status_code == 200
    links = [unescape(one) for one in re.findall(r'href="([^"]*lang=[^"]*)"', page.text)]
    assert {one.partition("&lang=")[0] for one in links} == {
        f"/equipment?{arguments}&type=a&type=b"
    }


def test_a_field_is_emptied_and_a_box_unticked(browser: FlaskClient, equipment_id: str) -> None:
    url = made(browser, "equipment", equipment_id)
    form = open_form(browser, f"{url}/edit") | {"specifications": "", "location": " "}
    del form["isActive"]
    assert browser.post(f"{url}/edit", data=form).status_code == 303
    pump = row(browser, url)
    assert (pump["specifications"], pump["location"], pump["isActive"]) == (None, None, False)


@pytest.mark.parametrize(
    ("slug", "typed", "wrong"),
    [
        ("work-orders", {"reason": " ", "estimatedHours": "a few"}, {"reason", "estimatedHours"}),
        ("work-orders", {"equipmentId": NOBODY}, {"equipmentId"}),
        (
            "work-orders",
            {"plannedStartDate": "2026-12-02T08:00", "plannedEndDate": "2026-12-01T08:00"},
            {"plannedEndDate"},
        ),
        ("alerts", {"value": "", "threshold": "nan"}, {"value", "threshold"}),
        ("schedules", {"scheduledDate": "soon", "estimatedDuration": "-5"}, {"scheduledDate", "estimatedDuration"}),
        ("equipment", {"name": "", "specifications": "no colon"}, {"specifications"}),
        ("crew", {"email": "nobody"}, {"email"}),
        ("crew", {"name": "x" * 201, "notes": "\x07"}, {"name", "notes"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("editing", [False, True], ids=["new", "edit"])
def test_errors_stand_at_their_fields_and_what_was_typed_stays(
    browser: FlaskClient,
    equipment_id: str,
    slug: str,
    typed: dict[str, str],
    wrong: set[str],
    editing: bool,
) -> None:
    url = f"{made(browser, slug, equipment_id)}/edit" if editing else f"/{slug}/new"
    form = open_form(browser, url) | filled(slug, equipment_id) | typed
    answer = browser.post(url, data=form)
    assert answer.status_code == 422
    assert set(re.findall(r'id="(?:new|edit)-(\w+)-error"', answer.text)) == wrong
    assert answer.text.count("autofocus") == 1
    shown = inputs(answer.text)
    kept = {key: value for key, value in form.items() if key != "equipmentId"}
    assert {key: shown[key] for key in kept} == kept


def test_a_form_sent_twice_makes_one_row(browser: FlaskClient, equipment_id: str) -> None:
    form = open_form(browser, "/work-orders/new") | filled("work-orders", equipment_id)
    places = {browser.post("/work-orders/new", data=form).location for _ in range(2)}
    assert len(places) == 1
    assert len(browser.get("/api/work-orders").get_json()["items"]) == 1
    # Its answer was lost, and then something was corrected.
    answer = browser.post("/work-orders/new", data=form | {"reason": "Leaking gland"})
    assert answer.status_code == 422
    assert "This form was saved before, with other values." in answer.text
    again = inputs(answer.text)
    assert again["reason"] == "Leaking gland"
    assert browser.post("/work-orders/new", data=again).location not in places


# --- two people ----------------------------------------------------------------------------------


def stale(browser: FlaskClient, url: str, typed: dict[str, str], theirs: dict[str, Any]) -> str:
    """Send a form that somebody else was faster than; return the page that says so."""
    form = open_form(browser, f"{url}/edit") | typed
    _, slug, row_id = url.split("/")
    assert browser.patch(f"/api/{API[slug]}/{row_id}", json=theirs).status_code == 200
    answer = browser.post(f"{url}/edit", data=form)
    assert answer.status_code == 409
    assert answer.mimetype == "text/html"
    return answer.text


def test_a_stale_form_shows_both_and_saves_what_is_chosen(
    browser: FlaskClient, equipment_id: str
) -> None:
    url = made(browser, "work-orders", equipment_id)
    mine = {"reason": "Mine", "description": "two\r\nlines", "maintenanceType": "corrective"}
    text = stale(
        browser, url, mine, {"reason": "Theirs", "priority": 1, "maintenanceType": "corrective"}
    )
    assert row(browser, url)["reason"] == "Theirs", "nothing is saved yet"
    assert re.findall(r"<legend>(.*?)</legend>", text) == ["Reason", "Priority", "Description"]
    chosen = inputs(text)
    # what only one of the two has changed is theirs by default; where both did, the row stays
    assert chosen["use.reason"] == chosen["use.priority"] == "theirs"
    assert chosen["use.description"] == "mine"
    answer = browser.post(f"{url}/edit", data=chosen | {"use.reason": "mine"})
    assert answer.status_code == 303, answer.text
    saved = row(browser, url)
    assert (saved["reason"], saved["priority"], saved["description"]) == ("Mine", 1, "two\nlines")
    assert saved["version"] == 3


def test_a_stale_form_overwrites_only_when_told_to(browser: FlaskClient, equipment_id: str) -> None:
    url = made(browser, "work-orders", equipment_id)
    text = stale(browser, url, {"reason": "Mine"}, {"reason": "Theirs", "priority": 1})
    answer = browser.post(f"{url}/edit", data=inputs(text) | {"decide": "mine"})
    assert answer.status_code == 303
    saved = row(browser, url)
    assert (saved["reason"], saved["priority"]) == ("Mine", 3)


def test_a_third_person_makes_the_conflict_be_shown_again(
    browser: FlaskClient, equipment_id: str
) -> None:
    url = made(browser, "work-orders", equipment_id)
    chosen = inputs(stale(browser, url, {"reason": "Mine"}, {"reason": "Theirs"}))
    row_id = url.rsplit("/", 1)[1]
    browser.patch(f"/api/work-orders/{row_id}", json={"reason": "The third's"})
    again = browser.post(f"{url}/edit", data=chosen | {"use.reason": "mine"})
    assert again.status_code == 409
    assert "The third&#39;s" in again.text
    assert "Mine" in again.text
    saved = browser.post(f"{url}/edit", data=inputs(again.text) | {"use.reason": "mine"})
    assert saved.status_code == 303
    assert row(browser, url)["reason"] == "Mine"


def test_two_who_typed_the_same_are_not_asked(browser: FlaskClient, equipment_id: str) -> None:
    url = made(browser, "work-orders", equipment_id)
    form = open_form(browser, f"{url}/edit") | {"reason": "The same"}
    browser.patch(f"/api/work-orders/{url.rsplit('/', 1)[1]}", json={"reason": "The same"})
    assert browser.post(f"{url}/edit", data=form).status_code == 303


def test_what_was_typed_survives_a_row_that_was_deleted_meanwhile(
    browser: FlaskClient, equipment_id: str
) -> None:
    url = made(browser, "work-orders", equipment_id)
    form = open_form(browser, f"{url}/edit") | {"reason": "Typed for long"}
    assert browser.delete(f"/api/work-orders/{url.rsplit('/', 1)[1]}").status_code == 204
    answer = browser.post(f"{url}/edit", data=form)
    assert answer.status_code == 409
    anew = browser.post("/work-orders/new", data=inputs(answer.text))
    assert anew.status_code == 303
    assert row(browser, str(anew.location))["reason"] == "Typed for long"


def test_a_stale_delete_asks_again(browser: FlaskClient, equipment_id: str) -> None:
    url = made(browser, "work-orders", equipment_id)
    asked = open_form(browser, f"{url}/delete")
    browser.patch(f"/api/work-orders/{url.rsplit('/', 1)[1]}", json={"reason": "Still needed"})
    answer = browser.post(f"{url}/delete", data=asked)
    assert answer.status_code == 409
    assert "Still needed" in answer.text
    assert browser.get(url).status_code == 200


def test_a_row_that_others_refer_to_says_which(browser: FlaskClient, equipment_id: str) -> None:
    made(browser, "work-orders", equipment_id)
    asked = open_form(browser, f"/equipment/{equipment_id}/delete")
    answer = browser.post(f"/equipment/{equipment_id}/delete", data=asked)
    assert answer.status_code == 409
    assert "1 in work orders" in answer.text


# --- one click -----------------------------------------------------------------------------------


def click(browser: FlaskClient, url: str, verb: str, **more: str) -> TestResponse:
    return browser.post(
        f"{url}/{verb}", data={"version": str(row(browser, url)["version"]), **more}
    )


def test_a_work_order_goes_its_way(browser: FlaskClient, equipment_id: str) -> None:
    url = made(browser, "work-orders", equipment_id)
    for verb, status in [
        ("start", "in_progress"),
        ("complete", "completed"),
        ("reopen", "open"),
        ("cancel", "cancelled"),
    ]:
        assert click(browser, url, verb).location == url
        assert row(browser, url)["status"] == status


def test_a_click_on_what_was_changed_meanwhile_does_nothing_and_says_so(
    browser: FlaskClient, equipment_id: str
) -> None:
    url = made(browser, "work-orders", equipment_id)
    browser.patch(f"/api/work-orders/{url.rsplit('/', 1)[1]}", json={"status": "cancelled"})
    answer = browser.post(f"{url}/start", data={"version": "1"}, follow_redirects=True)
    assert "changed in the meantime" in answer.text
    assert row(browser, url)["status"] == "cancelled"


def test_an_alert_makes_one_work_order_however_often_it_is_asked(
    browser: FlaskClient, equipment_id: str
) -> None:
    url = made(browser, "alerts", equipment_id)
    first = click(browser, url, "work-order").location
    order = row(browser, str(first))
    assert (order["reason"], order["priority"]) == ("Bearing hot", 1)
    assert "96.5" in order["description"]
    assert click(browser, url, "work-order").location == first
    browser.delete(f"/api{first}")
    again = click(browser, url, "work-order").location
    assert again != first
    assert row(browser, str(again))["reason"] == "Bearing hot"


def test_a_schedule_makes_its_work_order_once(browser: FlaskClient, equipment_id: str) -> None:
    url = made(browser, "schedules", equipment_id)
    order = click(browser, url, "work-order").location
    assert row(browser, url)["workOrderId"] == str(order).rsplit("/", 1)[1]
    assert click(browser, url, "work-order").location == order


@pytest.mark.parametrize("status", ["completed", "cancelled"])
def test_a_stale_page_makes_no_work_order_of_maintenance_that_is_over(
    browser: FlaskClient, equipment_id: str, status: str
) -> None:
    url = made(browser, "schedules", equipment_id)
    shown = row(browser, url)
    browser.patch(f"/api/maintenance-schedules/{shown['id']}", json={"status": status})
    answer = browser.post(
        f"{url}/work-order", data={"version": str(shown["version"])}, follow_redirects=True
    )
    assert "changed in the meantime" in answer.text
    assert row(browser, url)["workOrderId"] is None


def test_who_acknowledges_is_asked_once_and_remembered(
    browser: FlaskClient, equipment_id: str
) -> None:
    maria = made(browser, "crew", equipment_id).rsplit("/", 1)[1]
    first, second = (made(browser, "alerts", equipment_id) for _ in range(2))
    asked = click(browser, first, "acknowledge")
    assert asked.location is not None
    assert asked.location.startswith("/ui/who?")
    assert row(browser, first)["acknowledged"] is False
    form = open_form(browser, asked.location) | {"by": maria}
    assert browser.post("/ui/who", data=form).status_code == 303
    assert row(browser, first)["acknowledgedBy"] == "Maria Villanueva"
    assert click(browser, second, "acknowledge").location == second
    assert row(browser, second)["acknowledgedBy"] == "Maria Villanueva"


@pytest.mark.parametrize(
    "then", ["//elsewhere.example/", "http://elsewhere.example/", "/\\elsewhere"]
)
def test_the_question_who_it_is_leads_nowhere_else(browser: FlaskClient, then: str) -> None:
    assert browser.post("/ui/who", data={"by": "-", "then": then}).location == "/"


def test_a_click_leads_back_to_the_page_that_it_was_made_on_and_nowhere_else(
    browser: FlaskClient, equipment_id: str
) -> None:
    url = made(browser, "work-orders", equipment_id)
    for referrer, place in {
        "http://localhost/work-orders?q=seal": "/work-orders?q=seal",
        "http://localhost//elsewhere.example/": "/elsewhere.example/",
        "http://elsewhere.example/": url,
    }.items():
        answer = browser.post(f"{url}/start", headers={"Referer": referrer})
        assert answer.location == place


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/work-orders/x", 404),
        ("GET", f"/crew/{NOBODY}", 404),
        ("GET", f"/crew/{NOBODY}/edit", 404),
        ("POST", f"/crew/{NOBODY}/delete", 404),
        ("POST", f"/crew/{NOBODY}/fire", 404),
        ("POST", f"/alerts/{NOBODY}/acknowledge", 404),
        ("POST", "/ui/equipment", 404),
        ("POST", "/crew/new", 422),
        ("GET", "/crew/new?name=%01&active=maybe", 200),
        ("GET", "/crew/new?name=%00", 422),
        ("POST", "/ui/who", 303),
        ("PUT", "/crew/new", 405),
        ("GET", "/engines", 404),
    ],
)
def test_each_wrong_turn_ends_on_a_page(
    browser: FlaskClient, method: str, path: str, status: int
) -> None:
    answer = browser.open(path, method=method)
    assert answer.status_code == status
    assert status == 303 or answer.mimetype == "text/html"
