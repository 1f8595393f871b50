"""What one request costs in instructions (valgrind) and system calls (strace): counts that no other program disturbs.

Instructions depend on where objects lie in memory. So both numbers of requests are posted by children of one process,
and several seeds of Python's hashes are tried: each gives another layout, and the median is what counts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.backlog import settings
from bench.report import Report
from tests.support.gunicorn_app import ROOT, flask

#: The cost is the difference between runs of so many requests: what the start costs is in both.
FEW, MANY = 5, 45
#: The seeds of Python's hashes: each gives another layout.
LAYOUTS = ("0", "1", "2")
#: The target for the instructions of a request with the sync, as a ratio to those without it.
INSTRUCTIONS = "<= 1.03"

_INSTRUCTIONS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
_CALLS = re.compile(r"^100\.00\s.*?(\d+)(?:\s+\d+)?\s+total$", re.MULTILINE)


def add_counts(report: Report, directory: Path) -> None:
    """Add the instructions and the system calls of a request with and without the sync, as far as tools are there."""
    for name, unit, tool, count, layouts, target in (
        ("instructions", "M instructions", "valgrind", _instructions, LAYOUTS, INSTRUCTIONS),
        ("system calls", "calls", "strace", _calls, LAYOUTS[:1], None),
    ):
        if shutil.which(tool) is None:
            report.setup[name] = f"left out: there is no {tool}"
            continue
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = {
                mode: [
                    pool.submit(count, directory / f"{tool}-{mode}-{layout}", layout, mode)
                    for layout in layouts
                ]
                for mode in ("false", "true")
            }
            without, ours = ([job.result() for job in each] for each in jobs.values())
        base = report.add(f"SQLite, a request: {name}, without", unit, without)
        with_sync = report.add(f"SQLite, a request: {name}, with the sync", unit, ours)
        report.ratios(f"**SQLite, a request: {name}, with / without**", with_sync, base, target)
        print(f"request_cost: {name}", file=sys.stderr, flush=True)


def _instructions(directory: Path, layout: str, local_mode: str) -> float:
    """Return the millions of instructions of a request."""
    counts = f"--callgrind-out-file={directory}/counts.%p"
    command = ("valgrind", "-q", "--tool=callgrind", counts)
    children = _work(directory, layout, local_mode, command, FEW, MANY).split()
    few, many = (_total(directory / f"counts.{child}", _INSTRUCTIONS) for child in children)
    return (many - few) / (MANY - FEW) / 1e6


def _calls(directory: Path, layout: str, local_mode: str) -> float:
    """Return the system calls of a request."""
    found = []
    for requests in (FEW, MANY):
        output = directory / f"{requests}.counts"
        command = ("strace", "-f", "-c", "-o", str(output))
        _work(directory / str(requests), layout, local_mode, command, requests)
        found.append(_total(output, _CALLS))
    return (found[1] - found[0]) / (MANY - FEW)


def _work(
    directory: Path, layout: str, local_mode: str, command: Sequence[str], *requests: int
) -> str:
    directory.mkdir(parents=True)
    database = directory / "arus.sqlite"
    flask("db", "upgrade", settings=settings(database, "mqtt://127.0.0.1:9"))
    work = (sys.executable, "-m", "bench.request_work", str(database), local_mode)
    return subprocess.run(
        [*command, *work, *map(str, requests)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": layout},
        check=True,
    ).stdout


def _total(path: Path, pattern: re.Pattern[str]) -> int:
    found = pattern.search(path.read_text())
    assert found is not None, f"{path} has the total"
    return int(found[1])
