"""The sync page in a browser: it follows the link, tells what waits, and lets a person decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import SHIP_HOST, Traffic, strict_page
from tests.support.gunicorn_app import GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.proxy import Proxy
from tests.support.subscriber import Subscriber

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

#: Milliseconds: some polls of the page (5 s each), and the relay's reconnect.
SOON = 40_000
#: Whether a chart shows anything but its ground: some point of its canvas is painted.
PAINTED = """(canvas) => canvas.getContext("2d")
  .getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte !== 0)"""


@pytest.fixture
def app(start_app: Callable[..., GunicornApp]) -> GunicornApp:
    return start_app()


@pytest.fixture
def ship(app: GunicornApp, browser: Browser) -> Iterator[Page]:
    """The sync page by host name: plain http, so no secure context."""
    with strict_page(browser) as page:
        traffic = Traffic.of(page.context)
        root = f"http://{SHIP_HOST}:{app.port}/"
        page.goto(f"{root}sync/")
        yield page
        assert traffic.outside(root) == []


def equip(app: GunicornApp, name: str) -> dict[str, Any]:
    answer = app.post("/api/equipment", {"name": name, "type": "machinery"})
    assert answer.status == 201, answer.text
    row: dict[str, Any] = answer.json
    return row


def count(page: Page, state: str) -> Any:
    """The cell with the number of changes in a state."""
    return page.locator(f"tr:has(#arus-count-{state}) .arus-number")


def wait_for(page: Page, probe: Callable[[], bool], attempts: int = 120) -> None:
    """Ask again, at the browser's pace, until `probe` is true."""
    for _ in range(attempts):
        if probe():
            return
        page.wait_for_timeout(250)
    raise AssertionError(f"{probe.__qualname__} never became true")


def test_the_page_follows_the_broker_as_it_goes_away_and_comes_back(
    ship: Page, app: GunicornApp, mosquitto: Mosquitto
) -> None:
    link = ship.locator("[data-arus-part=link]")
    expect(link).to_contain_text("Connected", timeout=SOON)
    expect(ship.locator("#chip")).to_have_text("all delivered", timeout=SOON)
    mosquitto.stop()
    expect(link).to_contain_text("Down", timeout=SOON)
    for number in range(3):
        equip(app, f"Pump {number}")
    expect(count(ship, "pending")).to_have_text("3", timeout=SOON)
    expect(ship.locator("#chip")).to_contain_text("link down since", timeout=SOON)
    expect(ship.locator("#chip")).to_contain_text("3 waiting")
    expect(ship.locator("#chip .arus-chip")).to_have_class("arus-chip arus-is-offline")
    expect(ship.locator("[data-arus-part=outages]")).to_contain_text("down since", timeout=SOON)
    mosquitto.start()
    with Subscriber(mosquitto.port, "vessel/sync/equipment") as shore:
        shore.wait_for(lambda received: "Pump 2" in received.payload)
    expect(count(ship, "delivered")).to_have_text("3", timeout=SOON)
    expect(count(ship, "pending")).to_have_text("0")
    expect(count(ship, "all")).to_have_text("3")
    expect(ship.locator("#chip")).to_have_text("all delivered", timeout=SOON)
    expect(ship.locator("[data-arus-part=outages]")).to_contain_text("down from", timeout=SOON)
    for name in ("depth", "published"):
        canvas = ship.locator(f"[data-arus-chart={name}] canvas")
        expect(canvas).to_be_visible()
        assert canvas.evaluate(PAINTED), name

    def in_figures() -> bool:
        ship.reload()  # what the charts show is not the page's memory
        ship.get_by_text("Hourly figures").click()
        return "3" in ship.locator("details table td:last-child").all_inner_texts()

    wait_for(ship, in_figures)
    expect(ship.locator("[data-arus-chart=published] canvas")).to_be_visible()


