"""How does the cost grow: drain rate and memory with the backlog, latency with the load?"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.backlog import check_delivered, child, forget, make_backlog
from bench.latency import new_database, wait_owned
from bench.listener import Listener
from bench.plots import draw
from bench.report import RESULTS, Report, machine, p99
from bench.request_cost import QUIET_BROKER
from bench.worker import Worker
from tests.support.mosquitto import Mosquitto

ROUNDS = 1
BACKLOGS = (100, 1_000, 10_000, 100_000)
#: Commits a second of two writers together; 0 for as many as possible.
LOADS = (10, 50, 100, 200, 0)
SECONDS = 2.0


def run(rounds: int = ROUNDS) -> Report:
    """Measure, and draw the pictures of docs/performance.md if matplotlib is installed."""
    report = Report(
        "growth",
        "How does the cost grow with the backlog and with the load?",
        {
            "rounds": rounds,
            "load": "two processes that commit at even intervals, one of them the owner's",
            "database": "SQLite, synchronous=FULL",
            "broker": "Mosquitto on loopback",
        },
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        for changes in BACKLOGS:
            _drains(report, Path(name), broker, changes, rounds)
        with Listener(broker.port) as listener:
            database = new_database(Path(name), broker.url)
            with (
                Worker(database, broker.url).ready() as owner,
                Worker(database, broker.url, writer=True).ready() as other,
            ):
                wait_owned(database, owner.pid)
                for load in LOADS:
                    _latencies(report, (owner, other), listener, load, rounds)
    draw(report, _million())
    return report


def _drains(report: Report, directory: Path, broker: Mosquitto, changes: int, rounds: int) -> None:
    results = []
    for _ in range(rounds):
        database = make_backlog(directory, 1, changes)
        results.append(child("bench.drain_relay", str(database), broker.url))
        check_delivered(database, changes)
        forget(database)
    report.add(f"drain of {changes:,}", "messages/s", [changes / r["seconds"] for r in results])
    report.add(f"memory for {changes:,}", "MB", [r["memory"] / 2**20 for r in results])
    print(f"growth: {changes:,} drained", file=sys.stderr)


def _latencies(
    report: Report, workers: tuple[Worker, Worker], listener: Listener, load: int, rounds: int
) -> None:
    count = int(load * SECONDS / 2) if load else 300
    medians, p99s, rates = [], [], []
    for _ in range(rounds):
        began = time.monotonic()
        for worker in workers:
            worker.ask(f"commit {count} {2 / load if load else 0}")
        committed: dict[str, float] = {}
        for worker in workers:
            committed |= dict(worker.answer())
        rates.append(len(committed) / (time.monotonic() - began))
        arrived = listener.wait_for(set(committed))
        listener.clear()
        took = sorted((arrived[each] - at) * 1000 for each, at in committed.items())
        medians.append(statistics.median(took))
        p99s.append(p99(took))
        time.sleep(1)
    name = f"{load} a second" if load else "as many as can be"
    report.add(f"{name}: commits", "1/s", rates)
    report.add(f"{name}: commit to subscriber, median", "ms", medians)
    report.add(f"{name}: commit to subscriber, p99", "ms", p99s)
    print(f"growth: {name}", file=sys.stderr)


def _million() -> dict[str, float]:
    """Return the medians of the last run of `million`, if there is one."""
    path = RESULTS / "million.json"
    if not path.exists():
        return {}
    figures = json.loads(path.read_text())["figures"]
    return {figure["name"]: statistics.median(figure["values"]) for figure in figures}
