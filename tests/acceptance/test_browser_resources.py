"""The five resources in a browser: what a crew does all day, one click each."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import PHONE, WIDTHS, axe, choose, misfits, walk
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
    expect(heading(page)).to_have_text("Device user")
    choose(page, "Name", "Rajesh Nair")
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
    expect(page.get_by_text("No matches.")).to_be_visible()
    page.get_by_role("link", name="Show all").click()

    row.get_by_role("link", name="Vibration high").click()
    page.get_by_role("button", name="Raise work order").dblclick()
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
    history = page.get_by_role("region", name="History").locator(".timeline")
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
    due.get_by_role("button", name="Raise work order").click()
    expect(heading(page)).to_contain_text("overhaul")
    page.get_by_role("link", name="Edit").click()
    choose(page, "Assigned to", "Maria Villanueva")
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
    to_do = page.get_by_role("region", name="Outstanding work orders")
    expect(to_do.locator("li")).to_contain_text("overhaul")
    expect(page.get_by_role("region", name="Outstanding maintenance").locator("li")).to_have_count(
        2
    )
    page.get_by_role("button", name="Put on duty").click()
    expect(page.get_by_role("button", name="Take off duty")).to_be_visible()
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
    page.locator("main").get_by_role("searchbox").fill("seal")
    page.locator("main").get_by_role("searchbox").press("Enter")
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
    expect(page.locator("main").get_by_role("searchbox")).to_have_value("seal")
    assert not set(titles.all_inner_texts()) & set(first)
    page.reload()
    expect(titles).to_have_count(5)
    page.get_by_role("link", name="Previous").click()
    expect(titles).to_have_count(25)
    assert titles.all_inner_texts() == first

    # Where the rows are cards, too.
    page.set_viewport_size({"width": 412, "height": 800})
    sort = page.get_by_role("columnheader", name="Priority").get_by_role("link")
    expect(sort).to_be_in_viewport()
    sort.click()
    expect(page.get_by_role("columnheader", name="Priority")).to_have_attribute(
        "aria-sort", "descending"
    )


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
    expect(page.locator("main").get_by_role("searchbox")).to_have_value("the")

    # an open form tells before it is sent
    page.goto(f"{app.url}/work-orders/{first['id']}/edit")
    changed(app, "work-orders", first, priority=1)
    expect(page.locator("#changed")).to_contain_text("Somebody else has changed", timeout=SOON)


def long_rows(app: GunicornApp) -> dict[str, dict[str, Any]]:
    """A row of each kind whose texts are words as long as may be."""
    long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    equipment = made(
        app,
        "equipment",
        **dict.fromkeys(("name", "type", "location", "manufacturer", "model"), long),
        specifications={long: long},
    )
    person = made(app, "crew", name=long, rank=long, email="x" * 60 + "@ship.example", notes=long)
    assigned = {"equipmentId": equipment["id"], "assignedCrewId": person["id"]}
    past = in_days(-2)
    order = made(
        app, "work-orders", **assigned, reason=long, description=long * 3,
        maintenanceType=long[:50], plannedStartDate=past, plannedEndDate=past,
    )  # fmt: skip
    schedule = made(
        app, "maintenance-schedules", **assigned, scheduledDate=past, maintenanceType=long[:50]
    )
    alerts = alert(app, equipment, long * 5)
    return {
        "equipment": equipment, "crew": person, "work-orders": order, "schedules": schedule,
        "alerts": alerts,
    }  # fmt: skip


def test_each_page_fits_every_window(app: GunicornApp, page: Page) -> None:
    rows = long_rows(app)
    for number in range(30):
        body = {"equipmentId": rows["equipment"]["id"], "reason": f"Job {number}"}
        made(app, "work-orders", **body, assignedCrewId=rows["crew"]["id"])
    found = []
    seen = 0
    for _ in walk(page, f"{app.url}/", queries=False):
        seen += 1
        found += misfits(page, WIDTHS)
    order = rows["work-orders"]
    page.goto(f"{app.url}/work-orders/{order['id']}/edit?lang=nb")
    changed(app, "work-orders", order, reason="By another", description="B" * 200)
    page.locator("[name=reason]").fill("M" * 200)
    page.locator("[name=description]").fill("By me")
    page.locator("main form [type=submit]").click()
    expect(page.locator(".conflict")).to_be_visible()
    found += misfits(page, WIDTHS)
    chosen = "status=open&status=completed"
    for path in (f"/work-orders?lang=nb&{chosen}&equipment={rows['equipment']['id']}", "/nowhere"):
        page.goto(app.url + path)
        found += misfits(page, WIDTHS)
    assert not found, "\n".join(found)
    assert seen > 25


def test_a_choice_is_searched_by_keyboard_and_by_finger(app: GunicornApp, page: Page) -> None:
    equipment = [pump(app, f"Pump {number}") for number in range(1, 61)]
    page.goto(f"{app.url}/work-orders/new")
    box = page.get_by_role("combobox", name="Equipment")
    options = page.get_by_role("listbox", name="Choices").get_by_role("option")
    box.focus()
    page.keyboard.press("ArrowDown")
    expect(options).to_have_count(51)  # fifty, and none
    expect(page.get_by_text("There are more: type to search.")).to_be_visible()
    page.keyboard.type("PUMP 60")
    expect(options).to_have_text(["Pump 60"])
    expect(box).to_have_attribute("aria-activedescendant", re.compile("."))
    assert not axe(page)
    page.keyboard.press("Enter")
    expect(box).to_have_value("Pump 60")
    expect(box).to_have_attribute("aria-expanded", "false")
    page.keyboard.type("nowhere")
    expect(page.get_by_text("No matches.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(box).to_have_value("Pump 60")
    # Typed at once, and sent while the server still searches.
    box.fill("pump 59")
    page.keyboard.press("Tab")
    page.get_by_label("Reason").fill("Seal leaks")

    # What is restored after a reload includes a choice that the page does not offer.
    page.reload()
    expect(box).to_have_value("Pump 59")
    page.set_viewport_size(PHONE)
    box.click()
    box.fill("58")
    options.get_by_text("Pump 58").click()
    expect(box).to_have_value("Pump 58")
    page.get_by_role("button", name="Save").click()
    expect(heading(page)).to_contain_text("Seal leaks")
    (order,) = app.get("/api/work-orders").json["items"]
    assert order["equipmentId"] == equipment[57]["id"]

    page.goto(f"{app.url}/work-orders")
    choose(page, "Equipment", "Pump 57")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("No matches.")).to_be_visible()
    expect(page.get_by_role("combobox", name="Equipment")).to_have_value("Pump 57")
    box = page.get_by_role("combobox", name="Equipment")
    box.fill("")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(table_row(page, "Seal leaks")).to_be_visible()


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
    expect(plain.locator(".flash")).to_have_text("Crane was saved.")
    plain.get_by_role("link", name="New work order").click()
    expect(plain.get_by_label("Equipment")).to_have_value(re.compile(r"^[0-9a-f-]{36}$"))
    plain.get_by_label("Reason").fill("Renew the wire")
    plain.get_by_role("button", name="Save").click()
    plain.get_by_role("link", name="Edit").click()
    (order,) = app.get("/api/work-orders").json["items"]
    changed(app, "work-orders", order, reason="Renew the rope")
    plain.get_by_label("Reason").fill("Renew the hook")
    plain.get_by_role("button", name="Save").click()
    expect(heading(plain)).to_have_text("Edit conflict")
    plain.get_by_label("Yours").check()
    plain.get_by_role("button", name="Save selection").click()
    expect(heading(plain)).to_contain_text("Renew the hook")
    plain.get_by_role("button", name="Start").click()
    expect(plain.get_by_role("button", name="Complete")).to_be_visible()
    plain.get_by_role("link", name="Delete").click()
    plain.get_by_role("button", name="Delete").click()
    expect(plain.locator(".flash")).to_contain_text("was deleted")
    context.close()
