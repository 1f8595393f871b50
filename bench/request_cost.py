"""What does a write cost with the sync, compared with the same write without it?"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.backlog import SIGNED_WITH, add_unnumbered
from bench.report import Figure, Report, machine, p99, precision
from bench.request_counts import add_counts
from bench.rounds import limit, rounds_within
from tests.support.gunicorn_app import ROOT, GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually, free_port

#: At least so many.
ROUNDS = 3
#: More rounds are run until the ratio of the throughputs is known to `PRECISE`, but no more than so many, nor for longer
#: than so many seconds for each setup.
MOST_ROUNDS = 9
PRECISE = 0.05
SECONDS = 18.0
#: A round has so many slices of each side, of so many requests: the speed of a shared machine and its disk varies
#: within seconds, and a disturbance should affect both sides.
SLICES, REQUESTS = 2, 300
#: The backlog of a hundred thousand changes is created again for each round.
BACKLOG_ROUNDS = 2
BACKLOG = 100_000
#: While it drains, requests of a round and side: the owner drains at full speed until it has seen others write for half
#: a second, which would be a third of the time of the usual number.
DRAINING = 1_800
CLIENTS = 4
WORKERS = 2

QUIET_BROKER = ("autosave_interval 1800", "autosave_on_changes false", "log_type none")


@dataclass(frozen=True)
class Setup:
    """The conditions under which both sides are measured."""

    name: str
    threads: int = 1
    postgresql: bool = False
    #: The application that gunicorn serves.
    wsgi: str = "wsgi:app"
    #: `there`, `away`, or `returns`: the broker returns at the beginning of each round, when there is a backlog.
    broker: str = "there"
    throughput: str = ">= 0.95"
    p99: str = "<= 1.15"


SETUPS = (
    Setup("SQLite, 2 sync workers"),
    Setup("SQLite, 2x4 gthread", threads=4),
    Setup("SQLite NORMAL", wsgi="bench.wsgi_normal:app", throughput=">= 0.9"),
    Setup("PostgreSQL, 2 sync workers", postgresql=True),
    Setup("PostgreSQL, 2x4 gthread", postgresql=True, threads=4),
    Setup("SQLite, broker away", broker="away"),
    Setup(f"SQLite, {BACKLOG:,} draining", broker="returns", throughput=">= 0.9", p99="<= 1.4"),
)
NAIVE = Setup("naive", wsgi="bench.wsgi_naive:app")


@dataclass(frozen=True)
class Slice:
    """Some requests in a row; times are in milliseconds unless stated otherwise."""

    seconds: float
    times: list[float]
    #: CPU time of the workers' main threads, of their other threads, and of the load generator.
    main: float
    relay: float
    client: float


def together(slices: list[Slice]) -> dict[str, float]:
    """Return the results of a round of one side."""
    times = sorted(ms for each in slices for ms in each.times)
    requests = len(times)
    main = sum(each.main for each in slices) / requests
    relay = sum(each.relay for each in slices) / requests
    return {
        "requests/s": requests / sum(each.seconds for each in slices),
        "median": times[requests // 2],
        "p99": p99(times),
        "main": main,
        "relay": relay,
        "cpu": main + relay,
        "client": sum(each.client for each in slices) / requests,
    }


class Side:
    """One of the apps to compare."""

    def __init__(
        self, directory: Path, setup: Setup, database_url: str, *, local_mode: bool, broker: str
    ) -> None:
        self.local_mode = local_mode
        self._connects = local_mode and setup.broker == "there"
        directory.mkdir()
        self.database = directory / "arus.sqlite"
        settings = {
            "LOCAL_MODE": str(local_mode).lower(),
            "DATABASE_URL": database_url or f"sqlite:///{self.database}",
            "SECRET_KEY": SIGNED_WITH,
            "MQTT_BROKER_URL": broker,
            "MQTT_RECONNECT_PERIOD": "0.5",
            "MQTT_MAX_QUEUE_SIZE": "1000000",
            "WEB_THREADS": str(setup.threads),
        }
        flask("db", "upgrade", settings=settings)
        self.app = GunicornApp(directory, settings, workers=WORKERS)
        self.app._argv[1] = setup.wsgi
        self.app.start()
        self.wait()
        made = self.app.post("/api/equipment", {"name": "Main engine", "type": "engine"})
        order = {
            "equipmentId": made.json["id"],
            "reason": "Cylinder 4: exhaust valve leaks",
            "description": "Found at the daily round. " * 6,
            "priority": 2,
        }
        self.body = json.dumps(order).encode()
        self.rounds: list[dict[str, Any]] = []

    def restart(self) -> None:
        """Start new processes: where objects lie in their memory makes the same code a tenth faster or slower."""
        self.app.kill_all()
        self.app.start(wait=False)

    def wait(self) -> None:
        """Wait until it can be measured."""
        self.app.wait_ready()
        if self._connects:
            self.app.wait_connected()

    def measure(self, requests: int, settled: Callable[[], bool] = lambda: True) -> Slice:
        """POST work orders, and wait until all work caused by them is done."""
        before = cpu_ms(self.app)
        command = [sys.executable, "-m", "bench.load", str(self.app.port), "/api/work-orders"]
        done = subprocess.run(
            [*command, str(requests), str(CLIENTS)],
            input=self.body,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            check=True,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        eventually(settled, 60, interval=0.1, message="all is delivered")
        after = cpu_ms(self.app)
        return Slice(
            result["seconds"],
            result["ms"],
            main=after[0] - before[0],
            relay=after[1] - before[1],
            client=result["cpu"] * 1000,
        )

    def delivered(self) -> bool:
        """Return whether nothing waits any more."""
        return bool(self.app.health()["mqtt"]["queuedMessages"] == 0)

    def kill(self) -> None:
        """End it."""
        self.app.kill_all()


def cpu_ms(app: GunicornApp) -> tuple[float, float]:
    """Return the CPU time of the workers so far: of their main threads, and of all others."""
    main = others = 0
    for pid in app.worker_pids():
        for task in Path(f"/proc/{pid}/task").iterdir():
            taken = int((task / "schedstat").read_text().split()[0])
            if int(task.name) == pid:
                main += taken
            else:
                others += taken
    return main / 1e6, others / 1e6


def run(rounds: int = ROUNDS) -> Report:
    """Measure each setup, alternating between the sides, in changing order."""
    report = Report(
        "request_cost",
        "What does POST /api/work-orders cost with the sync, against LOCAL_MODE=false?",
        {
            "rounds": f"{rounds}, or up to {MOST_ROUNDS} until a ratio is known to +-{PRECISE:.0%}, within {SECONDS:g} s a setup",
            "requests a round and side": f"{SLICES * REQUESTS}, {DRAINING:,} while a backlog drains",
            "the sides alternate after": f"{REQUESTS} requests; each round is one of new processes",
            "clients": CLIENTS,
            "workers": WORKERS,
            "SQLite": "WAL, synchronous=FULL unless NORMAL is stated",
            "PostgreSQL": "fsync and synchronous_commit on",
            "broker": "Mosquitto on loopback, link up unless stated",
        },
        machine=machine(),
    )
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arus-bench-")))
        add_counts(report, directory)
        postgres = stack.enter_context(PostgresServer(durable=True))
        for number, setup in enumerate(SETUPS):
            place = directory / str(number)
            place.mkdir()
            sides = _measure(setup, place, postgres, rounds, naive=number == 0)
            _report(report, setup, sides, detailed=number == 0)
    return report


def _measure(
    setup: Setup, place: Path, postgres: PostgresServer, rounds: int, *, naive: bool
) -> list[Side]:
    def database() -> str:
        return postgres.url(postgres.create_database()) if setup.postgresql else ""

    broker = Mosquitto(place / "broker", options=QUIET_BROKER)
    sides: list[Side] = []
    try:
        if setup.broker == "there":
            broker.start()
        url = broker.url if setup.broker != "away" else f"mqtt://127.0.0.1:{free_port()}"
        sides += [
            Side(place / name, setup, database(), local_mode=local_mode, broker=url)
            for name, local_mode in (("without", False), ("with", True))
        ]
        if naive:
            sides.append(Side(place / "naive", NAIVE, "", local_mode=False, broker=url))
        least = min(rounds, BACKLOG_ROUNDS) if setup.broker == "returns" else rounds
        for number in rounds_within(
            limit(SECONDS, rounds, ROUNDS),
            _most(setup, least),
            least,
            is_enough=lambda: _is_precise(sides),
        ):
            for side in sides if number else ():
                side.restart()
            for side in sides:
                side.wait()
                side.measure(100)  # caches warm up
            if setup.broker == "returns":
                for side in sides if number % 2 else reversed(sides):
                    side.rounds.append(
                        _measure_while_draining(side, broker)
                        if side.local_mode
                        else together([side.measure(DRAINING)])
                    )
            else:
                _measure_in_slices(sides, there=setup.broker == "there")
        print(f"request_cost: {setup.name}", file=sys.stderr, flush=True)
    finally:
        for side in sides:
            side.kill()
        broker.kill()
    return sides


def _says(ratio: Figure) -> str:
    off = f"+-{ratio.precision:.1%} after {len(ratio.values)} rounds"
    return (
        off
        if ratio.precision <= PRECISE
        else f"{off}: NOT within +-{PRECISE:.0%}, judge by the counts"
    )


def _most(setup: Setup, rounds: int) -> int:
    return rounds if setup.broker == "returns" or rounds < ROUNDS else max(rounds, MOST_ROUNDS)


def _is_precise(sides: list[Side]) -> bool:
    without, with_sync, *_ = ([each["requests/s"] for each in side.rounds] for side in sides)
    return precision([a / b for a, b in zip(with_sync, without, strict=True)]) <= PRECISE


def _measure_in_slices(sides: list[Side], *, there: bool) -> None:
    slices: dict[int, list[Slice]] = {id(side): [] for side in sides}
    for number in range(SLICES):
        for side in sides if number % 2 else reversed(sides):
            settled = side.delivered if there and side.local_mode else lambda: True
            slices[id(side)].append(side.measure(REQUESTS, settled))
    for side in sides:
        side.rounds.append(together(slices[id(side)]))


def _measure_while_draining(side: Side, broker: Mosquitto) -> dict[str, Any]:
    """Let the broker return to a backlog, and send requests while it drains."""
    add_unnumbered(side.database, BACKLOG)
    eventually(lambda: _waiting(side.database)[0] == 0, 120, message="all is numbered")
    broker.start()
    side.app.wait_connected()
    before, began = _waiting(side.database)[1], time.monotonic()
    result = together([side.measure(DRAINING)])
    left, seconds = _waiting(side.database)[1], time.monotonic() - began
    if left == 0:
        raise RuntimeError("the backlog was drained before the requests were answered")
    result["drained/s"] = (before - left) / seconds
    eventually(lambda: _waiting(side.database)[1] == 0, 120, interval=0.2, message="drained")
    broker.stop()
    broker.forget()
    eventually(
        lambda: side.app.health()["mqtt"]["status"] == "disconnected", message="it is noticed"
    )
    return result


def _waiting(database: Path) -> tuple[int, int]:
    """Return whether there are unnumbered changes, and the number of numbered, undelivered ones."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        (unnumbered,) = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM arus_change WHERE seq IS NULL AND outcome IS NULL)"
        ).fetchone()
        (depth,) = connection.execute("SELECT coalesce(sum(depth), 0) FROM arus_lane").fetchone()
        return unnumbered, depth


