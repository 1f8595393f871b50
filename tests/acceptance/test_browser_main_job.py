"""The main job, in a browser: report work on board, see it wait, see it go ashore."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import SHIP_HOST, Traffic, choose, strict_page
from tests.support.gunicorn_app import GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

#: Milliseconds: some polls of the page (5 s each), and the relay's reconnect.
SOON = 25_000


@pytest.fixture
def app(start_app: Callable[..., GunicornApp]) -> GunicornApp:
    app = start_app(workers=2)
    for name in ("Main engine", "Ballast pump 1"):
        answer = app.post("/api/equipment", {"name": name, "type": "machinery"})
        assert answer.status == 201, answer.text
    return app


@pytest.fixture
def ship(app: GunicornApp, browser: Browser) -> Iterator[Page]:
    """The vessel's page by its host name: plain http, so no secure context."""
    root = f"http://{SHIP_HOST}:{app.port}/"
    with strict_page(browser) as page:
        traffic = Traffic.of(page.context)
        page.goto(root)
        assert page.evaluate("window.isSecureContext") is False
        yield page
        assert traffic.outside(root) == []


def row(page: Page, text: str) -> Locator:
    return page.locator(".rows > li", has_text=text)


def chip(page: Page) -> Locator:
    return page.locator("#chip")


def report(page: Page, reason: str) -> None:
    """Fill in and send the form for a work order."""
    form = page.locator("#work-order-form")
    if not form.locator("details").evaluate("details => details.open"):
        form.get_by_text("New work order").click()
    choose(form, "Equipment", "Main engine")
    form.get_by_label("Reason").fill(reason)
    form.get_by_role("button", name="Create").click()
    expect(row(page, reason)).to_be_visible()


def test_a_work_order_waits_for_the_link_and_goes_ashore(
    ship: Page, app: GunicornApp, mosquitto: Mosquitto
) -> None:
    expect(chip(ship)).to_have_text("all delivered", timeout=SOON)
    mosquitto.stop()
    expect(chip(ship)).to_contain_text("link down since", timeout=SOON)

    form = ship.locator("#work-order-form")
    form.get_by_text("New work order").click()
    form.get_by_label("Reason").fill("Fuel leak at cylinder 4")
    form.get_by_label("Hours").fill("a few")
    form.get_by_role("button", name="Create").click()
    expect(form.get_by_label("Equipment")).to_have_attribute("aria-invalid", "true")
    expect(form.get_by_label("Equipment")).to_be_focused()
    expect(form.locator("#work-order-form-estimatedHours-error")).to_be_visible()
    expect(form.get_by_label("Reason")).not_to_have_attribute("aria-invalid", "true")
    expect(form.get_by_label("Reason")).to_have_value("Fuel leak at cylinder 4")
    expect(form.get_by_label("Hours")).to_have_value("a few")

    choose(form, "Equipment", "Main engine")
    form.get_by_label("Hours").fill("2.5")
    form.get_by_role("button", name="Create").click()
    order = row(ship, "Fuel leak at cylinder 4")
    expect(order).to_contain_text("Main engine")
    expect(order.locator(".state")).to_have_text("committed")
    expect(chip(ship)).to_contain_text("1 waiting")
    assert [item["estimatedHours"] for item in app.get("/api/work-orders").json["items"]] == [2.5]

    mosquitto.start()
    with Subscriber(mosquitto.port, "vessel/sync/work_orders") as subscriber:
        message = subscriber.wait_for(lambda received: "Fuel leak" in received.payload)
        assert message.json["data"]["reason"] == "Fuel leak at cylinder 4"
        assert message.json["operation"] == "create"
    expect(order.locator(".state")).to_have_text("delivered", timeout=SOON)
    expect(chip(ship)).to_have_text("all delivered", timeout=SOON)


def test_work_is_started_and_completed_one_step_a_click(ship: Page, app: GunicornApp) -> None:
    report(ship, "Clean the sea chest")
    order = row(ship, "Clean the sea chest")
    # A double click that is slower than the answer: its second click meets another button. The events' clock
    # stands still, for a slow machine takes longer between the two than any double click.
    ship.evaluate("Object.defineProperty(Event.prototype, 'timeStamp', { get: () => 1000 })")
    box = order.get_by_role("button", name="Start").bounding_box()
    assert box
    place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    ship.mouse.click(*place)
    complete = ship.wait_for_selector("text=Complete")
    assert complete
    expect(order).to_be_focused()
    ship.mouse.click(*place)
    expect(order).to_contain_text("in progress")
    order.focus()
    ship.keyboard.press("Tab")
    expect(order.get_by_role("link", name="Clean the sea chest")).to_be_focused()
    ship.keyboard.press("Tab")
    expect(order.get_by_role("button", name="Complete")).to_be_focused()
    ship.keyboard.press("Enter")
    expect(order).to_contain_text("completed")
    expect(order.get_by_role("button")).to_have_count(0)
    (item,) = app.get("/api/work-orders").json["items"]
    assert (item["status"], item["version"]) == ("completed", 3)


def test_a_row_that_somebody_else_has_changed_is_shown_as_it_is(
    ship: Page, app: GunicornApp
) -> None:
    report(ship, "Grease the crane")
    (item,) = app.get("/api/work-orders").json["items"]
    changed = app.request("PATCH", f"/api/work-orders/{item['id']}", {"status": "cancelled"})
    assert changed.status == 200, changed.text
    order = row(ship, "Grease the crane")
    order.get_by_role("button", name="Start").click()
    expect(order).to_contain_text("changed in the meantime")
    expect(order).to_contain_text("cancelled")


