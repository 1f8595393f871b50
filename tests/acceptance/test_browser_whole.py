"""The whole of the pages, as a ship has them: offline, by host name, behind a prefix, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import SHIP_HOST, Traffic, choose, strict_page, walk
from tests.support.gunicorn_app import GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tools import translations

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1200),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

#: Milliseconds: some polls of a page (5 s each), and the relay's reconnect.
SOON = 30_000
RESOURCES = ("work-orders", "alerts", "equipment", "crew", "maintenance-schedules")


@pytest.fixture
def app(start_app: Callable[..., GunicornApp]) -> GunicornApp:
    app = start_app()
    for name in ("Main engine", "Ballast pump 1"):
        assert app.post("/api/equipment", {"name": name, "type": "machinery"}).status == 201
    return app


@pytest.fixture
def ship(app: GunicornApp, browser: Browser) -> Iterator[Page]:
    """The vessel's first page by host name: plain http, so no secure context."""
    with strict_page(browser) as page:
        page.goto(f"http://{SHIP_HOST}:{app.port}/")
        assert page.evaluate("window.isSecureContext") is False
        yield page


def order_of(app: GunicornApp, reason: str) -> dict[str, Any]:
    (equipment, *_) = app.get("/api/equipment").json["items"]
    answer = app.post("/api/work-orders", {"equipmentId": equipment["id"], "reason": reason})
    assert answer.status == 201, answer.text
    row: dict[str, Any] = answer.json
    return row


def orders(app: GunicornApp) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = app.get("/api/work-orders").json["items"]
    return items


# --- every page ----------------------------------------------------------------------------------

#: What a page says, but for what a program reads.
SAID = """() => {
  const shown = (element) => element && !element.closest("pre, code, script, style, [lang=en]");
  const texts = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
  const said = [document.title];
  while (texts.nextNode()) {
    if (shown(texts.currentNode.parentElement)) said.push(texts.currentNode.data.trim());
  }
  for (const element of document.querySelectorAll("[title], [aria-label], [alt], [placeholder]")) {
    if (!shown(element)) continue;
    for (const name of ["title", "aria-label", "alt", "placeholder"]) {
      if (element.getAttribute(name)) said.push(element.getAttribute(name).trim());
    }
  }
  return said;
}"""


def typed_by_people(app: GunicornApp) -> set[str]:
    """The texts of the rows, in whatever language they were typed; they may have been numbered."""
    fixed = {"status", "priority", "alertType", "criticalityLevel"}
    return {
        shown
        for resource in RESOURCES
        for row in app.get(f"/api/{resource}?limit=200").json["items"]
        for name, value in row.items()
        if isinstance(value, str) and name not in fixed
        for shown in (value, value.replace("_", " "))
    }


def test_every_page_is_served_by_the_ship_alone_and_speaks_the_readers_language(
    load_demo: None, start_app: Callable[..., GunicornApp], browser: Browser
) -> None:
    app = start_app()
    app.wait_connected()
    english = {
        str(message.id)
        for message in translations.load("nb")
        if message.id and isinstance(message.id, str) and message.id != message.string
    } - typed_by_people(app)
    root = f"http://{SHIP_HOST}:{app.port}/"
    with strict_page(browser, locale="nb-NO") as page:
        traffic = Traffic.of(page.context)
        seen, untranslated = [], []
        for url in walk(page, root):
            seen.append(url)
            assert page.evaluate("window.isSecureContext") is False
            expect(page.locator("html")).to_have_attribute("lang", "nb")
            said = page.evaluate(SAID)
            untranslated += [f"{url}: {text}" for text in said if text in english]
        assert len(seen) > 25, seen
        assert traffic.outside(root) == []
        assert traffic.refused == []
        assert untranslated == []


def test_every_page_works_behind_a_prefix(
    load_demo: None, start_app: Callable[..., GunicornApp], browser: Browser
) -> None:
    app = start_app({"TRUSTED_PROXIES": "1"})
    with Proxy(app.port, "/ship/vessel") as proxy, strict_page(browser) as page:
        traffic = Traffic.of(page.context)
        seen = list(walk(page, f"{proxy.url}/", queries=False))
        assert len(seen) > 25, seen
        assert traffic.outside(f"{proxy.url}/") == []
        assert traffic.refused == []

        page.goto(f"{proxy.url}/work-orders/new")
        choose(page, "Equipment", "Main engine")
        page.get_by_label("Reason").fill("Behind a prefix")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Behind a prefix")
        assert page.url.startswith(f"{proxy.url}/work-orders/")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_text("in progress").first).to_be_visible()
        page.get_by_role("link", name="Norsk").click()
        expect(page.locator("html")).to_have_attribute("lang", "nb")
        cookies = {str(cookie.get("name")): cookie for cookie in page.context.cookies()}
        assert cookies["language"].get("path") == "/ship/vessel"
        assert traffic.outside(f"{proxy.url}/") == []


