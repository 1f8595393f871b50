"""What does a write cost with the sync, compared with the same write without it?"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.report import Figure, Report, machine
from tests.support.gunicorn_app import ROOT, GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

ROUNDS = 9
REQUESTS = 400
CLIENTS = 4
WORKERS = 2
SIGNED_WITH = "for-benchmarks-only-and-long-enough"

QUIET_BROKER = ("autosave_interval 1800", "autosave_on_changes false", "log_type none")


class Side:
    """One of the two apps that are compared."""

    def __init__(self, directory: Path, *, local_mode: bool, broker: str) -> None:
        self.local_mode = local_mode
        directory.mkdir()
        settings = {
            "LOCAL_MODE": str(local_mode).lower(),
            "DATABASE_URL": f"sqlite:///{directory}/arus.sqlite",
            "SECRET_KEY": SIGNED_WITH,
            "MQTT_BROKER_URL": broker,
        }
        flask("db", "upgrade", settings=settings)
        self.app = GunicornApp(directory, settings, workers=WORKERS).start()
        if local_mode:
            self.app.wait_connected()
        made = self.app.post("/api/equipment", {"name": "Main engine", "type": "engine"})
        order = {
            "equipmentId": made.json["id"],
            "reason": "Cylinder 4: exhaust valve leaks",
            "description": "Found at the daily round. " * 6,
            "priority": 2,
        }
        self.body = json.dumps(order).encode()
        self.rounds: list[dict[str, Any]] = []

    def measure(self, requests: int) -> dict[str, Any]:
        """POST work orders; everything that follows from them is over when this returns."""
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
        if self.local_mode:
            eventually(self._delivered, 60, interval=0.2, message="all is delivered")
        after = cpu_ms(self.app)
        times = sorted(result["ms"])
        return {
            "requests/s": requests / result["seconds"],
            "median": times[len(times) // 2],
            "p99": times[int(len(times) * 0.99)],
            "main": (after[0] - before[0]) / requests,
            "relay": (after[1] - before[1]) / requests,
            "client": result["cpu"] * 1000 / requests,
        }

    def _delivered(self) -> bool:
        return bool(self.app.health()["mqtt"]["queuedMessages"] == 0)


def cpu_ms(app: GunicornApp) -> tuple[float, float]:
    """Milliseconds of processor that the workers took: in the threads that serve, in all others."""
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
    """Measure both in turn, in changing order."""
    report = Report(
        "request_cost",
        "What does POST /api/work-orders cost with the sync, against LOCAL_MODE=false?",
        {
            "rounds": rounds,
            "requests a round and side": REQUESTS,
            "clients": CLIENTS,
            "gunicorn": f"{WORKERS} sync workers",
            "database": "SQLite, WAL, synchronous=FULL",
            "broker": "Mosquitto on loopback, link up",
        },
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        sides = [
            Side(Path(name, "without"), local_mode=False, broker=broker.url),
            Side(Path(name, "with"), local_mode=True, broker=broker.url),
        ]
        try:
            for side in sides:
                side.measure(100)  # caches warm up
            for number in range(rounds):
                for side in sides if number % 2 else reversed(sides):
                    side.rounds.append(side.measure(REQUESTS))
                print(f"request_cost: round {number + 1} of {rounds}", file=sys.stderr)
        finally:
            for side in sides:
                side.app.kill_all()
    without, with_sync = sides
    _compare(report, "throughput", "requests/s", without, with_sync, ("requests/s",))
    _compare(report, "median latency", "ms", without, with_sync, ("median",))
    _compare(report, "p99 latency", "ms", without, with_sync, ("p99",))
    _compare(report, "workers' CPU, serving", "ms/request", without, with_sync, ("main",))
    _compare(
        report, "workers' CPU, relay included", "ms/request", without, with_sync, ("main", "relay")
    )
    report.add("relay's share of it", "ms/request", [r["relay"] for r in with_sync.rounds])
    report.add("load generator's CPU", "ms/request", [r["client"] for r in with_sync.rounds])
    return report


def _compare(
    report: Report, name: str, unit: str, without: Side, with_sync: Side, keys: tuple[str, ...]
) -> None:
    def figure(title: str, side: Side) -> Figure:
        return report.add(title, unit, [sum(r[key] for key in keys) for r in side.rounds])

    base = figure(f"{name}, without", without)
    ours = figure(f"{name}, with the sync", with_sync)
    report.ratios(f"**{name}, with / without**", ours, base)
