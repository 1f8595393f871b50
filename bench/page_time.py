"""How long does the server take for each page, with 10,000 work orders?"""

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
REQUESTS = 30
WORKERS = 2
#: What the pages promise, in milliseconds.
PROMISED = 50


def fill(settings: dict[str, str]) -> None:
    """Add the work orders to the demo's ship, each with its change."""
    app = create_app(settings)
    chance = Random(10_000)
    now = utcnow()
    with app.app_context():
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
                    "created_at": now - timedelta(minutes=13 * number),
                    "updated_at": now - timedelta(minutes=13 * number),
                }
                for number in range(start, start + 1000)
            ]
            db.session.execute(insert(WorkOrder), rows)
            db.session.commit()
        db.engine.dispose()


def pages(app: GunicornApp) -> list[str]:
    """One page of each kind that links lead to, three steps from the first."""
    searched = "/work-orders?q=grease"
    found = {"/": "/", shape(searched): searched}
    for _ in range(3):
        for address in list(found.values()):
            text = app.get(address, {"Accept": "text/html"}).text
            for href in re.findall(r'<a\s[^>]*?href="(/[^"#]*)', text):
                link = unescape(href)
                if not re.search(r"/static/|\.json|/health|lang=|/metrics", link):
                    found.setdefault(shape(link), link)
    # of what a list can be narrowed and sorted by, one at a time
    return sorted((link for link in found.values() if link.count("&") == 0), key=shape)


def run(requests: int = REQUESTS) -> Report:
    """Ask for each page in turn, on a connection each, as often as `requests` says."""
    report = Report(
        "page_time",
        f"How long does the server take for each page, with {ORDERS:,} work orders?",
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
    """Ask for a page again and again."""
    times: list[float] = []
    headers = {"Accept": "text/html", "Accept-Encoding": "gzip"}
    before, size = cpu_ms(app)[0], 0
    for _ in range(requests):
        began = time.perf_counter()
        answer = http.request(app.port, "GET", address, headers=headers)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status == 200, (address, answer.status)
        size = len(answer.body)
    busy = (cpu_ms(app)[0] - before) / requests
    report.add(f"{shape(address)}", "ms", times)
    report.add(f"{shape(address)}, processor", "ms/request", [busy])
    print(f"{shape(address)}: {busy:.1f} ms of processor, {size} bytes", file=sys.stderr)
