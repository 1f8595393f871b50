"""What does capture add to a write, in instructions of the processor, which no other program disturbs?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.capture_work import CASES
from bench.report import Report, machine
from tests.support.gunicorn_app import ROOT

#: Only CPU time varies between rounds.
ROUNDS = 5
#: An older checkout to compare with, if this variable names one.
BEFORE = "CAPTURE_COST_BEFORE"
#: The target for the ratio to an older checkout.
PROMISED = "<= 1.0"

_TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


def measure(checkout: Path, *, local_mode: bool, instructions: bool) -> dict[str, float]:
    """Return what an operation of each case costs.

    :param checkout: the directory whose `arus` is measured.
    :param instructions: count millions of instructions by valgrind; else milliseconds of CPU time.
    """
    with tempfile.TemporaryDirectory(prefix="arus-bench-") as directory:
        command = [sys.executable, str(ROOT / "bench" / "capture_work.py")]
        if instructions:
            counts = f"--callgrind-out-file={directory}/counts.%p"
            command = ["valgrind", "-q", "--tool=callgrind", counts, *command]
        done = subprocess.run(
            [*command, directory, str(local_mode).lower()],
            stdout=subprocess.PIPE,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"},
            check=True,
        )
        children = json.loads(done.stdout.splitlines()[-1])

        def cost(child: dict[str, float]) -> float:
            if not instructions:
                return child["cpu"] * 1000
            found = _TOTAL.search(Path(directory, f"counts.{child['pid']}").read_text())
            assert found is not None, "callgrind writes the total"
            return int(found[1]) / 1e6

        return {
            name: (cost(children[name][1]) - cost(children[name][0])) / count
            for name, (_, count) in CASES.items()
        }


def run(rounds: int = ROUNDS) -> Report:
    """Measure the cases with and without capture, and with an older checkout, alternating."""
    instructions = shutil.which("valgrind") is not None
    unit = "M instructions" if instructions else "ms of CPU"
    report = Report(
        "capture_cost",
        f"What does capture add to a write in a bare loop, in {unit}?",
        {"measured by": "valgrind" if instructions else "getrusage", "database": "SQLite"},
        machine=machine(),
    )
    sides = [(ROOT, False), (ROOT, True)]
    if os.environ.get(BEFORE):
        sides.append((Path(os.environ[BEFORE]), True))
    results: list[list[dict[str, float]]] = [[] for _ in sides]
    # Instructions are counted at the same time; CPU time is not, so that the sides do not disturb each other.
    with ThreadPoolExecutor(os.cpu_count() if instructions else 1) as pool:
        for number in range(1 if instructions else rounds):
            order = list(range(len(sides)))[:: -1 if number % 2 else 1]
            found = pool.map(
                lambda side: measure(side[0], local_mode=side[1], instructions=instructions),
                [sides[each] for each in order],
            )
            for each, result in zip(order, found, strict=True):
                results[each].append(result)
    for name in CASES:
        _compare(report, name, unit, [[one[name] for one in side] for side in results])
    return report


def _compare(report: Report, name: str, unit: str, values: Sequence[Sequence[float]]) -> None:
    without = report.add(f"{name}, without", unit, values[0])
    captured = report.add(f"{name}, with capture", unit, values[1])
    report.ratios(f"**{name}, with / without**", captured, without)
    for older in values[2:]:
        before = report.add(f"{name}, with capture before", unit, older)
        # CPU time on a shared machine varies too much to be judged.
        target = PROMISED if unit == "M instructions" else None
        report.ratios(f"**{name}, with capture / before**", captured, before, target)