# --- languages -----------------------------------------------------------------------------------


def test_a_reader_changes_the_language_and_keeps_it(
    start_app: Callable[..., GunicornApp], browser: Browser
) -> None:
    app = start_app({"SHIP_TIMEZONE": "Europe/Oslo"})
    body = {"name": "Main engine", "type": "machinery"}
    equipment = app.post("/api/equipment", body).json
    order = {
        "equipmentId": equipment["id"],
        "reason": "Clean the sea chest",
        "plannedStartDate": "2020-07-01T10:00:00.000Z",
        "estimatedHours": 2.5,
    }
    row = app.post("/api/work-orders", order).json
    with strict_page(browser) as page:
        page.goto(f"{app.url}/work-orders/{row['id']}")
        planned = page.locator("time", has_text="2020")
        expect(planned).to_have_text("1 Jul 2020 12:00")
        expect(planned).to_have_attribute("title", "2020-07-01 10:00:00 UTC")
        page.get_by_role("link", name="Norsk").click()
        expect(page.locator("time", has_text="2020")).to_have_text("1. juli 2020 12:00")
        expect(page.get_by_text("2,5", exact=True)).to_be_visible()

        page.goto(f"{app.url}/work-orders/{row['id']}/edit")
        expect(page.locator("html")).to_have_attribute("lang", "nb")
        expect(page.get_by_label("Anslåtte timer")).to_have_value("2,5")
        expect(page.get_by_label("Planlagt start")).to_have_value("2020-07-01T12:00")
        page.get_by_label("Anslåtte timer").fill("mange")
        page.get_by_role("button", name="Lagre").click()
        expect(page.locator(".error")).to_have_text("Ikke et gyldig tall.")
        page.get_by_label("Anslåtte timer").fill("3,75")
        page.get_by_label("Planlagt start").fill("2020-01-01T12:00")
        page.get_by_role("button", name="Lagre").click()
        expect(page.get_by_text("3,75", exact=True)).to_be_visible()
        now = app.get(f"/api/work-orders/{row['id']}").json
        assert now["estimatedHours"] == 3.75
        assert now["plannedStartDate"] == "2020-01-01T11:00:00.000Z"
        page.get_by_role("link", name="English").click()
        expect(page.locator("html")).to_have_attribute("lang", "en")


# --- by keyboard ---------------------------------------------------------------------------------


