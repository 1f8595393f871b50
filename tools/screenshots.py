"""Takes pictures of every page, for looking at: light, dark, and on a phone.

python -m tools.screenshots [--language nb] [FOLDER]

The vessel runs on demo data, with a link that has been down and is up again.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from tests.support.browser import DESK, PHONE, chromium, shape, strict_page, walk
from tests.support.gunicorn_app import ROOT, GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

#: Pages that no link leads to.
OTHERS = ("/nowhere", "/work-orders?q=nothing+like+this", "/sync/changes?state=quarantined")
#: Pixels; a picture of all 200 rows says no more.
TALLEST = 4000


def take(page: Page, folder: Path, name: str) -> None:
    """Take the pictures of a page as it is."""
    page.wait_for_load_state("networkidle")  # charts are drawn when their figures have come
    for kind, size, scheme in (
        ("light", DESK, "light"),
        ("dark", DESK, "dark"),
        ("phone", PHONE, "light"),
    ):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.set_viewport_size(size)
        height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
        page.screenshot(
            path=folder / f"{name}.{kind}.png",
            full_page=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": max(height, size["height"])},
        )


def name_of(url: str) -> str:
    """Return a file's name for an address."""
    return re.sub(r"\W+", "-", shape(url).replace("*", "row")).strip("-")


def live(app: GunicornApp, broker: Mosquitto) -> None:
    """Let something happen: an outage with a change in it, and a message that can't be sent."""
    app.wait_connected()
    (row, *_) = app.get("/api/equipment").json["items"]
    order = {"equipmentId": row["id"], "reason": "Renew the gasket of the sea strainer"}
    broker.stop()
    eventually(lambda: app.health()["mqtt"]["status"] != "connected", 60, interval=0.2)
    app.post("/api/work-orders", order)
    story = "泵需要新的密封圈。" * 400  # three bytes a letter
    app.post("/api/work-orders", {**order, "reason": "Too long a story", "description": story})
    broker.start()
    app.wait_connected(60)
    eventually(lambda: app.health()["mqtt"]["queuedMessages"] == 0, 60, interval=0.2)
    broker.stop()  # at sea again
    app.post("/api/work-orders", {**order, "reason": "Chipping and painting, hatch 3"})
    eventually(lambda: app.health()["mqtt"]["status"] != "connected", 60, interval=0.2)


def conflict(app: GunicornApp, page: Page) -> None:
    """Have two people change one row."""
    (order, *_) = app.get("/api/work-orders").json["items"]
    page.goto(f"{app.url}/work-orders/{order['id']}/edit")
    app.request("PATCH", f"/api/work-orders/{order['id']}", {"reason": "Changed ashore"})
    page.locator("[name=reason]").fill("Changed on board")
    page.locator("main form button[type=submit]").click()
    page.locator("form.conflict").wait_for()


def main() -> int:
    """Take them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", default="en")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "screenshots")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="arus-screenshots-") as name,
        Mosquitto(Path(name, "broker"), options=("max_packet_size 9000",)) as broker,
    ):
        settings = {
            "LOCAL_MODE": "true",
            "DATABASE_URL": f"sqlite:///{name}/arus.sqlite",
            "SECRET_KEY": "for-screenshots-only-and-long-enough",
            "MQTT_BROKER_URL": broker.url,
            "MQTT_RECONNECT_PERIOD": "1",
            "SHIP_TIMEZONE": "Europe/Oslo",
            "VESSEL_ID": "imo-9321483",
        }
        flask("db", "upgrade", settings=settings)
        flask("demo", "load", settings=settings)
        with (
            GunicornApp(Path(name), settings, workers=2) as app,
            chromium() as browser,
            strict_page(browser, locale=given.language) as page,
        ):
            live(app, broker)
            for url in walk(page, f"{app.url}/", queries=False):
                title = name_of(url) or "overview"
                take(page, given.folder, title)
                print(f"{title}: {url}")
            for path in OTHERS:
                page.goto(app.url + path)
                take(page, given.folder, name_of(app.url + path))
            conflict(app, page)
            take(page, given.folder, "conflict")
    print(f"see {given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