def _report(report: Report, setup: Setup, sides: list[Side], *, detailed: bool) -> None:
    without, with_sync, *naive = sides

    def figure(title: str, unit: str, side: Side, key: str) -> Figure:
        name = f"{setup.name}: {title}"
        return report.add(name, unit, [each[key] for each in side.rounds])

    def compare(title: str, unit: str, key: str, target: str | None) -> None:
        base = figure(f"{title}, without", unit, without, key)
        ours = figure(f"{title}, with the sync", unit, with_sync, key)
        ratio = report.ratios(f"**{setup.name}: {title}, with / without**", ours, base, target)
        if key == "requests/s":
            report.setup[f"{setup.name}: its ratio of throughputs"] = _says(ratio)
        for side in naive:
            peer = figure(f"{title}, publish in the request", unit, side, key)
            report.ratios(f"{setup.name}: {title}, publish in the request / without", peer, base)

    compare("throughput", "requests/s", "requests/s", setup.throughput)
    compare("p99", "ms", "p99", setup.p99)
    if detailed:
        compare("median latency", "ms", "median", None)
        compare("CPU, serving thread", "ms/request", "main", None)
    # The CPU time for the backlog does not belong to the requests.
    compare("CPU", "ms/request", "cpu", None if setup.broker == "returns" else "<= 1.08")
    if detailed:
        figure("relay's share of it", "ms/request", with_sync, "relay")
        figure("load generator's CPU", "ms/request", with_sync, "client")
    if setup.broker == "returns":
        figure("drained meanwhile", "messages/s", with_sync, "drained/s")
