"""Every page for everybody: axe finds nothing, by light, in the dark, and on a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import faults, walk
from tests.support.gunicorn_app import GunicornApp

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1200),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]


@pytest.fixture
def app(start_app: Callable[..., GunicornApp], load_demo: None) -> GunicornApp:
    return start_app()


def test_axe_finds_nothing_on_any_page(app: GunicornApp, page: Page) -> None:
    app.wait_connected()
    seen, found = [], []
    for url in walk(page, f"{app.url}/", queries=False):
        seen.append(url)
        found += faults(page)
    for query in ("pump", "no such thing"):  # only the form in the header leads there
        page.goto(f"{app.url}/search?q={query}")
        found += faults(page)
    assert not found, "\n".join(found)
    assert len(seen) > 25, seen


def test_axe_finds_nothing_on_empty_lists(
    start_app: Callable[..., GunicornApp], page: Page
) -> None:
    app = start_app({"LOCAL_MODE": "false"}, workers=1)
    page.goto(app.url)
    sections = page.locator("header nav a").evaluate_all("links => links.map(link => link.href)")
    assert len(sections) >= 6
    found = faults(page)
    for section in sections:
        page.goto(section)
        found += faults(page)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_where_something_went_wrong(app: GunicornApp, page: Page) -> None:
    page.goto(f"{app.url}/nowhere")
    expect(page.locator("h1")).to_be_visible()
    found = faults(page)

    page.goto(f"{app.url}/work-orders/new")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".error").first).to_be_visible()
    found += faults(page)

    (order, *_) = app.get("/api/work-orders").json["items"]
    page.goto(f"{app.url}/work-orders/{order['id']}/edit")
    changed = app.request("PATCH", f"/api/work-orders/{order['id']}", {"reason": "By another"})
    assert changed.status == 200
    page.get_by_label("Reason").fill("By me")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Edit conflict")
    found += faults(page)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_while_the_server_is_gone(app: GunicornApp, browser: Browser) -> None:
    # not a strict page: htmx itself writes an unreachable server to the console
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{app.url}/work-orders/new")
    app.kill_all()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#notice")).to_contain_text("did not answer")
    found = faults(page)
    context.close()
    assert not found, "\n".join(found)
