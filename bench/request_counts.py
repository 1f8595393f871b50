"""What one request costs in instructions (valgrind) and system calls (strace): counts that no other program disturbs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.backlog import settings
from bench.report import Report
from tests.support.gunicorn_app import ROOT, flask

#: The cost is the difference between runs of so many requests: what the start costs is in both.
FEW, MANY = 5, 45
#: The target for the instructions of a request with the sync, as a ratio to those without it.
INSTRUCTIONS = "<= 1.03"

_INSTRUCTIONS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
_CALLS = re.compile(r"^100\.00\s.*?(\d+)(?:\s+\d+)?\s+total$", re.MULTILINE)


def add_counts(report: Report, directory: Path) -> None:
    """Add the instructions and the system calls of a request with and without the sync, as far as tools are there."""
    for name, unit, tool, target in (
        ("instructions", "M instructions", "valgrind", INSTRUCTIONS),
        ("system calls", "calls", "strace", None),
    ):
        if shutil.which(tool) is None:
            report.setup[name] = f"left out: there is no {tool}"
            continue
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [
                pool.submit(_count, directory / f"{tool}-{mode}", tool, local_mode=mode)
                for mode in (False, True)
            ]
            without, ours = (job.result() for job in jobs)
        base = report.add(f"SQLite, a request: {name}, without", unit, [without])
        with_sync = report.add(f"SQLite, a request: {name}, with the sync", unit, [ours])
        report.ratios(f"**SQLite, a request: {name}, with / without**", with_sync, base, target)
        print(f"request_cost: {name}", file=sys.stderr, flush=True)


def _count(directory: Path, tool: str, *, local_mode: bool) -> float:
    """Return how much a request takes."""
    directory.mkdir()
    found = []
    for requests in (FEW, MANY):
        database = directory / f"{requests}.sqlite"
        made = settings(database, "mqtt://127.0.0.1:9")
        flask("db", "upgrade", settings=made)
        output = directory / f"{requests}.counts"
        subprocess.run(
            [
                *_COMMANDS[tool].format(output).split(),
                *(sys.executable, "-m", "bench.request_work"),
                *(str(database), str(local_mode).lower(), str(requests)),
            ],
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
        )
        found.append(_PARSERS[tool](output.read_text()))
    return (found[1] - found[0]) / (MANY - FEW)


def _instructions(text: str) -> float:
    found = _INSTRUCTIONS.search(text)
    assert found is not None, "callgrind writes the total"
    return int(found[1]) / 1e6


def _calls(text: str) -> float:
    found = _CALLS.search(text)
    assert found is not None, "strace writes the total"
    return float(found[1])


_COMMANDS = {
    "valgrind": "valgrind -q --tool=callgrind --callgrind-out-file={}",
    "strace": "strace -f -c -o {}",
}
_PARSERS = {"valgrind": _instructions, "strace": _calls}
