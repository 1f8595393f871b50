"""What does a single change cost the owner of an idle ship: its number and PUBLISH, and its acknowledgement?

In milliseconds of processor time of the owner's thread, which other programs on the machine lengthen, and in
instructions by valgrind, which they don't.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import Report, machine
from bench.request_cost import QUIET_BROKER
from tests.support.gunicorn_app import ROOT
from tests.support.mosquitto import Mosquitto

ROUNDS = 3
CHANGES = 40
#: Instructions are the difference between runs of so many changes: what the start costs is in both.
FEW, MANY = 5, 20
#: An older checkout to compare with, if this variable names one.
BEFORE = "IDLE_CHANGE_BEFORE"
#: callgrind writes one file for each thread; the owner's is the second that is started.
_OWNER = "02"
_TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


def run(rounds: int = ROUNDS) -> Report:
    """Measure the owner's thread, and an older checkout's if there is one, alternating."""
    report = Report(
        "idle_change",
        "What does a single change cost the owner of an idle ship?",
        {"rounds": rounds, "changes a round": CHANGES, "database": "SQLite, synchronous=FULL"},
        machine=machine(),
    )
    sides = {"a change": ROOT}
    if os.environ.get(BEFORE):
        sides["a change before"] = Path(os.environ[BEFORE])
    taken: dict[str, list[float]] = {side: [] for side in sides}
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        for _ in range(rounds):
            for side, checkout in sides.items():
                taken[side].append(float(_work(checkout, broker.url, CHANGES)))
        for side in sides:
            target = "<= 0.7" if side == "a change" else None
            report.add(f"**{side}: the owner's processor time**", "ms", taken[side], target)
        if shutil.which("valgrind"):
            for side, checkout in sides.items():
                spent = _instructions(checkout, broker.url)
                report.add(f"**{side}: the owner's instructions**", "M instructions", [spent])
    print("idle_change: done", file=sys.stderr)
    return report


def _work(checkout: Path, broker_url: str, changes: int, *prefix: str) -> str:
    script = str(ROOT / "bench" / "change_work.py")
    return subprocess.run(
        [*prefix, sys.executable, script, broker_url, str(changes)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"},
        check=True,
        timeout=600,
    ).stdout


def _instructions(checkout: Path, broker_url: str) -> float:
    """Return the millions of instructions of the owner's thread for a change."""
    # One after the other: both vessels have the same client id at the broker.
    few, many = (_counted(checkout, broker_url, count) for count in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _counted(checkout: Path, broker_url: str, changes: int) -> float:
    with tempfile.TemporaryDirectory(prefix="arus-bench-") as directory:
        counts = f"--callgrind-out-file={directory}/counts"
        valgrind = ("valgrind", "-q", "--tool=callgrind", "--separate-threads=yes", counts)
        _work(checkout, broker_url, changes, *valgrind)
        found = _TOTAL.search(Path(directory, f"counts-{_OWNER}").read_text())
        assert found is not None, "callgrind writes the total"
        return int(found[1]) / 1e6
