"""The five resources in a browser: what a crew does all day, one click each."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import PHONE
from tests.support.gunicorn_app import GunicornApp

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(400),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

#: Milliseconds: some polls of a page, 5 s each.
SOON = 30_000


@pytest.fixture
def app(start_app: Callable[..., GunicornApp]) -> GunicornApp:
    return start_app()


def made(app: GunicornApp, resource: str, **body: Any) -> dict[str, Any]:
    answer = app.post(f"/api/{resource}", body)
    assert answer.status == 201, answer.text
    row: dict[str, Any] = answer.json
    return row


def changed(app: GunicornApp, resource: str, row: dict[str, Any], **body: Any) -> None:
    answer = app.request("PATCH", f"/api/{resource}/{row['id']}", body)
    assert answer.status == 200, answer.text


def in_days(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


def pump(app: GunicornApp, name: str = "Fire pump No.1") -> dict[str, Any]:
    return made(app, "equipment", name=name, type="pump", location="Engine room")


def alert(app: GunicornApp, equipment: dict[str, Any], message: str) -> dict[str, Any]:
    body = {"sensorType": "vibration", "alertType": "critical", "value": 8.5, "threshold": 7.1}
    return made(app, "alerts", equipmentId=equipment["id"], message=message, **body)


def table_row(page: Page, text: str) -> Locator:
    return page.locator(".list tbody tr", has_text=text)


def heading(page: Page) -> Locator:
    return page.get_by_role("heading", level=1)


def test_an_alert_is_acknowledged_by_name_and_becomes_a_work_order(
    app: GunicornApp, page: Page
) -> None:
    equipment = pump(app)
    made(app, "crew", name="Rajesh Nair")
    alert(app, equipment, "Vibration high")
    alert(app, equipment, "Vibration still high")

    page.goto(f"{app.url}/alerts")
    row = table_row(page, "Vibration high")
    row.get_by_role("button", name="Acknowledge").click()
    expect(heading(page)).to_have_text("Who is at this device?")
    page.get_by_label("Name").select_option(label="Rajesh Nair")
    page.get_by_role("button", name="Acknowledge").click()
    expect(heading(page)).to_have_text("Alerts")
    expect(row.get_by_role("button", name="Acknowledge")).to_have_count(0)

    # the device remembers: now it is one click, and the row changes in its place
    still = table_row(page, "Vibration still high")
    still.get_by_role("button", name="Acknowledge").click()
    expect(still.get_by_role("button", name="Acknowledge")).to_have_count(0)
    expect(still).to_be_focused()
    items = app.get("/api/alerts").json["items"]
    assert {item["acknowledgedBy"] for item in items} == {"Rajesh Nair"}

    page.get_by_label("Acknowledged").select_option(label="no")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("Nothing matches.")).to_be_visible()
    page.get_by_role("link", name="Show all").click()

    row.get_by_role("link", name="Vibration high").click()
    page.get_by_role("button", name="Make work order").dblclick()
    expect(heading(page)).to_contain_text("Vibration high")
    expect(page.locator(".details")).to_contain_text("vibration 8.5, threshold 7.1")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Complete")).to_be_visible()
    page.get_by_role("button", name="Complete").click()
    expect(page.locator(".details")).to_contain_text("completed")
    (order,) = app.get("/api/work-orders").json["items"]
    assert (order["status"], order["priority"]) == ("completed", 1)

    # all of it is the history of the piece of equipment
    page.get_by_role("link", name="Fire pump No.1").click()
    history = page.locator(".timeline")
    expect(history.locator(".row-title")).to_have_text(
        ["Vibration high", "Vibration still high", "Vibration high"]
    )
    expect(history).to_contain_text("Rajesh Nair")


def test_due_maintenance_becomes_the_work_of_somebody(app: GunicornApp, page: Page) -> None:
    equipment = pump(app)
    maria = made(app, "crew", name="Maria Villanueva", rank="Chief Officer")
    body = {"equipmentId": equipment["id"], "assignedTo": "Maria Villanueva"}
    made(
        app, "maintenance-schedules", **body, scheduledDate=in_days(-3), maintenanceType="overhaul"
    )
    made(app, "maintenance-schedules", **body, scheduledDate=in_days(90), maintenanceType="paint")

    page.goto(app.url)
    expect(page.locator("#counts")).to_contain_text("1 overdue maintenance")
    due = page.locator("#schedules > li")
    expect(due).to_have_count(1)
    expect(due).to_contain_text("overdue")
    due.get_by_role("button", name="Make work order").click()
    expect(heading(page)).to_contain_text("overhaul")
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Assigned to").select_option(label="Maria Villanueva")
    page.get_by_label("Planned start").fill("2026-12-24T08:00")
    page.get_by_label("Planned end").fill("2026-12-23T08:00")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Planned end")).to_be_focused()
    expect(page.locator("#edit-plannedEndDate-error")).to_be_visible()
    page.get_by_label("Planned end").fill("2026-12-25T08:00")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".details")).to_contain_text("24 Dec 08:00")

    page.get_by_role("link", name="Maria Villanueva").click()
    expect(heading(page)).to_have_text("Maria Villanueva")
    to_do = page.get_by_role("region", name="Work orders to do")
    expect(to_do.locator("li")).to_contain_text("overhaul")
    expect(page.get_by_role("region", name="Maintenance to do").locator("li")).to_have_count(2)
    page.get_by_role("button", name="Goes on duty").click()
    expect(page.get_by_role("button", name="Goes off duty")).to_be_visible()
    assert app.get(f"/api/crew/{maria['id']}").json["onDuty"] is True


def test_a_list_is_searched_sorted_and_paged_in_the_address(app: GunicornApp, page: Page) -> None:
    equipment = pump(app)
    for number in range(60):
        reason = f"{'Seal' if number % 2 else 'Valve'} {number:02}"
        body = {"reason": reason, "priority": number % 5 + 1}
        made(app, "work-orders", equipmentId=equipment["id"], **body)
    page.goto(app.url)
    page.get_by_role("navigation", name="Pages", exact=True).get_by_role(
        "link", name="Work orders"
    ).click()
    page.get_by_role("searchbox").fill("seal")
    page.get_by_role("searchbox").press("Enter")
    titles = page.locator(".list tbody .row-title")
    expect(titles).to_have_count(25)
    expect(titles.first).to_have_text("Seal 59")
    page.get_by_role("columnheader", name="Priority").get_by_role("link").click()
    expect(page.get_by_role("columnheader", name="Priority")).to_have_attribute(
        "aria-sort", "ascending"
    )
    first = titles.all_inner_texts()
    page.get_by_role("link", name="Next").click()
    expect(titles).to_have_count(5)
    expect(page.get_by_role("searchbox")).to_have_value("seal")
    assert not set(titles.all_inner_texts()) & set(first)
    page.reload()
    expect(titles).to_have_count(5)
    page.get_by_role("link", name="Previous").click()
    expect(titles).to_have_count(25)
    assert titles.all_inner_texts() == first


def test_an_open_list_shows_what_others_do(app: GunicornApp, page: Page) -> None:
    equipment = pump(app)
    body = {"equipmentId": equipment["id"]}
    first = made(app, "work-orders", **body, reason="Mend the ladder")
    second = made(app, "work-orders", **body, reason="Paint the deck")
    page.goto(f"{app.url}/work-orders?q=the")
    expect(table_row(page, "Mend the ladder").locator(".state")).to_have_text(
        "delivered", timeout=SOON
    )
    changed(app, "work-orders", first, status="in_progress")
    expect(table_row(page, "Mend the ladder")).to_contain_text("in progress", timeout=SOON)
    assert app.request("DELETE", f"/api/work-orders/{second['id']}").status == 204
    expect(page.get_by_text("Deleted by somebody else.")).to_be_visible(timeout=SOON)
    made(app, "work-orders", **body, reason="Not searched for")
    made(app, "work-orders", **body, reason="Clean the bilge")
    page.get_by_role("link", name="1 new: show it").click(timeout=SOON)
    expect(table_row(page, "Clean the bilge")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_value("the")

    # an open form tells before it is sent
    page.goto(f"{app.url}/work-orders/{first['id']}/edit")
    changed(app, "work-orders", first, priority=1)
    expect(page.locator("#changed")).to_contain_text("Somebody else has changed", timeout=SOON)


def test_each_page_fits_a_phone(app: GunicornApp, page: Page) -> None:
    long = "W" * 90
    equipment = pump(app, long)
    rows = {
        "equipment": equipment,
        "crew": made(app, "crew", name=long, email="x" * 60 + "@ship.example", notes=long),
        "alerts": alert(app, equipment, long),
        "work-orders": made(app, "work-orders", equipmentId=equipment["id"], reason=long),
        "schedules": made(
            app,
            "maintenance-schedules",
            equipmentId=equipment["id"],
            scheduledDate=in_days(1),
            maintenanceType="M" * 50,
        ),
    }
    paths = ["/", "/ui/who", "/nowhere"]
    for slug, row in rows.items():
        paths += [f"/{slug}", f"/{slug}/new", f"/{slug}?q=none"]
        paths += [f"/{slug}/{row['id']}{end}" for end in ("", "/edit", "/delete")]
    page.set_viewport_size(PHONE)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for path in paths:
        page.goto(app.url + path)
        expect(heading(page)).to_have_count(1)
        assert page.evaluate(overflow) == 0, path


def test_without_scripts_all_of_it_works_too(app: GunicornApp, page: Page) -> None:
    browser = page.context.browser
    assert browser
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(f"{app.url}/equipment/new")
    plain.get_by_role("button", name="Save").click()
    expect(plain.locator(".error")).to_have_count(2)
    plain.get_by_label("Name").fill("Crane")
    plain.get_by_label("Type").fill("crane")
    plain.get_by_label("Specifications").fill("swlT: 30")
    plain.get_by_role("button", name="Save").click()
    expect(heading(plain)).to_have_text("Crane")
    expect(plain.locator(".flash")).to_have_text("Crane is saved.")
    plain.get_by_role("link", name="New work order").click()
    expect(plain.get_by_label("Equipment")).to_have_value(re.compile(r"^[0-9a-f-]{36}$"))
    plain.get_by_label("Reason").fill("Renew the wire")
    plain.get_by_role("button", name="Save").click()
    plain.get_by_role("link", name="Edit").click()
    (order,) = app.get("/api/work-orders").json["items"]
    changed(app, "work-orders", order, reason="Renew the rope")
    plain.get_by_label("Reason").fill("Renew the hook")
    plain.get_by_role("button", name="Save").click()
    expect(heading(plain)).to_contain_text("Somebody else has changed this")
    plain.get_by_label("Yours").check()
    plain.get_by_role("button", name="Save what is chosen").click()
    expect(heading(plain)).to_contain_text("Renew the hook")
    plain.get_by_role("button", name="Start").click()
    expect(plain.get_by_role("button", name="Complete")).to_be_visible()
    plain.get_by_role("link", name="Delete").click()
    plain.get_by_role("button", name="Delete").click()
    expect(plain.locator(".flash")).to_contain_text("is deleted")
    context.close()
