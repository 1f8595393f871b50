"""Does a million make it slow: waiting changes, changes in the log, rows in a table?"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from bench.backlog import check_delivered, child, forget, make_backlog, settings
from bench.listener import Listener
from bench.load import ask
from bench.report import Report, machine, p99
from bench.request_cost import QUIET_BROKER
from tests.support.gunicorn_app import HEALTH, ROOT, GunicornApp
from tests.support.mosquitto import Mosquitto

ROUNDS = 2
MANY, FEW = 1_000_000, 10_000
HEALTHS = 450
#: What answers the same to everybody.
CONSTANT = "/healthz"
#: Seconds between two of them; the rate limit is 2,000 a minute.
HEALTH_GAP = 0.006
#: Seconds after which a new owner has made its tallies.
TALLIES = 3.0
CATCHUP = "/api/mqtt/reliable-sync/catchup"

_MULTIPLY_ROWS = """
WITH RECURSIVE counter(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n + 1 < :many)
INSERT INTO work_orders (id, version, created_at, updated_at, wo_number, equipment_id, reason,
    description, status, priority)
SELECT printf('%08x-0000-4000-8000-000000000000', n), 1, template.created_at, template.updated_at, printf('M-%09d', n), equipment_id, reason,
    description, status, priority
FROM counter, (SELECT * FROM work_orders LIMIT 1) AS template
"""


def run(rounds: int = ROUNDS) -> Report:
    """Drain a million changes, then measure requests against the resulting database."""
    report = Report(
        "million",
        f"Does it get slow with {MANY:,} changes waiting, and with as many in the log and rows in a table?",
        {
            "small backlog": f"{FEW:,}",
            "health": f"{HEALTHS} requests, one soon after the other, while another client posts work"
            " orders without a pause; gunicorn with 2 sync workers. In turn with an answer that is always the same",
            "catch-up": "from the request to the first item as a subscriber sees it; the changes of the"
            f" last hour are all of them. With a limit of 100, unless it says otherwise; without one {TALLIES:g} s"
            " after the start",
        },
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        small = [_drain(Path(name), broker, FEW)[0] for _ in range(min(rounds, 3))]
        million, database = _drain(Path(name), broker, MANY, keep=True)
        rate = report.add(
            "drain of the small backlog", "messages/s", [FEW / s["seconds"] for s in small]
        )
        many = MANY / million["seconds"]
        report.add(f"drain of {MANY:,}", "messages/s", [many])
        report.add("**drain, million / small**", "ratio", [many / rate.median], ">= 0.8")
        report.add("**start to connection, a million waiting**", "s", [million["ready"]], "<= 2")
        report.add("start to connection, small backlog", "s", [s["ready"] for s in small])
        usual = min(s["memory"] for s in small)
        more = (million["memory"] - usual) / 2**20
        report.add("**memory beyond that of the small backlog**", "MB", [more], "<= 50")
        print("million: drained", file=sys.stderr)
        _fill(database)
        print("million: filled", file=sys.stderr)
        _ask_for_all(report, Path(name), database, broker, rounds)
        print("million: asked for all", file=sys.stderr)
        made = settings(database, broker.url)
        with GunicornApp(Path(name), made) as app, Listener(broker.port) as listener:
            app.wait_connected()
            _ask_for_catchups(report, app, listener, rounds)
            report.add("health, nobody else there: p99", "ms", [p99(_times(app, HEALTH)[HEALTH])])
            _busy(report, app, min(rounds, 3))
        with GunicornApp(Path(name), {**made, "LOCAL_MODE": "false"}) as app:
            without = _busy_times(app, HEALTH)[HEALTH]
        report.add("health under load, LOCAL_MODE=false: p99", "ms", [p99(without)])
    return report


def _busy(report: Report, app: GunicornApp, rounds: int) -> None:
    """Compare health under load with an answer that is always the same: of the same workers, one after the other."""
    found = [_busy_times(app, HEALTH, CONSTANT) for _ in range(rounds)]
    report.add("health under load: median", "ms", [median(times[HEALTH]) for times in found])
    ours = report.add(
        "**health under load: p99**", "ms", [p99(times[HEALTH]) for times in found], "<= 5"
    )
    report.add(f"{CONSTANT} under load: median", "ms", [median(times[CONSTANT]) for times in found])
    peer = report.add(
        f"{CONSTANT} under load: p99", "ms", [p99(times[CONSTANT]) for times in found]
    )
    report.ratios(f"**health / {CONSTANT} under load: p99**", ours, peer, "<= 1.1")


def _drain(
    directory: Path, broker: Mosquitto, changes: int, *, keep: bool = False
) -> tuple[dict[str, Any], Path]:
    database = make_backlog(directory, 1, changes)
    result = child("bench.drain_relay", str(database), broker.url)
    check_delivered(database, changes)
    if not keep:
        forget(database)
    return result, database


def _fill(database: Path) -> None:
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("PRAGMA cache_size = -400000")
        connection.execute(_MULTIPLY_ROWS, {"many": MANY})
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        # Otherwise the next commit of any process would have to checkpoint a gigabyte of WAL.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _ask_for_catchups(report: Report, app: GunicornApp, listener: Listener, rounds: int) -> None:
    hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    epoch, head = _heads(listener)
    for title, body in (
        ("of the last hour", {"entity": "work_orders", "since": hour_ago}),
        ("behind a number", {"entity": "work_orders", "sinceSeq": head - 1000, "epoch": epoch}),
    ):
        times = [_first_item(app, listener, body, whole=True)[0] for _ in range(rounds)]
        report.add(f"**catch-up {title}: first item**", "ms", times, "<= 100")


def _ask_for_all(
    report: Report, directory: Path, database: Path, broker: Mosquitto, rounds: int
) -> None:
    """Ask without a limit. The app is stopped after the first item: a million of them take minutes."""
    for title, place in (("everything", {}), ("the whole log", {"sinceSeq": 1})):
        times = []
        for _ in range(rounds):
            with (
                GunicornApp(directory, settings(database, broker.url)) as app,
                Listener(broker.port) as listener,
            ):
                app.wait_connected()
                epoch, _ = _heads(listener)
                time.sleep(TALLIES)
                body = {"entity": "work_orders", "limit": None, **place}
                # The first request of a process imports what others find.
                _first_item(app, listener, {"entity": "work_orders", "limit": 1}, whole=True)
                took, total = _first_item(
                    app, listener, {**body, **({"epoch": epoch} if place else {})}
                )
                if total < MANY - 1:
                    raise RuntimeError(f"catch-up {title}: only {total} items")
                times.append(took)
            _forget_catchups(database)
        report.add(f"**catch-up {title}, without a limit: first item**", "ms", times, "<= 20")


def _first_item(
    app: GunicornApp, listener: Listener, body: dict[str, Any], *, whole: bool = False
) -> tuple[float, int]:
    """Request a catch-up; return the milliseconds until a subscriber has the first item, and how many are announced.

    :param whole: wait for its end.
    """
    listener.clear()
    began = time.monotonic()
    answer = app.post(CATCHUP, body)
    if answer.status != 202:
        raise RuntimeError(f"catch-up {body}: {answer.status} {answer.text}")
    wanted = answer.json["catchupId"]

    def first(arrivals: Any, kind: str = "catchup") -> tuple[float, int] | None:
        ours = (
            (at, b["total"])
            for at, _, b in arrivals
            if b.get("catchupId") == wanted and b["type"] == kind
        )
        return next(ours, None)

    at, total = listener.wait(first)
    if whole:
        listener.wait(lambda arrivals: first(arrivals, "catchup_end"))
    return (at - began) * 1000, total


def _forget_catchups(database: Path) -> None:
    """Remove the requests, so that the next owner does not go on with one."""
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("DELETE FROM arus_catchup")


def _heads(listener: Listener) -> tuple[str, int]:
    """Return the epoch and the highest number from the vessel's retained status."""

    def found(arrivals: Any) -> tuple[str, int] | None:
        status = [body for _, topic, body in arrivals if topic == "system/status"]
        return (status[-1]["epoch"], status[-1]["seq"]) if status else None

    result: tuple[str, int] = listener.wait(found)
    return result


def _busy_times(app: GunicornApp, *paths: str) -> dict[str, list[float]]:
    """Return the response times while another client posts."""
    made = app.post("/api/equipment", {"name": "Main engine", "type": "engine"})
    body = json.dumps({"equipmentId": made.json["id"], "reason": "Oil leaks"}).encode()
    command = [sys.executable, "-m", "bench.load", str(app.port), "/api/work-orders", "100000", "1"]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        assert load.stdin is not None
        load.stdin.write(body)
        load.stdin.close()
        time.sleep(1)
        return _times(app, *paths)
    finally:
        load.kill()
        load.wait()


def _times(app: GunicornApp, *paths: str) -> dict[str, list[float]]:
    """Return the response times of some paths, which are asked for in turn."""
    times: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(HEALTHS):
        for path in paths:
            request = (
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            began = time.perf_counter()
            answer = ask(app.port, request)
            times[path].append((time.perf_counter() - began) * 1000)
            if b" 200 " not in answer:
                raise RuntimeError(f"{path}: {answer!r}")
            time.sleep(HEALTH_GAP)
    return {path: sorted(each) for path, each in times.items()}
