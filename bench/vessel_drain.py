"""Does a backlog drain as fast in a running vessel, with a page open, as with the relay alone?"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.backlog import check_delivered, child, copy, forget, make_backlog, settings
from bench.report import Report, machine
from bench.request_cost import QUIET_BROKER
from tests.support.gunicorn_app import GunicornApp
from tests.support.mosquitto import Mosquitto

ROUNDS = 3
CHANGES = 50_000
WORKERS = 2
#: Seconds between two polls of an open page, as in `app.js`.
POLL = 5.0
#: Seconds between two looks at what waits: short beside the drain, and rare enough to take no processor from it.
LOOK = 0.02
_LONGEST = 300.0


def run(rounds: int = ROUNDS) -> Report:
    """Drain copies of one backlog with each side, in changing order."""
    report = Report(
        "vessel_drain",
        f"How fast do {CHANGES:,} changes in the log reach the broker from a running vessel, against the relay alone?",
        {
            "rounds": rounds,
            "vessel": f"gunicorn, {WORKERS} sync workers, the page of the sync open",
            "broker": "Mosquitto on loopback, no limit of its own, no persistence",
        },
        machine=machine(),
    )
    with tempfile.TemporaryDirectory(prefix="arus-bench-") as name:
        directory = Path(name)
        broker = Mosquitto(directory / "broker", options=QUIET_BROKER)
        backlog = make_backlog(directory, 1, CHANGES)
        sides = {"relay alone": _alone, "running vessel": _running}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in sides if number % 2 else reversed(sides):
                database = directory / "drained.sqlite"
                copy(backlog, database)
                rates[side].append(CHANGES / sides[side](database, broker))
                check_delivered(database, CHANGES)
                forget(database)
            print(f"vessel_drain: round {number + 1}", file=sys.stderr, flush=True)
    alone, running = (report.add(side, "messages/s", rates[side]) for side in sides)
    report.ratios("**running vessel / relay alone**", running, alone, ">= 0.9")
    return report


def _alone(database: Path, broker: Mosquitto) -> float:
    with broker:
        return float(child("bench.drain_relay", str(database), broker.url)["seconds"])


def _running(database: Path, broker: Mosquitto) -> float:
    """The broker comes to a vessel that has started: the other worker's start is not measured."""
    made = {**settings(database, broker.url), "MQTT_RECONNECT_PERIOD": "0.2"}
    with GunicornApp(database.parent, made, workers=WORKERS) as app, _page_open(app), broker:
        began, left = 0.0, CHANGES
        deadline = time.monotonic() + _LONGEST
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            while left:
                (left,) = connection.execute("SELECT sum(depth) FROM arus_lane").fetchone()
                if left < CHANGES and not began:
                    began = time.perf_counter()
                    first = CHANGES - left
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{left} changes are left after {_LONGEST} s")
                time.sleep(LOOK)
            # What was acknowledged before the first look counts as much as the rest.
            return (time.perf_counter() - began) * CHANGES / (CHANGES - first)


@contextmanager
def _page_open(app: GunicornApp) -> Iterator[None]:
    """The page of the sync, open in a browser: it polls."""
    closed = threading.Event()

    def poll() -> None:
        while not closed.wait(POLL):
            app.get("/sync")

    app.get("/sync")
    browser = threading.Thread(target=poll, daemon=True)
    browser.start()
    try:
        yield
    finally:
        closed.set()
        browser.join()


if __name__ == "__main__":
    print(run())
