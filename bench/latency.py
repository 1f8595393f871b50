"""How long after its commit does a change reach a subscriber, on an idle system and in bursts?"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

from bench.backlog import settings
from bench.listener import Listener
from bench.report import Report, machine, p99
from bench.request_cost import QUIET_BROKER
from bench.worker import Worker
from tests.support.gunicorn_app import flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

ROUNDS = 2
SINGLE, GAP = 30, 0.1
BURSTS, BURST = 6, 20
#: Seconds after which the system is idle again.
IDLE = 0.5


def run(rounds: int = ROUNDS) -> Report:
    """Measure single changes and bursts, written by the owner's process and by another."""
    report = Report(
        "latency",
        "How long after its commit does a change reach a subscriber?",
        {
            "rounds": rounds,
            "single": f"{SINGLE} a round, each {GAP} s after the last",
            "burst": f"{BURSTS} a round of {BURST} transactions, one at once after the other",
            "database": "SQLite, synchronous=FULL",
            "broker": "Mosquitto on loopback",
        },
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
        Listener(broker.port) as listener,
    ):
        database = new_database(Path(name), broker.url)
        with (
            Worker(database, broker.url).ready() as owner,
            Worker(database, broker.url).ready() as other,
        ):
            wait_owned(database, owner.pid)
            taken: defaultdict[str, list[list[float]]] = defaultdict(list)
            for number in range(rounds):
                for who, worker in (("owner", owner), ("another worker", other)):
                    taken[f"single, {who}"].append(measure(worker, listener, SINGLE, GAP))
                    burst = []
                    for _ in range(BURSTS):
                        burst += measure(worker, listener, BURST, 0)
                        time.sleep(IDLE)
                    taken[f"burst of {BURST}, {who}"].append(burst)
                print(f"latency: round {number + 1} of {rounds}", file=sys.stderr)
    for name, each in taken.items():
        report.add(f"**{name}: p50**", "ms", [statistics.median(one) for one in each], "<= 2")
        together = sorted(ms for one in each for ms in one)
        report.add(f"**{name}: p99**", "ms", [p99(together)], "<= 5")
        report.add(f"{name}: longest", "ms", [together[-1]])
    return report


def measure(worker: Worker, listener: Listener, count: int, gap: float) -> list[float]:
    """Return the milliseconds from commit to subscriber."""
    committed = dict(worker.do(f"commit {count} {gap}"))
    arrived = listener.wait_for(set(committed))
    listener.clear()
    return [(arrived[each] - at) * 1000 for each, at in committed.items()]


def new_database(directory: Path, broker_url: str) -> Path:
    """Create an empty, migrated database."""
    database = directory / "arus.sqlite"
    flask("db", "upgrade", settings=settings(database, broker_url))
    return database


def wait_owned(database: Path, pid: int | None = None) -> int:
    """Wait for a connected owner, or for the one with `pid`, and return its process id."""

    def owner() -> int | None:
        with closing(connect(database, timeout=30)) as connection:
            row = connection.execute("SELECT owner_pid, connected FROM arus_session").fetchone()
        return row[0] if row and row[1] and pid in (None, row[0]) else None

    found = eventually(owner, 60, interval=0.05, message="an owner is connected")
    assert found is not None
    return found