def test_a_failed_change_is_found_looked_at_and_decided_on_by_keyboard(
    start_app: Callable[..., GunicornApp],
    start_mosquitto: Callable[..., Mosquitto],
    browser: Browser,
) -> None:
    broker = start_mosquitto(options=["max_packet_size 3000"])
    app = start_app({"MQTT_BROKER_URL": broker.url})
    pump = equip(app, "Fire pump")
    path = f"/api/equipment/{pump['id']}"
    assert app.request("PATCH", path, {"specifications": {"story": "x" * 4000}}).status == 200
    with strict_page(browser) as page:
        page.goto(f"{app.url}/")
        chip = page.locator("#chip a")
        expect(chip).to_have_text("1 quarantined", timeout=SOON)
        chip.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Synchronisation")
        expect(count(page, "quarantined")).to_have_text("1", timeout=SOON)
        page.locator("#arus-count-quarantined").press("Enter")
        page.get_by_role("link", name=f"equipment {pump['id'][:8]}").press("Enter")
        expect(page.locator(".arus-notice")).to_contain_text("larger than the broker takes")
        expect(page.locator("pre")).to_contain_text('"name": "Fire pump"')

        page.get_by_role("link", name="Discard").press("Enter")
        expect(page.get_by_text("Discard this change?")).to_be_visible()
        page.get_by_role("link", name="Back", exact=True).press("Enter")
        expect(page.locator("h1 + .arus-tag")).to_have_text("quarantined")
        assert app.request("PATCH", path, {"specifications": {}}).status == 200
        page.get_by_role("link", name="Retry").press("Enter")
        expect(page.get_by_role("button", name="Retry")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_text("queued again")).to_be_visible()

        def delivered() -> bool:
            page.reload()
            return page.locator("h1 + .arus-tag").inner_text() == "delivered"

        wait_for(page, delivered)
        expect(page.locator(".arus-steps")).to_contain_text("delivered to the broker")


def test_a_catch_up_is_asked_for_and_its_progress_is_seen(ship: Page, app: GunicornApp) -> None:
    for number in range(5):
        equip(app, f"Pump {number}")
    form = ship.locator(".arus-form")
    form.get_by_label("Since").fill("whenever")
    form.get_by_role("button", name="Send again").click()
    expect(ship.locator("#arus-since-error")).to_contain_text("Enter a time")
    expect(form.get_by_label("Since")).to_have_value("whenever")
    form.get_by_label("Entity").select_option("equipment")
    form.get_by_label("Since").fill("2h")
    form.get_by_role("button", name="Send again").click()
    run = ship.locator(".arus-runs > li")
    expect(run).to_contain_text("complete", timeout=SOON)
    expect(run).to_contain_text("5 of 5")
    assert run.locator("progress").evaluate("bar => bar.value / bar.max") == 1
    assert ship.url.startswith(f"http://{SHIP_HOST}:{app.port}/sync/?asked=")


def test_one_small_request_every_five_seconds_and_none_while_hidden(
    ship: Page, app: GunicornApp
) -> None:
    with ship.expect_response("**/sync/live?*", timeout=SOON) as news:
        pass
    assert len(news.value.body()) < 20_000
    asked: list[str] = []
    ship.on("request", lambda request: asked.append(request.url))
    with ship.expect_response("**/sync/live?*", timeout=SOON) as news:
        pass
    assert len(news.value.body()) < 8_000  # little is new
    assert all("/sync/live?" in url for url in asked), asked
    hide = """Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true});
      document.dispatchEvent(new Event('visibilitychange'));"""
    ship.evaluate(hide)
    asked.clear()
    ship.wait_for_timeout(7_000)  # what must not come in a while can only be waited for
    assert asked == []


def test_it_works_on_a_phone_in_the_dark_and_behind_a_prefix(
    start_app: Callable[..., GunicornApp], browser: Browser
) -> None:
    app = start_app({"TRUSTED_PROXIES": "1"})
    equip(app, "A" * 60)
    with (
        Proxy(app.port, "/vessel/7") as proxy,
        strict_page(browser) as page,
    ):
        page.set_viewport_size({"width": 360, "height": 740})
        page.emulate_media(color_scheme="dark")
        page.goto(f"{proxy.url}/sync/")
        expect(page.locator("[data-arus-chart=depth] canvas")).to_be_visible(timeout=SOON)
        expect(page.locator("[data-arus-part=link]")).to_contain_text("Connected", timeout=SOON)
        eviction = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(eviction) == 0
        proxy.cut = True
        expect(page.get_by_text("may be out of date")).to_be_visible(timeout=SOON)
        proxy.cut = False
        expect(page.get_by_text("may be out of date")).to_be_hidden(timeout=SOON)
        page.locator("#arus-count-all").click()
        assert page.url == f"{proxy.url}/sync/changes"
        assert page.evaluate(eviction) == 0
        page.locator("tbody a").first.click()
        expect(page.locator("pre")).to_be_visible()
        assert page.evaluate(eviction) == 0


def test_without_scripts_the_page_tells_and_does_the_same(
    app: GunicornApp, browser: Browser
) -> None:
    app.wait_connected()
    equip(app, "Pump")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{app.url}/sync/")
    expect(page.locator("[data-arus-part=link]")).to_contain_text("Connected")
    page.locator(".arus-form").get_by_role("button", name="Send again").click()
    expect(page.get_by_text("Catch-up requested.")).to_be_visible()
    page.locator("#arus-count-all").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    context.close()
