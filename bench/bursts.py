"""Does the broker's Nagle algorithm delay us, as it does clients with delayed TCP acknowledgements?"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.backlog import check_delivered, child, copy, forget, make_backlog
from bench.latency import new_database, wait_owned
from bench.report import Report, machine
from bench.request_cost import QUIET_BROKER
from bench.worker import Worker
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

ROUNDS = 2
CHANGES = 10_000
BURSTS, BURST = 10, 20
#: Seconds after which the system is idle again.
IDLE = 0.2
NODELAY, DEFAULT = "set_tcp_nodelay true", "set_tcp_nodelay false"
#: Also measured with Mosquitto's own default.
TWENTY = "max_inflight_messages 20"


def run(rounds: int = ROUNDS) -> Report:
    """Measure drains and bursts against brokers whose configurations differ in one line."""
    report = Report(
        "bursts",
        "How fast is it against a Mosquitto as shipped, compared with one that has set_tcp_nodelay?",
        {
            "rounds": rounds,
            "drain": f"{CHANGES:,} changes",
            "burst": f"{BURSTS} a round of {BURST} changes in one transaction; its return to the last"
            " acknowledgement",
        },
        machine=machine(),
    )
    with tempfile.TemporaryDirectory(prefix="arus-bench-") as name:
        directory = Path(name)
        backlog = make_backlog(directory, 1, CHANGES)
        for window, options in (("no limit", ()), ("Receive Maximum 20", (TWENTY,))):
            rates: dict[str, list[float]] = {NODELAY: [], DEFAULT: []}
            for number in range(rounds):
                for line in rates if number % 2 else reversed(rates):
                    with (
                        tempfile.TemporaryDirectory(dir=directory) as place,
                        Mosquitto(Path(place), options=(*QUIET_BROKER, *options, line)) as broker,
                    ):
                        rates[line].append(_drain(directory, backlog, broker))
                print(f"bursts: {window}, round {number + 1} of {rounds}", file=sys.stderr)
            figures = {
                line: report.add(f"drain, {window}, {line}", "messages/s", values)
                for line, values in rates.items()
            }
            report.ratios(
                f"**drain, {window}, without / with set_tcp_nodelay**",
                figures[DEFAULT],
                figures[NODELAY],
                ">= 0.8",
            )
        for line in (NODELAY, DEFAULT):
            with (
                tempfile.TemporaryDirectory(dir=directory) as place,
                Mosquitto(Path(place), options=(*QUIET_BROKER, line)) as broker,
            ):
                _bursts(report, Path(place), broker, line, rounds)
    return report


def _drain(directory: Path, backlog: Path, broker: Mosquitto) -> float:
    database = directory / "drained.sqlite"
    copy(backlog, database)
    result = child("bench.drain_relay", str(database), broker.url)
    check_delivered(database, CHANGES)
    forget(database)
    return CHANGES / float(result["seconds"])


def _bursts(report: Report, place: Path, broker: Mosquitto, line: str, rounds: int) -> None:
    database = new_database(place, broker.url)
    single, last = [], []
    with Worker(database, broker.url).ready() as worker:
        wait_owned(database, worker.pid)
        _last_ack(worker, 1)
        for _ in range(rounds):
            single.append(statistics.median(_last_ack(worker, 1) for _ in range(BURSTS)))
            last.append(statistics.median(_last_ack(worker, BURST) for _ in range(BURSTS)))
    ones = report.add(f"{line}: a single one's acknowledgement", "ms", single)
    lasts = report.add(f"{line}: the last of {BURST}", "ms", last)
    report.ratios(f"**{line}: the last of {BURST} / a single one**", lasts, ones, "<= 5")


def _last_ack(worker: Worker, count: int) -> float:
    """Return the milliseconds from the end of a commit of `count` changes to the last acknowledgement."""
    time.sleep(IDLE)
    before = len(worker.do("acks"))
    committed = worker.do(f"batch {count}")[0][1]
    acks = eventually(
        lambda: acks if len(acks := worker.do("acks")) >= before + count else None,
        30,
        message=f"{count} acknowledgements",
    )
    assert acks
    return (acks[-1] - committed) * 1000
