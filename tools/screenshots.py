"""Takes screenshots of every page: light, dark, and at the size of a phone.

python -m tools.screenshots [--language nb] [--fleet 150] [FOLDER]

The vessel has demo data, and a link that was down and is up again. With `--fleet`: the pages ashore, with so many
vessels.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from app import create_app
from tests.support.browser import DESK, PHONE, chromium, shape, strict_page, walk
from tests.support.fleet_ashore import FleetAshore
from tests.support.gunicorn_app import ROOT, GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

#: Pages without a link to them.
OTHERS = ("/nowhere", "/work-orders?q=nothing+like+this", "/sync/changes?state=quarantined")
#: Maximum height in pixels; a picture of all 200 rows would show nothing more.
TALLEST = 4000


def take(page: Page, folder: Path, name: str) -> None:
    """Take the screenshots of the current page."""
    page.wait_for_load_state("networkidle")  # charts are drawn when their data has arrived
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
    """Return the file name for a URL."""
    return re.sub(r"\W+", "-", shape(url).replace("*", "row")).strip("-")


def live(app: GunicornApp, broker: Mosquitto) -> None:
    """Cause an outage with a change in it, and a message that can't be sent."""
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
    """Change one row twice, as if by two people."""
    (order, *_) = app.get("/api/work-orders").json["items"]
    page.goto(f"{app.url}/work-orders/{order['id']}/edit")
    app.request("PATCH", f"/api/work-orders/{order['id']}", {"reason": "Changed ashore"})
    page.locator("[name=reason]").fill("Changed on board")
    page.locator("main form button[type=submit]").click()
    page.locator("form.conflict").wait_for()


def take_fleet(folder: Path, language: str, count: int) -> None:
    """Take the screenshots of the pages ashore."""
    with tempfile.TemporaryDirectory(prefix="arus-screenshots-") as name:
        settings = {
            "LOCAL_MODE": "false",
            "DATABASE_URL": f"sqlite:///{name}/shore.sqlite",
            "SECRET_KEY": "for-screenshots-only-and-long-enough",
            "SHIP_TIMEZONE": "Europe/Oslo",
        }
        flask("db", "upgrade", settings=settings)
        with (
            GunicornApp(Path(name), settings, workers=1) as app,
            chromium() as browser,
            strict_page(browser, locale=language) as page,
        ):
            page.goto(app.url)
            take(page, folder, "fleet-empty")
            with FleetAshore(create_app(settings)) as fleet, fleet.following():
                fleet.connected()
                ids = fleet.in_every_state(count)
                for vessel_id in ids[:10]:
                    pump = next(iter(fleet.ship(vessel_id).rows))[1]
                    for topic in ("work_orders", "alerts", "maintenance", "crew"):
                        own: dict[str, Any] = {} if topic == "crew" else {"equipmentId": pump}
                        fleet.change(vessel_id, topic, **own)
                pages = {
                    "": "fleet",
                    "fleet?sort=behind": "fleet-behind",
                    "fleet?audit=differs": "fleet-differs",
                    "fleet?q=nobody": "fleet-no-matches",
                    **{f"fleet/{ids[number]}": f"vessel-{number}" for number in (1, 3, 5, 6, 8)},
                    "work-orders": "fleet-work-orders",
                }
                for path, title in pages.items():
                    page.goto(f"{app.url}/{path}")
                    take(page, folder, title)
                    print(f"{title}: /{path}")
            page.goto(app.url)
            take(page, folder, "fleet-not-followed")


def main() -> int:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", default="en")
    parser.add_argument("--fleet", type=int, default=0, metavar="VESSELS")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "screenshots")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.fleet:
        take_fleet(given.folder, given.language, given.fleet)
        print(f"see {given.folder}")
        return 0
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
                title = name_of(url) or "dashboard"
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