def tab_to(page: Page, wanted: Locator, most: int = 120) -> None:
    """Go on from where the keyboard is, until `wanted` has it."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.count() and wanted.evaluate("element => element === document.activeElement"):
            visible = (
                "element => { const box = element.getBoundingClientRect(); return box.top >= 0; }"
            )
            assert wanted.evaluate(visible), "the keyboard is where nobody sees it"
            return
    raise AssertionError(f"{most} presses of Tab don't lead to {wanted}")


def test_a_row_is_made_changed_and_deleted_by_keyboard_alone(ship: Page, app: GunicornApp) -> None:
    ship.keyboard.press("Tab")
    skip = ship.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    tab_to(ship, ship.get_by_role("navigation").get_by_role("link", name="Work orders"))
    ship.keyboard.press("Enter")
    expect(ship.get_by_role("heading", level=1)).to_have_text("Work orders")

    tab_to(
        ship,
        ship.get_by_role("link", name="New work order").or_(
            ship.get_by_role("button", name="New work order")
        ),
    )
    ship.keyboard.press("Enter")
    expect(ship.get_by_role("heading", level=1)).to_have_text("New work order")
    tab_to(ship, ship.get_by_label("Reason"))
    ship.keyboard.type("Oil the davits")
    ship.keyboard.press("Enter")
    # the first field that is wrong has the keyboard
    expect(ship.get_by_label("Equipment")).to_be_focused()
    ship.keyboard.type("Main")
    ship.keyboard.press("Tab")
    tab_to(ship, ship.get_by_role("button", name="Save"))
    ship.keyboard.press("Enter")
    heading = ship.get_by_role("heading", level=1)
    expect(heading).to_contain_text("Oil the davits")
    (row,) = orders(app)
    assert row["reason"] == "Oil the davits"

    tab_to(ship, ship.locator(f"a[href$='{row['id']}/edit']"))
    ship.keyboard.press("Enter")
    expect(heading).to_contain_text("Edit")
    tab_to(ship, ship.get_by_label("Description"))
    ship.keyboard.type("Both sides.")
    tab_to(ship, ship.get_by_role("button", name="Save"))
    ship.keyboard.press("Enter")
    expect(ship.get_by_text("Both sides.", exact=True)).to_be_visible()

    tab_to(ship, ship.locator(f"a[href$='{row['id']}/delete']"))
    ship.keyboard.press("Enter")
    expect(heading).to_contain_text("Delete")
    tab_to(ship, ship.get_by_role("button", name="Delete", exact=True))
    ship.keyboard.press("Enter")
    expect(heading).to_have_text("Work orders")
    assert orders(app) == []


# --- two at once, twice at once, and nobody there --------------------------------------------------


def test_two_people_who_change_one_row_are_both_heard(
    ship: Page, app: GunicornApp, browser: Browser
) -> None:
    row = order_of(app, "Overhaul the crane")
    edit = f"http://{SHIP_HOST}:{app.port}/work-orders/{row['id']}/edit"
    with strict_page(browser) as other:
        for page in (ship, other):
            page.goto(edit)
        ship.get_by_label("Reason").fill("Overhaul the crane, by Ann")
        ship.get_by_label("Description").fill("Ann has ordered the wire.")
        ship.get_by_role("button", name="Save").click()
        expect(ship.get_by_role("heading", level=1)).to_contain_text("by Ann")

        other.get_by_label("Reason").fill("Overhaul the crane, by Bo")
        other.get_by_label("Actual hours").fill("4")
        other.get_by_role("button", name="Save").click()
        expect(other.get_by_role("heading", level=1)).to_have_text("Edit conflict")
        main = other.locator("main")
        expect(main).to_contain_text("Overhaul the crane, by Ann")
        expect(main).to_contain_text("Overhaul the crane, by Bo")
        # nothing is overwritten yet
        assert orders(app)[0]["reason"] == "Overhaul the crane, by Ann"
        other.get_by_role("button", name="Save selection").click()
        expect(other.get_by_role("heading", level=1)).not_to_have_text("Edit conflict")
    (kept,) = orders(app)
    # each said something that the other did not
    assert kept["description"] == "Ann has ordered the wire."
    assert kept["actualHours"] == 4


def test_a_double_click_makes_one_row_and_so_does_a_form_sent_again(
    ship: Page, app: GunicornApp
) -> None:
    ship.goto(f"http://{SHIP_HOST}:{app.port}/work-orders/new")
    choose(ship, "Equipment", "Main engine")
    ship.get_by_label("Reason").fill("Once only")
    ship.get_by_role("button", name="Save").dblclick()
    expect(ship.get_by_role("heading", level=1)).to_contain_text("Once only")
    assert len(orders(app)) == 1
    ship.go_back()
    expect(ship.get_by_label("Reason")).to_be_visible()
    if ship.get_by_label("Reason").input_value() == "Once only":
        ship.get_by_role("button", name="Save").click()
        expect(ship.get_by_role("heading", level=1)).to_contain_text("Once only")
    assert len(orders(app)) == 1


def test_what_was_typed_outlives_a_lost_connection_and_a_reload(
    app: GunicornApp, browser: Browser
) -> None:
    with Proxy(app.port) as proxy:
        # not a strict page: the browser itself writes an unreachable server to the console
        context = browser.new_context()
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.goto(f"{proxy.url}/work-orders/new")
        choose(page, "Equipment", "Main engine")
        page.get_by_label("Reason").fill("Typed between decks")
        proxy.cut = True
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#notice")).to_contain_text("Your input is kept")
        expect(page.get_by_label("Reason")).to_have_value("Typed between decks")
        proxy.cut = False
        assert orders(app) == []

        page.reload()
        expect(page.get_by_label("Reason")).to_have_value("Typed between decks")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Typed between decks")
        assert [row["reason"] for row in orders(app)] == ["Typed between decks"]

        page.goto(f"{proxy.url}/work-orders/new")
        expect(page.get_by_label("Reason")).to_have_value("")
        context.close()


def test_a_page_that_stays_open_sees_the_link_go_and_come_back(
    ship: Page, app: GunicornApp, mosquitto: Mosquitto
) -> None:
    app.wait_connected()
    ship.goto(f"http://{SHIP_HOST}:{app.port}/work-orders")
    chip = ship.locator("#chip")
    expect(chip).to_contain_text("all delivered", timeout=SOON)
    mosquitto.stop()
    expect(chip).to_contain_text("link down", timeout=SOON)
    row = order_of(app, "Written at sea")
    expect(chip).to_contain_text("waiting", timeout=SOON)
    # made by somebody else: the open list says so
    expect(ship.locator("#news")).to_contain_text(re.compile(r"\d"), timeout=SOON)
    ship.reload()
    line = ship.locator(f"#work_orders-{row['id']}")
    expect(line).to_contain_text("committed")
    mosquitto.start()
    expect(line).to_contain_text("delivered", timeout=SOON)
    expect(chip).to_contain_text("all delivered", timeout=SOON)
    eventually(lambda: app.health()["mqtt"]["queuedMessages"] == 0, 30)
