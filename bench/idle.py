"""What do the workers use when nothing happens?"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bench.backlog import settings
from bench.report import Report, machine
from bench.request_cost import QUIET_BROKER
from tests.support.gunicorn_app import GunicornApp, flask
from tests.support.mosquitto import Mosquitto

ROUNDS = 2
SETTLE, SECONDS = 5.0, 10.0


def run(rounds: int = ROUNDS) -> Report:
    """Measure two workers and a broker without any clients."""
    report = Report(
        "idle",
        "What do two workers use when nothing happens?",
        {"rounds": rounds, "seconds a round": SECONDS, "gunicorn": "2 sync workers"},
        machine=machine(),
    )
    share: dict[str, list[float]] = {"the owner": [], "the other worker": []}
    written: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        made = settings(Path(name, "arus.sqlite"), broker.url)
        flask("db", "upgrade", settings=made)
        with GunicornApp(Path(name), made) as app:
            owner = app.wait_connected()
            pids = app.worker_pids()
            time.sleep(SETTLE)
            for number in range(rounds):
                taken, on_disk = {pid: _cpu_ms(pid) for pid in pids}, _written(pids)
                time.sleep(SECONDS)
                for pid in pids:
                    who = "the owner" if pid == owner else "the other worker"
                    share[who].append((_cpu_ms(pid) - taken[pid]) / SECONDS / 10)
                written.append(_written(pids) - on_disk)
                print(f"idle: round {number + 1} of {rounds}", file=sys.stderr)
    report.add("**the owner's share of a core**", "%", share["the owner"], "<= 0.5")
    # gunicorn's worker itself wakes each second to report that it is alive
    report.add("**the other worker's share of a core**", "%", share["the other worker"], "<= 0.1")
    report.add("**written to the disk**", "bytes", written, "<= 0")
    return report


def _cpu_ms(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def _written(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))
    return total
