"""The API reference in a browser: every operation is shown, and can be tried, under the strict policy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Traffic, faults
from tests.support.gunicorn_app import GunicornApp

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]
METHODS = ("get", "post", "patch", "delete")


@pytest.fixture
def app(start_app: Callable[..., GunicornApp], load_demo: None) -> GunicornApp:
    return start_app(workers=1)


def operation(page: Page, method: str, path: str) -> Locator:
    """The part of the page that shows an operation."""
    shown = page.locator(f".opblock-{method}")
    return shown.filter(has=page.locator(f'.opblock-summary-path[data-path="{path}"]'))


def answer_of(shown: Locator) -> Locator:
    """The status that the server has answered with."""
    return shown.locator(".live-responses-table .response .response-col_status").first


def test_every_operation_and_field_is_shown(app: GunicornApp, page: Page) -> None:
    document: dict[str, Any] = app.get("/api/openapi.json").json
    described = {
        (method, path): entry[method]
        for path, entry in document["paths"].items()
        for method in METHODS
        if method in entry
    }
    traffic = Traffic.of(page.context)
    page.goto(f"{app.url}/api/docs")
    expect(page.get_by_role("heading", level=1)).to_contain_text(document["info"]["title"])
    expect(page.locator(".opblock")).to_have_count(len(described))
    for (method, path), entry in described.items():
        expect(operation(page, method, path)).to_have_count(1)
        expect(operation(page, method, path)).to_contain_text(entry["summary"])
    operation(page, "post", "/api/work-orders").locator(".opblock-summary-control").click()
    expect(operation(page, "post", "/api/work-orders").locator("textarea")).to_have_value(
        re.compile("maintenanceType")
    )
    assert traffic.outside(f"{app.url}/") == []
    assert traffic.refused == []


def test_requests_can_be_tried(app: GunicornApp, page: Page) -> None:
    orders = app.get("/api/work-orders?limit=2").json["items"]
    page.goto(f"{app.url}/api/docs")
    listing = operation(page, "get", "/api/work-orders")
    listing.locator(".opblock-summary-control").click()
    listing.locator('tr[data-param-name="limit"] input').fill("2")
    listing.get_by_role("button", name="Execute").click()
    expect(answer_of(listing)).to_contain_text("200")
    body = listing.locator(".live-responses-table .microlight").first
    for order in orders:
        expect(body).to_contain_text(order["id"])

    crew = operation(page, "post", "/api/crew")
    crew.locator(".opblock-summary-control").click()
    crew.locator("textarea").fill('{"name": "Tried in the browser"}')
    crew.get_by_role("button", name="Execute").click()
    expect(answer_of(crew)).to_contain_text("201")
    found = app.get("/api/crew?q=Tried").json["items"]
    assert [row["name"] for row in found] == ["Tried in the browser"]


def test_axe_finds_nothing_on_it(app: GunicornApp, page: Page) -> None:
    page.goto(f"{app.url}/api/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    found = faults(page)
    assert not found, "\n".join(found)