def test_an_alert_is_raised_and_acknowledged(ship: Page, app: GunicornApp) -> None:
    form = ship.locator("#alert-form")
    form.get_by_text("New alert").click()
    form.get_by_role("button", name="Create").click()
    expect(form.locator(".error")).to_have_count(5)
    choose(form, "Equipment", "Ballast pump 1")
    form.get_by_label("Message").fill("Bearing <b>hot</b>")
    form.get_by_label("Severity").select_option("critical")
    form.get_by_label("Sensor").fill("temperature")
    form.get_by_label("Value").fill("96.5")
    form.get_by_label("Threshold").fill("90")
    form.get_by_role("button", name="Create").click()
    alert = row(ship, "Bearing <b>hot</b>")
    expect(alert).to_contain_text("temperature 96.5 / 90")
    alert.get_by_role("button", name="Acknowledge").click()
    expect(alert).to_contain_text("acknowledged")
    expect(alert.locator(".state")).to_have_text("delivered", timeout=SOON)
    (item,) = app.get("/api/alerts").json["items"]
    assert item["acknowledged"] is True


def test_a_double_click_creates_one_work_order(ship: Page, app: GunicornApp) -> None:
    form = ship.locator("#work-order-form")
    form.get_by_text("New work order").click()
    choose(form, "Equipment", "Main engine")
    form.get_by_label("Reason").fill("Once only")
    form.get_by_role("button", name="Create").dblclick()
    expect(row(ship, "Once only")).to_have_count(1)
    assert len(app.get("/api/work-orders").json["items"]) == 1


def test_the_page_says_when_the_server_is_gone_and_keeps_what_was_typed(
    app: GunicornApp, browser: Browser
) -> None:
    # not a strict page: htmx itself writes an unreachable server to the console
    context = browser.new_context()
    page = context.new_page()
    page.goto(app.url)
    form = page.locator("#work-order-form")
    form.get_by_text("New work order").click()
    form.get_by_label("Reason").fill("Typed in vain?")
    app.kill_all()
    form.get_by_role("button", name="Create").click()
    expect(page.locator("#notice")).to_contain_text("did not answer")
    expect(page.get_by_text("no contact with the ship's server")).to_be_visible()
    expect(form.get_by_label("Reason")).to_have_value("Typed in vain?")
    context.close()


def test_a_phone_has_no_sideways_scrolling(ship: Page, app: GunicornApp) -> None:
    ship.set_viewport_size({"width": 360, "height": 740})
    report(ship, "A" * 120)
    eviction = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert ship.evaluate(eviction) == 0


def test_without_scripts_the_forms_work_too(app: GunicornApp, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(app.url)
    report_form = page.locator("#work-order-form")
    report_form.get_by_text("New work order").click()
    report_form.get_by_role("button", name="Create").click()
    expect(page.locator("#work-order-form-reason-error")).to_be_visible()
    choose(page.locator("#work-order-form"), "Equipment", "Main engine")
    page.locator("#work-order-form").get_by_label("Reason").fill("By hand")
    page.locator("#work-order-form").get_by_role("button", name="Create").click()
    expect(row(page, "By hand")).to_have_count(1)
    row(page, "By hand").get_by_role("button", name="Start").click()
    expect(row(page, "By hand")).to_contain_text("in progress")
    context.close()


def test_what_the_broker_refuses_is_shown_as_failed_and_holds_up_nothing(
    start_app: Callable[..., GunicornApp],
    start_mosquitto: Callable[..., Mosquitto],
    page: Page,
) -> None:
    broker = start_mosquitto(options=["max_packet_size 3000"])
    app = start_app({"MQTT_BROKER_URL": broker.url})
    equipment = app.post("/api/equipment", {"name": "Main engine", "type": "machinery"}).json
    order = {"equipmentId": equipment["id"], "reason": "Too long a story"}
    app.post("/api/work-orders", {**order, "description": "x" * 4000})
    app.post("/api/work-orders", {**order, "reason": "A short one"})
    page.goto(app.url)
    expect(row(page, "A short one").locator(".state")).to_have_text("delivered", timeout=SOON)
    expect(row(page, "Too long a story").locator(".state")).to_have_text(
        "quarantined", timeout=SOON
    )
    expect(chip(page)).to_have_text("1 quarantined", timeout=SOON)


def test_ashore_the_chip_says_that_nothing_is_followed_and_rows_have_no_state(
    start_app: Callable[..., GunicornApp], page: Page
) -> None:
    app = start_app({"LOCAL_MODE": "false"}, workers=1)
    equipment = app.post("/api/equipment", {"name": "Main engine", "type": "machinery"}).json
    order = {"equipmentId": equipment["id"], "reason": "Ashore"}
    app.post("/api/work-orders", order)
    page.goto(f"{app.url}/work-orders")
    expect(chip(page)).to_have_text("not following")
    listed = page.locator("tbody tr", has_text="Ashore")
    expect(listed).to_be_visible()
    expect(listed.locator(".state")).to_have_count(0)


def test_a_form_of_another_site_is_refused(start_app: Callable[..., GunicornApp]) -> None:
    app = start_app(workers=1)
    form = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
    sent: list[tuple[dict[str, str], int]] = [
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
        ({"Referer": "http://elsewhere.example/"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 422),
    ]
    for headers, status in sent:
        answer = app.request("POST", "/ui/work-orders", b"reason=x", {**form, **headers})
        assert answer.status == status, headers
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_errors_are_pages_for_browsers_and_problems_for_programs(
    start_app: Callable[..., GunicornApp],
) -> None:
    app = start_app(workers=1)
    page = app.get("/nowhere", {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "<h1>" in page.text
    for path in ("/nowhere", "/api/nowhere"):
        problem = app.get(path)
        assert problem.status == 404
        assert problem.headers["Content-Type"] == "application/problem+json"
