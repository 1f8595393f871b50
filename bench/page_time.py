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
from bench.request_cost import QUIET_BROKER, SIGNED_WITH
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.database import new_id, utcnow
from tests.support import http
from tests.support.gunicorn_app import GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

ORDERS = 10_000
REQUESTS = 30
WORKERS = 2
#: What the pages promise, in milliseconds.
PROMISED = 50
_ROW = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


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
    """One page of each kind that links lead to, two steps from the first."""
    found = {"/": "/"}
    for _ in range(2):
        for address in list(found.values()):
            text = app.get(address, {"Accept": "text/html"}).text
            for href in re.findall(r'<a\s[^>]*?href="(/[^"#]*)', text):
                link = unescape(href)
                if not re.search(r"/static/|\.json|/health|lang=|/metrics", link):
                    found.setdefault(_ROW.sub("*", link), link)
    # of a list's filters and orders, all that a single click leads to
    return sorted(found.values(), key=lambda link: (link.count("?"), link))[:60]


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
            times: dict[str, list[float]] = {address: [] for address in addresses}
            sizes: dict[str, int] = {}
            for _ in range(requests):
                for address in addresses:
                    took, sizes[address] = _time(app.port, address)
                    times[address].append(took)
    for address in addresses:
        report.add(_ROW.sub("*", address), "ms", times[address])
        print(f"{address}: {sizes[address]} bytes", file=sys.stderr)
    slow = [f for f in report.figures if f.median > PROMISED]
    print(f"page_time: {len(slow)} of {len(addresses)} pages above {PROMISED} ms", file=sys.stderr)
    return report


def _time(port: int, address: str) -> tuple[float, int]:
    headers = {"Accept": "text/html", "Accept-Encoding": "gzip"}
    began = time.perf_counter()
    answer = http.request(port, "GET", address, headers=headers)
    took = (time.perf_counter() - began) * 1000
    assert answer.status == 200, (address, answer.status)
    return took, len(answer.body)
