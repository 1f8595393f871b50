"""A work order and a filtered list on paper: A4, black and white, without what is only for the screen."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import misfits
from tests.support.gunicorn_app import GunicornApp

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(400),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

#: A4 in points, and its width in CSS pixels within the margins of 15 mm.
A4 = (595, 842)
PAPER = 680
#: Of everything that is seen: its text's colour, and what it is painted with.
COLOURS = """() => [...new Set([...document.querySelectorAll("body, body *")]
  .filter(each => each.checkVisibility() && each.innerText)
  .flatMap(each => [getComputedStyle(each).color, getComputedStyle(each).backgroundColor]))]"""
BLACK_AND_WHITE = {"rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"}


@pytest.fixture
def app(start_app: Callable[..., GunicornApp]) -> GunicornApp:
    """A ship with thirty work orders, the last with steps."""
    app = start_app()
    pump = app.post("/api/equipment", {"name": "Fire pump No.1", "type": "pump"}).json
    for number in range(30):
        order = {"equipmentId": pump["id"], "reason": f"Leak {number}", "priority": 1 + number % 5}
        steps = [{"text": "Lock out", "done": True}, {"text": "Measure", "done": False}]
        answer = app.post("/api/work-orders", {**order, "steps": steps, "description": "x " * 900})
        assert answer.status == 201, answer.text
    return app


def assert_for_paper(page: Page) -> None:
    """What is on the page fits on A4, in black and white, without navigation and buttons."""
    page.emulate_media(media="print")
    for role in ("navigation", "search", "contentinfo"):
        for each in page.get_by_role(role, include_hidden=True).all():
            expect(each).to_be_hidden()
    for words in ("Edit", "Delete", "Save this filter", "Show"):
        expect(page.get_by_role("button", name=words)).to_have_count(0)
        expect(page.get_by_role("link", name=words, exact=True)).to_have_count(0)
    assert set(page.evaluate(COLOURS)) <= BLACK_AND_WHITE
    assert misfits(page, [PAPER]) == []


def pages_of(page: Page) -> int:
    """Print, check that each sheet is A4, and count them."""
    sheets = re.findall(
        rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", page.pdf(prefer_css_page_size=True)
    )
    assert sheets
    for width, height in sheets:
        assert (round(float(width)), round(float(height))) == A4
    return len(sheets)


def test_a_work_order_is_printed_with_its_steps_and_a_line_to_sign(
    app: GunicornApp, page: Page
) -> None:
    row = app.request("GET", "/api/work-orders?limit=1").json["items"][0]
    page.goto(f"{app.url}/work-orders/{row['id']}")
    assert_for_paper(page)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Leak 29")
    expect(page.get_by_text("☑ Lock out")).to_be_visible()
    expect(page.get_by_text("☐ Measure")).to_be_visible()
    expect(page.get_by_text("Signature:")).to_be_visible()
    assert pages_of(page) == 1


def test_a_filtered_list_is_printed(app: GunicornApp, page: Page) -> None:
    page.goto(f"{app.url}/work-orders?priority=2")
    assert_for_paper(page)
    expect(page.locator("table.list tbody tr")).to_have_count(6)
    assert pages_of(page) == 1
    page.goto(f"{app.url}/work-orders")
    assert_for_paper(page)
    expect(page.locator("table.list tbody tr")).to_have_count(25)
    assert pages_of(page) == 1
