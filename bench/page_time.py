"""How long does the server need for each page, with 10,000 work orders and 5,000 pieces of equipment?"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from datetime import timedelta
from html import unescape
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import insert, select

from app import create_app
from bench.report import Report, machine
from bench.request_cost import QUIET_BROKER, SIGNED_WITH, cpu_ms
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.database import new_id, utcnow
from tests.support import http
from tests.support.browser import shape
from tests.support.gunicorn_app import GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

ORDERS = 10_000
MACHINES = 5_000
REQUESTS = 20
WORKERS = 2
#: The target for a page, in milliseconds.
PROMISED = 25


def fill(settings: dict[str, str]) -> None:
    """Add the equipment and the work orders to the demo ship, each with its change."""
    app = create_app(settings)
    chance = Random(10_000)
    now = utcnow()
    with app.app_context():
        machines = [
            {"id": new_id(), "version": 1, "name": f"Valve {number:05}", "type": "valve"}
            for number in range(MACHINES)
        ]
        db.session.execute(insert(Equipment), machines)
        db.session.commit()
        equipment = list(db.session.scalars(select(Equipment.id)))
        for start in range(0, ORDERS, 1000):
            rows: list[dict[str, Any]] = [
                {
                    "id": new_id(),
                    "version": 1,
                    "wo_number": f"BENCH-{number:05}",
                    "equipment_id": chance.choice(equipment),
                    "reason": f"Job {number}: check, clean and grease",
                    "description": "Found at the daily round. " * 4,
                    "priority": chance.randint(1, 5),
                    "status": chance.choice(("open", "in_progress", "completed", "completed")),
                    "planned_start_date": now - timedelta(hours=3 * (number - ORDERS // 10)),
                    "created_at": now - timedelta(minutes=13 * number),
                    "updated_at": now - timedelta(minutes=13 * number),
                }
                for number in range(start, start + 1000)
            ]
            db.session.execute(insert(WorkOrder), rows)
            db.session.commit()
        db.engine.dispose()


def pages(app: GunicornApp) -> list[str]:
    """Return one URL of each kind of page within three links from the first."""
    found = {shape(each): each for each in ("/", "/work-orders?q=grease", "/search?q=grease")}
    for _ in range(3):
        for address in list(found.values()):
            text = app.get(address, {"Accept": "text/html"}).text
            for href in re.findall(r'<a\s[^>]*?href="(/[^"#]*)', text):
                link = unescape(href)
                if not re.search(r"/static/|\.json|\.csv|/health|lang=|/metrics", link):
                    found.setdefault(shape(link), link)
    # only one filter or sort order of a list at a time
    return sorted((link for link in found.values() if link.count("&") == 0), key=shape)


def run(requests: int = REQUESTS) -> Report:
    """Request each page in turn `requests` times, with a new connection for each request."""
    report = Report(
        "page_time",
        f"How long does the server need for each page, with {ORDERS:,} work orders and {MACHINES:,} pieces of equipment?",
        {
            "requests a page": requests,
            "clients": 1,
            "gunicorn": f"{WORKERS} sync workers",
            "database": "SQLite, WAL, synchronous=FULL",
            "promised": f"{PROMISED} ms",
        },
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        settings = {
            "LOCAL_MODE": "true",
            "DATABASE_URL": f"sqlite:///{name}/arus.sqlite",
            "SECRET_KEY": SIGNED_WITH,
            "MQTT_BROKER_URL": broker.url,
        }
        flask("db", "upgrade", settings=settings)
        flask("demo", "load", settings=settings)
        fill(settings)
        with GunicornApp(Path(name), settings, workers=WORKERS) as app:
            app.wait_connected()
            eventually(lambda: app.health()["mqtt"]["queuedMessages"] == 0, 300, interval=0.5)
            addresses = pages(app)
            for address in addresses:
                _measure(report, app, address, requests)
    for unit in ("ms", "ms/request"):
        pages_took = [figure for figure in report.figures if figure.unit == unit]
        worst = max(pages_took, key=lambda figure: figure.median)
        report.add(f"**slowest: {worst.name}**", unit, worst.values, f"<= {PROMISED}")
    return report


def _measure(report: Report, app: GunicornApp, address: str, requests: int) -> None:
    """Request one page repeatedly."""
    times: list[float] = []
    headers = {"Accept": "text/html", "Accept-Encoding": "gzip"}
    before, size = sum(cpu_ms(app)), 0
    for _ in range(requests):
        began = time.perf_counter()
        answer = http.request(app.port, "GET", address, headers=headers)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status == 200, (address, answer.status)
        size = len(answer.body)
    busy = (sum(cpu_ms(app)) - before) / requests
    report.add(f"{shape(address)}", "ms", times)
    report.add(f"{shape(address)}, processor", "ms/request", [busy])
    print(f"{shape(address)}: {busy:.1f} ms of processor, {size} bytes", file=sys.stderr)
