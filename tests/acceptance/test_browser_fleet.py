"""The fleet ashore in a browser: 160 vessels are found, looked at and watched, by light, in the dark, on a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from app import create_app
from blueprints.fleet.addresses import element_of, shown_id
from tests.support.browser import (
    PHONE,
    SHIP_HOST,
    WIDTHS,
    Traffic,
    faults,
    misfits,
    strict_page,
)
from tests.support.fleet_ashore import HOSTILE, FleetAshore
from tests.support.gunicorn_app import GunicornApp

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

#: Milliseconds: some polls of a page, which asks each 5 s.
SOON = 40_000


def vessels(page: Page) -> list[str]:
    """The names on the page of the list."""
    return page.locator("table.fleet tbody th bdi").all_inner_texts()


def walk_the_list(page: Page) -> dict[str, tuple[str, str]]:
    """Of each vessel on all pages, by its element: its name, and where its link leads in the browser's own reading."""
    found: dict[str, tuple[str, str]] = {}
    following = page.get_by_role("link", name="Next", exact=True)
    while True:
        rows = page.locator("table.fleet tbody tr")
        told = rows.evaluate_all(
            "rows => rows.map(row => [row.id, row.querySelector('bdi').innerText, row.querySelector('a').href])"
        )
        found |= {element: (name, link) for element, name, link in told}
        if not following.count():
            return found
        following.click()
        expect(page.locator(f"#{told[-1][0]}")).to_have_count(0)
        page.wait_for_load_state()  # the list that is gone is not yet the next one


def test_a_fleet_is_found_looked_at_and_watched(
    start_app: Callable[..., GunicornApp], migrated_database_url: str, browser: Browser
) -> None:
    app = start_app({"LOCAL_MODE": "false"}, workers=1)
    settings = {
        "SECRET_KEY": "for-tests-only-and-long-enough",
        "LOCAL_MODE": "false",
        "DATABASE_URL": migrated_database_url,
    }
    with FleetAshore(create_app(settings)) as fleet, strict_page(browser) as page:
        traffic, found = Traffic.of(page.context), []
        root = f"http://{SHIP_HOST}:{app.port}/"
        page.goto(root)
        expect(page.locator("main")).to_contain_text("sync follow --name shore")
        found += faults(page)

        with fleet.following():
            fleet.connected()
            every = fleet.in_every_state(148, every_audit=False)
            fleet.join(*HOSTILE)
            # The empty page finds out by itself.
            page.locator("#news a").click(timeout=SOON)
            expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")
            expect(page.locator("#figures")).to_contain_text("of 160 vessels online")
            expect(page.locator("#chip")).to_contain_text("following")
            found += faults(page)
            listed = walk_the_list(page)
            assert set(listed) == {element_of(vessel_id) for vessel_id in (*every, *HOSTILE)}

            # A vessel among many is found by some letters of its id, on a phone too.
            page.set_viewport_size(PHONE)
            page.locator("main").get_by_role("searchbox").fill(every[77][-5:])
            page.get_by_role("button", name="Show", exact=True).click()
            expect(page.locator("table.fleet tbody tr")).to_have_count(1)
            page.get_by_role("link", name=every[77]).click()
            expect(page.get_by_role("heading", level=1)).to_have_text(every[77])
            found += faults(page)

            # Somebody who looks sees what comes.
            fleet.refuse_a_row(every[77])
            expect(page.locator("#refused")).to_contain_text("name: not a text", timeout=SOON)
            page.get_by_role("navigation", name="Tables").get_by_role(
                "link", name="Equipment"
            ).click()
            expect(page.locator("#tables table")).to_contain_text("Fire pump No.1")
            assert page.locator("main form").count() == 0
            found += misfits(page, WIDTHS)

            # A figure leads to its vessels.
            page.goto(f"{root}fleet")
            page.locator("#figures").get_by_role("link", name="differ").first.click()
            expect(page.locator("table.fleet tbody tr")).to_have_count(2)
            assert vessels(page) == [every[1], every[46]]
            page.get_by_role("link", name=every[1]).click()
            expect(page.locator("#audit")).to_contain_text("differs")
            found += faults(page)

            page.goto(f"{root}fleet?q=imo-9300000")
            row = page.locator(f"#{element_of(every[0])}")
            expect(row).to_contain_text("online")
            fleet.status(every[0], online=False)
            expect(row).to_contain_text("offline", timeout=SOON)

            # Ids that are made to deceive are text, and lead to their own vessels.
            for vessel_id in HOSTILE:
                name, link = listed[element_of(vessel_id)]
                assert name == shown_id(vessel_id)
                page.goto(link)
                expect(page.locator("h1 bdi")).to_have_text(name, use_inner_text=True)
            found += faults(page)
        page.goto(root)
        expect(page.locator("#following")).to_contain_text("No process follows")
        found += faults(page)
        assert traffic.outside(root) == []
        assert traffic.refused == []
        assert not found, "\n".join(found)
