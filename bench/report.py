"""The results of a benchmark: medians and ranges, printed and saved."""

from __future__ import annotations

import json
import math
import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
#: One line for each benchmark and run, to detect regressions.
HISTORY = RESULTS / "history.jsonl"
#: The page with the figures that have a target, between these two lines.
PAGE = RESULTS.parent.parent / "docs" / "performance.md"
_BEGIN = "<!-- figures: written by `python -m bench` -->"
_END = "<!-- end of figures -->"
_PACKAGES = ("flask", "gunicorn", "orjson", "paho-mqtt", "sqlalchemy")


@dataclass(frozen=True)
class Figure:
    """One quantity, measured once in each round."""

    name: str
    unit: str
    values: Sequence[float]
    #: The target of its median: `>= 2` or `<= 10`; None for a figure that only explains the others.
    target: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """The target, and whether the median meets it."""
        if self.target is None:
            return ""
        return f"{self.target}: {'reached' if self.reached else 'MISSED'}"

    @property
    def reached(self) -> bool:
        """Whether the median meets the target."""
        if self.target is None:
            return True
        sign, limit = self.target.split()
        return self.median >= float(limit) if sign == ">=" else self.median <= float(limit)

    @property
    def precision(self) -> float:
        """How far the median may be off, as a part of it: half the width of its 95 % interval, or of the whole range."""
        return precision(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{_short(self.median)} ({_short(low)} to {_short(high)})"


@dataclass
class Report:
    """The answer to one question."""

    name: str
    question: str
    setup: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def add(
        self, name: str, unit: str, values: Sequence[float], target: str | None = None
    ) -> Figure:
        figure = Figure(name, unit, list(values), target)
        self.figures.append(figure)
        return figure

    def ratios(self, name: str, above: Figure, below: Figure, target: str | None = None) -> Figure:
        """Add the ratio of two figures for each round, since a disturbance affects both sides of a round."""
        pairs = zip(above.values, below.values, strict=True)
        return self.add(name, "ratio", [a / b for a, b in pairs], target)

    def table(self) -> str:
        """Return all figures as a Markdown table."""
        return table(
            ("", "unit", "median (range)", "target"),
            [(figure.name, figure.unit, str(figure), figure.verdict) for figure in self.figures],
        )

    def keep(self) -> None:
        """Print the table and save it with all values in bench/results/."""
        self.machine = self.machine or machine()
        print(f"\n{self.question}\n\n{self.table()}\n", flush=True)
        RESULTS.mkdir(exist_ok=True)
        said = [f"# {self.question}", self.table()]
        for title, facts in (("Setup", self.setup), ("Machine", self.machine)):
            said.append(f"{title}: " + "; ".join(f"{k} {v}" for k, v in facts.items()) + ".")
        (RESULTS / f"{self.name}.md").write_text("\n\n".join(said) + "\n")
        (RESULTS / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        self._remember()

    def _remember(self) -> None:
        """Add the medians to the history, and report figures that are worse by a fifth than the last time."""
        told = [figure for figure in self.figures if figure.target or "**" in figure.name]
        medians = {figure.name: round(figure.median, 4) for figure in told}
        past = [each for each in history() if each["name"] == self.name]
        before = past[-1]["medians"] if past else {}
        for figure in told:
            then, now = before.get(figure.name), figure.median
            sign = (figure.target or ">=").split()[0]
            if then and (now < then * 0.8 if sign == ">=" else now > then * 1.25):
                print(
                    f"worse than in the last run: {figure.name}: {_short(now)}, was {_short(then)}"
                )
        entry = {
            "date": self.machine["date"],
            "commit": self.machine["commit"],
            "processor": self.machine["processor"],
            "load": self.machine["load before"],
            "name": self.name,
            "medians": medians,
        }
        with HISTORY.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def history() -> list[dict[str, Any]]:
    """Return the medians of each run so far, oldest first."""
    if not HISTORY.exists():
        return []
    return [json.loads(line) for line in HISTORY.read_text().splitlines()]


def summary() -> str:
    """Return all figures that have a target, from the last run of each benchmark, for docs/performance.md."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        report = json.loads(path.read_text())
        figures = [Figure(**figure) for figure in report["figures"]]
        rows += [
            (report["name"], figure.name.strip("*"), figure.unit, str(figure), figure.verdict)
            for figure in figures
            if figure.target
        ]
    said = table(("benchmark", "figure", "unit", "median (range)", "target"), rows)
    page = PAGE.read_text()
    before, rest = page.split(_BEGIN, 1)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{said}\n\n{_END}{rest.split(_END, 1)[1]}")
    return said


def precision(values: Sequence[float]) -> float:
    """Return how far the median of some values may be off, as a part of it.

    The true median is between the k-th lowest and the k-th highest value with a probability of 95 %, whatever the
    distribution; up to eight values it needs the lowest and the highest.
    """
    ascending, count = sorted(values), len(values)
    outside, k = 2 * 0.5**count, 0
    while k < (count - 1) // 2 and outside + 2 * math.comb(count, k + 1) * 0.5**count <= 0.05:
        k += 1
        outside += 2 * math.comb(count, k) * 0.5**count
    middle = statistics.median(ascending)
    return max(middle - ascending[k], ascending[-1 - k] - middle) / middle


def p99(ascending: Sequence[float]) -> float:
    """Return the 99th percentile of sorted values."""
    return ascending[int(len(ascending) * 0.99)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rows = [head, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return the facts about the machine that the figures depend on."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    mosquitto = subprocess.run(
        ["mosquitto", "-h"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    ).stdout.split("\n", 1)[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(os.getloadavg()[0], 2),
        "fsync (ms)": round(fsync_ms(), 3),
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "broker": mosquitto,
        **{package: version(package) for package in _PACKAGES},
    }


def commit() -> str:
    """Return the measured commit, with a plus if files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def fsync_ms() -> float:
    """Return the median time to append a page and fsync it, in the directory of temporary files."""
    times = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
